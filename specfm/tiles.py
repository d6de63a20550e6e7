"""Walking over a scene of any size: square tiles that overlap, and their blending row by row in bounded memory.

Shapes: H W pixels (or patches) of the whole, T tile side, D values per position.
Everything is counted in *cells*: pixels, or patches of p x p pixels when an encoder gives one vector a patch. Tiles
start on a fixed lattice of ``stride`` cells; the last tile of a row or column is moved inwards so that it ends at the
edge. Where tiles overlap, values are averaged with weights that fall towards a tile's border, because cells near the
border of a window know one side of their surroundings only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import UsageError


@dataclass(frozen=True)
class Tile:
    """A tile of ``height`` x ``width`` cells whose first cell is (row, col)."""

    row: int
    col: int
    height: int
    width: int


def starts(size: int, tile: int, stride: int) -> list[int]:
    """First cells of the tiles along one axis; together they cover ``size`` cells.

    Raises:
        UsageError: a tile or stride below 1, or a stride above the tile (cells would be skipped).
    """
    if tile < 1 or stride < 1:
        raise UsageError(f"tile ({tile}) and stride ({stride}) must be at least 1 cell")
    if stride > tile:
        raise UsageError(f"stride {stride} is larger than the tile of {tile}: cells between tiles would be skipped")
    if size <= tile:
        return [0]
    found = list(range(0, size - tile, stride))
    return [*found, size - tile]


def tile_rows(shape: tuple[int, int], tile: int, stride: int) -> Iterator[list[Tile]]:
    """Tiles of a grid of ``shape`` cells, one list per row of tiles, top to bottom and left to right.

    A grid smaller than the tile gets one tile of its own size.
    """
    height, width = min(tile, shape[0]), min(tile, shape[1])
    columns = starts(shape[1], tile, stride)
    for row in starts(shape[0], tile, stride):
        yield [Tile(row, col, height, width) for col in columns]


def blend_weights(height: int, width: int) -> NDArray[np.float32]:
    """Weights ``[height, width]`` for blending: 1 in the middle, falling linearly to a positive value at the border."""

    def ramp(size: int) -> NDArray[np.float64]:
        from_edge = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1.0
        return from_edge / from_edge.max()

    return np.outer(ramp(height), ramp(width)).astype(np.float32)


class RowBlender:
    """Weighted average of overlapping tiles that keeps only the rows still open.

    Feed rows of tiles from top to bottom; ``finish_above(row)`` gives back, once and in order, the rows that no later
    tile touches. Cells that no valid tile covers are NaN.

    Example:
        >>> blender = RowBlender(width=4, depth=1)
        >>> blender.add(Tile(0, 0, 2, 4), np.ones((2, 4, 1), np.float32), np.ones((2, 4), bool))
        >>> start, rows = blender.finish_above(2)
        >>> start, rows.shape
        (0, (2, 4, 1))
    """

    def __init__(self, width: int, depth: int) -> None:
        self.width, self.depth, self.first = width, depth, 0
        self._sum = np.zeros((0, width, depth), np.float32)
        self._weight = np.zeros((0, width), np.float32)

    def add(self, tile: Tile, values_hwD: NDArray[Any], valid_hw: NDArray[np.bool_]) -> None:
        """Add one tile's values; invalid cells carry no weight and may hold anything."""
        top = tile.row - self.first
        if top < 0:
            raise ValueError(f"tile at row {tile.row} comes after row {self.first} was finished")
        missing = top + tile.height - len(self._sum)
        if missing > 0:
            self._sum = np.concatenate([self._sum, np.zeros((missing, self.width, self.depth), np.float32)])
            self._weight = np.concatenate([self._weight, np.zeros((missing, self.width), np.float32)])
        where = (slice(top, top + tile.height), slice(tile.col, tile.col + tile.width))
        weight_hw = blend_weights(tile.height, tile.width) * valid_hw
        self._sum[where] += np.where(valid_hw[..., None], values_hwD, 0) * weight_hw[..., None]
        self._weight[where] += weight_hw

    def finish_above(self, row: int) -> tuple[int, NDArray[np.float32]]:
        """Rows ``[first, row)`` as blended values ``[h, width, depth]``, and ``first``."""
        count = max(row - self.first, 0)
        first = self.first
        weight = self._weight[:count, :, None]
        done = np.where(weight > 0, self._sum[:count] / np.where(weight > 0, weight, 1), np.nan).astype(np.float32)
        self._sum, self._weight = self._sum[count:].copy(), self._weight[count:].copy()
        self.first += count
        return first, done
