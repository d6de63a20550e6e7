"""The usual way to keep weights equal: all processes step on the same gradients. And what the loop asks of any way.

One sum of gradients per step, over flat buckets, after all micro-batches. A rank's gradients are those of the
*whole-batch* loss through its own rows, so their sum (not their mean) is the gradient that one process with the whole
batch would compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from specfm.engine.distributed import World
from specfm.engine.sync.buckets import Bucket, cut


class Sync(Protocol):
    """What the loop asks while a step is made, in this order. Every process makes the same calls."""

    @property
    def equal(self) -> bool:
        """Every process steps on the same gradients, so weights and optimiser state are the same at any time. Else
        weights are the same where :meth:`settle` made them so, and each process has optimiser moments of its own."""
        ...

    @property
    def stopping(self) -> bool:
        """All processes know that one of them has received a stop signal, and since the same step."""
        ...

    def ready(self) -> None:
        """Before the forward pass: wait until the weights are those to go on with."""

    def coupled(self, number: int) -> AbstractContextManager[None]:
        """Around step ``number``'s loss: whose samples meet in it (:func:`specfm.engine.groups.coupled`)."""
        ...

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Leave in ``.grad`` of every parameter what the optimiser is to step on."""

    def agree(self, number: int, numbers: Tensor, stop: bool) -> list[float]:
        """What is said of a step, before its update; the one place of a step where a device is waited for.

        Args:
            number: of the step.
            numbers: first whether the step is bad (1 or 0), then figures, which are averaged.
            stop: whether this process has received a stop signal.

        Returns:
            The same numbers; more than 0 in the first: the update is left out here.
        """
        ...

    def updated(self, number: int) -> None:
        """After the update, also where it was left out."""

    def settle(self, number: int, due: bool) -> dict[int, bool]:
        """Steps of which all processes know by now whether they were bad, in order; each is told once.

        Args:
            number: the step that is done.
            due: all processes are to hold the same after it, and to know all of it: before an evaluation, a checkpoint,
                the end.
        """
        ...


def zero_missing(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients of all trained parameters. One without counts as zero, in one process too, so that weight decay
    treats it alike whatever the number of ranks."""
    found = []
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            found.append(parameter.grad)
    return found


class AllReduce:
    """Every process with every other, in every step.

    Args:
        world: this process among all.
    """

    equal = True

    def __init__(self, world: World) -> None:
        self.world, self.stopping = world, False
        self._bad: dict[int, bool] = {}

    def ready(self) -> None:
        """Nothing is on its way."""

    def coupled(self, number: int) -> AbstractContextManager[None]:
        """The samples of all processes meet."""
        return nullcontext()

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all ranks."""
        gradients = zero_missing(parameters)
        if self.world.size > 1:
            for part in cut(gradients):  # one after the other: room for one more of them, not for all
                Bucket(part, self.world.everyone).receive()

    def agree(self, number: int, numbers: Tensor, stop: bool) -> list[float]:
        """One reduction over all ranks tells whether any of them saw a bad value or a stop signal, and the means."""
        told = torch.cat([numbers, numbers.new_tensor([float(stop)])])
        told[1:-1] /= self.world.size
        *agreed, stops = self.world.sum(told).tolist()
        self._bad, self.stopping = {number: agreed[0] > 0}, stops > 0
        return agreed

    def updated(self, number: int) -> None:
        """All have made the same update."""

    def settle(self, number: int, due: bool) -> dict[int, bool]:
        """All know at once."""
        found, self._bad = self._bad, {}
        return found
