"""Where an HDF5 cube lies on the ground, as NEON's files of all years write it.

ENVI's ``map info``, an EPSG code or the text of a coordinate system, as a dataset or an attribute in any spelling.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from specfm.rasters.map_info import parse_map_info
from specfm.readers.axes import fold
from specfm.readers.hdf_attributes import all_said
from specfm.scene import Geo

if TYPE_CHECKING:
    import h5py

_MAP_INFO = ("mapinfo",)
_CODE = ("epsgcode", "epsg")
_SYSTEM = ("coordinatesystemstring", "crswkt", "spatialref")


def read_place(path: Path, cube: h5py.Dataset) -> tuple[Geo | None, float | None]:
    """Ground reference and pixel size (m) of a cube, None where the file does not say them.

    Raises:
        SpecfmError: a map info without numbers.
    """
    said: dict[str, str] = {}
    place = cube
    while True:
        for attribute in all_said(place):
            if len(attribute.words) == 1 or fold(attribute.name) in _MAP_INFO:
                said.setdefault(fold(attribute.name), ",".join(attribute.words))
        if place != cube:
            for group in (place, *(place.get(name) for name in ("Metadata", "Metadata/Coordinate_System"))):
                for name in group if hasattr(group, "keys") else ():
                    if fold(name) in (*_MAP_INFO, *_CODE, *_SYSTEM) and 0 < getattr(group[name], "size", 0) < 100:
                        for stored in all_said(group, {name: group[name][()]}):
                            said.setdefault(fold(name), ",".join(stored.words))
        if place.name == "/":
            break
        place = place.parent
    return place_of(path, *(_first(said, names) for names in (_MAP_INFO, _CODE, _SYSTEM)))


def place_of(
    path: Path, map_info: str | None, code: str | None, system: str | None = None
) -> tuple[Geo | None, float | None]:
    """The same from its three texts; an EPSG code or a coordinate system wins over the one that map info names."""
    digits = (code or "").strip().upper().removeprefix("EPSG:").strip()
    crs = f"EPSG:{int(float(digits))}" if digits.replace(".", "", 1).isdigit() else None
    named, transform, gsd_m = parse_map_info((map_info or "").strip(" {}").split(","), path)
    if crs is None and named is None and system is not None and re.search(r"\[|^EPSG:\d", system):
        named = system.strip()
    crs = crs or named
    return (None if crs is None and transform is None else Geo(crs, transform)), gsd_m


def _first(said: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((said[name] for name in names if said.get(name)), None)
