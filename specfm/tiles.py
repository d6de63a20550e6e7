"""Walking over a scene of any size: square tiles that overlap, and their blending row by row in bounded memory.

Shapes: H W pixels (or patches) of the whole, T tile side, D values per position.
Everything is counted in *cells*: pixels, or patches of p x p pixels when an encoder gives one vector a patch. Tiles
start on a fixed lattice of ``stride`` cells; the last tile of a row or column is moved inwards so that it ends at the
edge. Where tiles overlap, values are averaged with weights that fall towards a tile's border, because cells near the
border of a window know one side of their surroundings only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import UsageError

STRIP_BYTES = 1 << 26  # what is read of a scene at once
SAMPLE_BLOCKS = 64  # least number of places that a sample of cells comes from
COVERING = 9  # tiles that it takes to blend a block of a tile's size, where tiles overlap by half
HALO_WEIGHT = 1e-6  # of a halo cell: nothing beside a cell further inside, all where nothing else covers it


@dataclass(frozen=True)
class Tile:
    """A tile of ``height`` x ``width`` cells whose first cell is (row, col)."""

    row: int
    col: int
    height: int
    width: int


Compute = Callable[[Sequence[Tile]], tuple[NDArray[Any], NDArray[np.bool_]]]
"""From tiles of one size to values ``[B, T, T, D]`` and which of them are valid ``[B, T, T]``."""


def starts(size: int, tile: int, stride: int, origin: int = 0) -> list[int]:
    """First cells of the tiles along one axis; together they cover ``size`` cells.

    With an ``origin`` the second tile starts there (0 = one stride in), so the whole lattice is shifted.

    Raises:
        UsageError: a tile or stride below 1, or a stride above the tile (cells would be skipped).
    """
    if tile < 1 or stride < 1:
        raise UsageError(f"tile ({tile}) and stride ({stride}) must be at least 1 cell")
    if stride > tile:
        raise UsageError(f"stride {stride} is larger than the tile of {tile}: cells between tiles would be skipped")
    if size <= tile:
        return [0]
    shifted = list(range(origin % stride or stride, size - tile, stride))
    return [0, *shifted, size - tile]


def tile_rows(shape: tuple[int, int], tile: int, stride: int, origin: tuple[int, int] = (0, 0)) -> Iterator[list[Tile]]:
    """Tiles of a grid of ``shape`` cells, one list per row of tiles, top to bottom and left to right.

    A grid smaller than the tile gets one tile of its own size.
    """
    height, width = min(tile, shape[0]), min(tile, shape[1])
    columns = starts(shape[1], tile, stride, origin[1])
    for row in starts(shape[0], tile, stride, origin[0]):
        yield [Tile(row, col, height, width) for col in columns]


def blend_weights(height: int, width: int, halo: int = 0) -> NDArray[np.float32]:
    """Weights ``[height, width]`` for blending: 1 in the middle, falling linearly to a positive value at the border.

    The outer ``halo`` cells are there as surroundings: they count only where no tile covers a cell further inside, as
    along the edge of the scene.
    """

    def ramp(size: int) -> NDArray[np.float64]:
        from_edge = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1.0 - halo
        return np.maximum(from_edge / max(from_edge.max(), 1.0), HALO_WEIGHT)

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

    def __init__(self, width: int, depth: int, halo: int = 0) -> None:
        self.width, self.depth, self.halo, self.first = width, depth, halo, 0
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
        weight_hw = blend_weights(tile.height, tile.width, self.halo) * valid_hw
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


@dataclass(frozen=True)
class TilePlan:
    """How a scene is walked; everything in cells.

    Attributes:
        shape: (rows, columns) of the whole.
        side: of a tile.
        stride: step between tiles.
        halo: outer cells of a tile that serve as surroundings only.
        origin: shift of the lattice of tiles; results should hardly depend on it.
    """

    shape: tuple[int, int]
    side: int
    stride: int
    halo: int = 0
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.halo < 0 or self.stride > self.side - 2 * self.halo:
            raise UsageError(
                f"a tile of {self.side} cells with a halo of {self.halo} covers {self.side - 2 * self.halo}, less than "
                f"the stride of {self.stride}; choose a smaller stride or halo"
            )
        starts(self.side, self.side, self.stride)  # refuses sizes below 1

    @property
    def count(self) -> int:
        """Number of tiles."""
        rows = self.rows()
        return len(rows) * len(rows[0])

    def rows(self) -> list[list[Tile]]:
        """All tiles, one list per row of tiles."""
        return list(tile_rows(self.shape, self.side, self.stride, self.origin))


def blended_rows(
    plan: TilePlan, compute: Compute, batch_size: int, advance: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Compute every tile and give back blended rows, top to bottom: ``first row, values [h, width, D]``.

    Memory holds one row of tiles, however high the scene is. Cells that no valid tile covers are NaN.

    Args:
        plan: the tiles.
        compute: what a tile is turned into.
        batch_size: tiles per call of ``compute``; a batch never spans two rows of tiles.
        advance: told the number of tiles done, for a progress bar.
    """
    rows = plan.rows()
    blender: RowBlender | None = None
    for index, row in enumerate(rows):
        for part in batches(row, batch_size):
            values, valid = compute(part)
            blender = blender or RowBlender(plan.shape[1], values.shape[-1], plan.halo)
            for tile, values_hwD, valid_hw in zip(part, values, valid, strict=True):
                blender.add(tile, values_hwD, valid_hw)
            advance(len(part))
        assert blender is not None
        yield blender.finish_above(rows[index + 1][0].row if index + 1 < len(rows) else plan.shape[0])


