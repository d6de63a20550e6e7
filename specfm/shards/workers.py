"""Who reads for the building of shards: results in order, few in flight, so that memory stays bounded.

Readers are this process, spawned processes of this machine (:class:`Workers`) or those of a Dask cluster
(:class:`specfm.shards.cluster.Cluster`). All give the same results in the same order. A reader that is lost costs the
work it had in hand, which is done again.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeAlias, TypeVar

from specfm.errors import SpecfmError
from specfm.scene import Scene
from specfm.shards.options import MOST_WORKERS

log = logging.getLogger(__name__)
ALONE_BYTES = 256 << 20  # of cubes: below, starting processes takes longer than reading
TRIES = 3  # of a piece of work whose process is killed
Call = TypeVar("Call")
_UnderWay: TypeAlias = tuple[ProcessPoolExecutor, Future[Any]]
_opened: dict[str, Scene] = {}  # in a worker: the last scenes, so that a compressed file is not decoded for every block


class Readers(Protocol):
    """What calls ``function(scene, *arguments)`` somewhere."""

    def map(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Results of ``function(*call)`` for every call, in order; the first argument of a call is its scene."""
        ...

    def describe(self) -> str:
        """Who reads, in words."""
        ...

    def __enter__(self) -> Readers: ...

    def __exit__(self, *_: object) -> None: ...


def usual_workers(scenes: Iterable[Scene]) -> int:
    """Reading processes where none are asked for: as many as cores, and this one alone for what it reads in no time."""
    if sum(math.prod(scene.shape) * scene.dtype.itemsize for scene in scenes) < ALONE_BYTES:
        return 1
    return min(MOST_WORKERS, os.cpu_count() or 1)


def in_order(
    calls: Iterable[Call], submit: Callable[[Call], Any], result: Callable[[Any], Any], most: Callable[[], int]
) -> Iterator[Any]:
    """Results in the order of their calls, with at most ``most()`` calls under way beside the one awaited."""
    flight: deque[Any] = deque()
    for call in calls:
        flight.append(submit(call))
        while len(flight) > most():
            yield result(flight.popleft())
    while flight:
        yield result(flight.popleft())


class Workers:
    """Calls in this process or in spawned ones of this machine.

    Args:
        workers: processes; 1 = none but this one.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor | None:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, mp_context=spawn) if self.workers > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def describe(self) -> str:
        """Who reads, in words."""
        return "this process" if self.workers == 1 else f"{self.workers} processes of this machine"

    def map(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """As :meth:`Readers.map`.

        Raises:
            SpecfmError: a piece of work killed its process whenever it was tried.
        """
        if self._pool is None:
            for scene, *arguments in calls:
                yield function(scene, *arguments)
            return
        yield from in_order(
            ((function, scene, arguments) for scene, *arguments in calls),
            lambda call: (call, self._submit(*call)),
            lambda pair: self._result(*pair),
            lambda: 2 * self.workers,
        )

    def _submit(self, function: Callable[..., Any], scene: Scene, arguments: list[Any]) -> _UnderWay:
        pool = self._pool
        assert pool is not None
        try:
            return pool, pool.submit(_in_worker, f"{id(scene)}-{scene.name}", function, scene, arguments)
        except BrokenProcessPool as error:  # told when its turn comes
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return pool, broken

    def _result(self, call: tuple[Any, ...], under_way: _UnderWay) -> Any:
        for number in range(TRIES):
            pool, future = under_way if number == 0 else self._submit(*call)
            try:
                return future.result()
            except BrokenProcessPool:
                if pool is self._pool:
                    log.warning("a reading process was killed; what was in hand is read again (%s)", call[1].where)
                    pool.shutdown(wait=True, cancel_futures=True)
                    self._pool = self._started()
        raise SpecfmError(
            "a reading process was killed (out of memory, or a script without if __name__ == '__main__'); run again "
            "with fewer --workers (workers=1 needs none)"
        )


def _in_worker(token: str, function: Callable[..., Any], scene: Scene, arguments: list[Any]) -> Any:
    if token not in _opened:
        if len(_opened) >= 2:
            _opened.pop(next(iter(_opened)))
        _opened[token] = scene
    return function(_opened[token], *arguments)
