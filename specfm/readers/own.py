"""specfm's own single-scene file: HDF5 with a cube ``[H, W, C]`` and everything a Scene knows as JSON.

For scenes made or changed by specfm (simulated, calibrated, cropped), so that nothing has to be said twice.

Every part is a dataset whose chunks carry checksums that HDF5 itself verifies whenever it reads them (Fletcher-32), as
it does for its own headers. Files of format 1 have none; theirs is an attribute with the JSON, and they are read still.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specfm.documents import DocumentError, parse_json
from specfm.errors import SpecfmError, UsageError
from specfm.files import publish_file, temporary_sibling
from specfm.readers.found import Found
from specfm.readers.hdf_common import HdfSource, numbers
from specfm.scene import Geo, Scene
from specfm.sensors import IntegrationTime, Sensor

if TYPE_CHECKING:
    import h5py

FORMAT = 2
ROWS_BYTES = 32 << 20  # rows are copied in blocks of about this size
CHUNK_SIDE, CHUNK_BANDS = 16, 64  # of one checksum, at most; a window costs about as much to read as without
_JSON = "description"  # UTF-8 bytes; a string of variable length would lie in HDF5's global heap, which is unchecked


def save_scene(scene: Scene, path: str | Path, overwrite: bool = False) -> Path:
    """Write a scene so that ``read_scene`` gives it back with sensor, labels, groups, masks and place.

    Written to a temporary name and renamed; memory stays at one block of rows.

    Raises:
        UsageError: ``path`` exists and ``overwrite`` is False.
    """
    import h5py

    path = Path(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; choose another name or pass overwrite=True")
    height, width, count = scene.shape
    step = max(1, ROWS_BYTES // max(1, width * count * scene.dtype.itemsize) // CHUNK_SIDE) * CHUNK_SIDE
    temporary = temporary_sibling(path)
    try:
        with h5py.File(temporary, "w", libver="v110") as file:
            cube = file.create_dataset("cube", scene.shape, scene.dtype, chunks=_chunk(scene.shape), fletcher32=True)
            for row in range(0, height, step):
                cube[row : row + step] = scene.read(rows=slice(row, min(row + step, height)))
            for name, raster_HW in (("labels", scene.labels_HW), ("groups", scene.groups_HW)):
                if raster_HW is not None:
                    file.create_dataset(name, data=raster_HW, chunks=_chunk(raster_HW.shape), fletcher32=True)
            text_B = np.frombuffer(json.dumps(_describe(scene), sort_keys=True).encode(), np.uint8)
            file.create_dataset(_JSON, data=text_B, chunks=text_B.shape, fletcher32=True)
            file.attrs["specfm_scene"] = FORMAT
        publish_file(temporary, path, overwrite)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Part of a dataset ``[H, W]`` or ``[H, W, C]`` that shares a checksum; bands are divided evenly."""
    rows = min(shape[0], CHUNK_SIDE)
    cols = min(shape[1], CHUNK_SIDE**2 // rows)
    return (rows, cols, *(-(-bands // -(-bands // CHUNK_BANDS)) for bands in shape[2:]))


def _describe(scene: Scene) -> dict[str, Any]:
    return {
        "sensor": scene.sensor.to_dict(),
        "name": scene.name,
        "nodata": None if scene.nodata is None else repr(float(scene.nodata)),  # NaN is not JSON
        "saturation": scene.saturation,
        "integration": None if scene.integration is None else asdict(scene.integration),
        "label_names": list(scene.label_names),
        "group": scene.group,
        "domain": scene.domain,
        "neighbours": scene.neighbours,
        "whole": scene.whole,
        "objects_alone": scene.objects_alone,
        "geo": None if scene.geo is None else [scene.geo.crs_wkt, scene.geo.transform],
    }


def read_own(path: Path, file: h5py.File, variable: str | None) -> Found | None:
    """Open a file of :func:`save_scene`; None for any other."""
    if "specfm_scene" not in file.attrs or variable is not None:
        return None
    try:
        version = int(file.attrs["specfm_scene"])
    except (TypeError, ValueError):
        raise SpecfmError(f"{path}: its attribute specfm_scene is no number; write the file again") from None
    if version > FORMAT:
        raise SpecfmError(f"{path}: scene format {version} is newer than this specfm reads ({FORMAT}); upgrade specfm")
    try:
        stated = parse_json(file.attrs["json"] if version == 1 else numbers(file[_JSON]).tobytes(), path)
        sensor = Sensor.from_dict(stated["sensor"])
        geo = stated["geo"]
        transform = None if geo is None or geo[1] is None else tuple(float(value) for value in geo[1])
        if transform is not None and len(transform) != 6:
            raise ValueError
        found = Found(source=HdfSource(path, "cube"), path=path, name=stated["name"])
        found.geo = None if geo is None else Geo(None if geo[0] is None else str(geo[0]), transform)  # type: ignore[arg-type]
        found.scene_fields = {key: stated[key] for key in ("saturation", "group", "domain")}
        time = stated.get("integration")  # older files do not say it, nor the next
        found.scene_fields["integration"] = time and IntegrationTime(**{**time, "value": tuple(time["value"])})
        found.scene_fields["neighbours"] = stated.get("neighbours", True)
        found.scene_fields["whole"] = stated.get("whole", False)
        found.scene_fields["objects_alone"] = bool(stated.get("objects_alone", False))
        found.label_names = tuple(stated["label_names"])
        found.nodata = None if stated["nodata"] is None else float(stated["nodata"])
    except (AttributeError, LookupError, TypeError, ValueError, SpecfmError) as error:
        if isinstance(error, DocumentError):
            raise
        reason = type(error).__name__
        raise SpecfmError(f"{path}: its scene description is damaged ({reason}); write the file again") from error
    bands = sensor.bands
    found.wavelengths, found.units, found.fwhm, found.valid = bands.wavelengths_nm, "nm", bands.fwhm_nm, bands.valid
    found.quantity, found.scale, found.offset = sensor.quantity, sensor.scale, sensor.offset
    found.level, found.gsd_m, found.sensor_name = sensor.level, sensor.gsd_m, sensor.name
    found.pretreatment = sensor.pretreatment
    if "labels" in file:
        found.labels_HW = numbers(file["labels"])
    if "groups" in file:
        found.scene_fields["groups_HW"] = numbers(file["groups"])
    return found
