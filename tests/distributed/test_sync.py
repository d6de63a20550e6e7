"""DS-Sync and local SGD on 2 to 8 gloo processes: every statement of ``specfm/engine/sync`` about many of them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from specfm.engine.checkpointing import read_tensors
from specfm.engine.config import RunConfig
from specfm.engine.distributed import World
from specfm.engine.groups import coupled
from specfm.engine.guard import DivergedError, StopSignals
from specfm.engine.loop import Outcome, run_task
from specfm.engine.optimizer import adamw, optimizer_tensors, restore_optimizer
from specfm.engine.record import read_metrics
from specfm.engine.replicas import alike
from specfm.engine.run_folder import RunFolder
from specfm.engine.schedule import warmup_cosine
from specfm.engine.sync.all_reduce import AllReduce, Sync
from specfm.engine.sync.averaging import Averaging, moving
from specfm.engine.sync.choose import make_sync
from specfm.engine.sync.config import SyncConfig
from specfm.engine.sync.layouts import Hypercube, Layout, Periodic, RowsColumns
from specfm.engine.task import Snapshot, StepResult, Task
from specfm.files import atomic_write_text
from tests.distributed.ranks import on_ranks

STEPS = 12
SELDOM: dict[str, Any] = {"every": 100, "checkpoint": {"every": 100}}  # no meeting of all before the end


class Walk(Task):
    """Learns a line from points of this rank's own; what is noted of it is in ``seen``.

    Args:
        world: this process. folder: where the run is kept. plain: SGD without clipping. bad: steps whose loss is NaN
            here. stop: the step in which a stop signal arrives here. every: steps between evaluations.
    """

    title, batch_size = "walk", 4

    def __init__(
        self, world: World, folder: Path | None = None, plain: bool = False, bad: tuple[int, ...] = (), stop: int = 0,
        every: int = 6, **changes: Any,
    ) -> None:  # fmt: skip
        settings: dict[str, Any] = {
            "steps": STEPS, "optim": {"lr": 0.05, "warmup_steps": 1, "clip": 0.0 if plain else 1.0},
            "checkpoint": {"every": 4, "keep": 9, "retry_s": 0.01},
        }  # fmt: skip
        self.config = RunConfig(**{"out": str(folder), **settings, **changes})
        self.world, self.folder = world, None if folder is None else RunFolder(folder)
        torch.manual_seed(0)
        self.modules = nn.ModuleDict(
            {"model": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), "fixed": nn.Linear(3, 3)}
        )
        self.modules["fixed"].requires_grad_(False)
        self.modules.register_buffer("average", torch.zeros(1, 4))  # of weights, as a teacher is
        sgd = torch.optim.SGD(self.modules["model"].parameters(), lr=0.05)
        self.optimizer = sgd if plain else adamw(self.modules, 0.05, 0.0, (0.9, 0.98), world.device)
        self.bad, self.stop, self.every, self.signals = bad, stop, every, StopSignals()
        self.seen: dict[str, Any] = {"losses": [], "observed": [], "coupled": [], "restored": 0, "released": 0}

    def batches(self, done: int) -> Iterator[Tensor]:
        keyed = (torch.Generator().manual_seed(1000 * step + self.world.rank) for step in count(done))
        return (torch.randn(4, 3, generator=each) for each in keyed)

    def compute(self, number: int, batch: Tensor) -> StepResult:
        if self.config.optim.clip == 0:
            self.modules.eval()  # without statistics of a batch, gradients of ranks add up
        rank, group = coupled()
        self.seen["coupled"].append((group.ranks, rank))
        loss = (self.modules["model"](batch) - batch.sum(1, keepdim=True)).square().mean()
        (loss / self.world.size).backward()
        self.seen["losses"].append(float(loss.detach()))
        if number == self.stop:
            self.signals.received = signal.SIGTERM
        return StepResult(loss.detach() * (torch.nan if number in self.bad else 1), {})

    def updated(self, number: int) -> None:
        self.modules.average.lerp_(self.modules["model"][2].weight.detach(), 0.1)

    def evaluates(self, number: int) -> bool:
        return number % self.every == 0

    def observe(self, number: int, last: bool) -> dict[str, Any]:
        if last or self.evaluates(number):
            self.seen["observed"].append((number, held(self)))
        return {}

    def snapshot(self, number: int, row: dict[str, Any]) -> Snapshot:
        tensors = {f"w/{k}": v for k, v in self.modules.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer, self.modules)
        return Snapshot(lambda to: atomic_write_text(to / "walk.txt", "a walk"), tensors, {})

    def restore(self, checkpoint: Path, state: dict[str, Any]) -> None:
        tensors = read_tensors(checkpoint)
        self.modules.load_state_dict({k.removeprefix("w/"): v for k, v in tensors.items() if k.startswith("w/")})
        restore_optimizer(self.optimizer, self.modules, tensors)
        self.seen["restored"] = state["step"]

    def release(self, done: int) -> None:
        self.seen["released"] = done


def held(task: Walk) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in task.modules.state_dict().items()}


def walked(
    world: World, layout: Layout | None, folder: Path | None = None, resume: bool = False, **settings: Any
) -> dict[str, Any]:
    """A whole run of :class:`Walk`: what was seen of it, what it ended with."""
    task = Walk(world, folder, **settings)
    sync: Sync = AllReduce(world) if layout is None else Averaging(world, task.modules, layout)
    outcome: Any = None
    try:
        outcome = run_task(task, resume, task.signals, sync)
    except DivergedError as error:
        outcome = str(error)
    moments = {k: v.numpy().copy() for k, v in optimizer_tensors(task.optimizer, task.modules).items()}
    return task.seen | {"outcome": outcome, "weights": held(task), "moments": moments}


def untrained() -> dict[str, np.ndarray]:
    return held(Walk(World(0, 1, torch.device("cpu")), plain=True))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)


# --- rounds of averaging ---


def rounds(world: World, layout: Layout, numbers: list[int], node: int = 1) -> dict[str, Any]:
    """Weights that differ by rank, averaged in some rounds without a step in between."""
    task = Walk(world)
    generator = torch.Generator().manual_seed(world.rank)
    with torch.no_grad():
        for tensor in moving(task.modules):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    sync = Averaging(world, task.modules, layout, ranks_per_node=node)
    states, sent = [held(task)], []
    for number in numbers:
        sync.agree(number, torch.zeros(1), False)
        sync.updated(number)
        sent.append(same(held(task), states[-1]))  # what comes is taken in when it is waited for
        sync.ready()
        states.append(held(task))
    return {"states": states, "sent": sent}


MORE = [(RowsColumns(6, 3, 5), [4, 5]), (Hypercube(8), [3, 4, 5]), (Periodic(3, 2), [2])]


@pytest.mark.parametrize(
    ("layout", "numbers"),
    [
        (RowsColumns(4, 4), [1]), (RowsColumns(6, 2), [2, 3]), (Hypercube(4), [1, 2]),
        *(pytest.param(layout, numbers, marks=pytest.mark.slow) for layout, numbers in MORE),
    ],
    ids=["whole", "6 by 2", "4 pairs", "6 by 3 shuffled", "8 pairs", "local SGD"],
)  # fmt: skip
def test_rounds_keep_the_mean_and_mix_everything(layout, numbers):
    """s = N is full averaging; rows and columns, or all bits of a hypercube, leave rounding alone between ranks."""
    found = on_ranks(layout.workers, rounds, layout, numbers)
    names = [name for name in found[0]["states"][0] if not np.array_equal(*(f["states"][0][name] for f in found[:2]))]
    assert {"model.0.weight", "model.1.running_mean", "model.1.running_var"} <= set(names)
    assert "fixed.weight" not in names and "model.1.num_batches_tracked" not in names
    for name in names:
        values = np.array([[state[name].astype(np.float64) for state in each["states"]] for each in found])
        mean = values[:, 0].mean(0)
        for turn, number in enumerate(numbers):
            np.testing.assert_allclose(values[:, turn + 1].mean(0), mean, atol=1e-6)
            for group in layout.groups(number):  # its members hold the mean of the group, in the same bits
                assert all(np.array_equal(values[worker, turn + 1], values[group[0], turn + 1]) for worker in group)
                wanted = values[list(group), turn].mean(0)
                np.testing.assert_allclose(values[group[0], turn + 1], wanted, atol=1e-6)
        assert np.abs(values[:, -1] - mean).max() < 1e-6
    assert all(all(each["sent"]) for each in found)


def test_nodes_of_two_processes_are_workers():
    """Two rounds over four nodes mix eight processes; a group is all processes of its nodes."""
    found = on_ranks(8, rounds, RowsColumns(4, 2), [2, 3], 2)
    name = "model.0.weight"  # of 12 numbers, and a flat bucket of an odd length: padded, and cut again
    values = np.array([[state[name].astype(np.float64) for state in each["states"]] for each in found])
    for turn, groups in enumerate([((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 1, 4, 5), (2, 3, 6, 7))]):
        for group in map(list, groups):
            np.testing.assert_allclose(values[group, turn + 1] - values[group, turn].mean(0), 0, atol=1e-6)
            assert all(np.array_equal(values[rank, turn + 1], values[group[0], turn + 1]) for rank in group)
    assert np.abs(values[:, -1] - values[:, 0].mean(0)).max() < 1e-6


# --- whole runs ---


def ways(world: World, folder: str) -> dict[str, Any]:
    """Runs on four processes, one after the other."""
    rows = RowsColumns(4, 2)
    return {
        "summed": walked(world, None, plain=True),
        "whole": walked(world, RowsColumns(4, 4), plain=True),
        "ds": walked(world, rows, Path(folder) / "ds"),
        "bad": walked(world, rows, bad=(3, 5) if world.rank == 2 else ()),
        "late": walked(world, rows, stop=7 if world.rank == 3 else 0, **SELDOM),
        "local": walked(world, Periodic(4, 5), stop=6 if world.rank == 1 else 0, **SELDOM),
    }


def disturbed(world: World, folder: str) -> dict[str, Any]:
    """Runs that end otherwise than planned, and what is taken up of them."""
    rows, home = RowsColumns(4, 2), Path(folder)
    found = {
        "ds": walked(world, rows, home / "ds"),
        "diverging": walked(world, rows, home / "diverging", bad=(5, 6, 7, 8, 9) if world.rank == 1 else ()),
        "stopped": walked(world, rows, home / "stopped", stop=7 if world.rank == 3 else 0),
    }
    os.environ["SPECFM_FAULTS"] = "ckpt.mid_payload:enospc@step=8" if world.rank == 2 else ""
    found["full disk"] = walked(world, rows, home / "full")
    del os.environ["SPECFM_FAULTS"]
    if world.is_main:
        (home / "ds" / "checkpoints" / "step-00000012").rename(home / "step-00000012")
    world.sum(torch.zeros(1))
    for name in ("ds", "stopped"):
        found[f"{name} kept"] = sorted(p.name for p in (home / name / "checkpoints").iterdir())
        found[f"{name} again"] = walked(world, rows, home / name, resume=True)
    return found


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    home = tmp_path_factory.mktemp("four")
    return home, on_ranks(4, ways, str(home))


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    home = tmp_path_factory.mktemp("ended")
    return home, on_ranks(4, disturbed, str(home))


def every(four: tuple[Path, list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    return [each[name] for each in four[1]]


def test_one_group_of_all_with_sgd_is_the_sum_of_gradients(four):
    """Equal start, no clipping: DDP's weights after every step, up to rounding."""
    for whole, summed in zip(every(four, "whole"), every(four, "summed"), strict=True):
        np.testing.assert_allclose(whole["losses"], summed["losses"], rtol=1e-5)
        for name, value in summed["weights"].items():
            np.testing.assert_allclose(whole["weights"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        assert not np.array_equal(whole["weights"]["model.0.weight"], untrained()["model.0.weight"])


def test_all_hold_the_same_where_they_are_looked_at(four):
    """Before an evaluation (every 6 steps), a checkpoint and the end; in other steps they are apart."""
    runs = every(four, "ds")
    assert [number for number, _ in runs[0]["observed"]] == [6, 12]
    for run in runs:
        for (number, mine), (_, first) in zip(run["observed"], runs[0]["observed"], strict=True):
            assert same(mine, first), number
        assert same(run["weights"], runs[0]["weights"]) and run["outcome"] == Outcome(STEPS, True)
    # what no step changes is left as it is, bit by bit; averages of weights are averaged
    assert np.array_equal(runs[0]["weights"]["fixed.weight"], untrained()["fixed.weight"])
    assert np.abs(runs[0]["weights"]["average"]).max() > 0
    assert len({run["moments"]["optimizer/model.0.weight/exp_avg"].tobytes() for run in runs}) == 4


def test_samples_meet_in_the_group_of_the_step(four):
    for rank, run in enumerate(every(four, "ds")):
        row, column = ((0, 1), (2, 3))[rank // 2], ((0, 2), (1, 3))[rank % 2]
        wanted = [(group, group.index(rank)) for group in (column, row)]
        assert run["coupled"][:4] == wanted * 2
    assert every(four, "local")[2]["coupled"][:6] == [((2,), 0)] * 6
    assert every(four, "summed")[2]["coupled"][:1] == [((0, 1, 2, 3), 2)]


def test_a_rank_that_leaves_out_a_bad_step_still_joins(four):
    runs, steps = every(four, "bad"), "optimizer/model.0.weight/step"
    assert [run["outcome"] for run in runs] == [Outcome(STEPS, True)] * 4
    assert [int(run["moments"][steps]) for run in runs] == [STEPS, STEPS, STEPS - 2, STEPS]
    assert all(same(run["weights"], runs[0]["weights"]) for run in runs)
    assert all(np.isfinite(value).all() for value in runs[0]["weights"].values())


@pytest.mark.slow
def test_bad_steps_of_one_rank_are_known_to_all_who_give_up_together(ended):
    """Rank 1 is bad from step 5 on; more than 3 in a row end the run: after step 8, a checkpoint, where all know."""
    home, _ = ended
    runs = every(ended, "diverging")
    assert len({run["outcome"] for run in runs}) == 1 and "4 steps in a row, up to step 8" in runs[0]["outcome"]
    assert [row["step"] for row in read_metrics(home / "diverging")] == list(range(1, 9))
    assert [row["bad_step"] for row in read_metrics(home / "diverging")] == [False] * 5 + [
        True,
        False,
        True,
    ]  # rank 0's record: where all met, it knows of the others
    assert sorted(p.name for p in (home / "diverging" / "checkpoints").iterdir()) == ["step-00000004"]
    assert {p.name for p in (home / "diverging" / "bad_steps").iterdir()} == {
        f"step-{n:08d}-rank-1.json" for n in range(5, 9)
    }


def test_a_signal_to_one_rank_stops_all_at_the_same_step(four):
    """One of step 7 is told in the meetings after 7 and 8; with local SGD, one of step 6 when all meet after 10."""
    for name, last in (("late", 9), ("local", 11)):
        runs = every(four, name)
        assert [run["outcome"] for run in runs] == [Outcome(last, False)] * 4
        assert all(run["released"] == 0 and same(run["weights"], runs[0]["weights"]) for run in runs)


@pytest.mark.slow
def test_a_stop_before_a_checkpoint_waits_for_nothing_else(ended):
    """The signal of step 7 is known to all after step 8, where all meet anyway."""
    assert [run["outcome"] for run in every(ended, "stopped")] == [Outcome(8, False)] * 4
    assert every(ended, "stopped kept")[0] == ["step-00000004", "step-00000008"]


@pytest.mark.slow
def test_a_run_taken_up_ends_in_the_same_bits_with_moments_of_every_rank(ended):
    """From step 8 on, after a kill of all (later checkpoints are gone); the stopped run was stopped where it saved."""
    home, _ = ended
    files = sorted(p.name for p in (home / "ds" / "checkpoints" / "step-00000008" / "ranks").iterdir())
    assert files == [f"{rank:05d}.safetensors" for rank in (1, 2, 3)]
    for whole, again in zip(every(ended, "ds"), every(ended, "ds again"), strict=True):
        assert again["restored"] == 8 and again["losses"] == whole["losses"][8:]
        assert same(again["weights"], whole["weights"]) and same(again["moments"], whole["moments"])
    for whole, again in zip(every(ended, "ds"), every(ended, "stopped again"), strict=True):
        assert again["restored"] == 8 and again["losses"] == whole["losses"][8:]


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_rank_costs_a_checkpoint_and_not_the_run(ended):
    home, _ = ended
    runs = every(ended, "full disk")
    assert [run["outcome"] for run in runs] == [Outcome(STEPS, True)] * 4
    assert sorted(p.name for p in (home / "full" / "checkpoints").iterdir()) == ["step-00000004", "step-00000012"]


# --- other numbers of processes ---


def elsewhere(world: World, folder: str) -> dict[str, Any]:
    task = Walk(world, Path(folder))
    sync = make_sync(SyncConfig(kind="ds_sync"), world, task.modules)
    outcome = run_task(task, True, task.signals, sync)
    weights = {name: tensor.numpy().copy() for name, tensor in alike(task.modules).items()}
    return {"kind": type(sync).__name__, "outcome": outcome, "restored": task.seen["restored"], "weights": weights}


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (3, "AllReduce"), pytest.param(1, "AllReduce", marks=pytest.mark.slow),
        pytest.param(6, "Averaging", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_run_goes_on_with_another_number_of_processes(four, tmp_path, size, kind):
    """Also of a prime number, of which there are no groups, and of one."""
    shutil.copytree(
        four[0] / "ds" / "checkpoints" / "step-00000008", tmp_path / "run" / "checkpoints" / "step-00000008"
    )
    found = on_ranks(size, elsewhere, str(tmp_path / "run"))
    assert all(each["kind"] == kind and each["restored"] == 8 for each in found)
    assert all(each["outcome"] == Outcome(STEPS, True) and same(each["weights"], found[0]["weights"]) for each in found)


# --- against torch's own averager ---


def beside_torch(world: World) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    ours = walked(world, Periodic(world.size, 3), plain=True, **SELDOM)["weights"]
    task = Walk(world, plain=True)
    averager = PeriodicModelAverager(period=3, warmup_steps=2)  # its step 2 is our step 3
    for number, batch in zip(range(1, STEPS + 1), task.batches(0), strict=False):
        task.compute(number, batch)
        for group in task.optimizer.param_groups:
            group["lr"] = warmup_cosine(number - 1, STEPS, 1, 0.05, 0.0)
        for parameter in task.modules["model"].parameters():
            parameter.grad *= world.size
        task.optimizer.step()
        averager.average_parameters(list(task.modules["model"].parameters()))
        task.optimizer.zero_grad()
    return ours, held(task)


@pytest.mark.slow
def test_local_sgd_is_that_of_torch():
    for ours, theirs in on_ranks(4, beside_torch):
        for name in ("model.0.weight", "model.2.bias"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
