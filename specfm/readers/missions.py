"""Mission files in HDF5: PRISMA (.he5), EMIT (NetCDF 4), Tanager (HDF-EOS5); NEON is in ``neon``.

Each reader returns None for a file that is not its own. Field names follow the missions' product descriptions as
several independent readers use them. Axes: H rows, W columns, C bands.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.readers.found import Found
from specfm.readers.hdf_attributes import attribute, single
from specfm.readers.hdf_common import HdfSource, numbers
from specfm.readers.hdf_cube import Arrays, Supplied, read_cube
from specfm.readers.stated import Stated, describe_numbers
from specfm.scene import Geo

if TYPE_CHECKING:
    import h5py

log = logging.getLogger(__name__)

PRISMA_M = 30.0  # side of a pixel
_PRISMA_SWATHS = {  # swath name part -> (level, quantity)
    "PRS_L1_HCO": ("L1", "radiance"),
    "PRS_L1_HRC": ("L1", "radiance"),
    "PRS_L2B_HCO": ("L2", "radiance"),
    "PRS_L2C_HCO": ("L2", "surface_reflectance"),
    "PRS_L2D_HCO": ("L2", "surface_reflectance"),
}


@dataclass(frozen=True)
class JoinedSource:
    """Cubes of equal H and W one behind the other along the bands (PRISMA's VNIR and SWIR)."""

    parts: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, _ = self.parts[0].shape
        return (height, width, sum(part.shape[2] for part in self.parts))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(part.dtype for part in self.parts))

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        wanted = np.arange(self.shape[2]) if bands is None else bands
        out = np.empty((len(rows), len(cols), len(wanted)), self.dtype)
        start = 0
        for part in self.parts:
            inside = (wanted >= start) & (wanted < start + part.shape[2])
            if inside.any():
                out[:, :, inside] = part.read(rows, cols, wanted[inside] - start)
            start += part.shape[2]
        return out


def read_prisma(path: Path, file: h5py.File, variable: str | None) -> Found | None:
    """PRISMA: VNIR then SWIR cube (H, C, W), descending wavelengths, zeros where a band was not acquired.

    L2: ``reflectance = min + DN (max - min) / 65535``; L1: ``radiance = DN / factor - offset``; one scale per detector.
    A pixel whose DN are zero in all bands is fill (see CalibratedSource). L2D is map-projected.
    """
    swaths = file.get("HDFEOS/SWATHS")
    name = next((key for key in _PRISMA_SWATHS if swaths is not None and key in swaths), None)
    if name is None or variable is not None:
        return None
    fields = swaths[f"{name}/Data Fields"]
    parts, centres, widths, good, gains, offsets = [], [], [], [], [], []
    for detector in ("Vnir", "Swir"):
        cube = fields.get(f"{detector.upper()}_Cube")
        if cube is None:
            raise SpecfmError(f"{path}: PRISMA swath {name} has no {detector.upper()}_Cube; the file is incomplete")
        centre_C = _root_list(path, file, f"List_Cw_{detector}", cube.shape[1])
        parts.append(HdfSource(path, cube.name, "HCW"))
        centres.append(centre_C)
        widths.append(_root_list(path, file, f"List_Fwhm_{detector}", cube.shape[1]))
        flags = file.attrs.get(f"List_Cw_{detector}_Flags")
        good.append(np.ones(len(centre_C), bool) if flags is None else np.asarray(flags).ravel() != 0)
        gain, offset = _prisma_scale(path, file, detector)
        gains.append(np.full(len(centre_C), gain))
        offsets.append(np.full(len(centre_C), offset))
    if parts[0].shape[:2] != parts[1].shape[:2]:
        raise SpecfmError(f"{path}: VNIR and SWIR cubes differ in size: {parts[0].shape[:2]} and {parts[1].shape[:2]}")
    found = Found(source=JoinedSource(tuple(parts)), path=path, name=path.stem, sensor_name="PRISMA", gsd_m=PRISMA_M)
    found.level, found.quantity = _PRISMA_SWATHS[name]
    found.wavelengths, found.units = np.concatenate(centres), "nm"
    found.fwhm, found.valid = np.concatenate(widths), np.concatenate(good)
    found.gains = (np.concatenate(gains), np.concatenate(offsets))
    found.geo = _prisma_place(path, file, found.source.shape)
    return found


