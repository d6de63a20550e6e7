"""Unstructured pruning: the least weights become zeros. It makes files small (:mod:`downstream.compress.packed`), not
models fast: runtimes multiply by zeros as by anything else.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import prune

from downstream.supervised.model import TaskModel
from specfm.errors import UsageError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weights_of(model: TaskModel) -> list[tuple[nn.Module, str]]:
    """The matrices and kernels of the trunk, where nearly all weights are; stems and heads keep theirs."""
    return [(layer, "weight") for layer in model.encoder.blocks.modules() if isinstance(layer, LAYERS)]


def zero_weights(model: TaskModel, share: float) -> None:
    """Set the weights of least magnitude over all layers together to zero, and hold them there while it is trained.

    Args:
        model: changed in place; :func:`settle` afterwards. Weights that are zero already count as taken.
        share: of all weights of the trunk, above 0 and below 1.

    Raises:
        UsageError: a share outside its range, or a trunk without such layers.
    """
    if not 0 < share < 1:
        raise UsageError(f"sparsity is {share}; give the share of weights that become zero, between 0 and 1")
    chosen: Any = weights_of(model)
    if not chosen:
        raise UsageError("the trunk of this model has no matrices or kernels to prune")
    settle(model)  # one mask a layer; what was zero is of least magnitude, and stays so
    prune.global_unstructured(chosen, prune.L1Unstructured, amount=share)


def settle(model: TaskModel) -> None:
    """Make zeros part of the weights, as saved and exported."""
    for layer, name in weights_of(model):
        if prune.is_pruned(layer) and hasattr(layer, f"{name}_orig"):
            prune.remove(layer, name)


def sparsity(model: TaskModel) -> float:
    """Share of the trunk's weights that are zero."""
    held = [getattr(layer, name).detach() for layer, name in weights_of(model)]
    return sum(int((each == 0).sum()) for each in held) / max(sum(each.numel() for each in held), 1)


def schedule(target: float, rounds: int) -> list[float]:
    """Sparsity after each round: cubic, steep at first (Zhu and Gupta 2017, arXiv 1710.01878, eq. 1)."""
    return [target * (1 - (1 - number / rounds) ** 3) for number in range(1, rounds + 1)]
