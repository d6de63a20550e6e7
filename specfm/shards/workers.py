"""Reading processes for building shards: results in order, few in flight, so that memory stays bounded."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from specfm.errors import SpecfmError
from specfm.scene import Scene
from specfm.shards.options import MOST_WORKERS

ALONE_BYTES = 256 << 20  # of cubes: below, starting processes takes longer than reading
_opened: dict[str, Scene] = {}  # in a worker: the last scenes, so that a compressed file is not decoded for every block


def usual_workers(scenes: Iterable[Scene]) -> int:
    """Reading processes where none are asked for: as many as cores, and this one alone for what it reads in no time."""
    if sum(math.prod(scene.shape) * scene.dtype.itemsize for scene in scenes) < ALONE_BYTES:
        return 1
    return min(MOST_WORKERS, os.cpu_count() or 1)


class Workers:
    """Calls ``function(scene, *arguments)`` in this process or in spawned ones, results in order, few in flight."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=spawn) if workers > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Results of ``function(*call)`` for every call; the first argument of a call is its scene."""
        if self._pool is None:
            for scene, *arguments in calls:
                yield function(scene, *arguments)
            return
        flight: deque[Future[Any]] = deque()
        for scene, *arguments in calls:
            token = f"{id(scene)}-{scene.name}"
            flight.append(self._pool.submit(_in_worker, token, function, scene, arguments))
            if len(flight) > 2 * self.workers:
                yield _result(flight.popleft())
        while flight:
            yield _result(flight.popleft())


def _result(call: Future[Any]) -> Any:
    try:
        return call.result()
    except BrokenProcessPool:
        raise SpecfmError(
            "a reading process was killed (out of memory, or a script without if __name__ == '__main__'); run again "
            "with fewer --workers (workers=1 needs none)"
        ) from None


def _in_worker(token: str, function: Callable[..., Any], scene: Scene, arguments: list[Any]) -> Any:
    if token not in _opened:
        if len(_opened) >= 2:
            _opened.pop(next(iter(_opened)))
        _opened[token] = scene
    return function(_opened[token], *arguments)
