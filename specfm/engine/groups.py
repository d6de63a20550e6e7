"""Processes that reduce among themselves, and those whose samples meet in a loss.

A group is a name for ranks and torch's handle of them; :class:`specfm.engine.distributed.World` makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from specfm.errors import SpecfmError


class PeerLostError(SpecfmError):
    """A collective failed: another process has ended, or hangs."""


@contextmanager
def collective() -> Iterator[None]:
    """Around every call that needs all processes: its failure is a sentence.

    Raises:
        PeerLostError: the call failed.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # ours, and a RuntimeError too
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise PeerLostError(
            f"another process of the run has ended or does not answer ({reason}); the run can go on with --resume"
        ) from error


@dataclass(frozen=True)
class Pending:
    """A reduction on its way. ``work``: torch's handle, None where there is nothing to wait for."""

    work: Any = None

    def wait(self) -> None:
        """Until its values are there (on CUDA: for what is computed next)."""
        if self.work is not None:
            with collective():
                self.work.wait()


@dataclass(frozen=True)
class Group:
    """Processes that reduce among themselves.

    Attributes:
        ranks: theirs, ascending. handle: torch's process group; None: the one of all processes.
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
            return Pending(dist.all_reduce(values, op=op, group=self.handle, async_op=True))


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
