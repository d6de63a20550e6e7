"""What is seen of windows where no view is made of them: for figures and statistics, beside the training.

An encoder of any size sees them whole; one that reads one size alone, their middle, since crops are what it is trained
on.

Shapes: B samples, H W window, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specfm.batch import Batch, BatchPart
from specfm.errors import UsageError
from specfm.models.one_size import fixed_side


@torch.no_grad()
def pooled(encoder: Any, batch: Batch, limit: int | None = None) -> Tensor:
    """pooled_BD of plain windows.

    Args:
        encoder: in the mode that it is in.
        batch: as stored.
        limit: samples in one call; None: all.

    Raises:
        UsageError: windows smaller than the encoder reads.
    """
    step, side = limit or len(batch), fixed_side(encoder)
    parts = (batch.select(start, min(start + step, len(batch))) for start in range(0, len(batch), step))
    seen = (some if side is None else Batch(tuple(_middle(part, side) for part in some)) for some in parts)
    return torch.cat([encoder(some).pooled_BD for some in seen])


def middle(values_BHW: Tensor, side: int | None) -> Tensor:
    """The middle ``side`` x ``side`` pixels of windows ``[B, H, W, ...]``, or all of them where that is None.

    Raises:
        UsageError: the windows are smaller.
    """
    if side is None:
        return values_BHW
    top, left = _corner(values_BHW, side)
    return values_BHW[:, top : top + side, left : left + side]


def _middle(part: BatchPart, side: int) -> BatchPart:
    origin_B2 = part.origin_B2 + part.origin_B2.new_tensor(_corner(part.x_BHWC, side))
    mask_BHW = None if part.mask_BHW is None else middle(part.mask_BHW, side)
    return part.replace(x_BHWC=middle(part.x_BHWC, side), mask_BHW=mask_BHW, origin_B2=origin_B2)


def _corner(values_BHW: Tensor, side: int) -> tuple[int, int]:
    height, width = values_BHW.shape[1:3]
    if min(height, width) < side:
        raise UsageError(
            f"windows of {height} x {width} pixels are smaller than the {side} x {side} that the encoder reads; cut "
            f"wider ones (specfm shard --window {side}), or leave their shards out (data.shards, monitor.shards)"
        )
    return (height - side) // 2, (width - side) // 2
