"""Optimiser moments that differ between processes, in a checkpoint: each process writes its own file.

    checkpoints/step-00000123/ranks/00001.safetensors   moments of rank 1, and so on

Rank 0's are where those of equal processes are too (``training.safetensors``), so a checkpoint can be taken up in any
way. On as many processes each has its own again, and the run goes on bit by bit. On more, those beyond begin with the
moments of one of these; with gradients summed over all, everybody takes rank 0's. Neither of these is exact, and both
are told.

The files are written beside the checkpoint under a temporary name, before rank 0 publishes all of it by one rename.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from specfm.engine.checkpointing import write_tensors
from specfm.engine.distributed import World
from specfm.engine.optimizer import optimizer_tensors, restore_optimizer
from specfm.engine.sync.all_reduce import Sync
from specfm.engine.task import Task
from specfm.files import TEMPORARY_PREFIX

log = logging.getLogger(__name__)

RANKS = "ranks"
WriteModel = Callable[[Path], Any]


def with_own(
    write_model: WriteModel, checkpoints: Path, number: int, sync: Sync, task: Task
) -> tuple[WriteModel, dict[str, Any], Callable[[], None]]:
    """What rank 0 is to write for the checkpoint of step ``number``, and to add to its state. Collective.

    Where processes are equal that is what it would have written anyway. Else every other rank has written its moments
    by now, and they are put in with the model. A failing disk is tried three times; rank 0 publishes nothing that
    lacks a rank.

    Returns:
        What writes the release and puts the moments in, additions to the state, and what rank 0 calls at the end.
    """
    world = task.world
    if sync.equal or world.size == 1:
        return write_model, {}, lambda: None
    staging = checkpoints / f"{TEMPORARY_PREFIX}{RANKS}-step-{number:08d}"  # of one name on all ranks
    world.on_main(lambda: _make(staging))
    if not world.is_main:
        _write(staging / _name(world.rank), task)
    world.sum(torch.zeros(1, device=world.device))  # all have written

    def write(folder: Path) -> None:
        write_model(folder)
        _put_in(staging, folder.parent / RANKS, world.size)

    return write, {"own_optimizers": world.size}, lambda: shutil.rmtree(staging, ignore_errors=True)


def take_up_own(checkpoint: Path, world: World, sync: Sync, task: Task, ranks: int) -> None:
    """Take this rank's moments, in place of rank 0's, from a checkpoint that ``ranks`` processes wrote."""
    from safetensors.torch import load_file

    if world.is_main and (sync.equal or world.size != ranks):
        log.warning(
            "%s holds optimiser moments of %d processes, each its own, and %d %s: from here the run goes on otherwise "
            "than it would have", checkpoint, ranks, world.size, "share rank 0's" if sync.equal else "take them up",
        )  # fmt: skip
    source = world.rank % ranks
    if source > 0 and not sync.equal:
        restore_optimizer(task.optimizer, task.modules, load_file(checkpoint / RANKS / _name(source)))


def _name(rank: int) -> str:
    return f"{rank:05d}.safetensors"


def _make(staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
    except OSError as error:  # told again, and counted, by the save that finds nothing there
        log.warning("cannot make %s: %s", staging, error)


def _write(path: Path, task: Task) -> None:
    for attempt in range(3):
        time.sleep(task.config.checkpoint.retry_s * attempt)
        try:
            write_tensors(path, optimizer_tensors(task.optimizer, task.modules))
            return
        except (OSError, RuntimeError) as error:
            log.warning("saving the optimiser of this rank failed, attempt %d of 3: %s", attempt + 1, error)
            path.unlink(missing_ok=True)


def _put_in(staging: Path, folder: Path, ranks: int) -> None:
    folder.mkdir()
    for name in map(_name, range(1, ranks)):
        if not (staging / name).is_file():
            raise OSError(f"the optimiser state {name} of another rank could not be written")
        try:
            os.link(staging / name, folder / name)
        except OSError:  # a file system without links
            shutil.copyfile(staging / name, folder / name)
