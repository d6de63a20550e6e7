"""Tiny shards and runs for the tests of the training loop: two sensors, 9 x 9 windows, three materials."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.config import PretrainConfig
from specfm import BandGrid, Sensor
from specfm.config import load_config
from specfm.shards import ShardWriter

ROOT = Path(__file__).resolve().parents[2]
MATERIALS = ("soil", "grass", "water")


def make_shard(path: Path, domain: str, bands: int, count: int, seed: int, scale: float = 1e-4) -> Path:
    """Windows of three smooth materials with noise, stored as int16; a group and an instance per four windows."""
    rng = np.random.default_rng(seed)
    wavelengths = np.linspace(420, 2400, bands)
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


def start(arguments: list[str], module: str = "specfm", faults: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start ``python -m module arguments`` with planned faults."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPECFM_FAULTS": faults, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120.0) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; a process that hangs is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"the process did not end in {timeout} s\n{out}\n{err}") from None
    return process.returncode, out, err


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, bytes]:
    """Bytes of every tensor of the encoder a run released (or of a checkpoint)."""
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(folder / "model" / "model.safetensors").items()}
