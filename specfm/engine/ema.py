"""Running averages of weights over steps: of an encoder, for its release, and of an objective's teacher.

The average of the last hundreds of steps of a run ends where single steps only circle around: the noise of the batches
is averaged out (Polyak and Juditsky 1992). It is worth most where the learning rate is still high.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from specfm.engine.parts import own_part

Module = TypeVar("Module", bound=nn.Module)
AVERAGED = "averaged"  # name of the average among the modules of a run


def average_of(module: Module) -> Module:
    """A copy of a module that :func:`follow` moves; it has no gradients and stays in evaluation mode."""
    average = deepcopy(module).requires_grad_(False)
    return average.eval()


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move an average: ``w' = decay w' + (1 - decay) w``, in place; 0 makes it a copy. Buffers are copied.

    Of parameters in parts (:mod:`specfm.engine.sharded`) each process moves its own, since both are divided alike.
    What the module does not train is left alone unless ``decay`` is 0: it is equal already.
    """
    pairs = zip(average.parameters(), module.parameters(), strict=True)
    moved = [(own_part(mine), own_part(theirs)) for mine, theirs in pairs if theirs.requires_grad or decay == 0]
    if decay == 0:
        torch._foreach_copy_([mine for mine, _ in moved], [theirs for _, theirs in moved])
    elif moved:
        torch._foreach_lerp_([mine for mine, _ in moved], [theirs for _, theirs in moved], 1 - decay)
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)


def warmed_up(decay: float, number: int) -> float:
    """``decay``, but at most ``number / (9 + number)`` after update ``number``: what a run began with is soon gone."""
    return min(decay, number / (9 + number))


def released(modules: nn.ModuleDict) -> str:
    """Name of the module that a run releases: the encoder's average where it keeps one, else the encoder."""
    return AVERAGED if AVERAGED in modules else "encoder"
