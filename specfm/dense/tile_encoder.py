"""Tiles of a scene and what an encoder says of them: what every dense map is made of, in memory or streamed to a file.

Shapes: B tiles, H W pixels, C bands, T tile side in cells (patches, or pixels where each has a token), D width.
All tiles share the scene's one brightness level by default, so that there are no seams. ``specfm.dense.memory``,
``specfm.dense.stream`` and ``downstream.maps`` walk over a scene with these pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specfm.dense.tile_reader import TileReader, fitting_batch, patch_plan, scene_level
from specfm.errors import UsageError
from specfm.models.one_size import fixed_side, refuse_other_side
from specfm.scene import Scene
from specfm.selected_scene import for_encoder
from specfm.tiles import Tile, TilePlan

EVEN_SPECTRA = 16  # pixels whose uniform tiles show what features say of places


class DenseEncoder(Protocol):
    """What dense features need of an encoder: features of a batch of tiles, and the sizes that say what these are.

    One that reads tiles of one size alone has it as ``fixed_side`` too.
    """

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
        scene = for_encoder(encoder, scene)
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
        rows, cols = (-(-side // self.read.patch) for side in masks.shape[1:])
        # of a scene smaller than the only tile that the encoder reads, what lies beyond its edge is not valid
        short = [(0, max(0, (fixed_side(self.encoder) or 0) - side)) for side in masks.shape[1:]]
        if any(more for _, more in short):
            cubes, masks = np.pad(cubes, [(0, 0), *short, (0, 0)]), np.pad(masks, [(0, 0), *short])
        with torch.inference_mode():
            found = self.encoder(
                torch.from_numpy(cubes), self.scene.sensor, torch.from_numpy(masks), level_B=level_B, **asked
            )
        if self.pixels:
            pixels = found.pixel_BQD.float().cpu().numpy().reshape(*cubes.shape[:3], -1)
            return pixels[:, :rows, :cols], found.pixel_mask_BQ.cpu().numpy().reshape(cubes.shape[:3])[:, :rows, :cols]
        grid = (len(cubes), *found.grid_hw[0])
        tokens = found.tokens_BND.float().cpu().numpy().reshape(*grid, -1)
        return tokens[:, :rows, :cols], found.token_mask_BN.cpu().numpy().reshape(grid)[:, :rows, :cols]


def encoder_plan(
    encoder: DenseEncoder, scene: Scene, window: int = 0, stride: int = 0, pixels: bool = False, called: str = "window"
) -> TilePlan:
    """Tiles of a scene for an encoder, by default of the only size that it reads, or of 8 patches.

    Args:
        encoder: a specfm encoder.
        scene: what is tiled.
        window: as of :func:`specfm.dense.tile_reader.patch_plan`.
        stride: likewise.
        pixels: cells are pixels, see :func:`cell_side`.
        called: what the user calls the window.

    Raises:
        UsageError: sides that the patch does not divide, or another size than the only one.
        SpecfmError: a scene without a pixel.
    """
    cell, window = cell_side(encoder, pixels), window or fixed_side(encoder) or 0
    if window:
        refuse_other_side(encoder, window, called)
    return patch_plan(scene, encoder.patch_size, window, stride, called, cell)


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
