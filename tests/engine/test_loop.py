"""The loop around a small task: in a folder and in memory."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from specfm.engine.config import RunConfig
from specfm.engine.distributed import World
from specfm.engine.guard import StopSignals
from specfm.engine.loop import Outcome, run_task
from specfm.engine.optimizer import adamw, optimizer_tensors, restore_optimizer
from specfm.engine.record import read_metrics
from specfm.engine.run_folder import RunFolder
from specfm.engine.sync.all_reduce import AllReduce
from specfm.engine.task import Snapshot, StepResult, Task
from specfm.files import atomic_write_text
from specfm.locks import LockLostError

SETTINGS: dict[str, Any] = {"steps": 6, "optim": {"warmup_steps": 1}, "checkpoint": {"every": 2}}


class Line(Task):
    """Learns a line, a point a step."""

    title, batch_size = "line", 4

    def __init__(self, folder: Path | None = None, patience: int = 100, **changes: Any) -> None:
        self.config = RunConfig(**{"out": str(folder), **SETTINGS, **changes})
        self.world = World(0, 1, torch.device("cpu"))
        self.folder = None if folder is None else RunFolder(folder)
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"model": nn.Linear(2, 1)})
        self.optimizer = adamw(self.modules, 1.0, 0.0, (0.9, 0.98), self.world.device)
        self.patience, self.losses, self.called = patience, list[float](), list[str]()

    def start(self, done: int) -> None:
        self.called.append(f"start {done}")

    def batches(self, done: int) -> Iterator[Tensor]:
        return (torch.randn(4, 2, generator=torch.Generator().manual_seed(step)) for step in count(done))

    def compute(self, number: int, batch: Tensor) -> StepResult:
        loss = (self.modules["model"](batch) - batch.sum(1, keepdim=True)).square().mean()
        loss.backward()
        self.losses.append(float(loss.detach()))
        return StepResult(loss.detach(), {"points": float(len(batch))})

    def observe(self, number: int, last: bool) -> dict[str, Any]:
        return {"last": last}

    def stale(self) -> bool:
        return len(self.losses) >= self.patience

    def snapshot(self, number: int, row: dict[str, Any]) -> Snapshot:
        tensors = {f"w/{k}": v for k, v in self.modules.state_dict().items()}
        state = {"loss": row["loss"]}
        tensors |= optimizer_tensors(self.optimizer, self.modules)
        return Snapshot(lambda to: atomic_write_text(to / "line.txt", "a line"), tensors, state)

    def restore(self, checkpoint: Path, state: dict[str, Any]) -> None:
        from specfm.engine.checkpointing import read_tensors

        tensors = read_tensors(checkpoint)
        self.modules.load_state_dict({k.removeprefix("w/"): v for k, v in tensors.items() if k.startswith("w/")})
        restore_optimizer(self.optimizer, self.modules, tensors)
        self.called.append(f"restore {state['step']} {state['loss']:.6f}")

    def release(self, done: int) -> None:
        self.called.append(f"release {done}")


def weights(task: Line) -> list[bytes]:
    return [value.numpy().tobytes() for value in task.modules.state_dict().values()]


def test_a_run_in_memory_is_the_run_in_a_folder(tmp_path: Path) -> None:
    there, here = Line(tmp_path / "run"), Line()
    assert run_task(there) == run_task(here) == Outcome(6, True)
    assert weights(there) == weights(here) and there.losses == here.losses
    assert here.called == there.called == ["start 0", "release 6"]
    rows = read_metrics(tmp_path / "run")
    assert [row["loss"] for row in rows] == pytest.approx(there.losses) and rows[0]["points"] == 4.0
    assert [row["last"] for row in rows] == [False] * 5 + [True]
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_run_taken_up_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Line(tmp_path / "whole")
    run_task(whole)
    monkeypatch.setenv("SPECFM_FAULTS", "step.forward:raise@step=4")
    with pytest.raises(RuntimeError, match="fault at step.forward"):
        run_task(Line(tmp_path / "run"))
    monkeypatch.delenv("SPECFM_FAULTS")
    again = Line(tmp_path / "run")
    assert run_task(again, resume=True) == Outcome(6, True)
    assert weights(again) == weights(whole) and again.losses == whole.losses[2:]
    assert again.called == [f"restore 2 {whole.losses[1]:.6f}", "start 2", "release 6"]


def test_a_stale_run_ends_early_and_saves(tmp_path: Path) -> None:
    task = Line(tmp_path / "run", patience=3)
    assert run_task(task) == Outcome(3, True)
    assert task.called[-1] == "release 3"
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()


def test_a_signal_of_the_caller_stops_a_run_in_order(tmp_path: Path) -> None:
    class Interrupted(Line):
        def observe(self, number: int, last: bool) -> dict[str, Any]:
            if number == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            return {}

    task = Interrupted(tmp_path / "run")
    with StopSignals() as signals:
        assert run_task(task, signals=signals) == Outcome(3, False)
        assert signals.received == signal.SIGUSR1
    assert "release 3" not in task.called and (tmp_path / "run" / "REQUEUE").is_file()
    assert run_task(Line(tmp_path / "run"), resume=True) == Outcome(6, True)


def test_stop_signals_are_left_alone_where_nothing_is_kept() -> None:
    class Interrupted(Line):
        def observe(self, number: int, last: bool) -> dict[str, Any]:
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return {}

    with pytest.raises(KeyboardInterrupt):
        run_task(Interrupted())


def test_a_bad_step_in_memory_is_skipped_and_told(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setenv("SPECFM_FAULTS", "step.grad:nan@step=6")
    task, fine = Line(), Line(steps=5, optim={"warmup_steps": 1, "min_lr": 1e-3})
    task.config = RunConfig(**{"out": "", **SETTINGS, "optim": {"warmup_steps": 1, "min_lr": 1e-3}})
    run_task(task)
    run_task(fine)
    assert weights(task) == weights(fine)  # the rate is the same at every step, so that only the bad step differs
    assert "step 6: loss" in caplog.text and "update skipped" in caplog.text


def test_another_way_to_sum_gradients_is_asked(tmp_path: Path) -> None:
    class Halved(AllReduce):
        def gradients(self, parameters: Any) -> None:
            listed = list(parameters)
            super().gradients(listed)
            for parameter in listed:
                parameter.grad.mul_(0.5)

    plain, halved = Line(tmp_path / "plain"), Line(tmp_path / "halved")
    run_task(plain)
    run_task(halved, sync=Halved(halved.world))
    first = [read_metrics(tmp_path / name)[0]["grad_norm"] for name in ("plain", "halved")]
    assert first[1] == pytest.approx(first[0] / 2)


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(tmp_path: Path) -> None:
    class Broken(Line):
        def start(self, done: int) -> None:
            raise ValueError("no such data")

    with pytest.raises(ValueError, match="no such data"):
        run_task(Broken(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_running_out_of_memory_ends_with_the_tasks_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_FAULTS", "step.forward:oom@step=2")
    with pytest.raises(Exception, match="out of memory at step 2 of line; use smaller batches"):
        run_task(Line())


def test_a_run_that_was_taken_over_while_it_slept_stops_and_writes_nothing(tmp_path):
    """Fault 43: it wakes within a step; record, checkpoints and the new holder's lock stay as they are."""
    folder = tmp_path / "run"

    class Sleeper(Line):
        def compute(self, number: int, batch: Tensor) -> StepResult:
            if number == 4:
                lock = folder / "run.lock"
                atomic_write_text(lock, json.dumps({**json.loads(lock.read_text()), "host": "b", "token": "new"}))
                self.before = contents(folder)
            return super().compute(number, batch)

    task = Sleeper(folder)
    with pytest.raises(LockLostError, match="on host b took it over"):
        run_task(task)
    assert contents(folder) == task.before and len(read_metrics(folder)) == 3
    assert not list(folder.rglob(".tmp-*"))  # of a checkpoint that was being written then
    assert json.loads((folder / "run.lock").read_text())["token"] == "new"


