"""What one host of :mod:`tests.benchmarks.bench_sync` runs: the engine's loop around a step of known cost.

``python -m tests.benchmarks.sync_host CASES`` (JSON) under torchrun's variables; rank 0 prints a line of JSON for each.
The computation of a step is a sleep, so that hosts that share a processor do not wait for it: what is measured is the
loop, the collectives and the network. Every rank's gradients are its own, so that nothing is cheaper than in training.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import nn

from specfm.counter import mix64
from specfm.engine import distributed
from specfm.engine.config import RunConfig
from specfm.engine.distributed import World
from specfm.engine.loop import run_task
from specfm.engine.sync.choose import make_sync
from specfm.engine.sync.config import SyncConfig
from specfm.engine.task import StepResult, Task

TENSORS = 16


class Sleeper(Task):
    """Steps of ``compute_s`` seconds over ``parameters`` numbers.

    Stragglers: rank 0 takes ``slow`` times as long (``persistent``), or in each step one rank of all (``wandering``).
    """

    title, folder, batch_size = "sleep", None, 1

    def __init__(self, world: World, case: dict[str, Any]) -> None:
        self.world, self.case = world, case
        self.config = RunConfig(
            out="", steps=case["steps"], optim={"warmup_steps": 0, "clip": 0}, checkpoint={"every": 10**6},
        )  # fmt: skip
        size = case["parameters"] // TENSORS
        self.modules = nn.ModuleDict({"model": nn.ParameterList(torch.zeros(size) for _ in range(TENSORS))})
        self.optimizer = torch.optim.SGD(self.modules.parameters(), lr=1e-3)
        self.began: list[float] = []

    def batches(self, done: int) -> Iterator[int]:
        return count(done)

    def compute(self, number: int, batch: int) -> StepResult:
        self.began.append(time.perf_counter())
        time.sleep(self.case["compute_s"] * slowness(self.case, self.world.rank, self.world.size, number))
        for parameter in self.modules.parameters():
            parameter.grad = torch.full_like(parameter, float(self.world.rank + number) / self.world.size)
        return StepResult(torch.zeros(()), {})


def slowness(case: dict[str, Any], rank: int, size: int, number: int) -> float:
    """How many times as long as others a rank takes for a step."""
    slow = {"none": -1, "persistent": 0, "wandering": int(mix64(7, number)) % size}[case["straggler"]]
    return float(case["slow"]) if rank == slow else 1.0


def main() -> None:
    torch.set_num_threads(1)
    with distributed.joined("cpu") as world:
        for case in json.loads(sys.argv[1]):
            task = Sleeper(world, case)
            run_task(task, sync=make_sync(SyncConfig(**case["sync"]), world, task.modules, seed=0))
            # the first steps fill connections and caches; then whole turns of the groups
            first, turn = 3, case["sync"].get("period", 2)
            last = first + (len(task.began) - 1 - first) // turn * turn
            seconds = torch.tensor([(task.began[last] - task.began[first]) / (last - first)], dtype=torch.float64)
            everyone = world.gather_rows(seconds)
            if world.is_main:
                print(json.dumps({"step_s": float(everyone.max()), "steps": last - first}), flush=True)


if __name__ == "__main__":
    main()
