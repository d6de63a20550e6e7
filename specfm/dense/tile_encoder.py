"""Tiles of a scene and what an encoder says of them: what every dense map is made of, in memory or streamed to a file.

Shapes: B tiles, H W pixels, C bands, T tile side in cells (patches, or pixels where each has a token), D width.
All tiles share the scene's one brightness level by default, so that there are no seams. ``specfm.dense.memory``,
``specfm.dense.stream`` and ``downstream.maps`` walk over a scene with these pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specfm.batch import BandTensors
from specfm.errors import SpecfmError, UsageError
from specfm.models.patches import sample_level
from specfm.scene import Scene
from specfm.tiles import Tile, TilePlan
from specfm.window import read_window

BATCH_BYTES = 64 << 20  # most bytes of pixels in one batch of tiles, whatever batch size is asked for
EVEN_SPECTRA = 16  # pixels whose uniform tiles show what features say of places
LEVEL_PIXELS = 200_000  # pixels that the scene's level is estimated from
WINDOW_PATCHES = 8  # side of a tile, where the user names none


class DenseEncoder(Protocol):
    """What dense features need of an encoder: features of a batch of tiles, and the sizes that say what these are."""

    patch_size: int
    num_features: int
    level: str
    training: bool

    @property
    def device(self) -> torch.device: ...

    def __call__(
        self, x: Tensor, bands: Any, mask_BHW: Tensor | None = None, *, level_B: Tensor | None = None, **asked: Any
    ) -> Any: ...

    def eval(self) -> DenseEncoder: ...

    def train(self, mode: bool = True) -> DenseEncoder: ...


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
    """Mean magnitude (physical) over the scene's valid pixels and bands, from an even sample of its rows."""
    height, width, _ = scene.shape
    rows = np.unique(np.linspace(0, height - 1, max(1, min(height, LEVEL_PIXELS // max(width, 1)))).astype(int))
    bands = BandTensors.from_sensors(scene.sensor)
    total, count = 0.0, 0
    for row in rows:
        window = (slice(int(row), int(row) + 1), slice(None))
        mask = np.asarray(scene.mask(*window))
        if mask.any():
            cube = np.ascontiguousarray(scene.read(*window)).astype(np.float32)
            level = sample_level(torch.from_numpy(cube)[None], bands, torch.from_numpy(mask)[None])
            total, count = total + float(level) * int(mask.sum()), count + int(mask.sum())
    return total / count if count else 1.0


def scene_levels(scene: Scene, encoder: DenseEncoder, level: str) -> float | None:
    """The level that divides all tiles of a scene, or None where each tile has its own.

    Raises:
        UsageError: ``level`` is neither "scene" nor "sample".
    """
    if level not in ("scene", "sample"):
        raise UsageError(f"unknown level {level!r}; scene or sample")
    return scene_level(scene) if level == "scene" and encoder.level != "none" else None


class TileEncoder:
    """Encodes tiles of one scene; knows nothing of their order or blending.

    Args:
        encoder: a specfm encoder.
        scene: the scene.
        level: "scene" or "sample", see :func:`scene_levels`.
        even: take out what features say of a patch's place in its tile. An encoder adds a code of positions to its
            tokens, which in a map of many tiles shows as their grid. What tiles of one and the same spectrum throughout
            answer differently from place to place, averaged over ``EVEN_SPECTRA`` pixels of the scene, is that code;
            it is subtracted. (Yang et al. 2024, "Denoising Vision Transformers", split features in the same way.)
        pixels: a feature for every pixel, of an encoder with pixel tokens, in place of one for every patch.

    Raises:
        UsageError: ``pixels`` of an encoder without such tokens.
    """

    def __init__(
        self, encoder: DenseEncoder, scene: Scene, level: str = "scene", even: bool = False, pixels: bool = False
    ) -> None:
        self.encoder, self.scene, self.even, self.pixels = encoder.eval(), scene, even, pixels
        self.read = TileReader(scene, cell_side(encoder, pixels))
        self.level = scene_levels(scene, encoder, level)
        self._of_place: dict[tuple[int, int], NDArray[np.float32]] = {}

    def __call__(self, tiles: Sequence[Tile]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Features ``[B, T, T, D]`` of tiles of one size, and which cells have a valid pixel ``[B, T, T]``."""
        tokens, valid = self._encode(*self.read(tiles))
        return tokens - self.of_place(tokens.shape[1], tokens.shape[2]) if self.even else tokens, valid

    def of_place(self, height: int, width: int) -> NDArray[np.float32]:
        """What features say of the place in a tile ``[height, width, D]``: mean 0 over the tile."""
        if (height, width) not in self._of_place:
            spectra_nC = self._spectra()
            size = (height * self.read.patch, width * self.read.patch)
            cubes = np.broadcast_to(spectra_nC[:, None, None], (len(spectra_nC), *size, spectra_nC.shape[1]))
            batch = fitting_batch(len(cubes), max(size), cubes.shape[-1] * copies(self.encoder, self.pixels))
            found = [
                self._encode(
                    np.ascontiguousarray(cubes[i : i + batch]), np.ones((len(cubes[i : i + batch]), *size), bool)
                )
                for i in range(0, len(cubes), batch)
            ]
            tokens = np.concatenate([tokens for tokens, _ in found])
            self._of_place[height, width] = (tokens - tokens.mean((1, 2), keepdims=True)).mean(0)
        return self._of_place[height, width]

    def _spectra(self) -> NDArray[np.float32]:
        """Stored spectra ``[n, C]`` of valid pixels from evenly spaced rows, or ones where there is none."""
        height, width, bands = self.scene.shape
        rng = np.random.default_rng(0)
        found = []
        for row in np.unique(np.linspace(0, height - 1, EVEN_SPECTRA).astype(int)):
            valid = np.flatnonzero(self.scene.mask(int(row))[0])
            for col in rng.choice(valid, min(len(valid), max(1, EVEN_SPECTRA // height)), replace=False):
                found.append(self.scene.read(int(row), int(col))[0, 0].astype(np.float32))
        return np.stack(found) if found else np.ones((1, bands), np.float32)

    def _encode(self, cubes: NDArray[np.float32], masks: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        level_B = None
        if self.level is not None:
            level_B = torch.full((len(cubes),), self.level, device=self.encoder.device)
        asked = {"pixels": "all"} if self.pixels else {}
        with torch.inference_mode():
            found = self.encoder(
                torch.from_numpy(cubes), self.scene.sensor, torch.from_numpy(masks), level_B=level_B, **asked
            )
        if self.pixels:
            pixels = found.pixel_BQD.float().cpu().numpy().reshape(*cubes.shape[:3], -1)
            return pixels, found.pixel_mask_BQ.cpu().numpy().reshape(cubes.shape[:3])
        grid = (len(cubes), *found.grid_hw[0])
        tokens = found.tokens_BND.float().cpu().numpy().reshape(*grid, -1)
        return tokens, found.token_mask_BN.cpu().numpy().reshape(grid)


def cell_side(encoder: DenseEncoder, pixels: bool) -> int:
    """Pixels along what has one feature: a patch, or a pixel.

    Raises:
        UsageError: ``pixels`` of an encoder without tokens of single pixels.
    """
    if pixels and not getattr(encoder, "pixel", False):
        raise UsageError(
            "this encoder has no token of single pixels; leave --pixels out, or pretrain one with "
            "model.options.pixel=true"
        )
    return 1 if pixels else encoder.patch_size


def copies(encoder: DenseEncoder, pixels: bool) -> int:
    """How often a tile is held while it is encoded: each pixel is repeated over a patch where it has a token."""
    return encoder.patch_size**2 if pixels else 1


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
