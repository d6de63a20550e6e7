"""What a model is shown: tiles of one date with their bands and valid pixels, and how they may be turned.

Shapes: B tiles, H W pixels, C bands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from specfm.batch import BandTensors
from specfm.models.encoder import Bands


@dataclass(frozen=True)
class View:
    """One date of B tiles: stored values, bands, valid pixels, and the level that divides them (None: each its own)."""

    x_BHWC: Tensor
    bands: Bands
    mask_BHW: Tensor | None = None
    level_B: Tensor | None = field(default=None)


def valid_pixels(view: View) -> Tensor:
    """Which pixels are valid ``[B, H, W]``: as masked, and finite in every usable band."""
    bands = view.bands
    tensors = bands if isinstance(bands, BandTensors) else BandTensors.from_sensors(bands)
    usable = tensors.valid_GC[:, None, None].to(view.x_BHWC.device)
    finite = (view.x_BHWC.isfinite() | ~usable).all(-1)
    return finite if view.mask_BHW is None else finite & view.mask_BHW.bool()


def to_device(view: View, device: torch.device) -> View:
    """The tensors that the encoder does not move itself."""
    return view if view.level_B is None else replace(view, level_B=view.level_B.to(device))


TURNS = 8  # of a square: four quarters, and those of its mirror image


def turn(x: np.ndarray, number: int) -> np.ndarray:
    """Quarter turns of the first two axes, mirrored along the second from 4 on; 0 leaves it. A view of ``x``."""
    turned = np.rot90(x, number % 4)
    return np.flip(turned, 1) if number >= 4 else turned


def turned_batch(tiles: Iterable[np.ndarray], turns: Iterable[int]) -> Tensor:
    """Tiles ``[H, W, ...]`` put together as ``[B, H, W, ...]``, each turned by its own number: copied once."""
    return torch.from_numpy(np.stack([turn(tile, number) for tile, number in zip(tiles, turns, strict=True)]))


def turns_about_its_middle(side: int) -> bool:
    """Whether a window still has its labelled pixel, at (side // 2, side // 2), in its middle once turned."""
    return side % 2 == 1
