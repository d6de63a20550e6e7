"""The run as a whole: bad numbers, changed data, signals, stalls, two starts, wrong configurations (faults 15-37)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import specfm
from tests.pretrain.runs import (
    launch,
    make_shard,
    make_shards,
    metrics,
    run,
    settings,
    steps_done,
    wait_for,
    weights,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


def resume(out: Path, shards: list[str], *overrides: str) -> tuple[int, str]:
    job = launch(out.parent, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *overrides)])
    return job.wait()[0], job.text


def error_of(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, text
    return lines[0]


def checkpoints(out: Path) -> list[str]:
    return sorted(p.name for p in (out / "checkpoints").iterdir())


def test_nan_on_one_rank_is_skipped_by_all(tmp_path, shards):
    """Fault 17: the last step is bad, so the released weights must be those of the checkpoint before it."""
    out = tmp_path / "run"
    codes, text = run(out, shards, "steps=4", "checkpoint.every=3", faults="nan@step=4:rank=1", world=2)
    assert codes == [0, 0], text
    assert [row["bad_step"] for row in metrics(out)] == [False, False, False, True]
    assert metrics(out)[-1]["loss"] is None
    assert weights(out) == weights(out / "checkpoints" / "step-00000003")
    dumps = [json.loads((out / "bad_steps" / f"step-00000004-rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert dumps[1]["loss"] == "nan" and len(dumps[0]["sample_id"]) == len(dumps[1]["sample_id"]) == 6
    assert not set(dumps[0]["sample_id"]) & set(dumps[1]["sample_id"])


def test_overflow_of_a_gradient_leaves_the_optimiser_untouched(tmp_path, shards):
    """Fault 19: weights and Adam's moments after the bad step are those before it."""
    out = tmp_path / "run"
    codes, text = run(out, shards, "steps=4", "checkpoint.every=3", faults="step.grad:inf@step=4")
    assert codes == [0], text
    before, after = (load_file(out / "checkpoints" / f"step-0000000{s}" / "training.safetensors") for s in (3, 4))
    assert before.keys() == after.keys() and len(before) > 10
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_replicas_that_part_stop_the_run_before_anything_is_saved_from_them(tmp_path, shards):
    """Fault 44: a weight of rank 1 is spoilt in memory before a save, then as a checkpoint is taken up."""
    out, steps = tmp_path / "run", ("steps=6", "checkpoint.every=3")
    codes, text = run(out, shards, *steps, faults="replicas.compare:nan@step=6:rank=1", world=2)
    assert codes == [1, 1] and "Traceback" not in text
    assert "state of rank 1 differ from those of rank 0 at step 6" in error_of(text)
    assert checkpoints(out) == ["step-00000003"] and not (out / "model").exists()
    arguments = ["pretrain/debug.yaml", "--resume", *settings(out, shards, *steps)]
    job = launch(tmp_path, arguments, faults="replicas.compare:nan@hit=1:rank=1", world=2)
    assert job.wait() == [1, 1]
    assert "step-00000003 was taken up" in error_of(job.text) and "rank 1" in job.text


def test_nan_that_stays_ends_the_run(tmp_path, shards):
    """Fault 18: exit code 4 within four steps, and the last checkpoint is finite."""
    out = tmp_path / "run"
    codes, text = run(out, shards, faults="nan@step>=5")
    assert codes == [4]
    assert "4 steps in a row, up to step 8" in error_of(text)
    assert steps_done(out) == 8 and checkpoints(out) == ["step-00000003"]
    for name in ("training.safetensors", "model/model.safetensors"):
        tensors = load_file(out / "checkpoints" / "step-00000003" / name)
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert not (out / "model").exists()


@pytest.mark.parametrize("world", [1, 2])
def test_weights_that_overflow_are_neither_saved_nor_released(tmp_path, shards, world):
    """The gradient of step 1 is finite, its update is not."""
    out = tmp_path / "run"
    codes, text = run(out, shards, "steps=3", "optim.weight_decay=1e45", "checkpoint.every=1", world=world)
    assert codes == [4] * world and "weights are not finite after step 1" in error_of(text)
    assert not (out / "checkpoints").exists() and not (out / "model").exists()


def test_a_run_that_diverges_in_its_last_steps_releases_nothing(tmp_path, shards):
    """Its weights are finite, and so large that no loss is; with so few steps left the guard did not give up."""
    out = tmp_path / "run"
    codes, text = run(out, shards, "steps=3", "optim.weight_decay=1e30", "checkpoint.every=10")
    assert codes == [4] and "2 steps in a row, up to step 3" in error_of(text)
    assert not (out / "checkpoints").exists() and not (out / "model").exists()


