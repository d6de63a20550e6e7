"""How processes keep their weights equal: what is summed over them in a step.

Today one sum of gradients per step, over flat buckets, after all micro-batches. A rank's gradients are those of the
*whole-batch* loss through its own rows, so their sum (not their mean) is the gradient that one process with the whole
batch would compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from specfm.engine.distributed import World

BUCKET_ELEMENTS = 1 << 24  # 64 MiB of fp32 per all-reduce


class GradientSync(Protocol):
    """What the loop asks between the backward pass and the update. Both calls are collective."""

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Leave in ``.grad`` of every parameter what the optimiser is to step on."""

    def agree(self, numbers: Tensor) -> Tensor:
        """Sum of small numbers over the processes that step together: flags of bad steps, stop signals, means."""
        ...


class AllReduce:
    """Every process with every other, in every step.

    Args:
        world: this process among all.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all ranks. A parameter without a gradient counts as zero, in one process too, so that
        weight decay treats it alike whatever the number of ranks."""
        listed = [p for p in parameters if p.requires_grad]
        for parameter in listed:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world.size == 1:
            return
        gradients = [p.grad for p in listed if p.grad is not None]
        start = 0
        while start < len(gradients):
            stop, elements = start, 0
            while stop < len(gradients) and (stop == start or elements + gradients[stop].numel() <= BUCKET_ELEMENTS):
                elements += gradients[stop].numel()
                stop += 1
            bucket = torch.cat([g.reshape(-1) for g in gradients[start:stop]])
            self.world.sum(bucket)
            place = 0
            for gradient in gradients[start:stop]:
                gradient.copy_(bucket[place : place + gradient.numel()].view_as(gradient))
                place += gradient.numel()
            start = stop

    def agree(self, numbers: Tensor) -> Tensor:
        """Sum over all ranks (in place; returned)."""
        return self.world.sum(numbers)
