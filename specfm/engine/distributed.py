"""One process or many: start, agree, reduce. The only place of the engine that touches ``torch.distributed``.

Only JSON and tensors travel; nothing is pickled. How weights are kept together is in :mod:`specfm.engine.sync`.

One process that fails takes the others with it: their next collective fails too. What went wrong is told once, by the
process it happened to (:func:`joined`), whichever rank that is.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from specfm.engine.groups import Group, PeerLostError, collective
from specfm.engine.sync.buckets import cut
from specfm.errors import SpecfmError, UsageError, sentence

log = logging.getLogger(__name__)

FIRST_TIMEOUT_S = 1800.0  # start-up, data checks and compilation take long; see `World.tighten`
_LET_CAUSE_GO_FIRST_S = 1.0  # so that the launcher finds the process that failed before those that lost it
_TOLD = "specfm/told"


_handles: list[Any] = []  # torch's, of the groups made so far


def has_nccl() -> bool:
    """Whether this torch can make several GPUs talk to each other."""
    return torch.distributed.is_available() and torch.distributed.is_nccl_available()


@dataclass(frozen=True)
class World:
    """This process among all of them.

    Attributes:
        rank: 0 to ``size - 1``; rank 0 writes.
        size: Number of processes.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    @property
    def everyone(self) -> Group:
        """All processes."""
        return Group(tuple(range(self.size)))

    def make_group(self, ranks: Sequence[int]) -> Group:
        """A group of processes that this one belongs to. Every process calls this, each with the group of its own.

        Made by its members alone; torch names such a group by its members and by how many groups each has made, so all
        must have made as many.
        """
        if len(ranks) in (1, self.size):
            return Group(tuple(ranks))
        timeout = timedelta(seconds=FIRST_TIMEOUT_S)
        with collective():
            handle = dist.new_group(list(ranks), timeout=timeout, use_local_synchronization=True)
        _handles.append(handle)
        return Group(tuple(ranks), handle)

    def peak_memory_mb(self) -> float:
        """The most memory that this process has held so far where it computes, MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

    def on_main(self, function: Callable[[], Any]) -> Any:
        """Run ``function`` on rank 0 and give its JSON-safe result, or its error, to every rank.

        Raises:
            SpecfmError: on every rank, with the message and exit code of the error on rank 0.
        """
        if self.size == 1:
            return function()
        message: dict[str, Any] = {}
        raised: BaseException | None = None
        if self.is_main:
            try:
                message = {"value": function()}
            except Exception as error:
                raised = error
                message = {"error": sentence(error), "exit_code": getattr(error, "exit_code", 1)}
        message = self._broadcast_json(message)
        if raised is not None:
            raise raised
        if "error" in message:
            failure = SpecfmError(message["error"])
            failure.exit_code = message["exit_code"]
            raise failure
        return message["value"]

    def _broadcast_json(self, value: Any) -> Any:
        data = json.dumps(value).encode() if self.is_main else b""
        length = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        with collective():
            dist.broadcast(length, src=0)
            buffer = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
            if self.is_main:
                buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            dist.broadcast(buffer, src=0)
        return json.loads(bytes(buffer.cpu().tolist()))

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks (in place; returned)."""
        if self.size > 1:
            with collective():
                dist.all_reduce(values, op=dist.ReduceOp.SUM)
        return values

    def gather_rows(self, x: Tensor) -> Tensor:
        """Concatenate equal-sized ``x`` of all ranks along the first axis, without gradients."""
        x = x.detach().contiguous()
        if self.size == 1:
            return x
        rows = [torch.empty_like(x) for _ in range(self.size)]
        with collective():
            dist.all_gather(rows, x)
        return torch.cat(rows)

    def broadcast_module(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0, many in one message: each costs the way there."""
        if self.size == 1:
            return
        tensors = [tensor.data for tensor in (*module.parameters(), *module.buffers())]
        for part in cut(sorted(tensors, key=lambda tensor: str(tensor.dtype))):
            flat = torch.cat([tensor.reshape(-1) for tensor in part])
            with collective():
                dist.broadcast(flat, src=0)
            if not self.is_main:
                for tensor, piece in zip(part, flat.split([tensor.numel() for tensor in part]), strict=True):
                    tensor.copy_(piece.view_as(tensor))

    def tighten(self, timeout_s: float) -> None:
        """Lower the collective timeout after the first step, so that a dead peer becomes an error in minutes."""
        if self.size == 1:
            return
        try:
            from torch.distributed.distributed_c10d import _set_pg_timeout

            for handle in (dist.group.WORLD, *_handles):
                _set_pg_timeout(timedelta(seconds=timeout_s), handle)
        except (ImportError, RuntimeError, ValueError) as error:
            log.warning(
                "cannot lower the collective timeout (%s); a dead peer shows after %.0f s", error, FIRST_TIMEOUT_S
            )


def start(device: str = "auto") -> World:
    """Join the other processes if torchrun started several (gloo on CPU, NCCL on CUDA), else be alone.

    Args:
        device: ``auto`` (CUDA if there is one), ``cpu`` or ``cuda``.

    Raises:
        UsageError: ``cuda`` asked for and absent, or more local ranks than devices.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda was asked for, but there is no CUDA device; use device=cpu or device=auto")
    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"local rank {local} has no CUDA device of its own; start at most {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local)
    place = torch.device("cuda", local) if on_cuda else torch.device("cpu")
    if size > 1 and not dist.is_initialized():
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            timeout=timedelta(seconds=FIRST_TIMEOUT_S),
            device_id=place if on_cuda else None,
        )
    return World(rank, size, place)


def stop(world: World) -> None:
    """Leave the process group."""
    if world.size > 1 and dist.is_initialized():
        _handles.clear()
        dist.destroy_process_group()


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """:func:`start`, and :func:`stop` at the end; an error that ends the work carries whether it is told elsewhere.

    Of an error that all processes meet, or that one meets and the others notice, only the first to come here is not
    marked ``told``: whoever prints errors leaves the marked ones out.
    """
    world = start(device)
    try:
        yield world
    except (SpecfmError, OSError) as error:
        if isinstance(error, PeerLostError):
            time.sleep(_LET_CAUSE_GO_FIRST_S)
        error.told = not _first_to_tell(world)  # type: ignore[union-attr]
        raise
    finally:
        stop(world)


def _first_to_tell(world: World) -> bool:
    """Whether no other process has come with an error before; asked in the store, as collectives may be broken."""
    if world.size == 1:
        return True
    try:
        from torch.distributed.distributed_c10d import _get_default_store

        mine = str(world.rank)
        return bool(_get_default_store().compare_set(_TOLD, "", mine).decode() == mine)
    except (ImportError, RuntimeError, ValueError):  # without torchrun the store ends with rank 0, which has told then
        return world.is_main
