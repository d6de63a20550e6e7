"""Spatial side of a view: overlapping crops, flips and quarter turns, as one gather.

Shapes: B samples, H W window, h w crop, N tokens of the crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.rng import Keys
from pretrain.views.config import ViewConfig
from specfm.batch import BatchPart


@dataclass(frozen=True)
class SpatialPlan:
    """Where each pixel of the crops comes from.

    Attributes:
        index_Bhw: int64 index into the window's B*H*W pixels.
        offset_B2: (row, col) of the crop in its window.
    """

    index_Bhw: Tensor
    offset_B2: Tensor

    def crop(self, values: Tensor) -> Tensor:
        """(B, H, W, ...) -> (B, h, w, ...); turned and flipped."""
        flat = values.reshape(-1, *values.shape[3:])
        # not every kernel knows unsigned 16-bit integers: move them as signed ones
        moved = flat.view(torch.int16) if flat.dtype == torch.uint16 else flat
        return (
            moved.index_select(0, self.index_Bhw.flatten())
            .view(flat.dtype)
            .view(*self.index_Bhw.shape, *values.shape[3:])
        )

    def token_centres(self, window: tuple[int, int], patch: int) -> Tensor:
        """centre_BN2 (float32): row and column in the window of the middle of each token's pixels.

        Tokens are counted along the crop as it was turned and flipped; those at its end may have fewer pixels.

        Args:
            window: H and W.
            patch: side of a token, pixels.
        """
        height, width = window
        place_B2hw = torch.stack([self.index_Bhw // width % height, self.index_Bhw % width], dim=1).float()
        return F.avg_pool2d(place_B2hw, patch, ceil_mode=True, count_include_pad=False).flatten(2).mT


def plan_spatial(part: BatchPart, config: ViewConfig, shared: Keys, own: Keys, strength: float) -> SpatialPlan:
    """Choose crops. Each axis confines all views to a common range, so that their overlap is guaranteed.

    Args:
        part: samples.
        config: how views are made.
        shared: keys of the samples at this step.
        own: keys of this view.
        strength: scales how far apart the crops of a sample may lie.
    """
    batch, height, width = part.x_BHWC.shape[:3]
    size = [side if config.crop is None else min(config.crop, side) for side in (height, width)]
    offsets = []
    for axis, (side, cut) in enumerate(zip((height, width), size, strict=True)):
        room = side - cut
        # two crops that differ by d share (cut - d) / cut of this axis; the area's share is the product of both axes
        spread = min(room, math.floor(cut * (1 - math.sqrt(config.min_overlap)) + 1e-9))
        spread = round(strength * spread)
        first_B = shared.integer(f"crop{axis}", torch.full((batch,), room - spread + 1, device=part.x_BHWC.device))
        offsets.append(first_B + own.integer(f"shift{axis}", torch.full_like(first_B, spread + 1)))
    offset_B2 = torch.stack(offsets, dim=1)

    device = part.x_BHWC.device
    row_1h1 = torch.arange(size[0], device=device)[None, :, None]
    col_11w = torch.arange(size[1], device=device)[None, None, :]
    row_Bhw, col_Bhw = (axis.expand(batch, *size) for axis in (row_1h1, col_11w))
    if config.dihedral:
        turn_B, up_B, over_B = (own.uniform(name)[:, None, None] < 0.5 for name in ("transpose", "flip0", "flip1"))
        if size[0] == size[1]:
            row_Bhw, col_Bhw = torch.where(turn_B, col_Bhw, row_Bhw), torch.where(turn_B, row_Bhw, col_Bhw)
        row_Bhw = torch.where(up_B, size[0] - 1 - row_Bhw, row_Bhw)
        col_Bhw = torch.where(over_B, size[1] - 1 - col_Bhw, col_Bhw)
    row_Bhw = row_Bhw + offset_B2[:, 0, None, None]
    col_Bhw = col_Bhw + offset_B2[:, 1, None, None]
    sample_B11 = torch.arange(batch, device=device)[:, None, None]
    return SpatialPlan((sample_B11 * height + row_Bhw) * width + col_Bhw, offset_B2)
