"""Many tensors reduced over processes as few flat ones; the program may go on while they are on their way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specfm.engine.groups import Group

BUCKET_ELEMENTS = 1 << 24  # 64 MiB of fp32 per reduction


class Bucket:
    """A flat copy of some tensors, on its way to become the sum over a group from the moment it is made.

    Args:
        tensors: of one type; as many, of the same shapes, on every process of the group.
        group: who sums.
    """

    @torch.no_grad()
    def __init__(self, tensors: Sequence[Tensor], group: Group) -> None:
        self._tensors, self._size = [each.detach() for each in tensors], group.size
        counts = [each.numel() for each in self._tensors]
        self._flat = torch.empty(sum(counts), dtype=self._tensors[0].dtype, device=self._tensors[0].device)
        pieces = zip(self._flat.split(counts), self._tensors, strict=True)
        self._views = [piece.view(each.shape) for piece, each in pieces]
        torch._foreach_copy_(self._views, self._tensors)
        self._pending = group.begin_sum(self._flat)

    @torch.no_grad()
    def receive(self, mean: bool = False) -> None:
        """Wait, then put the sum (or the mean) in the tensors' place."""
        self._pending.wait()
        if mean:
            self._flat.div_(self._size)
        torch._foreach_copy_(self._tensors, self._views)


def cut(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Runs of one type, of at most :data:`BUCKET_ELEMENTS` or of one tensor."""
    parts: list[list[Tensor]] = []
    elements = 0
    for each in tensors:
        fits = parts and parts[-1][0].dtype == each.dtype and elements + each.numel() <= BUCKET_ELEMENTS
        if not fits:
            parts.append([])
            elements = 0
        parts[-1].append(each)
        elements += each.numel()
    return parts
