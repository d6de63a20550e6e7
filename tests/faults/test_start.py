"""Before the first step: a stage that stalls is named (28), a stop signal to two processes changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.test_run import children, error_of, running
from tests.pretrain.runs import launch, make_shards, run, settings, steps_done, wait_for, weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize(
    ("fault", "stage"),
    [("start.open", "opening of shards"), ("start.check", "check of SHARD"), ("start.whiten", "whitening")],
)
def test_a_stage_of_the_start_that_stalls_is_named(tmp_path: Path, shards: list[str], fault: str, stage: str) -> None:
    """Stacks go to stderr while there is no run folder; where there is none yet, none is left."""
    if fault == "start.check":
        shards = make_shards(tmp_path)  # that were not checked before
    out = tmp_path / "run"
    codes, text = run(out, shards, "guard.stall_s=2", "whiten.batches=1", faults=f"{fault}:hang")
    assert codes == [5] and f"stage '{stage.replace('SHARD', shards[0])}'" in error_of(text)
    stacks = text if fault != "start.whiten" else (out / "stalled.txt").read_text()
    assert "in _strike" in stacks
    assert out.exists() == (fault == "start.whiten")


class Command:
    """``specfm pretrain`` with two processes."""

    def __init__(self, out: Path, shards: list[str], *arguments: str, faults: str = "") -> None:
        given = ["pretrain/debug.yaml", *settings(out, shards, "steps=6", *arguments), "--nproc", "2"]
        self.log = out.parent / f"log-{time.monotonic_ns()}.txt"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "specfm", "pretrain", *given], cwd=out.parent, stdout=file, stderr=file,
                env={**os.environ, "SPECFM_FAULTS": faults, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, lambda: self.process.poll() is None)

    def hangs(self) -> bool:
        """Whether both processes have come to where the fault holds them."""
        return self.log.read_text().count(": hangs") == 2

    def stop(self) -> tuple[int, str]:
        """SIGTERM; its code and words. Soon no process is left."""
        workers, began = children(self.process.pid), time.monotonic()
        assert len(workers) >= 2
        self.process.terminate()
        code = self.process.wait(60)
        text = self.log.read_text()
        assert time.monotonic() - began < 30 and "Traceback" not in text, text
        wait_for(lambda: not any(running(pid) for pid in workers), seconds=5)
        return code, text


def test_a_stop_while_two_processes_open_their_data_leaves_no_folder(tmp_path: Path, shards: list[str]) -> None:
    process = Command(tmp_path / "run", shards, faults="start.open:hang")
    process.wait_for(process.hangs)
    code, text = process.stop()
    assert code == 1 and "stopped by SIGTERM" in text and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_stop_while_a_run_is_taken_up_again_changes_nothing(tmp_path: Path, shards: list[str]) -> None:
    """It still asks to be started again, and ends in the bits of one that was never disturbed."""
    out = tmp_path / "run"
    process = Command(out, shards, "checkpoint.every=4000", "steps=4000")
    process.wait_for(lambda: steps_done(out) > 2)
    assert process.stop()[0] == 0 and (out / "REQUEUE").is_file()
    done = steps_done(out)
    keys = ("checkpoint.every=4000", f"steps={done + 3}")
    process = Command(out, shards, *keys, "--resume", faults="start.open:hang")
    process.wait_for(process.hangs)
    code, _ = process.stop()
    assert code == 0 and (out / "REQUEUE").is_file() and steps_done(out) == done
    assert Command(out, shards, *keys, "--resume").process.wait(60) == 0
    job = launch(tmp_path, ["pretrain/debug.yaml", *settings(tmp_path / "whole", shards, *keys)], world=2)
    assert job.wait() == [0, 0] and weights(out) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_a_stop_while_the_stem_is_whitened_is_remembered(tmp_path: Path, shards: list[str]) -> None:
    """The lock is there by then: the run saves its first step and asks to be started again."""
    out = tmp_path / "run"
    process = Command(out, shards, "steps=4000", "whiten.batches=200", "checkpoint.every=4000")
    process.wait_for((out / "run.lock").exists)
    code, text = process.stop()
    assert code == 0 and (out / "REQUEUE").is_file(), text
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{steps_done(out):08d}"]
