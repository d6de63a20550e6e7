"""ENVI's ``map info``, both ways: where a grid lies on the ground, as ENVI headers and NEON's files say it.

``{projection, column, row, x, y, dx, dy, ...}``: the tie point (column, row), counted from (1, 1) at the upper left
corner of the image, lies at (x, y). Then zone, hemisphere and datum (UTM) or the datum (Geographic Lat/Lon), and
``units=`` and ``rotation=`` (degrees, counter-clockwise; same reading as GDAL's ENVI driver). A coordinate system is
named only where all of this is known: none is better than a wrong one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specfm.crs import parse_crs
from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from specfm.scene import Geo

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class _Datum:
    """EPSG codes: ``geographic`` of latitude and longitude, zone z of UTM is ``north + z`` (``south + z``)."""

    name: str
    geographic: int
    north: int
    south: int | None
    zones: int


_WGS84 = _Datum("WGS-84", 4326, 32600, 32700, 60)
_NAD83 = _Datum("North America 1983", 4269, 26900, None, 23)
_NAD27 = _Datum("North America 1927", 4267, 26700, None, 22)
_DATUMS = {
    **dict.fromkeys(("wgs84", "wgs1984"), _WGS84),
    **dict.fromkeys(("northamerica1983", "nad83"), _NAD83),
    **dict.fromkeys(("northamerica1927", "nad27"), _NAD27),
}
_METRES = ("", "meter", "meters", "metre", "metres", "m")
_DEGREES = ("", "degree", "degrees")


def parse_map_info(items: Sequence[str], where: Path) -> tuple[str | None, Transform | None, float | None]:
    """What a list of ``map info`` says.

    Args:
        items: the parts between its commas.
        where: the file, for messages.

    Returns:
        (EPSG name of the coordinate system, GDAL affine transform, pixel size in metres), each None where unknown.

    Raises:
        SpecfmError: something else than numbers where numbers stand.
    """
    parts = [item.strip() for item in items]
    if len(parts) < 7:
        return None, None, None
    options = {
        key.strip().lower(): value.strip() for key, value in (part.split("=", 1) for part in parts[7:] if "=" in part)
    }
    try:
        column, row, east, north, dx, dy = (float(item) for item in parts[1:7])
        angle = -math.radians(float(options.get("rotation", "0")))
    except ValueError:
        raise SpecfmError(f"{where}: map info holds something else than numbers: {', '.join(parts[1:])}") from None
    cos, sin = math.cos(angle), math.sin(angle)
    transform = (
        east - (column - 1) * dx, cos * dx, -sin * dx,
        north + (row - 1) * dy, -sin * dy, -cos * dy,
    )  # fmt: skip
    projection, units = parts[0].lower(), options.get("units", "").lower()
    plain = [part for part in parts[7:] if "=" not in part]
    utm = projection == "utm"
    metres = units in _METRES and (utm or units != "")
    crs = _utm(plain, units) if utm else _geographic(plain, units) if projection.startswith("geographic") else None
    return crs, transform, (abs(dx * dy) ** 0.5 or None) if metres else None


def format_map_info(geo: Geo) -> str | None:
    """The text between the braces of ``map info`` for a grid; None for a sheared grid or one without a transform."""
    if geo.transform is None:
        return None
    x0, x_col, x_row, y0, y_col, y_row = geo.transform
    # a grid along the axes is told by signs alone: readers disagree on what half a turn is
    angle = math.atan2(-x_row, x_col) if x_row or y_col else 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    dx, dy = x_col * cos - x_row * sin, -(y_col * sin + y_row * cos)
    if not dx or not dy or math.hypot(y_col + sin * dy, y_row + cos * dy) > 1e-9 * abs(dy):
        return None
    projection, details = _describe(geo.crs_wkt)
    rotation = [f"rotation={-math.degrees(angle)!r}"] if angle else []
    return ", ".join([projection, "1", "1", *(repr(float(v)) for v in (x0, y0, dx, dy)), *details, *rotation])


def _utm(plain: Sequence[str], units: str) -> str | None:
    zone, side, datum = (*plain, "", "", "")[:3]
    known = _DATUMS.get(_key(datum))
    if known is None or units not in _METRES or not zone.isdecimal() or not 1 <= int(zone) <= known.zones:
        return None
    base = {"n": known.north, "s": known.south}.get(side[:1].lower())
    return None if base is None else f"EPSG:{base + int(zone)}"


def _geographic(plain: Sequence[str], units: str) -> str | None:
    known = _DATUMS.get(_key(plain[0])) if plain else None
    return None if known is None or units not in _DEGREES else f"EPSG:{known.geographic}"


def _key(datum: str) -> str:
    return re.sub(r"[^a-z0-9]", "", datum.lower())


def _describe(crs: str | None) -> tuple[str, list[str]]:
    """Projection, and what follows the pixel size, of a coordinate system (WKT or ``EPSG:n``)."""
    code, metres = _epsg(crs) if crs else (None, False)
    for datum in (_WGS84, _NAD83, _NAD27):
        if code == datum.geographic:
            return "Geographic Lat/Lon", [datum.name, "units=Degrees"]
        for base, side in ((datum.north, "North"), (datum.south, "South")):
            if code is not None and base is not None and 1 <= code - base <= datum.zones:
                return "UTM", [str(code - base), side, datum.name, "units=Meters"]
    return "Arbitrary", ["0", "North", *(["units=Meters"] if metres else [])]


def _epsg(crs: str) -> tuple[int | None, bool]:
    """EPSG code of a coordinate system, and whether it is known to count metres; rasterio helps where it is there."""
    said = re.fullmatch(r"EPSG:(\d+)", crs.strip(), re.IGNORECASE)
    said = said or re.search(r'(?:AUTHORITY|ID)\["EPSG",\s*"?(\d+)"?\]\]\s*$', crs)
    code = int(said[1]) if said else None
    system = parse_crs(crs)
    if system is None:
        return code, False
    return code or system.to_epsg(), system.is_projected and system.linear_units_factor[1] == 1.0