def batches(tiles: Sequence[Tile], batch_size: int) -> Iterator[Sequence[Tile]]:
    """Cut a list of tiles into lists of at most ``batch_size``."""
    for start in range(0, len(tiles), max(batch_size, 1)):
        yield tiles[start : start + max(batch_size, 1)]


def blend_block(plan: TilePlan, compute: Compute, block: Tile, batch_size: int) -> NDArray[np.float32]:
    """Values ``[h, w, D]`` of one block of cells, exactly as a walk over the whole would give them."""
    covering = [
        tile
        for line in plan.rows()
        for tile in line
        if tile.row < block.row + block.height and block.row < tile.row + tile.height
        if tile.col < block.col + block.width and block.col < tile.col + tile.width
    ]
    top, left = min(tile.row for tile in covering), min(tile.col for tile in covering)
    right = max(tile.col + tile.width for tile in covering)
    blender: RowBlender | None = None
    for part in batches(covering, batch_size):
        values, valid = compute(part)
        blender = blender or RowBlender(right - left, values.shape[-1], plan.halo)
        for tile, values_hwD, valid_hw in zip(part, values, valid, strict=True):
            blender.add(replace(tile, row=tile.row - top, col=tile.col - left), values_hwD, valid_hw)
    assert blender is not None
    _, rows = blender.finish_above(block.row + block.height - top)
    return rows[block.row - top :, block.col - left : block.col - left + block.width]


def sample_cells(plan: TilePlan, compute: Compute, count: int, seed: int, batch_size: int) -> NDArray[np.float32]:
    """About ``count`` valid cells ``[n, D]`` drawn at random; the same for the same seed.

    They are blended as in the map they stand for. A small grid is walked over whole; of a large one, at least
    ``SAMPLE_BLOCKS`` blocks of a tile's size are drawn, so that no single place makes up the sample.
    """
    rng = np.random.default_rng(seed)
    tiles = [tile for row in plan.rows() for tile in row]
    wanted = max(SAMPLE_BLOCKS, -(-count // (tiles[0].height * tiles[0].width)))
    if len(tiles) <= COVERING * wanted:
        blocks = (values for _, values in blended_rows(plan, compute, batch_size))
    else:
        chosen = [tiles[i] for i in sorted(rng.permutation(len(tiles))[:wanted])]
        blocks = (blend_block(plan, compute, block, batch_size) for block in chosen)
    cells = np.concatenate([values[np.isfinite(values).all(-1)] for values in blocks])
    return cells if len(cells) <= count else cells[np.sort(rng.permutation(len(cells))[:count])]
