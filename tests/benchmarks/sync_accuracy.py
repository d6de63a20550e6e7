"""What DS-Sync and local SGD cost in accuracy: ``python -m tests.benchmarks.sync_accuracy [--seeds 3]``.

Four gloo processes on this machine, equal samples a step and equal steps, several seeds. Two tasks: a small ResNet with
BatchNorm on scikit-learn's handwritten digits (8 x 8; 1,200 to train, 597 to test), and, with ``SPECFM_DATA``, a real
pretraining (NT-Xent, three scenes) judged by the monitor's nearest neighbours and linear probe. Mean and range over
seeds; the range of all-reduce is the yardstick.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specfm.counter import mix64
from specfm.engine.config import RunConfig
from specfm.engine.distributed import World
from specfm.engine.loop import run_task
from specfm.engine.optimizer import adamw
from specfm.engine.sync.choose import make_sync
from specfm.engine.sync.config import SyncConfig
from specfm.engine.task import StepResult, Task
from tests.benchmarks.timing import machine, parser, write
from tests.conftest import find_data
from tests.distributed.ranks import on_ranks
from tests.pretrain.runs import launch, metrics

RANKS = 4
WAYS: dict[str, dict[str, Any]] = {
    "all-reduce": {"kind": "allreduce"},
    "DS-Sync, rows and columns": {"kind": "ds_sync"},
    "DS-Sync, shuffled": {"kind": "ds_sync", "layout": "shuffled"},
    "local SGD, 8 steps": {"kind": "local_sgd", "period": 8},
}
# Of a pretraining the negatives of all processes too: a group has half of them, a process a quarter.
MORE = {"DS-Sync, negatives of all": {"kind": "ds_sync", "negatives": "world"}}
SCENES = ("neon_osbs", "jasper_ridge", "salinas_a")


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(2))
        self.skip = nn.Conv2d(before, after, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.one(x)).relu()
        return (self.norms[1](self.two(y)) + self.skip(x)).relu()


class Digits(Task):
    """A ResNet of seven layers; every rank has its own share of each batch."""

    title, folder, batch_size = "digits", None, 64

    def __init__(self, world: World, seed: int, steps: int) -> None:
        from sklearn.datasets import load_digits

        self.world, self.seed = world, seed
        optim = {"lr": 3e-3, "warmup_steps": max(1, steps // 10), "weight_decay": 0.05}
        self.config = RunConfig(out="", steps=steps, seed=seed, optim=optim, checkpoint={"every": 10**6})
        x, y = load_digits(return_X_y=True)
        order = np.argsort(mix64(1, np.arange(len(x), dtype=np.uint64)))
        self.x = torch.tensor(x[order].reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
        self.y = torch.tensor(y[order])
        torch.manual_seed(seed)
        blocks = (_Residual(16, 16, 1), _Residual(16, 32, 2), _Residual(32, 64, 2))
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        self.modules = nn.ModuleDict({"model": nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *blocks, *head)})
        self.optimizer = adamw(self.modules, 3e-3, 0.05, (0.9, 0.98), world.device)

    def batches(self, done: int) -> Iterator[Tensor]:
        for step in range(done, self.config.steps):
            keys = mix64(self.seed, step, np.arange(1200, dtype=np.uint64))
            yield torch.tensor(np.argsort(keys)[: self.batch_size]).chunk(self.world.size)[self.world.rank]

    def compute(self, number: int, batch: Tensor) -> StepResult:
        self.modules.train()
        loss = F.cross_entropy(self.modules["model"](self.x[batch]), self.y[batch])
        (loss / self.world.size).backward()
        return StepResult(loss.detach(), {})

    @torch.no_grad()
    def accuracy(self) -> float:
        self.modules.eval()
        return float((self.modules["model"](self.x[1200:]).argmax(1) == self.y[1200:]).double().mean())


def digits(world: World, sync: dict[str, Any], seed: int, steps: int) -> float:
    task = Digits(world, seed, steps)
    run_task(task, sync=make_sync(SyncConfig(**sync), world, task.modules, seed))
    return task.accuracy()


def pretrained(folder: Path, shards: str, sync: dict[str, Any], seed: int, steps: int) -> dict[str, float]:
    way = ", ".join(f"{key}: {value}" for key, value in sync.items())
    keys = [
        f"out={folder}", f"data.shards={shards}", f"sync={{{way}}}", f"seed={seed}", f"steps={steps}",
        "data.global_batch=96", "data.divisor=8", "data.weights={}", f"monitor.every={steps}", "device=cpu",
        f"optim.warmup_steps={steps // 10}", f"checkpoint.every={steps}",
    ]  # fmt: skip
    job = launch(folder.parent, ["pretrain/real_scenes.yaml", *keys], world=RANKS)
    if any(job.wait(600)):
        raise RuntimeError(job.text)
    last = metrics(folder)[-1]
    return {key: last[key] for key in ("knn", "linear", "untrained/knn", "untrained/linear")}


def told(name: str, values: list[float]) -> str:
    return f"{name} {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    arguments = parser("sync_accuracy.json", __doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=150, help="of the pretraining; the ResNet takes twice as many")
    options = arguments.parse_args()
    rows: list[dict[str, Any]] = []
    for way, sync in WAYS.items():
        began = time.perf_counter()
        found = [
            on_ranks(RANKS, digits, sync, seed, 2 * options.steps, seconds=600)[0] for seed in range(options.seeds)
        ]
        rows.append({"task": "digits", "way": way, "accuracy": found, "seconds": time.perf_counter() - began})
        print(f"digits    {way:28s} {told('accuracy', found)}", flush=True)
    data = find_data()
    if data is None:
        print("pretraining is skipped: set SPECFM_DATA to the folder of real scenes")
    else:
        with tempfile.TemporaryDirectory() as temporary:
            home = Path(temporary)
            cut = [sys.executable, "-m", "specfm", "shard", *SCENES, "--out", str(home / "shards"), "--window", "12"]
            subprocess.run([*cut, "--stride", "4"], check=True, capture_output=True, env=dict(os.environ))
            for way, sync in (WAYS | MORE).items():
                scores = [
                    pretrained(home / f"{seed}-{len(rows)}", str(home / "shards"), sync, seed, options.steps)
                    for seed in range(options.seeds)
                ]
                rows.append({"task": "pretraining", "way": way, "runs": scores})
                text = "  ".join(told(key, [run[key] for run in scores]) for key in scores[0])
                print(f"pretrain  {way:28s} {text}", flush=True)
    write(options.json, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
