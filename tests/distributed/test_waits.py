"""Which process waits for which, on two of which one is slow: seen by itself, and in the record whoever it is."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median, mode
from typing import Any

import pytest
import torch

from specfm.engine.distributed import World
from specfm.engine.groups import waited_s
from specfm.engine.loop import run_task
from specfm.engine.record import read_metrics
from specfm.engine.sync.averaging import Averaging
from specfm.engine.sync.layouts import RowsColumns
from specfm.engine.task import StepResult
from tests.distributed.ranks import on_ranks
from tests.distributed.test_sync import SELDOM, Walk

LATE_S = 0.1


def own_waits(world: World) -> tuple[float, float]:
    """What each process waits for two sums to which the second of two comes late, and what is left to be told then."""
    world.sum(torch.zeros(1))
    waited_s()
    for _ in range(2):
        time.sleep(LATE_S * world.rank)
        world.sum(torch.zeros(1))
    return waited_s(), waited_s()


def test_who_comes_first_waits() -> None:
    (fast, left), (slow, _) = on_ranks(2, own_waits)
    assert fast > LATE_S and left == 0
    assert slow < fast / 2


class Late(Walk):
    """One of its processes takes longer over each of its batches."""

    def __init__(self, world: World, folder: Path, slow: int) -> None:
        super().__init__(world, folder, steps=6, **SELDOM)
        self.slow = slow

    def compute(self, number: int, batch: Any) -> StepResult:
        time.sleep(LATE_S * (self.world.rank == self.slow))
        return super().compute(number, batch)


def recorded(world: World, folder: str, own: bool) -> None:
    """A run for each process that is the slow one."""
    for slow in range(2):
        task = Late(world, Path(folder) / f"{slow}", slow)
        run_task(task, sync=Averaging(world, task.modules, RowsColumns(2, 2)) if own else None)


@pytest.mark.parametrize("own", [False, True], ids=["sums of gradients", "own updates"])
def test_the_record_tells_the_wait_and_for_whom(tmp_path: Path, own: bool) -> None:
    on_ranks(2, recorded, str(tmp_path), own)
    for slow in range(2):
        rows = read_metrics(tmp_path / f"{slow}")[1:]
        wait = median(row["peer_wait_s"] for row in rows)  # a busy machine may hold up the other one now and then
        if own:  # rank 0 tells of itself
            assert "slowest_rank" not in rows[0]
            assert wait > LATE_S / 2 if slow else wait < LATE_S / 2
        else:
            assert mode(row["slowest_rank"] for row in rows) == slow
            assert wait > LATE_S / 4  # half of the processes wait


def test_one_process_waits_for_nobody(tmp_path: Path) -> None:
    run_task(Walk(World(0, 1, torch.device("cpu")), tmp_path / "run"))
    assert not {"peer_wait_s", "slowest_rank"} & set(read_metrics(tmp_path / "run")[0])
