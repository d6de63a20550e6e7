"""Tiny shards and runs for the tests of the training loop: two sensors, 9 x 9 windows, three materials."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.config import PretrainConfig
from specfm import BandGrid, Sensor
from specfm.config import load_config
from specfm.shards import ShardWriter

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Children are forked from a server that has imported everything but has run no training: cheap to start, safe to kill.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["pretrain.loop", "tests.pretrain.runs", "h5py", "timm.optim", "lightly.models.modules.heads", "safetensors.torch"]
)
MATERIALS = ("soil", "grass", "water")


def make_shard(
    path: Path,
    domain: str,
    bands: int,
    count: int,
    seed: int,
    scale: float = 1e-4,
    low: float = 420,
    high: float = 2400,
) -> Path:
    """Windows of three smooth materials with noise, stored as int16; a group and an instance per four windows."""
    rng = np.random.default_rng(seed)
    wavelengths = np.linspace(low, high, bands)
    sensor = Sensor(BandGrid(wavelengths), quantity="surface_reflectance", scale=scale, gsd_m=5.0, name=domain)
    label = np.arange(count) % 3
    centre = np.array([700.0, 1100.0, 1700.0])[label]
    spectrum_NC = 0.2 + 0.5 * np.exp(-(((wavelengths[None] - centre[:, None]) / 300.0) ** 2))
    level_N = rng.uniform(0.7, 1.3, count)
    x = spectrum_NC[:, None, None, :] * level_N[:, None, None, None] + rng.normal(0, 0.02, (count, 9, 9, bands))
    group = np.arange(count) // 12
    with ShardWriter(
        path, (9, 9), sensor, "int16", domain, count=count, label_names=MATERIALS, scene_names=(domain,)
    ) as shard:
        shard.add(
            np.clip(x / scale, 0, 32767).astype(np.int16),
            np.ones((count, 9, 9), bool),
            label=label,
            group=group,
            instance_id=np.arange(count) + seed * 1000,
            origin=np.stack([np.arange(count) * 9, np.zeros(count, np.int64)], 1),
            scene_id=np.zeros(count, np.int64),
        )
    return path


def make_shards(folder: Path) -> list[str]:
    """Two shards of different band counts."""
    return [
        str(make_shard(folder / "a.h5", "alpha", 24, 96, 1)),
        str(make_shard(folder / "b.h5", "beta", 36, 60, 2)),
    ]


def settings(out: Path, shards: list[str], *overrides: str) -> list[str]:
    """Overrides of configs/pretrain/debug.yaml for a test run."""
    return [f"out={out}", f"data.shards=[{', '.join(shards)}]", *overrides]


def debug_config(out: Path, shards: list[str], *overrides: str) -> PretrainConfig:
    """The debug configuration on the given shards."""
    return load_config("pretrain/debug.yaml", PretrainConfig, settings(out, shards, *overrides))


def _child(arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from pretrain.__main__ import main

    sys.exit(main(arguments))


@dataclass
class Job:
    """One or several processes of a run, started from a server that has imported torch already."""

    processes: list[Any]
    logs: list[Path]

    def wait(self, timeout: float = 60.0) -> list[int]:
        """Exit codes (negative: killed by that signal); whatever hangs is killed and fails the test."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0.1))
        hanging = [process for process in self.processes if process.is_alive()]
        for process in hanging:
            process.kill()
            process.join()
        assert not hanging, f"a process did not end in {timeout} s:\n{self.text}"
        return [process.exitcode for process in self.processes]

    @property
    def text(self) -> str:
        """What the processes printed."""
        return "".join(log.read_text() for log in self.logs if log.exists())


def launch(logs: Path, arguments: list[str], faults: str = "", world: int = 1) -> Job:
    """Start ``python -m pretrain arguments`` on ``world`` ranks with planned faults."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes, files = [], []
    for rank in range(world):
        environment = {"SPECFM_FAULTS": faults, "WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        files.append(logs / f"log-{time.monotonic_ns()}-{rank}.txt")
        process = SERVER.Process(target=_child, args=(arguments, environment, str(files[-1])))
        process.start()
        processes.append(process)
    return Job(processes, files)


def run(out: Path, shards: list[str], *overrides: str, faults: str = "", world: int = 1) -> tuple[list[int], str]:
    """Run the debug configuration to its end, planned or not; returns exit codes and what was printed."""
    job = launch(out.parent, ["pretrain/debug.yaml", *settings(out, shards, *overrides)], faults, world)
    return job.wait(), job.text


def wait_for(condition: Callable[[], bool], alive: Callable[[], bool] = lambda: True, seconds: float = 60.0) -> None:
    """Poll until ``condition`` holds; fails at once if what it waits for is not ``alive`` any more."""
    end = time.monotonic() + seconds
    while not condition():
        assert alive() and time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def steps_done(out: Path) -> int:
    """Rows in the run's record so far."""
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, bytes]:
    """Bytes of every tensor of the encoder a run released (or of a checkpoint)."""
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(folder / "model" / "model.safetensors").items()}
