"""The loader's rate by where the bytes come from; rows of :mod:`tests.benchmarks.bench_loader`.

One pass over a shard each, in turn, round after round, CRCs remembered:

* ``warm``: its pages are in the machine's memory;
* ``cold``: the kernel was told to forget them before (``posix_fadvise``);
* ``remote, first``: from a server on this machine, so with fetching, SHA-256 and writing to the cache folder, but
  without a network's delay and without a slow network;
* ``remote, cached``: the same again, from the cache folder.

``from_disk_mb`` is what the kernel says this process had read from the disk (``/proc/self/io``), which shows whether
cold was cold; a virtual machine's disk may still be in its host's memory.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.loader import Loader
from pretrain.sampler import MixtureSampler
from specfm.shards import ShardSet
from specfm.shards.cache import cache_folder
from specfm.shards.manifest import write_manifest
from tests.shards.server import Server


def rates(shard: Path, batch: int, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Medians over rounds by row; without the rows of what is not installed."""
    served = shard.parent / "served"
    served.mkdir()
    os.link(shard, served / shard.name)
    write_manifest(served, [shard.name])
    ShardSet(shard).verify_once()
    with serving(served) as address:
        sources: dict[str, Callable[[], ShardSet]] = {"warm": lambda: ShardSet(shard), "cold": lambda: forgotten(shard)}
        if address is not None:
            sources |= {"remote, first": lambda: unfetched(address), "remote, cached": lambda: ShardSet(address)}
        one_pass(ShardSet(shard), batch, threads)
        rounds = [{name: one_pass(make(), batch, threads) for name, make in sources.items()} for _ in range(repeats)]
    return {
        name: {key: statistics.median(each[name][key] for each in rounds) for key in rounds[0][name]}
        for name in sources
    }


def one_pass(shards: ShardSet, batch: int, threads: int) -> dict[str, float]:
    """Every batch of an epoch."""
    sampler = MixtureSampler(shards.sizes, shards.domains, batch, seed=0)
    read, nbytes, samples, began = from_disk(), 0, 0, time.perf_counter()
    for _, parts in Loader(shards, sampler, threads=threads).iterate(0, sampler.steps_per_epoch):
        nbytes += sum(part.x_BHWC.nbytes for part in parts)
        samples += len(parts)
    seconds = time.perf_counter() - began
    return {
        "samples_per_s": samples / seconds, "mb_per_s": nbytes / 1e6 / seconds,
        "from_disk_mb": (from_disk() - read) / 1e6,
    }  # fmt: skip


def forgotten(shard: Path) -> ShardSet:
    """The shard, whose pages the kernel has dropped; only what has been written to disk can be."""
    found = ShardSet(shard)
    with open(shard, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return found


def unfetched(address: str) -> ShardSet:
    """Remote shards, of which this machine has nothing yet."""
    shutil.rmtree(cache_folder() / "remote", ignore_errors=True)
    return ShardSet(address)


def from_disk() -> int:
    """Bytes that were read from the disk for this process so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


@contextmanager
def serving(folder: Path) -> Iterator[str | None]:
    """The address of a folder served by a process of its own; None without what reading from it needs."""
    try:
        import aiohttp  # noqa: F401
        import fsspec  # noqa: F401
    except ImportError:
        print("no rows of remote shards: needs specfm[remote]")
        yield None
        return
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(folder, theirs), daemon=True)
    server.start()
    try:
        yield mine.recv()
    finally:
        server.kill()
        server.join()


def _serve(folder: Path, pipe: Any) -> None:
    with Server(folder) as server:
        pipe.send(server.address)
        server.serve_forever()
