"""A function on several gloo processes, which are forked from the server of :mod:`tests.pretrain.runs`."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from specfm.engine import distributed
from specfm.engine.distributed import World
from tests.pretrain.runs import SERVER


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child(
    rank: int, size: int, port: int, pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", address, timedelta(seconds=40), rank=rank, world_size=size)
        world = World(rank, size, torch.device("cpu"))
        pipe.send((True, function(world, *arguments)))
        distributed.stop(world)
    except BaseException:
        pipe.send((False, traceback.format_exc()))


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 60.0) -> list[Any]:
    """What ``function(world, *arguments)`` returns on every rank; fails with the traceback of a rank that raised."""
    port, pipes, processes = free_port(), [], []
    for rank in range(size):
        mine, theirs = SERVER.Pipe()
        process = SERVER.Process(target=_child, args=(rank, size, port, theirs, function, arguments), daemon=True)
        process.start()
        theirs.close()
        pipes.append(mine)
        processes.append(process)
    try:
        found = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(seconds), f"rank {rank} of {size} did not answer in {seconds} s"
            found.append(pipe.recv())
        failed = [text for fine, text in found if not fine]
        assert not failed, "\n".join(failed)
        return [value for _, value in found]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
