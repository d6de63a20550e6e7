"""From settings and the number of processes to the way they keep their weights together."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import torch
from torch import nn

from specfm.engine.distributed import World
from specfm.engine.sharded import Sharded
from specfm.engine.sync.all_reduce import AllReduce, Sync
from specfm.engine.sync.averaging import Averaging
from specfm.engine.sync.config import ParallelConfig, SyncConfig
from specfm.engine.sync.layouts import Hypercube, Layout, Periodic, RowsColumns, balanced_size

log = logging.getLogger(__name__)
Tell = Callable[..., None]


def choose_sync(
    parallel: ParallelConfig, config: SyncConfig, world: World, modules: nn.ModuleDict,
    optimizer: torch.optim.Optimizer, seed: int = 0,
) -> Sync:  # fmt: skip
    """:func:`make_sync`, unless parameters are to be in parts; one process holds them whole.

    Raises:
        UsageError: there is nothing to divide.
    """
    if parallel.strategy == "fsdp2" and world.size > 1:
        return Sharded(world, modules, optimizer, parallel.reshard)
    return make_sync(config, world, modules, seed)


def make_sync(config: SyncConfig, world: World, modules: nn.Module, seed: int = 0) -> Sync:
    """The way that ``config`` asks for, as far as it goes with so many processes; what does not is told (rank 0).

    Args:
        config: the settings.
        world: this process among all.
        modules: everything that is trained.
        seed: of the run, for groups that are shuffled.
    """
    tell = log.warning if world.is_main else log.debug
    node = ranks_per_node(config, world.size, tell)
    layout = make_layout(config, world.size // node, seed, tell)
    return AllReduce(world) if layout is None else Averaging(world, modules, layout, config.negatives, node)


def ranks_per_node(config: SyncConfig, processes: int, tell: Tell = log.warning) -> int:
    """How many of the processes are one worker."""
    if config.kind != "ds_sync":
        return 1
    local = config.ranks_per_node or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes % local:
        tell(
            "%d processes are no nodes of %d each, so every process is a worker (sync.ranks_per_node)", processes, local
        )
        return 1
    if local == processes > 1:
        tell("all %d processes are on one node, where gradients are summed (sync.ranks_per_node=1 divides it)", local)
    return local


def make_layout(config: SyncConfig, workers: int, seed: int, tell: Tell = log.warning) -> Layout | None:
    """The groups of so many workers; None: gradients are summed over all of them."""
    if workers == 1 or config.kind == "allreduce":
        return None
    if config.kind == "local_sgd":
        return Periodic(workers, config.period)
    if config.layout == "hypercube":
        if workers & (workers - 1) == 0:
            return Hypercube(workers)
        tell("sync.layout=hypercube needs a power of two, not %d workers; rows and columns take its place", workers)
    size = balanced_size(workers, config.group_size)
    if size == workers and (config.group_size or 0) < workers:
        tell("%d workers cannot be divided into equal groups, so gradients are summed over all (sync.kind)", workers)
        return None
    if config.group_size not in (None, size):
        tell("sync.group_size=%d does not divide %d workers; groups of %d", config.group_size, workers, size)
    return RowsColumns(workers, size, seed if config.layout == "shuffled" else None)
