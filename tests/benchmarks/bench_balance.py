"""What processes lose by waiting for each other where sensors differ in cost.

``python -m tests.benchmarks.bench_balance --json runs/bench/balance.json``: two or three minutes on two cores, one for
each of two processes. A pretraining of ``default.yaml`` on shards of 60 and of 425 bands, in two ways:

* ``even``: as the sampler gives them; every process has half of the samples of each sensor;
* ``apart``: each process has all samples of one sensor, as many as the other has, which is what ``even`` spares.

``waiting`` is the share of the processes' time that they stood in collectives (``peer_wait_s / seconds`` of the record,
median over steps), with the way of what is sent and adding it up. Where others use the cores too, so is waiting for a
process that has lost its core; so beside it stands ``uneven``: the share of the processes' time that would be waiting
if each step took just the processor time of its main thread (1 - mean / maximum over processes).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.config import PretrainConfig
from pretrain.loader import Draws
from pretrain.loop import Pretraining
from pretrain.pairs.pairing import Pairs
from specfm.bands import BandGrid
from specfm.config import load_config
from specfm.engine.distributed import World
from specfm.engine.loop import run_task
from specfm.engine.record import read_metrics
from specfm.engine.run_folder import RunFolder
from specfm.sensors import Sensor
from specfm.shards import ShardWriter
from tests.benchmarks.timing import machine, parser, write
from tests.distributed.ranks import on_ranks

BANDS = (60, 425)
FIRST = 5  # steps that are not counted


def build(folder: Path, count: int, side: int) -> list[Path]:
    """A shard of each sensor, of as many windows of the same surface."""
    rng = np.random.default_rng(0)
    paths = []
    for bands in BANDS:
        sensor = Sensor(BandGrid(np.linspace(400, 2500, bands), np.full(bands, 10.0)), "surface_reflectance", 1e-4)
        paths.append(folder / f"{bands}.h5")
        with ShardWriter(paths[-1], (side, side), sensor, "int16", f"of {bands} bands", count=count) as shard:
            spectrum = 2000 + 1500 * np.sin(np.linspace(0, 9, bands))
            level_N111 = rng.uniform(0.5, 1.5, (count, 1, 1, 1))
            shard.add((spectrum * level_N111 + rng.normal(0, 60, (count, side, side, bands))).astype(np.int16))
    return paths


class Apart:
    """Whole parts of a step for each process, in place of a share of every part."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def check_world(self, world: int) -> None:
        """Any that has as many processes as a step has parts."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[tuple[int, NDArray[np.int64]]]:
        """See :class:`pretrain.loader.Draws`."""
        return self._draws.batch(step)[rank::world]


class Timed(Pretraining):
    """Notes the processor time of its main thread at the start of every step."""

    def start(self, done: int) -> None:
        """See :class:`specfm.engine.task.Task`."""
        self.began: list[float] = []
        super().start(done)

    def compute(self, number: int, batch: Pairs) -> Any:
        """See :class:`specfm.engine.task.Task`."""
        self.began.append(time.thread_time())
        return super().compute(number, batch)


def trained(world: World, way: str, overrides: list[str]) -> float:
    """Train on this process; median processor seconds of a step."""
    torch.set_num_threads(1)
    config = load_config("pretrain/default.yaml", PretrainConfig, overrides)
    task = Timed(config, world, RunFolder(config.out))
    if way == "apart":
        task.loader.sampler = Apart(task.loader.sampler)
    run_task(task)
    return float(np.median(np.diff(task.began)[FIRST:]))


def figures(folder: Path, cpu_R: list[float]) -> dict[str, Any]:
    """Of one run."""
    rows = read_metrics(folder)[FIRST:]
    return {
        "step_s": statistics.median(row["seconds"] for row in rows),
        "waiting": statistics.median(row["peer_wait_s"] / row["seconds"] for row in rows),
        "slowest": [sum(row["slowest_rank"] == rank for row in rows) for rank in range(len(cpu_R))],
        "processor_s": cpu_R,
        "uneven": 1 - statistics.mean(cpu_R) / max(cpu_R),
        "loss": rows[-1]["loss"],
    }


def main() -> None:
    """Command line."""
    arguments = parser("balance.json", __doc__)
    arguments.add_argument("--steps", type=int, default=30, help="of each way")
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--side", type=int, default=12, help="window side, pixels")
    asked = arguments.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="specfm-bench-") as name:
        folder = Path(name)
        files = ", ".join(map(str, build(folder, 512, asked.side)))
        for way in ("even", "apart"):
            overrides = [
                f"data.shards=[{files}]", f"out={folder / way}", f"data.global_batch={asked.batch}", "data.threads=1",
                f"data.divisor={len(BANDS)}", f"steps={asked.steps}", "monitor.every=0", "whiten.batches=2",
                "optim.warmup_steps=1", "device=cpu",
            ]  # fmt: skip
            cpu_R = on_ranks(len(BANDS), trained, way, overrides, seconds=1800)
            found[way] = figures(folder / way, cpu_R)
            print(way, found[way], flush=True)
    settings = {key: value for key, value in vars(asked).items() if key not in ("json", "repeats")}
    write(asked.json, {"machine": machine(), "settings": settings, **found})


if __name__ == "__main__":
    main()
