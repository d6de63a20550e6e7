"""Several launchers on this machine stand for nodes: they die, leave and join, and the run goes on; recipes do it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.ranks import free_port
from tests.faults.test_run import children, running
from tests.pretrain.runs import make_shards, metrics, run, settings, steps_done, wait_for, weights

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "pretrain" / "launch"
# Of three nodes; quick to notice that one is gone, quick to begin without those that may come.
RENDEZVOUS = "last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=3"
KEYS = ("data.divisor=6", "checkpoint.every=10", "optim.lr=1e-5", "guard.peer_timeout_s=20")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


class Nodes:
    """Launchers by name, started by the recipe for machines without a scheduler."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder, self.arguments, self.port = folder, arguments, free_port()
        self.launchers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        environment = {
            **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NPROC": "1", "RDZV": RENDEZVOUS, "SPECFM_FAULTS": "",
        }  # fmt: skip
        call = ["bash", str(RECIPES / "torchrun.sh"), f"127.0.0.1:{self.port}", "1:3", *self.arguments]
        with (self.folder / f"{name}.txt").open("wb") as log:
            self.launchers[name] = subprocess.Popen(
                call, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text()

    def lose(self, name: str, worker: bool) -> None:
        """SIGKILL to a launcher, and to what it has started or only as it notices."""
        for pid in [self.launchers[name].pid, *(children(self.launchers[name].pid) if worker else [])]:
            os.kill(pid, signal.SIGKILL)

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def nodes(tmp_path: Path, shards: list[str]) -> Iterator[Nodes]:
    made = Nodes(tmp_path, ["pretrain/debug.yaml", *settings(tmp_path / "run", shards, "steps=4000", *KEYS)])
    yield made
    for launcher in made.launchers.values():
        for pid in [*children(launcher.pid), launcher.pid] if launcher.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        launcher.wait()


@pytest.mark.slow
def test_nodes_are_lost_and_join_and_the_run_goes_on(tmp_path: Path, shards: list[str], nodes: Nodes) -> None:
    """Three; one launcher is killed: two; a new one: three; it is lost with its worker: two; a signal to all: the end.

    Every time the run goes on from its last checkpoint, and it computes what one process does.
    """
    out = tmp_path / "run"

    def meetings(ranks: int) -> int:
        """Of so many processes, so far. Rank 0 may be anywhere, so its words are too."""
        return "".join(map(nodes.said, nodes.launchers)).count(f"{ranks} processes on {ranks} nodes")

    def goes_on(ranks: int, after: Callable[[], None]) -> None:
        before = meetings(ranks)
        after()
        wait_for(lambda: meetings(ranks) > before, lambda: nodes.launchers["a"].poll() is None, seconds=120)
        done = steps_done(out)
        wait_for(lambda: steps_done(out) > done + 6, lambda: nodes.launchers["a"].poll() is None, seconds=120)

    nodes.start("a")  # it holds the rendezvous, so it has to stay
    wait_for(nodes.answers)
    nodes.start("b")
    goes_on(3, lambda: nodes.start("c"))
    goes_on(2, lambda: nodes.lose("c", worker=False))
    goes_on(3, lambda: nodes.start("d"))
    goes_on(2, lambda: nodes.lose("d", worker=True))
    for name in "ab":
        nodes.launchers[name].send_signal(signal.SIGUSR1)
    assert [nodes.launchers[name].wait(60) for name in "ab"] == [0, 0], nodes.said("a") + nodes.said("b")
    assert (out / "REQUEUE").is_file()
    rows = metrics(out)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    codes, text = run(tmp_path / "one", shards, "steps=4000", *KEYS, faults=f"data.read:kill@step={len(rows) + 1}")
    assert codes == [-9], text
    np.testing.assert_allclose(
        [row["loss"] for row in rows], [row["loss"] for row in metrics(tmp_path / "one")], rtol=1e-4
    )


# --- SLURM's commands, as far as a job script needs them ---

SRUN = """#!/usr/bin/env python3
# A step: the command once a node, each with its number; ends with the worst of their codes. Who signals a step signals
# the processes listed in SLURM_STEP.
import os, subprocess, sys
command = [each for each in sys.argv[1:] if not each.startswith("--kill-on-bad-exit")]
nodes = range(int(os.environ["SLURM_NNODES"]))
tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(node)}) for node in nodes]
with open(os.environ["SLURM_STEP"], "w") as file:
    print(*[task.pid for task in tasks], file=file)
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$SLURM_SAID"; fi
"""


def job(folder: Path, nodes: int, arguments: list[str]) -> tuple[subprocess.Popen[str], Path]:
    """The recipe for SLURM, as a job on so many nodes; and the file that lists the processes of its step."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    step = folder / f"step-{time.monotonic_ns()}"
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SPECFM_FAULTS": "", "PORT": str(free_port()),
        "SLURM_JOB_ID": "42", "SLURM_NNODES": str(nodes), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_STEP": str(step),
        "SLURM_SAID": str(folder / "scontrol.txt"),
    }  # fmt: skip
    process = subprocess.Popen(
        ["bash", str(RECIPES / "slurm.sbatch"), *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return process, step


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_job_script_saves_before_its_time_is_up_and_is_requeued(
    tmp_path: Path, shards: list[str], count: int
) -> None:
    """The first start has nothing to resume; the signal of ``--signal`` goes to the step; a second job ends the run."""
    directive = re.search(r"^#SBATCH .*--signal=(B:)?(\w+)@(\d+)", (RECIPES / "slurm.sbatch").read_text(), re.MULTILINE)
    assert directive is not None and directive[1] is None and int(directive[3]) > 170
    out, said = tmp_path / "run", tmp_path / "scontrol.txt"
    arguments = ["pretrain/debug.yaml", *settings(out, shards, "steps=4000", "checkpoint.every=4000")]
    process, step = job(tmp_path, count, arguments)
    wait_for(lambda: steps_done(out) > 2, lambda: process.poll() is None)
    for pid in map(int, step.read_text().split()):
        os.kill(pid, signal.Signals[f"SIG{directive[2]}"])
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "stopped by a signal" in text, text
    assert (out / "REQUEUE").is_file() and said.read_text() == "requeue 42\n"
    done = steps_done(out)
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{done:08d}"]
    process, _ = job(tmp_path, count, [*arguments[:-2], f"steps={done + 2}", "checkpoint.every=4000"])
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "resumed from" in text, text
    assert said.read_text() == "requeue 42\n" and steps_done(out) == done + 2 and weights(out)


@pytest.mark.slow
def test_a_job_that_fails_is_not_requeued(tmp_path: Path, shards: list[str]) -> None:
    process, _ = job(tmp_path, 1, ["pretrain/debug.yaml", *settings(tmp_path / "run", shards, "optim.lrr=1")])
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and "did you mean optim.lr?" in text
    assert not (tmp_path / "scontrol.txt").exists()


@pytest.mark.slow
def test_torchrun_itself_saves_too_but_ends_with_an_error(tmp_path: Path, shards: list[str]) -> None:
    """Fault 23: whoever starts torchrun by hand has to look for REQUEUE; ``pretrain.launch`` ends with 0."""
    for module, code in ((["torch.distributed.run", "--signals-to-handle", "SIGTERM,SIGUSR1", "-m", "pretrain"], 1),
                         (["pretrain.launch"], 0)):  # fmt: skip
        out = tmp_path / module[0] / "run"
        out.parent.mkdir()
        options = ["--standalone", "--nproc-per-node", "2"]
        arguments = ["pretrain/debug.yaml", *settings(out, shards, "steps=4000", "checkpoint.every=4000")]
        process = subprocess.Popen(
            [sys.executable, "-m", module[0], *options, *module[1:], *arguments], cwd=tmp_path, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SPECFM_FAULTS": ""},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_for(lambda out=out: steps_done(out) > 2, lambda process=process: process.poll() is None)
        workers = children(process.pid)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=60)[0]
        assert process.returncode == code and ("Traceback" in text) == (code == 1), text
        assert (out / "REQUEUE").is_file() and steps_done(out) > 2
        assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{steps_done(out):08d}"]
        assert len(workers) == 2 and not any(running(pid) for pid in workers)
