"""A curriculum: a run begins with few bands and small windows and ends with all of them, at equal compute a stage.

SpectralTrain (arXiv 2511.16084): N stages, stage i with k_i bands or components and side B_i, neither ever smaller than
before; steps t_i inversely proportional to the cost c_i of a step, so that stages take equal compute (or the shares
asked for). Here c_i is measured before the first step and kept with the run, so that a resumed run has the same stages;
``cost: formula`` takes k^a B^2 instead. The learning rate follows one schedule over all steps and the optimiser keeps
its state: a stage changes nothing but what a step is shown. See :class:`Curriculum` for what a trainer says of its
batches.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor

from specfm.engine.config import RunConfig
from specfm.engine.curriculum_config import CurriculumConfig, StageConfig
from specfm.engine.task import Task
from specfm.errors import UsageError
from specfm.reducers import PHYSICAL, Listed, Reducer

log = logging.getLogger(__name__)

Run = TypeVar("Run", bound=RunConfig)


def make_reducer(config: CurriculumConfig) -> Reducer:
    """The reducer, if it is one that needs no fitting."""
    if config.reducer == "list":
        return Listed(config.bands)
    return PHYSICAL[config.reducer]()


def shortened(config: Run, curriculum: CurriculumConfig | None) -> Run:
    """A run's configuration with the steps that its budget leaves; what is saved with the run says so."""
    if curriculum is None or curriculum.budget == 1:
        return config
    steps = max(1, round(config.steps * curriculum.budget))
    return config.model_copy(update={"steps": steps, "curriculum": curriculum.model_copy(update={"budget": 1.0})})


@dataclass(frozen=True)
class Plan:
    """How many steps each stage has.

    Attributes:
        costs: of a step of each stage, (processor) seconds if measured, else relative.
        steps: of each stage.
    """

    costs: tuple[float, ...]
    steps: tuple[int, ...]

    @classmethod
    def make(cls, shares: Sequence[float], costs: Sequence[float], steps: int) -> Plan:
        """Divide ``steps`` so that stage i takes ``shares[i]`` of the compute: t_i proportional to share_i / cost_i.

        Every stage has a step at least, if there are as many.

        Raises:
            UsageError: a cost that is not above 0.
        """
        if min(costs) <= 0:
            raise UsageError(f"steps of a stage cost {list(costs)}; a cost is above 0")
        rates = [share / cost for share, cost in zip(shares, costs, strict=True)]
        ends = [round(steps * done / sum(rates)) for done in accumulate(rates)]
        if steps >= len(rates):
            ends = [max(end, i + 1) for i, end in enumerate(ends)]  # one each from the front ...
            ends = [min(end, steps - (len(ends) - 1 - i)) for i, end in enumerate(ends)]  # ... and from the back
        return cls(tuple(costs), tuple(after - before for before, after in zip([0, *ends], ends, strict=False)))

    def at(self, number: int) -> int:
        """Stage (from 0) of step ``number`` (from 1); past the end, the last one."""
        ends = list(accumulate(self.steps))
        return min(bisect_right(ends, number - 1), len(ends) - 1)

    def since(self, number: int) -> int:
        """Step ``number`` as a number within its stage, from 1."""
        return number - sum(self.steps[: self.at(number)])

    @property
    def last_begins(self) -> int:
        """Steps before the last stage."""
        return sum(self.steps[:-1])


