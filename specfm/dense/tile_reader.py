"""Tiles of a scene as arrays, how many at once, and the one brightness level of the scene: all without torch.

Shapes: B tiles, H W pixels, C bands, T tile side in cells (patches, or pixels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from specfm.tiles import Tile, TilePlan
from specfm.window import read_window

BATCH_BYTES = 64 << 20  # most bytes of pixels in one batch of tiles, whatever batch size is asked for
LEVEL_PIXELS = 200_000  # pixels that the scene's level is estimated from
WINDOW_PATCHES = 8  # side of a tile, where the user names none


def refuse_odd_numbers(scene: Scene) -> None:
    """Refuse a scene of complex numbers and the like.

    Raises:
        SpecfmError: it is.
    """
    if scene.dtype.kind not in "iuf" or scene.dtype.itemsize > 8:
        raise SpecfmError(f"{scene.where}: holds {scene.dtype}, and an encoder takes whole or real numbers; convert it")


class TileReader:
    """Reads tiles of one scene as stored values in float32 and a mask; cells are ``patch`` x ``patch`` pixels.

    Tiles that lie side by side are read in one piece: lines of a file hold all columns, and overlaps are read once.
    """

    def __init__(self, scene: Scene, patch: int) -> None:
        refuse_odd_numbers(scene)
        self.scene, self.patch = scene, patch

    def __call__(self, tiles: Sequence[Tile]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values ``[B, T*p, T*p, C]`` and valid pixels ``[B, T*p, T*p]``; beyond the scene's edge nothing is valid."""
        p = self.patch
        height, width = tiles[0].height * p, tiles[0].width * p
        self.scene.refuse_tiles(height, width)
        cubes = np.zeros((len(tiles), height, width, self.scene.shape[2]), np.float32)
        masks = np.zeros((len(tiles), height, width), bool)
        done = 0
        for row, group in groupby(tiles, key=lambda tile: tile.row * p):
            for run in _runs(list(group)):
                first, last = run[0].col * p, run[-1].col * p + width
                values, mask = read_window(self.scene, row, first, height, last - first)
                for tile in run:
                    part = slice(tile.col * p - first, tile.col * p - first + width)
                    cubes[done], masks[done] = values[:, part], mask[:, part]
                    done += 1
        return cubes, masks


def _runs(tiles: list[Tile]) -> Iterator[list[Tile]]:
    """Split tiles of one row, left to right, where there is a gap between them."""
    run = tiles[:1]
    for tile in tiles[1:]:
        if run[-1].col <= tile.col <= run[-1].col + run[-1].width:
            run.append(tile)
        else:
            yield run
            run = [tile]
    yield run


def fitting_batch(batch_size: int, window: int, bands: int) -> int:
    """``batch_size``, or less where so many windows of so many bands would take more than ``BATCH_BYTES``."""
    return max(1, min(batch_size, BATCH_BYTES // (window * window * bands * 4)))


def scene_level(scene: Scene) -> float:
    """Mean magnitude (physical) over the scene's valid pixels and bands, from an even sample of its rows.

    Bands count by their share of the wavelength axis, as in the level of a sample (``specfm.models.patches``).
    """
    height, width, _ = scene.shape
    sensor = scene.sensor
    rows = np.unique(np.linspace(0, height - 1, max(1, min(height, LEVEL_PIXELS // max(width, 1)))).astype(int))
    used = np.flatnonzero(sensor.bands.valid)
    weights_C = sensor.bands.weights[used]
    scale, offset = np.float32(sensor.scale), np.float32(sensor.offset)
    total, count = 0.0, 0
    for row in rows:
        window = (slice(int(row), int(row) + 1), slice(None))
        mask_W = np.asarray(scene.mask(*window))[0]
        if not mask_W.any():
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            x_WC = scene.read(*window)[0][:, used].astype(np.float32) * scale + offset
        x_WC = x_WC[mask_W & np.isfinite(x_WC).all(1)]
        total, count = total + float(np.abs(x_WC.astype(np.float64)).sum(0) @ weights_C), count + len(x_WC)
    return total / count if total > 0 else 1.0


def patch_plan(
    scene: Scene, patch: int, window: int = 0, stride: int = 0, called: str = "window", cell: int | None = None
) -> TilePlan:
    """Tiles over the patches of a scene.

    Args:
        scene: what is tiled.
        patch: side of a patch, pixels.
        window: side of a tile, pixels; 0 = 8 patches.
        stride: step between tiles, pixels; 0 = half a window.
        called: what the user calls the window.
        cell: side of what has one feature, pixels (:func:`cell_side`); default a patch.

    Raises:
        UsageError: window or stride is not a multiple of ``patch``, or the stride is larger than the window.
        SpecfmError: a scene without a pixel.
    """
    window = window or WINDOW_PATCHES * patch
    stride = stride or max(window // (2 * patch), 1) * patch
    for name, size in ((called, window), ("stride", stride)):
        if size < patch or size % patch:
            raise UsageError(f"{name} {size} is not a multiple of the encoder's patch of {patch} pixels")
    if not scene.shape[0] * scene.shape[1]:
        raise SpecfmError(f"{scene.where}: has no pixel ({scene.shape[0]} x {scene.shape[1]}); look at the file")
    cell = cell or patch
    shape = (-(-scene.shape[0] // cell), -(-scene.shape[1] // cell))
    return TilePlan(shape, window // cell, stride // cell)
