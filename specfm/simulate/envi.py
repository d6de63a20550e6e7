"""Simulated scenes as ENVI files: cubes with full headers, label and object rasters beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.files import atomic_write_bytes, atomic_write_text
from specfm.scene import Scene

ENVI_TYPES = {"uint8": 1, "int16": 2, "int32": 3, "float32": 4, "float64": 5, "uint16": 12, "uint32": 13, "int64": 14}
AXES = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}


def write_envi_scene(scene: Scene, path: Path, interleave: str = "bil") -> None:
    """Write a scene as an ENVI cube with a full header; beside it ``*_labels.img`` and ``*_blobs.img`` if it has them.

    Args:
        scene: read as stored, whole.
        path: data file; its header gets the same name with ``.hdr``.
        interleave: ``bsq``, ``bil`` or ``bip``.
    """
    height, width, count = scene.shape
    cube_HWC = scene.read()
    sensor = scene.sensor
    bands = sensor.bands
    usable = bands.wavelengths_nm[bands.valid]
    fields: dict[str, Any] = {
        "description": f"{{{scene.name}: simulated, materials known}}",
        "samples": width,
        "lines": height,
        "bands": count,
        "header offset": 0,
        "file type": "ENVI Standard",
        "data type": ENVI_TYPES[cube_HWC.dtype.name],
        "interleave": interleave,
        "sensor type": sensor.name or "unknown",
        "byte order": 0,
        "wavelength units": "Nanometers",
        "wavelength": _braced(np.where(np.isfinite(bands.wavelengths_nm), bands.wavelengths_nm, 0.0), "{:.4f}"),
        "bbl": _braced(bands.valid.astype(int), "{:d}"),
        "default bands": _braced(
            [int(np.argmin(np.abs(bands.wavelengths_nm - nm))) + 1 for nm in _shown(usable)], "{:d}"
        ),
    }
    if np.isfinite(bands.fwhm_nm).any():
        fields["fwhm"] = _braced(np.nan_to_num(bands.fwhm_nm), "{:.4f}")
    if scene.nodata is not None:
        fields["data ignore value"] = f"{scene.nodata:g}"
    if sensor.quantity in ("surface_reflectance", "toa_reflectance"):
        fields["reflectance scale factor"] = f"{1 / sensor.scale:g}"
    else:
        fields["data gain values"] = _braced([sensor.scale] * count, "{:g}")
        fields["data offset values"] = _braced([sensor.offset] * count, "{:g}")
    _write_envi(path, cube_HWC.transpose(AXES[interleave]), fields)
    if scene.labels_HW is not None:
        classes = ["unlabelled", *scene.label_names]
        _write_raster(path.with_name(f"{path.stem}_labels.img"), (scene.labels_HW + 1).astype(np.uint8), classes)
    if scene.groups_HW is not None:
        _write_raster(path.with_name(f"{path.stem}_blobs.img"), scene.groups_HW.astype(np.int32))


def _write_raster(path: Path, raster_HW: NDArray[Any], classes: list[str] | None = None) -> None:
    fields: dict[str, Any] = {
        "samples": raster_HW.shape[1],
        "lines": raster_HW.shape[0],
        "bands": 1,
        "header offset": 0,
        "file type": "ENVI Classification" if classes else "ENVI Standard",
        "data type": ENVI_TYPES[raster_HW.dtype.name],
        "interleave": "bsq",
        "byte order": 0,
    }
    if classes:
        fields["classes"] = len(classes)
        fields["class names"] = _braced(classes, "{}")
    _write_envi(path, raster_HW, fields)


def _write_envi(path: Path, data: NDArray[Any], fields: dict[str, Any]) -> None:
    little = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
    atomic_write_bytes(path, little.tobytes())
    lines = ["ENVI", *(f"{key} = {value}" for key, value in fields.items())]
    atomic_write_text(path.with_suffix(".hdr"), "\n".join(lines) + "\n")


def _braced(values: Any, form: str) -> str:
    return "{" + ", ".join(form.format(value) for value in values) + "}"


def _shown(usable_nm: NDArray[np.float64]) -> list[float]:
    """Red, green and blue where the sensor sees them, else thirds of its range."""
    if usable_nm.min() < 480 and usable_nm.max() > 640:
        return [650.0, 550.0, 470.0]
    return [float(np.quantile(usable_nm, share)) for share in (0.8, 0.5, 0.2)]
