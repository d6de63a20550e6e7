"""The plan of a curriculum: equal compute a stage, stages from configuration, what is refused, what is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from specfm.config import build_config
from specfm.engine.config import RunConfig
from specfm.engine.curriculum import Curriculum, CurriculumConfig, Plan, StageConfig, shortened, side_of
from specfm.engine.distributed import World
from specfm.engine.optimizer import adamw
from specfm.engine.task import StepResult, Task
from specfm.errors import UsageError


@pytest.mark.parametrize("steps", [100, 1000, 12345])
@pytest.mark.parametrize("costs", [[1, 2, 4, 8], [0.003, 0.0031, 0.02], [5.0]])
def test_stages_take_equal_compute_to_within_a_step(steps: int, costs: list[float]) -> None:
    plan = Plan.make([1.0] * len(costs), costs, steps)
    assert sum(plan.steps) == steps and min(plan.steps) >= 1
    spent = [n * cost for n, cost in zip(plan.steps, costs, strict=True)]
    assert max(spent) - min(spent) <= 2 * max(costs)


def test_shares_of_compute_are_kept() -> None:
    plan = Plan.make([1, 3], [1.0, 2.0], 1000)
    assert plan.steps[1] * 2.0 == pytest.approx(3 * plan.steps[0], rel=0.01)


@pytest.mark.parametrize("steps", range(1, 12))
def test_every_stage_has_a_step_where_there_are_as_many(steps: int) -> None:
    plan = Plan.make([1] * 4, [1e-3, 1, 50, 1e4], steps)
    assert sum(plan.steps) == steps and (min(plan.steps) >= 1) is (steps >= 4)


def test_the_stage_follows_from_the_number_of_a_step() -> None:
    plan = Plan((1.0, 2.0, 3.0), (3, 0, 2))
    assert [plan.at(number) for number in range(1, 8)] == [0, 0, 0, 2, 2, 2, 2]
    assert plan.last_begins == 3
    assert [plan.since(number) for number in range(1, 7)] == [1, 2, 3, 1, 2, 3]
    with pytest.raises(UsageError, match="a cost is above 0"):
        Plan.make([1, 1], [0.0, 1.0], 5)


def make(**values: Any) -> CurriculumConfig:
    return build_config(values, CurriculumConfig, "the test")


def test_the_short_form_rises_evenly_to_all() -> None:
    listed = make(stages=4, start_bands=0.25, start_size=0.4).listed()
    assert [s.bands for s in listed] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert [s.size for s in listed] == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert make(stages=1).listed() == (StageConfig(),)
    assert make(stages=[{"bands": 20}, {"bands": 50}, {"bands": 100}, {}]).listed()[1].bands == 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": [{"bands": 0.5}, {"bands": 0.25}]}, r"never get smaller, but bands of stages goes \[0.5, 0.25\]"),
        ({"stages": [{"size": 1}, {"size": 7}]}, "never get smaller, but size"),
        ({"stages": [{"bands": 0.5}, {"bands": 20}]}, "mixes shares and numbers"),
        ({"stages": []}, "stages is empty"),
        ({"start_bands": 20}, "shares up to 1; list the stages"),
        ({"reducer": "list"}, r"reducer list goes with bands: \[...\]"),
        ({"bands": [3, 1]}, "bands with reducer list"),
        ({"reducer": "umap"}, "reducer"),
        ({"cost": "formula", "stages": [{"bands": 20}, {}]}, "cost formula takes stages in shares"),
        ({"budget": 0}, "budget"),
        ({"start_band": 0.1}, "start_bands"),
    ],
)
def test_what_makes_no_curriculum(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**values)


@pytest.mark.parametrize(
    ("size", "window", "multiple", "side"),
    [
        (0.5, 12, 3, 6), (0.01, 12, 3, 3), (1.0, 12, 3, 12), (7, 12, 3, 6), (99, 12, 1, 12), (0.5, 9, 1, 4),
        (0.9, 8, 1, 7),
    ],
)  # fmt: skip
def test_sides_are_multiples_within_the_window(size: float, window: int, multiple: int, side: int) -> None:
    assert side_of(size, window, multiple) == side


class Config(RunConfig):
    curriculum: CurriculumConfig | None = None


def test_the_budget_shortens_a_run_once() -> None:
    config = Config(out="x", steps=1000, curriculum=make(budget=0.3))
    short = shortened(config, config.curriculum)
    assert short.steps == 300 and short.curriculum is not None and short.curriculum.budget == 1
    assert shortened(short, short.curriculum) is short
    plain = Config(out="x")
    assert shortened(plain, None) is plain


class Sleeper(Task):
    """A task whose steps take as long as their stage says."""

    title, folder = "sleeper", None

    def __init__(self) -> None:
        self.config = Config(out="-", steps=100)
        self.world = World(0, 1, torch.device("cpu"))
        self.modules = nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))}).eval()
        self.optimizer = adamw(self.modules, 1e-2, 0.0, (0.9, 0.99), torch.device("cpu"))
        self.batch_size = 4

    def batches(self, done: int) -> Iterator[float]:
        return iter([1.0] * 100)

    def compute(self, number: int, batch: float) -> StepResult:
        began = time.process_time()
        while time.process_time() - began < batch:
            pass
        self.modules.train()
        loss = self.modules["net"](torch.randn(4, 2)).square().mean()
        loss.backward()
        return StepResult(loss.detach(), {})


class Naps(Curriculum):
    def change(self, batch: float, stage: StageConfig, number: int) -> float:
        return batch * 0.02 * stage.size


def test_measured_costs_leave_no_trace_and_are_kept() -> None:
    task = Sleeper()
    before = {name: tensor.clone() for name, tensor in task.modules.state_dict().items()}
    curriculum = Naps(make(stages=[{"size": 0.25}, {"size": 1.0}]), 100)
    curriculum.begin(task, 1.0)
    assert curriculum.plan is not None
    first, second = curriculum.plan.costs
    assert 0.005 <= first < second and curriculum.plan.steps[0] > curriculum.plan.steps[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.modules.state_dict().items())
    assert not task.optimizer.state and not task.modules.training
    assert all(p.grad is None for p in task.modules.parameters())
    other = Naps(make(stages=[{"size": 0.25}, {"size": 1.0}]), 100)
    other.restore(curriculum.state(), {}, 1)
    assert other.plan == curriculum.plan
    assert other.columns(1) == {"stage": 1} and other.columns(100) == {"stage": 2}
    with pytest.raises(UsageError, match="another curriculum"):
        Naps(make(stages=3), 100).restore(curriculum.state(), {}, 1)
    with pytest.raises(UsageError, match="another curriculum"):
        Naps(make(stages=3), 100).restore({}, {}, 1)


def test_batches_are_those_of_their_stages() -> None:
    curriculum = Naps(make(stages=[{"size": 0.5}, {"size": 1.0}], cost="formula"), 10)
    curriculum.begin(Sleeper(), 1.0)
    assert curriculum.plan is not None and curriculum.plan.steps == (8, 2)
    shown = [batch / 0.02 for batch in curriculum.batches([1.0] * 10, 0)]
    assert shown == pytest.approx([0.5] * 8 + [1.0] * 2)
    assert [batch / 0.02 for batch in curriculum.batches([1.0] * 3, 7)] == pytest.approx(shown[7:])
    assert math.isclose(sum(n * c for n, c in zip(curriculum.plan.steps, curriculum.plan.costs, strict=True)), 4.0)
