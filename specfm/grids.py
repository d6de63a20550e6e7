"""Whether two rasters lie on one grid: the one decision for labels, groups, masks and second dates.

A raster that belongs to a scene has its size, its place, its coordinate system and its orientation. Pixels are compared
at the corners, so rounding in headers passes and half a pixel does not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specfm.crs import parse_crs
from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from specfm.scene import Geo, Scene

log = logging.getLogger(__name__)

OFF_BY = 0.1  # pixels by which corners of one grid may differ


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie.

    Attributes:
        name: of the raster, for messages.
        shape_HW: rows and columns.
        geo: coordinate system and transform, None where the file does not say.
    """

    name: str
    shape_HW: tuple[int, int]
    geo: Geo | None

    @classmethod
    def of(cls, scene: Scene) -> Grid:
        """The grid of a scene."""
        return cls(str(scene.where), scene.shape[:2], scene.geo)

    @property
    def placed(self) -> bool:
        """Whether it is known where on the ground the pixels lie."""
        return self.transform is not None

    @property
    def transform(self) -> tuple[float, float, float, float, float, float] | None:
        """Of its place; None where that is unknown or its pixels have no size (some headers state zeros)."""
        if self.geo is None or self.geo.transform is None:
            return None
        _, dx, rx, _, ry, dy = stated = self.geo.transform
        return stated if np.isfinite(stated).all() and dx * dy != rx * ry else None

    def __str__(self) -> str:
        size = f"{self.shape_HW[0]} x {self.shape_HW[1]} pixels"
        if self.geo is None or self.transform is None:
            return f"{size} without georeference"
        x0, dx, rx, y0, ry, dy = self.transform
        turned = f", rotated ({rx:g}, {ry:g})" if rx or ry else ""
        return f"{size} of {dx:.10g} x {-dy:.10g} from {x0:.10g}, {y0:.10g}{turned}, {crs_name(self.geo.crs_wkt)}"


def require_one_grid(one: Grid, other: Grid) -> None:
    """Refuse two rasters whose pixels do not cover the same ground.

    Where one of them has no georeference they are compared by size, which is said.

    Raises:
        SpecfmError: another size, coordinate system, place or orientation; both grids are in the sentence.
    """
    differ = _difference(one, other)
    if differ is not None:
        raise SpecfmError(
            f"{one.name} and {other.name} are not on one grid: they {differ} ({one}; {other}); resample one to the "
            "grid of the other (gdalwarp -r near), or name the file that belongs to it"
        )
    if one.placed != other.placed:
        without, placed = (one, other) if other.placed else (other, one)
        log.info("%s has no georeference; it is taken to lie on %s, whose size it has", without.name, placed.name)


def _difference(one: Grid, other: Grid) -> str | None:
    if one.shape_HW != other.shape_HW:
        sizes = " and ".join(f"{height} x {width}" for height, width in (one.shape_HW, other.shape_HW))
        return f"differ in extent ({sizes} pixels)"
    if one.geo is None or other.geo is None:
        return None
    if one.geo.crs_wkt and other.geo.crs_wkt and not same_crs(one.geo.crs_wkt, other.geo.crs_wkt):
        return "lie in different coordinate systems"
    first, second = one.transform, other.transform
    if first is None or second is None:
        return None
    height, width = one.shape_HW
    pixel = float(np.hypot(first[1], first[4]))
    corners = ((0, 0), (0, width), (height, 0), (height, width))
    apart = [float(np.hypot(*np.subtract(_map_xy(first, *at), _map_xy(second, *at)))) / pixel for at in corners]
    if max(apart) <= OFF_BY:
        return None
    if first[5] * second[5] < 0 and max(_mirrored(first, second, height)) <= OFF_BY * pixel:
        return "cover the same ground, one of them with its rows from south to north"
    return f"differ in extent (corners {max(apart):.1f} pixels apart)"


def _mirrored(first: Sequence[float], second: Sequence[float], height: int) -> list[float]:
    """How far the corners of one lie from those of the other with its rows the other way round."""
    pairs = (((0, 0), (height, 0)), ((height, 0), (0, 0)))
    return [float(np.hypot(*np.subtract(_map_xy(first, *a), _map_xy(second, *b)))) for a, b in pairs]


def _map_xy(transform: Sequence[float], row: int, col: int) -> tuple[float, float]:
    x0, dx, rx, y0, ry, dy = transform
    return x0 + col * dx + row * rx, y0 + col * ry + row * dy


def same_crs(one: str, other: str) -> bool:
    """Whether two spellings mean one coordinate system; True where rasterio is missing or cannot read one of them."""
    if one == other:
        return True
    first, second = parse_crs(one), parse_crs(other)
    if first is None or second is None:
        return True  # two spellings cannot be compared; the corners still are
    codes = first.to_epsg(), second.to_epsg()
    if None not in codes:
        return codes[0] == codes[1]
    return bool(first == second or first.to_dict() == second.to_dict())


def crs_name(crs_wkt: str | None) -> str:
    """``EPSG:32617``, or the name within a WKT."""
    if not crs_wkt:
        return "unknown coordinate system"
    return crs_wkt if "[" not in crs_wkt else (crs_wkt.split('"')[1] if '"' in crs_wkt else crs_wkt[:40])