def test_a_run_that_was_taken_over_before_its_first_step_deletes_nothing(tmp_path):
    folder = tmp_path / "run"

    class Sleeper(Line):
        def start(self, done: int) -> None:
            (folder / "run.lock").write_text('{"token": "new", "pid": 1, "host": "b"}')
            raise ValueError("woken")

    with pytest.raises(ValueError, match="woken"):
        run_task(Sleeper(folder))
    assert (folder / "config.yaml").is_file() and (folder / "run.lock").is_file()


def test_what_a_taken_over_run_came_to_is_not_released(tmp_path):
    class Sleeper(Line):
        def stale(self) -> bool:
            if len(self.losses) == 2 and self.called[-1] == "saved":
                (tmp_path / "run" / "run.lock").unlink(missing_ok=True)
            return super().stale()

        def snapshot(self, number: int, row: dict[str, Any]) -> Snapshot:
            self.called.append("saved")
            return super().snapshot(number, row)

    task = Sleeper(tmp_path / "run", patience=2)
    with pytest.raises(LockLostError, match="taken over or removed"):
        run_task(task)
    assert task.called == ["start 0", "saved"]


def contents(folder: Path) -> dict[Path, bytes]:
    """Of what has its final name."""
    held = [path for path in folder.rglob("*") if path.is_file() and ".tmp-" not in str(path)]
    return {path: path.read_bytes() for path in held}
