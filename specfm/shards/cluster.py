"""Reading for shards on a Dask cluster: ``specfm shard --scheduler tcp://host:8786``.

Start it as ``dask scheduler`` on one machine and ``dask worker tcp://host:8786 --nthreads 1 --nworkers 8`` on each that
shall read; workers may come and go while shards are built. Each must have the same specfm, the same switches in its
environment (:mod:`specfm.limits`) and the cubes at the same paths, or says in one sentence what it lacks. A process of
a worker reads one block at a time, however many threads it has: most readers of cubes may not be shared by threads.

A worker that is lost costs what it had in hand: Dask gives it to another. Programs and pixels travel between the
processes of a cluster unchecked, so a scheduler must be one of yours (``tls://`` and Dask's own settings keep strangers
out).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from specfm.errors import SpecfmError, UsageError
from specfm.limits import LINKED_FILES, MAXIMA, UNTRUSTED, variable
from specfm.scene import Scene
from specfm.shards.workers import in_order

log = logging.getLogger(__name__)
CONNECT_S = 20.0  # within which a scheduler must answer
FIRST_S = 60.0  # within which it must have a worker
ABANDONED_S = 900.0  # without any worker: the cluster is given up
LOOK_S = 5.0  # between two looks at who is there
TELL_S = 30.0  # between two lines that say that nobody is
_reading = threading.Lock()  # in a worker


class Cluster:
    """Calls in the workers of a Dask cluster; used as :class:`specfm.shards.workers.Workers` is.

    Args:
        address: of the scheduler.

    Raises:
        SpecfmError: Dask is not installed, or no worker comes.
        UsageError: no scheduler at this address.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise SpecfmError("a cluster needs dask and distributed; install specfm[cluster]") from None
        self.address = address
        try:
            self._client: Any = Client(address, timeout=CONNECT_S, set_as_default=False, name="specfm-shard")
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {address!r} ({_short(error)}); start one with `dask scheduler`"
            ) from None
        self._scenes: dict[int, tuple[Scene, Any]] = {}  # the scenes of calls under way, held by the scheduler
        self._known: dict[str, int] = {}
        self._looked = -LOOK_S
        try:
            self._client.wait_for_workers(1, timeout=FIRST_S)
        except TimeoutError:
            self._client.close()
            raise SpecfmError(f"{address} has no workers; start some with `dask worker {address}`") from None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._scenes.clear()
        self._client.close()

    def describe(self) -> str:
        """Who reads, in words."""
        workers = self._workers()
        hosts = sorted({str(row["host"]) for row in workers.values()})
        shown = ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")
        return f"{len(workers)} workers of {self.address} on {shown}"

    def map(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """As :meth:`specfm.shards.workers.Readers.map`.

        Raises:
            SpecfmError: what the function raised, a worker that cannot do the work, a cluster that is gone.
        """
        terms = _terms()

        def submit(call: tuple[Any, ...]) -> Any:
            scene, *arguments = call
            if id(scene) not in self._scenes:
                # a task of its own, not scattered data: these are lost with the worker that holds them
                while len(self._scenes) > 2 * self._most():
                    self._scenes.pop(next(iter(self._scenes)))
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Sending large graph")  # labels; once for each scene
                    self._scenes[id(scene)] = (scene, self._client.submit(_held, scene, pure=False))
            held = self._scenes[id(scene)][1]
            return self._client.submit(_on_worker, terms, function, held, arguments, pure=False)

        yield from in_order(calls, submit, self._result, self._most)

    def _most(self) -> int:
        """Calls under way: two for each worker that is there now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            there = dict.fromkeys(self._workers(), 1)
            for name in self._known.keys() - there.keys():
                log.warning("worker %s is gone; what it had in hand is read again", name)
            self._known = there
        return 2 * max(1, len(self._known))

    def _workers(self) -> dict[str, Any]:
        return dict(self._client.scheduler_info(n_workers=-1)["workers"])

    def _result(self, under_way: Any) -> Any:
        alone = told = None
        while True:
            try:
                return under_way.result(timeout=LOOK_S)
            except TimeoutError as error:
                if under_way.status == "error":
                    raise self._failure(error) from None
            except Exception as error:
                raise self._failure(error) if under_way.status == "error" else self._gone(error) from None
            now = time.monotonic()
            if self._workers():
                alone = told = None
                continue
            alone = now if alone is None else alone
            if now - alone > ABANDONED_S:
                raise SpecfmError(
                    f"{self.address} has had no worker for {ABANDONED_S:.0f} s; finished shards are kept, run again "
                    "when there are some"
                )
            if told is None or now - told > TELL_S:
                told = now
                log.warning("%s has no workers; waiting for one", self.address)

    def _gone(self, error: Exception) -> SpecfmError:
        return SpecfmError(
            f"the scheduler at {self.address} is gone ({_short(error)}); finished shards are kept, run again when it "
            "is back"
        )

    def _failure(self, error: Exception) -> Exception:
        """What went wrong with the work itself, as a user should be told."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return SpecfmError(
                f"workers of {self.address} died one after the other on the same block (out of memory?); give them "
                f"more memory or fewer to a machine; finished shards are kept ({_short(error)})"
            )
        if isinstance(error, ImportError):
            return SpecfmError(
                f"a worker of {self.address} cannot work: {_short(error)}; install the same specfm there"
            )
        return error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _held(scene: Scene) -> Scene:
    return scene


def _terms() -> dict[str, str]:
    """What must be the same here and there."""
    from specfm import __version__

    names = (LINKED_FILES, UNTRUSTED, *map(variable, MAXIMA))
    return {"specfm": __version__, **{name: os.environ.get(name, "") for name in names}}


def _on_worker(terms: dict[str, str], function: Callable[..., Any], scene: Scene, arguments: list[Any]) -> Any:
    host = socket.gethostname()
    for name, here in _terms().items():
        if terms[name] != here:
            raise SpecfmError(
                f"a worker on {host} has {name} {here or 'unset'}, this command {terms[name] or 'unset'}; start "
                "workers with the same"
            )
    if scene.path is not None and not scene.path.exists():
        raise SpecfmError(
            f"{scene.path} is not there for a worker on {host}; cubes must lie at the same path everywhere"
        )
    with _reading:
        return function(scene, *arguments)