def test_changed_shards_are_refused(tmp_path):
    """Fault 15, with the key that overrides it."""
    shards = make_shards(tmp_path / "shards")
    out = tmp_path / "run"
    codes, _ = run(out, shards, "steps=4", "checkpoint.beside=false", faults="data.read:kill@step=4")
    assert codes == [-9]
    Path(shards[1]).unlink()
    make_shard(Path(shards[1]), "beta", 36, 61, 2)
    code, text = resume(out, shards, "steps=4")
    assert code == 2
    old = json.loads((out / "checkpoints" / "step-00000003" / "state.json").read_text())["data_fingerprint"][:16]
    error = error_of(text)
    assert old in error and "data.allow_changed=true" in error
    code, text = resume(out, shards, "steps=4", "data.allow_changed=true")
    assert code == 0 and old in text and "going on" in text
    other = [str(make_shard(tmp_path / "c.h5", "gamma", 24, 60, 3))]
    code, text = resume(out, other, "steps=5", "data.allow_changed=true")
    assert code == 0, text
    assert specfm.load(out).card["domains"] == ["alpha", "beta", "gamma"]  # what it saw before stays seen


def test_another_architecture_is_refused_and_other_changes_are_listed(tmp_path, shards):
    """Fault 37."""
    out = tmp_path / "run"
    codes, _ = run(out, shards, "steps=4", "checkpoint.beside=false", faults="data.read:kill@step=4")
    assert codes == [-9]
    code, text = resume(out, shards, "steps=4", "model.options.dim=24")
    assert code == 2 and "dim 48 there, 24 here" in error_of(text)
    code, text = resume(out, shards, "steps=4", "objective.nt_xent.projection.dim=16")
    assert code == 2 and "heads" in error_of(text)
    code, text = resume(out, shards, "steps=4", "whiten.batches=1")
    assert code == 2 and "was trained before the checkpoint and is to be held now" in error_of(text)
    code, text = resume(out, shards, "steps=4", "optim.lr=1e-4")
    assert code == 0 and "resuming with another optim.lr: 0.0001 instead of 0.0003" in text
    assert "lr: 0.0003" in (out / "config.until-step-00000003.yaml").read_text()
    assert "lr: 0.0001" in (out / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", "unknown key optim.lrr; did you mean optim.lr?"),
        ("views.gian=0.1", "unknown key views.gian; did you mean views.gain?"),
        ("steps=many", "steps: input should be a valid integer"),
        ("data.global_batch=13", "data.global_batch 13 is not a multiple of data.divisor 2"),
        ("data.exclude=[nowhere]", "no domain nowhere among the shards"),
        ("data.shards=[nowhere]", "nowhere does not exist"),
        ("model.size=enormous", "unknown encoder size 'enormous'"),
        ("device=cuda", "there is no CUDA device"),
        ("init_from=nowhere", "nowhere"),
    ],
)
def test_wrong_configurations_fail_before_anything_is_written(tmp_path, shards, capsys, override, words):
    """Fault 36."""
    from pretrain.__main__ import main

    if override == "device=cuda" and os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a CUDA device")
    code = main(["pretrain/debug.yaml", *settings(tmp_path / "run", shards, override)])
    assert code in (1, 2)
    assert words in error_of(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_an_existing_folder_is_never_written_into(tmp_path, shards, capsys):
    from pretrain.__main__ import main

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("x")
    assert main(["pretrain/debug.yaml", *settings(tmp_path / "run", shards)]) == 2
    assert "exists" in error_of(capsys.readouterr().err)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_stalled_reader_is_named(tmp_path, shards):
    """Fault 28."""
    out = tmp_path / "run"
    codes, text = run(out, shards, "guard.stall_s=4", faults="data.read:hang@step=3")
    assert codes == [5]
    assert "stage 'data'" in error_of(text)
    assert "in _step" in (out / "stalled.txt").read_text()


def test_out_of_memory_says_what_to_set(tmp_path, shards):
    """Fault 30, without a GPU."""
    codes, text = run(tmp_path / "run", shards, faults="step.forward:oom@step=2")
    assert codes == [1]
    assert "rank 0 at step 2: micro-batch 12, up to 36 bands, about 9 tokens" in error_of(text)
    assert "set optim.micro_batch=6" in error_of(text)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_goes_wrong_on_one_rank_is_told_once_by_it(tmp_path, shards, rank):
    """The others only lose it; they add neither a traceback nor a sentence."""
    codes, text = run(tmp_path / "run", shards, faults=f"step.forward:oom@step=2:rank={rank}", world=2)
    assert codes == [1, 1] and "Traceback" not in text
    assert f"out of memory on rank {rank} at step 2" in error_of(text)


@pytest.mark.parametrize("point", ["step.forward", "step.loss"])
def test_a_rank_that_is_killed_is_missed_in_a_sentence(tmp_path, shards, point):
    """Also within a backward pass, where the collective is called from autograd."""
    codes, text = run(tmp_path / "run", shards, faults=f"{point}:kill@step=2:rank=1", world=2)
    assert codes == [1, -9] and "Traceback" not in text
    assert "another process of the run has ended" in error_of(text) and "--resume" in error_of(text)


@pytest.mark.slow
def test_the_command_says_which_process_was_killed(tmp_path, shards):
    arguments = ["pretrain", "pretrain/debug.yaml", *settings(tmp_path / "run", shards), "--nproc", "2"]
    environment = {**os.environ, "SPECFM_FAULTS": "step.forward:kill@step=2:rank=1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "specfm", *arguments],
        cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGKILL
    assert "process of rank 1 was killed by SIGKILL" in error_of(done.stdout)


def test_a_peer_that_hangs_or_dies_ends_all(tmp_path, shards):
    """Faults 29 and 5: the others notice within the collective timeout, and nothing is published."""
    guard = ("guard.peer_timeout_s=2", "guard.stall_s=5", "checkpoint.every=3")
    codes, _ = run(tmp_path / "hang", shards, *guard, faults="data.read:hang@step=3:rank=1", world=2)
    assert codes[0] not in (0, None) and codes[1] == 5
    assert not (tmp_path / "hang" / "checkpoints").exists()
    codes, _ = run(tmp_path / "kill", shards, *guard, faults="data.read:kill@step=3:rank=1", world=2)
    assert codes[0] not in (0, None) and codes[1] == -9
    assert not (tmp_path / "kill" / "checkpoints").exists()


def test_two_starts_and_two_interrupts(tmp_path, shards):
    """Faults 34 and 26: the second start names the first; a second SIGINT ends at once with nothing half-published."""
    out = tmp_path / "run"
    job = launch(tmp_path, ["pretrain/debug.yaml", *settings(out, shards)], faults="data.read:hang@step=3")
    wait_for(lambda: steps_done(out) == 2, job.processes[0].is_alive)
    pid = job.processes[0].pid
    code, text = resume(out, shards)
    assert code == 2 and f"pid {pid} on this host" in error_of(text)
    os.kill(pid, signal.SIGINT)
    job.processes[0].join(0.3)
    assert job.processes[0].is_alive()  # the first only sets a flag
    os.kill(pid, signal.SIGINT)
    assert job.wait(10) == [130]
    assert not (out / "checkpoints").exists()
    code, text = resume(out, shards, "steps=3")  # the lock of the dead one is taken over
    assert code == 0 and "removing stale lock" in text


def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path, shards):
    """Fault 25."""
    out = tmp_path / "run"
    job = launch(tmp_path, ["pretrain/debug.yaml", *settings(out, shards, "steps=4000", "optim.lr=1e-5")], world=2)
    wait_for(lambda: steps_done(out) >= 3, job.processes[0].is_alive)
    os.kill(job.processes[1].pid, signal.SIGUSR1)
    assert job.wait() == [0, 0], job.text
    stopped = json.loads((out / "REQUEUE").read_text())["step"]
    assert checkpoints(out)[-1] == f"step-{stopped:08d}" and steps_done(out) == stopped
    assert not (out / "model").exists() and not (out / "run.lock").exists()


@pytest.mark.parametrize(
    ("number", "nproc"),
    [
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
        (signal.SIGTERM, 2),
        *(pytest.param(n, 2, marks=pytest.mark.slow) for n in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2)),
    ],
)
def test_a_signal_to_the_command_saves_and_resumes_exactly(tmp_path, shards, number, nproc):
    """Faults 23 and 24: exit 0, a checkpoint, REQUEUE, no orphans; what follows is the undisturbed run."""
    out = tmp_path / "run"
    process = command(out, settings(out, shards, "checkpoint.every=100", "steps=40"), nproc)
    wait_for(lambda: steps_done(out) >= 2, lambda: process.poll() is None)
    workers = children(process.pid)
    assert len(workers) >= (nproc if nproc > 1 else 0)
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 0, text
    assert (out / "REQUEUE").exists() and "--resume" in text
    wait_for(lambda: not any(running(pid) for pid in workers), seconds=5)
    assert len(checkpoints(out)) == 1

    keys = ("checkpoint.every=100", "steps=40")
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *keys)], world=nproc)
    assert job.wait() == [0] * nproc, job.text
    assert not (out / "REQUEUE").exists() and steps_done(out) == 40
    assert run(tmp_path / "whole", shards, *keys, world=nproc)[0] == [0] * nproc
    assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_workers_of_a_killed_launcher_save_and_end(tmp_path, shards):
    """Fault 49: SIGKILL reaches nobody but the launcher."""
    out = tmp_path / "run"
    process = command(out, settings(out, shards, "checkpoint.every=5000", "steps=4000", "optim.lr=1e-5"), 2)
    wait_for(lambda: steps_done(out) >= 2, lambda: process.poll() is None)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(running(pid) for pid in workers), seconds=20)
    assert (out / "REQUEUE").exists() and len(checkpoints(out)) == 1 and not (out / "run.lock").exists()


def command(out: Path, arguments: list[str], nproc: int) -> subprocess.Popen[str]:
    """``specfm pretrain`` started in a folder where a user keeps a ``pretrain.py`` and a ``downstream`` of his own."""
    here = out.parent / "here"
    (here / "downstream").mkdir(parents=True)
    for path in (here / "pretrain.py", here / "downstream" / "__init__.py"):
        path.write_text("raise SystemExit('a file of the user was imported')")
    environment = {**os.environ, "SPECFM_FAULTS": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "specfm", "pretrain", "pretrain/debug.yaml", *arguments, "--nproc", str(nproc)],
        cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def running(pid: int) -> bool:
    """Whether a process lives; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
