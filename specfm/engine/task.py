"""What a training run is, seen from the loop (:mod:`specfm.engine.loop`): where batches come from, what the loss is,
what is saved.

Steps are counted from 1 in everything here: step ``number`` is the one after ``number - 1`` updates. All that a task
does must be a function of the step, so that a run taken up again goes on bit by bit. A task subclasses
:class:`Task`; what most have no need of has a default.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from specfm.engine.config import RunConfig
from specfm.engine.distributed import World
from specfm.engine.run_folder import RunFolder


@dataclass(frozen=True)
class StepResult:
    """What a step leaves beside the gradients: its loss on this rank, and numbers to average over ranks and record."""

    loss: Tensor
    scalars: dict[str, float]


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds of a task. It is written while steps go on.

    Attributes:
        write_model: writes the release folder at the path that it is given, as it was when the snapshot was taken.
        tensors: further training state (heads, optimiser).
        state: JSON-safe facts; a number ``score`` (larger is better) marks the best checkpoint.
    """

    write_model: Callable[[Path], Any]
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Task(Protocol):
    """One run on one rank, complete once it is constructed.

    Attributes:
        title: what the progress display calls it.
        config: steps, optimiser schedule, checkpoints, guard.
        world: this process among all.
        folder: where the run is kept; None keeps nothing (a short training in memory): no checkpoint, no record, and
            stop signals do what they always do.
        modules: everything that is trained, by name.
        optimizer: over their parameters.
        batch_size: samples of a step over all processes.
    """

    title: str
    config: RunConfig
    world: World
    folder: RunFolder | None
    modules: nn.ModuleDict
    optimizer: torch.optim.Optimizer
    batch_size: int

    @abstractmethod
    def batches(self, done: int) -> Iterator[Any]:
        """This rank's batches of all steps after the first ``done``, in order."""

    @abstractmethod
    def compute(self, number: int, batch: Any) -> Any:
        """Forward and backward of a step: leaves gradients in the modules and returns a :class:`StepResult`."""

    def start(self, done: int) -> None:
        """Called once before the first step, after a checkpoint has been taken up (``done`` is then not 0): the place
        for what is worked out from data before a new run, such as a whitened stem. Collective."""

    def updated(self, number: int) -> None:
        """Called after the optimiser has stepped; not after a bad step, which leaves the weights as they were."""
        return

    def columns(self, number: int, result: Any, bad: bool) -> dict[str, Any]:
        """Further numbers of the step's row. Collective."""
        return {}

    def evaluates(self, number: int) -> bool:
        """Whether :meth:`observe` reads the weights after this step, besides the last: alike on all ranks, which then
        hold the same."""
        return False

    def observe(self, number: int, last: bool) -> dict[str, Any]:
        """Evaluate where it is time to; the numbers join the step's row. ``last``: it is the
        last of ``config.steps``, or a stop was agreed."""
        return {}

    def stale(self) -> bool:
        """True once further steps can gain nothing; the run then ends before ``config.steps``, alike on all ranks."""
        return False

    def snapshot(self, number: int, row: dict[str, Any]) -> Snapshot:
        """What a checkpoint after step ``number`` holds; ``row`` is the step's row of the record.

        Collective: called on every rank, so that what is spread over ranks can be gathered; rank 0 writes.
        """
        raise AssertionError(f"{type(self).__name__} keeps nothing, so it runs without a folder")

    def restore(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Take up a verified checkpoint; ``state`` is its ``state.json``, with what :meth:`snapshot` put there.

        Raises:
            UsageError: it does not fit this run.
        """
        raise AssertionError(f"{type(self).__name__} keeps nothing, so it runs without a folder")

    def release(self, done: int) -> None:
        """Publish what the run came to, after its last step. Collective; rank 0 writes."""

    def describe(self, batch: Any, result: Any) -> dict[str, Any]:
        """Facts that help to find the cause of a bad step, such as sample ids."""
        return {}

    def memory_advice(self, number: int, batch: Any) -> str:
        """One sentence on what filled the memory and which key to change."""
        return f"out of memory at step {number} of {self.title}; use smaller batches"