def _prisma_place(path: Path, file: h5py.File, shape: tuple[int, int, int]) -> Geo | None:
    """Where a map-projected product (L2D) lies: UTM, north up, pixels of 30 m.

    Readers differ on whether the stated corners are centres or outer edges of the corner pixels; the distance between
    two opposite ones tells, where the file states both (else: edges).
    """
    code, west, north, east = (
        single(file, key)
        for key in (
            "Epsg_Code",
            "Product_ULcorner_easting",
            "Product_ULcorner_northing",
            "Product_LRcorner_easting",
        )
    )
    if code is None or west is None or north is None:
        return None
    if not (code.is_integer() and code > 0 and np.isfinite([west, north]).all()):
        raise SpecfmError(f"{path}: Epsg_Code {code:g} and corner {west:g}, {north:g} name no place; copy it again")
    half = PRISMA_M / 2 if east is not None and round((east - west) / PRISMA_M) == shape[1] - 1 else 0.0
    return Geo(f"EPSG:{int(code)}", (west - half, PRISMA_M, 0.0, north + half, 0.0, -PRISMA_M))


def _root_list(path: Path, file: h5py.File, key: str, count: int) -> NDArray[np.float64]:
    if key not in file.attrs:
        raise SpecfmError(f"{path}: PRISMA attribute {key} is missing; the file is incomplete")
    try:
        values = np.asarray(file.attrs[key], np.float64).ravel()
    except (TypeError, ValueError):
        raise SpecfmError(f"{path}: PRISMA attribute {key} holds something else than numbers; copy it again") from None
    if len(values) != count:
        raise SpecfmError(f"{path}: {key} has {len(values)} values but its cube has {count} bands")
    return values


def _prisma_scale(path: Path, file: h5py.File, detector: str) -> tuple[float, float]:
    low, high = single(file, f"L2Scale{detector}Min"), single(file, f"L2Scale{detector}Max")
    if low is not None and high is not None:
        return (high - low) / 65535.0, low
    factor = single(file, f"ScaleFactor_{detector}")
    if factor is None:
        log.warning("%s: no scale for the %s cube; its numbers stay as stored", path, detector.upper())
        return 1.0, 0.0
    if not factor:
        raise SpecfmError(f"{path}: ScaleFactor_{detector} is 0, which divides nothing; copy the file again")
    return 1.0 / factor, -(single(file, f"Offset_{detector}") or 0.0)


_TANAGER = {  # data field -> (level, quantity)
    "toa_radiance": ("L1", "radiance"),
    "ortho_radiance": ("L1", "radiance"),
    "surface_reflectance": ("L2", "surface_reflectance"),
}


def read_tanager(
    path: Path, file: h5py.File, held: Arrays, variable: str | None, layout: str | None, supplied: Supplied
) -> Found | None:
    """Tanager: one cube (C, H, W) of the swath HYP, its lists of bands as attributes of the cube, in nm."""
    fields = file.get("HDFEOS/SWATHS/HYP/Data Fields")
    names = [] if fields is None else [key for key in _TANAGER if getattr(fields.get(key), "ndim", 0) == 3]
    if variable is not None:
        names = [key for key in names if variable.strip("/") == fields[key].name.strip("/")]
    if len(names) != 1:
        return None
    cube = fields[names[0]]
    own = np.size(cube.attrs.get("wavelengths", ()))
    found = read_cube(path, held, cube.name.strip("/"), layout or ("CHW" if own == cube.shape[0] else None), supplied)
    if found.wavelengths is not None and found.units is None:
        found.units = "nm"
    found.level, found.quantity = _TANAGER[names[0]]
    found.sensor_name = "Tanager"
    return found


def read_emit(path: Path, file: h5py.File, variable: str | None) -> Found | None:
    """EMIT L1B radiance or L2A reflectance (downtrack, crosstrack, bands), not orthorectified.

    The geotransform in the file belongs to the orthorectified grid of its lookup table, not to this cube, so the scene
    has no ground reference.
    """
    parameters = file.get("sensor_band_parameters")
    name = next((key for key in ("reflectance", "radiance") if key in file), None)
    if parameters is None or name is None or "wavelengths" not in parameters:
        return None
    if variable is not None and variable.strip("/") != name:
        return None
    if getattr(file[name], "ndim", 0) != 3:
        return None
    found = Found(source=HdfSource(path, name), path=path, name=path.stem, sensor_name="EMIT", gsd_m=60.0)
    found.level, found.quantity = ("L2", "surface_reflectance") if name == "reflectance" else ("L1", "radiance")
    found.wavelengths = numbers(parameters["wavelengths"]).ravel()
    found.units = attribute(parameters["wavelengths"], "units") or "nm"
    if "fwhm" in parameters:
        found.fwhm = numbers(parameters["fwhm"]).ravel()
    if "good_wavelengths" in parameters:
        found.valid = numbers(parameters["good_wavelengths"]).ravel() != 0
    describe_numbers(Stated(path, file[name], found.source.shape[2]), found)
    return found