class Curriculum(ABC):
    """The stages of one run; a subclass says what a stage does to a batch.

    Args:
        config: stages and how to reduce.
        steps: of the run.

    Attributes:
        stages: one by one.
        plan: steps of each; None before :meth:`begin` or :meth:`restore`.
    """

    def __init__(self, config: CurriculumConfig, steps: int) -> None:
        self.config, self.steps, self.stages = config, steps, config.listed()
        self.plan: Plan | None = None
        self._entered = 0

    @abstractmethod
    def change(self, batch: Any, stage: StageConfig, number: int) -> Any:
        """What a step is shown of its batch; ``number`` from 1 is the only source of chance."""

    def enter(self, index: int) -> None:  # noqa: B027 - a model that takes any bands and sizes is ready
        """Make the model ready for a stage."""

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`take_up` needs besides the plan, for a checkpoint; names begin with ``curriculum/``."""
        return {}

    def take_up(self, tensors: dict[str, Tensor]) -> None:  # noqa: B027 - nothing to put back
        """Put back what :meth:`tensors` gave."""

    def begin(self, task: Task, batch: Any) -> None:
        """Plan a new run. Measuring runs steps of ``task`` on ``batch`` and takes them all back. Collective."""
        shares = [stage.share for stage in self.stages]
        if self.config.cost == "formula":
            costs = [stage.bands**self.config.band_exponent * stage.size**2 for stage in self.stages]
        else:
            measured = self._measured(task, batch)
            costs = task.world.on_main(lambda: measured)  # all ranks plan by the same clock
        self.plan = Plan.make(shares, costs, self.steps)
        told = ", ".join(
            f"{steps} steps with {stage.bands:g} of the bands, {stage.size:g} of the side ({cost:.3g} each)"
            for stage, steps, cost in zip(self.stages, self.plan.steps, costs, strict=True)
        )
        log.info("curriculum: %s", told)

    def batches(self, batches: Iterable[Any], done: int) -> Iterator[Any]:
        """Batches of the steps after the first ``done``, as their stages show them."""
        assert self.plan is not None, "a curriculum is planned in start()"
        for number, batch in enumerate(batches, done + 1):
            self._enter(self.plan.at(number))
            yield self.change(batch, self.stages[self.plan.at(number)], number)

    def columns(self, number: int) -> dict[str, Any]:
        """What the record says of a step: its stage, from 1."""
        return {} if self.plan is None else {"stage": self.plan.at(number) + 1}

    def state(self) -> dict[str, Any]:
        """JSON-safe state for a checkpoint."""
        return {} if self.plan is None else {"curriculum": {**asdict(self.plan), "asked": self._asked()}}

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor], done: int) -> None:
        """Go on after ``done`` steps with the plan of the run; steps beyond it belong to the last stage.

        Raises:
            UsageError: the checkpoint has no plan, or one of other stages.
        """
        held = state.get("curriculum")
        if held is None or held["asked"] != self._asked():
            raise UsageError(
                "the checkpoint was written by a run with another curriculum; resume with what config.yaml in the run "
                "folder says, or start a new run"
            )
        self.plan = Plan(tuple(held["costs"]), tuple(held["steps"]))
        self.take_up({name: tensor for name, tensor in tensors.items() if name.startswith("curriculum/")})
        self._enter(self.plan.at(max(done, 1)))

    def _asked(self) -> dict[str, Any]:
        """What stages and reducer were asked for, to compare."""
        stages = [stage.model_dump() for stage in self.stages]
        return {"stages": stages, "reducer": self.config.reducer, "bands": list(self.config.bands)}

    def _enter(self, index: int) -> None:
        if index != self._entered:
            self.enter(index)
            self._entered = index

    def _measured(self, task: Task, batch: Any) -> list[float]:
        """Seconds of a step at each stage: the median of a few, after one that is not counted.

        On a CPU they are processor seconds: only their ratios count, and those must not depend on who else computes.
        """
        found = []
        with _taken_back(task):
            for index, stage in enumerate(self.stages):
                self._enter(index)
                shown = self.change(batch, stage, 1)
                found.append(median([_seconds(task, shown) for _ in range(self.config.repeats + 1)][1:]))
            self._enter(0)
        return found


def _seconds(task: Task, batch: Any) -> float:
    on_cuda = task.world.device.type == "cuda"
    wait, clock = (torch.cuda.synchronize, time.perf_counter) if on_cuda else (lambda: None, time.process_time)
    wait()
    began = clock()
    task.compute(1, batch)
    task.optimizer.step()
    task.optimizer.zero_grad(set_to_none=True)
    wait()
    return clock() - began


@contextmanager
def _taken_back(task: Task) -> Iterator[None]:
    """Leaves a task that has not taken a step yet as it was: weights, buffers, an optimiser without state."""
    held = {name: tensor.clone() for name, tensor in task.modules.state_dict().items()}
    mode = {module: module.training for module in task.modules.modules()}
    try:
        yield
    finally:
        task.optimizer.zero_grad(set_to_none=True)
        task.optimizer.state.clear()
        task.modules.load_state_dict(held)
        for module, training in mode.items():
            module.training = training


def side_of(size: float, window: int, multiple: int) -> int:
    """Pixels of a window's side in a stage: a multiple of ``multiple``, at least one, at most the window."""
    wanted = size * window if size <= 1 else min(size, window)
    return min(max(round(wanted / multiple), 1) * multiple, window)
