"""From shards to batches: threads fill reused (on CUDA: pinned) buffers while the model works on the batch before.

Shapes: B samples of a part on this rank, H W window, C bands.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from specfm.batch import BandTensors, Batch, BatchPart
from specfm.errors import SpecfmError, UsageError
from specfm.shards.shard_set import ShardSet

log = logging.getLogger(__name__)
_TASK_BYTES = 1 << 22  # a part is read in pieces of about this size, so that threads share one large part


class LoaderError(SpecfmError):
    """A sample could not be read; the message names its id and file."""


class Draws(Protocol):
    """Who is drawn at each step: a sampler, or one that draws partners too."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[tuple[int, NDArray[np.int64]]]:
        """Parts of a step: (shard index, local ids)."""
        ...

    def check_world(self, world: int) -> None:
        """Refuse a number of ranks that a step does not split over."""


@dataclass
class _Slot:
    """Buffers of one batch in flight: one flat byte buffer per part, grown when a larger part comes."""

    pinned: bool
    buffers: list[torch.Tensor] = field(default_factory=list)
    masks: list[torch.Tensor] = field(default_factory=list)
    copied: Any = None  # CUDA event: the device has taken what the buffers hold

    def take(self, part: int, nbytes: int, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
        for held, size in ((self.buffers, nbytes), (self.masks, pixels)):
            while len(held) <= part:
                held.append(torch.empty(0, dtype=torch.uint8))
            if len(held[part]) < size:
                held[part] = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)
        return self.buffers[part][:nbytes], self.masks[part][:pixels]


@dataclass
class _Work:
    """A step under way: its slot, its parts and the reads that fill them."""

    step: int
    slot: _Slot
    parts: list[BatchPart]
    reads: list[Future[None]]


class Loader:
    """Yields ``(step, Batch)`` for this rank's share of each step; the same bits for any ``threads`` and ``prefetch``.

    Values keep their stored type. A yielded batch lies in buffers that are used again: on the CPU it stays valid
    until the next ``keep`` batches were asked for (copy what must live longer); on CUDA it is a copy of its own.

    Args:
        shards: the store.
        sampler: who is drawn at each step.
        rank: number of this process.
        world: how many there are.
        threads: reading threads; 0 reads in the caller's thread.
        prefetch: steps read ahead.
        device: where batches go.
        keep: batches that stay valid beside the newest (CPU).

    Attributes:
        data_wait: seconds the last step waited for its data.
        data_wait_total: their sum.

    Raises:
        UsageError: a part does not split evenly over ``world``.
        LoaderError: a read failed (raised at the next step; names sample id and file).

    Example:
        >>> for step, batch in Loader(shards, sampler).iterate(0, 100):      # doctest: +SKIP
        ...     loss = train_step(batch)
    """

    def __init__(
        self,
        shards: ShardSet,
        sampler: Draws,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        prefetch: int = 2,
        device: torch.device | str = "cpu",
        keep: int = 1,
    ) -> None:
        sampler.check_world(world)
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} of {world} ranks")
        if threads < 0 or prefetch < 0 or keep < 0:
            raise UsageError("threads, prefetch and keep are 0 or more")
        self.shards, self.sampler, self.rank, self.world = shards, sampler, rank, world
        self.threads, self.prefetch = threads, prefetch
        self.device = torch.device(device)
        self._ring = prefetch + 2 + keep
        known: dict[int, BandTensors] = {}  # of the sensors, which are few however many shards there are
        for reader in shards.readers:
            if id(reader.sensor) not in known:
                known[id(reader.sensor)] = BandTensors.from_sensors(reader.sensor).to(self.device)
        self._bands = [known[id(reader.sensor)] for reader in shards.readers]
        self.data_wait = 0.0
        self.data_wait_total = 0.0

    def iterate(self, start_step: int, stop_step: int) -> Iterator[tuple[int, Batch]]:
        """Batches of the steps ``start_step`` to ``stop_step`` - 1, in order."""
        self.shards.verify_once()
        slots = [_Slot(self.device.type == "cuda") for _ in range(self._ring)]
        ahead: deque[_Work] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="specfm-read") if self.threads else None
        following = start_step
        try:
            for step in range(start_step, stop_step):
                began = time.perf_counter()
                while following < stop_step and following <= step + (self.prefetch if pool else 0):
                    ahead.append(self._begin(following, slots[following % self._ring], pool))
                    following += 1
                work = ahead.popleft()
                self._finish(work, ahead)
                batch = Batch(tuple(work.parts))
                if self.device.type == "cuda":
                    batch = batch.to(self.device, non_blocking=True)
                    work.slot.copied = torch.cuda.Event()
                    work.slot.copied.record()
                self.data_wait = time.perf_counter() - began
                self.data_wait_total += self.data_wait
                yield step, batch
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int, slot: _Slot, pool: ThreadPoolExecutor | None) -> _Work:
        if slot.copied is not None:
            slot.copied.synchronize()
            slot.copied = None
        parts, reads = [], []
        drawn = list(self.sampler.batch(step, self.rank, self.world))
        if pool is not None:  # shards that are read for the first time are checked, or fetched, side by side
            new = [reader for reader in (self.shards.readers[shard] for shard, _ in drawn) if not reader.ready]
            for opened in [pool.submit(reader.verify_once) for reader in new]:
                opened.result()
        for number, (shard, wanted) in enumerate(drawn):
            reader = self.shards.readers[shard]
            ids = reader.resolve(wanted)
            shape = (len(ids), *reader.shape[1:])
            flat, flat_mask = slot.take(number, len(ids) * reader.nbytes, len(ids) * shape[1] * shape[2])
            x = flat.numpy().view(reader.dtype).reshape(shape)
            mask = flat_mask.numpy().view(bool).reshape(shape[:3])
            stride = max(1, _TASK_BYTES // max(1, reader.nbytes))
            for low in range(0, len(ids), stride):
                rows = slice(low, low + stride)
                if pool is None:
                    self._read(shard, ids[rows], x[rows], mask[rows])
                else:
                    reads.append(pool.submit(self._read, shard, ids[rows], x[rows], mask[rows]))
            fields = {name: torch.from_numpy(value) for name, value in self.shards.describe(shard, ids).items()}
            parts.append(
                BatchPart(
                    x_BHWC=torch.from_numpy(x), bands=self._bands[shard], mask_BHW=torch.from_numpy(mask), **fields
                )
            )
        return _Work(step, slot, parts, reads)

    def _read(self, shard: int, ids: NDArray[np.int64], x: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        reader = self.shards.readers[shard]
        try:
            reader.read(ids, x, mask)
        except Exception as error:
            first, last = int(ids[0] + self.shards.offsets[shard]), int(ids[-1] + self.shards.offsets[shard])
            raise LoaderError(f"cannot read samples {first} ... {last} of {reader.path}: {error}") from error

    def _finish(self, work: _Work, ahead: deque[_Work]) -> None:
        for read in work.reads:
            read.result()
        for later in ahead:  # a read that failed for a later step is told now, not when its turn comes
            for read in later.reads:
                if read.done() and read.exception() is not None:
                    read.result()
