"""Processes that reduce among themselves, and those whose samples meet in a loss.

A group is a name for ranks and torch's handle of them; :class:`specfm.engine.distributed.World` makes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from specfm.errors import SpecfmError


class PeerLostError(SpecfmError):
    """A collective failed: another process has ended, or hangs."""


_waited_s = 0.0


def waited_s() -> float:
    """Seconds that this process stood in collectives since this was last asked: until the others had come too, and
    what was sent had arrived. The last to come stands there for the second reason alone.

    On CUDA collectives are waited for by the device, not by the process, so this says little there.
    """
    global _waited_s
    found, _waited_s = _waited_s, 0.0
    return found


@contextmanager
def collective() -> Iterator[None]:
    """Around every call that needs all processes: its failure is a sentence, its time is kept (:func:`waited_s`).

    Raises:
        PeerLostError: the call failed.
    """
    global _waited_s
    began = time.perf_counter()
    try:
        yield
    except torch.OutOfMemoryError:  # ours, and a RuntimeError too
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise PeerLostError(
            f"another process of the run has ended or does not answer ({reason}); the run can go on with --resume"
        ) from error
    finally:
        _waited_s += time.perf_counter() - began


@dataclass(frozen=True)
class Pending:
    """A reduction on its way. ``arrive`` waits for it; None where there is nothing to wait for."""

    arrive: Callable[[], Any] | None = None

    def wait(self) -> None:
        """Until its values are there (on CUDA: for what is computed next)."""
        if self.arrive is not None:
            with collective():
                self.arrive()


@dataclass(frozen=True)
class Group:
    """Processes that reduce among themselves.

    Attributes:
        ranks: theirs, ascending.
        handle: torch's process group; None: the one of all processes.
    """

    ranks: tuple[int, ...]
    handle: Any = None

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self.ranks)

    def begin_sum(self, values: Tensor) -> Pending:
        """Element-wise sum (in place), there after :meth:`Pending.wait`."""
        return self._begin(values, dist.ReduceOp.SUM)

    def begin_max(self, values: Tensor) -> Pending:
        """Element-wise maximum (in place), there after :meth:`Pending.wait`."""
        return self._begin(values, dist.ReduceOp.MAX)

    def _begin(self, values: Tensor, op: Any) -> Pending:
        if self.size == 1:
            return Pending()
        with collective():
            return Pending(dist.all_reduce(values, op=op, group=self.handle, async_op=True).wait)


_coupled: list[Group] = []  # the innermost last


@contextmanager
def coupling(group: Group) -> Iterator[None]:
    """Let the samples of ``group`` alone meet in what is computed inside; without it those of all processes do.

    The backward pass runs in threads of its own on CUDA, so this is known to the whole process, not to a thread.
    """
    _coupled.append(group)
    try:
        yield
    finally:
        _coupled.pop()


def coupled() -> tuple[int, Group]:
    """The processes whose samples meet in a loss, and this one's place among them."""
    if _coupled:
        return _coupled[-1].ranks.index(dist.get_rank() if dist.is_initialized() else 0), _coupled[-1]
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), Group(tuple(range(dist.get_world_size())))
    return 0, Group((0,))


@dataclass(frozen=True, kw_only=True)
class NodesGroup(Group):
    """All processes of some nodes, which sum in three parts, so that between nodes every number travels once a node.

    A part each inside the node (reduce-scatter), that part with its like in the other nodes (all-reduce), and all parts
    inside the node again (all-gather).

    Attributes:
        inside: the processes of this process's node.
        across: in each node of the group, the one of this one's place.
    """

    inside: Group
    across: Group

    def begin_sum(self, values: Tensor) -> Pending:
        """Element-wise sum (in place), there after :meth:`Pending.wait`; the parts follow each other meanwhile."""
        if values.device.type == "cuda":
            stream = _stream(values.device)
            stream.wait_stream(torch.cuda.current_stream(values.device))
            with torch.cuda.stream(stream):
                self._sum(values)
            values.record_stream(stream)
            return Pending(lambda: torch.cuda.current_stream(values.device).wait_stream(stream))
        return Pending(_follow().submit(self._sum, values).result)

    @torch.no_grad()
    def _sum(self, values: Tensor) -> None:
        size = self.inside.size
        padded = torch.nn.functional.pad(values, (0, -len(values) % size))
        part = padded.new_empty(len(padded) // size)
        dist.reduce_scatter_tensor(part, padded, group=self.inside.handle)
        if self.across.size > 1:
            dist.all_reduce(part, group=self.across.handle)
        dist.all_gather_into_tensor(padded, part, group=self.inside.handle)
        values.copy_(padded[: len(values)])


@cache
def _follow() -> ThreadPoolExecutor:
    """One thread, so that sums follow each other in the same order everywhere."""
    return ThreadPoolExecutor(1, thread_name_prefix="specfm-nodes")


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
