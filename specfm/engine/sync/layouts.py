"""Who averages with whom, by the number of the step: DS-Sync's groups and local SGD's pauses.

Workers are numbered 0 to N - 1; a layout divides them anew at each step. All layouts here are pure functions of the
step, so a resumed run goes on with the groups that it would have had. Source: DS-Sync (arXiv 2007.03298), here for any
N = g x s; the hypercube is recursive doubling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from specfm.counter import mix64

Groups = tuple[tuple[int, ...], ...]
DEALS = 8


class Layout(Protocol):
    """Groups by step.

    Attributes:
        spread: what one worker knows in a step, all know once this many steps have met, that one included.
        cycle: the groups of step t + cycle are those of step t.
        couples: some group meets at every step, so that a loss may couple the samples of its workers.
    """

    spread: int
    cycle: int
    couples: bool

    def groups(self, number: int) -> Groups:
        """Disjoint groups that hold every worker once; a worker that stays alone is a group of one."""
        ...

    def known(self, number: int) -> int:
        """The last step of which all workers know everything, when those of step ``number`` have met."""
        ...


class RowsColumns:
    """Workers in a grid of g rows of s: rows meet at even steps, columns at odd ones.

    Mean of rows, then mean of columns, is the mean of all: two steps mix everything.

    Args:
        workers: N.
        group_size: s, a divisor of N; N itself meets as one group in every step.
        seed: places in the grid are dealt anew every two steps, from this seed; None leaves them in order. There are
            :data:`DEALS` deals, taken in turn: every group has connections of its own, so they must not be without end.
    """

    couples = True

    def __init__(self, workers: int, group_size: int, seed: int | None = None) -> None:
        if not 1 < group_size <= workers or workers % group_size:
            raise ValueError(f"groups of {group_size} do not divide {workers} workers")
        self.workers, self.group_size, self.seed = workers, group_size, seed
        # A new deal begins with rows: what columns learnt last, before it, has both to go through still.
        self.spread = 1 if group_size == workers else 2 if seed is None else 3
        self.cycle = 2 if seed is None else 2 * DEALS

    def groups(self, number: int) -> Groups:
        """Rows of s at even steps, columns of g at odd ones, as sorted numbers of workers."""
        order: Sequence[int] = range(self.workers)
        if self.seed is not None:
            order = _shuffled(self.workers, self.seed, number // 2 % DEALS)
        size = self.group_size
        if number % 2 and size < self.workers:
            found = [order[column::size] for column in range(size)]
        else:
            found = [order[start : start + size] for start in range(0, self.workers, size)]
        return tuple(sorted(tuple(sorted(each)) for each in found))

    def known(self, number: int) -> int:
        """See :class:`Layout`."""
        return number - self.spread + 1


class Hypercube:
    """Pairs: at step t worker w meets ``w xor 2^(t mod k)``; k steps mix everything.

    Args:
        workers: N = 2^k.
    """

    couples = True

    def __init__(self, workers: int) -> None:
        self.workers, self.spread = workers, workers.bit_length() - 1
        self.cycle = self.spread
        if workers != 1 << self.spread or workers < 2:
            raise ValueError(f"{workers} workers are no power of two")

    def groups(self, number: int) -> Groups:
        """Pairs in order."""
        bit = 1 << number % self.spread
        return tuple((w, w | bit) for w in range(self.workers) if not w & bit)

    def known(self, number: int) -> int:
        """See :class:`Layout`."""
        return number - self.spread + 1


class Periodic:
    """Local SGD: all meet at every ``period``-th step, and nobody in between.

    Args:
        workers: N.
        period: H.
    """

    couples = False

    def __init__(self, workers: int, period: int) -> None:
        if period < 1:
            raise ValueError(f"a period of {period} steps")
        self.workers, self.spread, self.cycle = workers, period, period

    def groups(self, number: int) -> Groups:
        """All in one, or each alone."""
        everyone = tuple(range(self.workers))
        return (everyone,) if number % self.spread == 0 else tuple((worker,) for worker in everyone)

    def known(self, number: int) -> int:
        """See :class:`Layout`."""
        return number - number % self.spread


def balanced_size(workers: int, wanted: int | None = None) -> int:
    """The divisor of N nearest to ``wanted`` (default its root) that leaves groups of several workers and several
    groups; N itself where it has no such divisor, or ``wanted`` is N. Of two as near, the smaller.
    """
    if wanted is not None and wanted >= workers:
        return workers
    near = math.sqrt(workers) if wanted is None else wanted
    divisors = [size for size in range(2, workers) if workers % size == 0]
    return min(divisors, key=lambda size: (abs(size - near), size), default=workers)


def _shuffled(workers: int, seed: int, turn: int) -> list[int]:
    """A permutation of the workers; a pure function of its arguments, whatever the platform."""
    order: list[int] = np.argsort(mix64(seed, turn, np.arange(workers, dtype=np.uint64)), kind="stable").tolist()
    return order
