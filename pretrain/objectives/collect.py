"""Gathering across ranks, the one place of the objectives that talks to process groups.

"All ranks" are those whose samples meet in the loss (:func:`specfm.engine.groups.coupled`): every process of the
run, or those of a group (``sync.negatives``).

Shapes: B local samples, N = B * world samples over all ranks, rank-major.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from specfm.engine.groups import collective, coupled


def world() -> tuple[int, int]:
    """(rank, number of ranks) among those whose samples meet; (0, 1) without a process group."""
    rank, group = coupled()
    return rank, group.size


def all_gather(local: Tensor, dim: int = 0) -> Tensor:
    """Concatenate a tensor over ranks along ``dim``, without gradient. Every rank must hold the same shape.

    Without a process group, or with one rank, the tensor itself is returned.
    """
    group = coupled()[1]
    if group.size == 1:
        return local.detach()
    # gloo and NCCL move no bools, so they travel as bytes
    sent = local.detach().contiguous()
    sent = sent.to(torch.uint8) if local.dtype == torch.bool else sent
    received = [torch.empty_like(sent) for _ in range(group.size)]
    with collective():
        dist.all_gather(received, sent, group=group.handle)
    return torch.cat(received, dim).to(local.dtype)


def all_sum(local: Tensor) -> Tensor:
    """Sum a tensor over ranks, with gradient: what goes back is the gradient of the *sum* of all ranks' losses.

    A loss that every rank works out alike from such a sum counts once per rank, as the step expects it
    (:class:`pretrain.objectives.base.Objective`). Without a process group, or with one rank, the tensor itself.
    """
    return _Sum.apply(local) if world()[1] > 1 else local


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return summed(local)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return summed(grads[0])


def summed(local: Tensor) -> Tensor:
    """Sum a tensor over ranks, without gradient; a new tensor."""
    total = local.detach().clone(memory_format=torch.contiguous_format)
    coupled()[1].begin_sum(total).wait()
    return total
