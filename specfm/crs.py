"""Coordinate systems as files state them, read without opening anything else.

PROJ and GDAL take a path or an address wherever they take a coordinate system, and read it. Here only well-known text
and names of registries (``EPSG:32617``) are one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rasterio.crs import CRS

_NAME = re.compile(r"(EPSG|ESRI|OGC|IAU_2015|IGNF):(\w{1,24})", re.IGNORECASE)
_TEXT = re.compile(r"\w{4,40}\s*\[")
_LONGEST = 1 << 16


def parse_crs(text: str) -> CRS | None:
    """A coordinate system by its name in a registry or as WKT; None for anything else, and without rasterio."""
    try:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
    except ImportError:
        return None
    text = text.strip()
    try:
        if name := _NAME.fullmatch(text):
            return CRS.from_authority(name[1].upper(), name[2])
        if _TEXT.match(text) and len(text) <= _LONGEST:
            return CRS.from_wkt(text)
    except (CRSError, ValueError):
        return None
    return None
