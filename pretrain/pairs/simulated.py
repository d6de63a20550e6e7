"""Simulated pairs beside those from shards: a share of every global batch, made while the model works.

The two sides of a pair are one surface seen by two sensors (:mod:`specfm.simulate.pairs`). All pairs of two sensors in
a step are a domain of their own, so that with ``negatives.within: domain`` no sensor tells pairs apart. Like all that
decides a batch a pair is a function of (seed, step, sample), whatever the ranks and threads.

Shapes: B samples of a part on this rank, H W window, C bands.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from pretrain.pairs.config import SimulatedConfig
from pretrain.pairs.pairing import Pairs
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.errors import UsageError
from specfm.sensors import Sensor
from specfm.shards import ShardSet
from specfm.simulate.pairs import SurfacePairs

Parts = tuple[BatchPart, BatchPart]


class SimulatedPairs:
    """Yields this rank's simulated pairs of each step.

    Args:
        config: what is simulated.
        seed: of the run.
        count: samples of a step over all ranks, a multiple of ``divisor``.
        divisor: every part's count is a multiple of it.
        shards: whose ids are taken.
        rank: number of this process.
        world: how many there are.
        threads: that simulate ahead; 0 works in the caller's thread.
        prefetch: steps ahead.
        device: where they go.

    Attributes:
        source: makes the windows.
        data_wait: seconds the last step waited.

    Raises:
        UsageError: unknown library or sensor, a sensor that no library covers, parts that do not split over ``world``.
    """

    def __init__(
        self,
        config: SimulatedConfig,
        seed: int,
        count: int,
        divisor: int,
        shards: ShardSet,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        prefetch: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        self.source = SurfacePairs(config, seed)
        self.count, self.rank, self.world, self.device = count, rank, world, torch.device(device)
        self.threads, self.prefetch = threads, prefetch
        self._first_id, self._first_scene = len(shards), int(shards.scene_offsets[-1])
        self._first_domain = len(shards.domain_names)
        units, slots = count // divisor, min(config.slots, count // divisor)
        self.counts = [divisor * (units // slots + (slot < units % slots)) for slot in range(slots)]
        if uneven := [count for count in self.counts if count % world]:
            raise UsageError(
                f"data.simulated: a part of {uneven[0]} samples does not split over {world} processes; set "
                f"data.divisor to a multiple of {world}"
            )
        self.data_wait = 0.0

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Pairs]:
        """The pairs of the steps ``start_step`` to ``stop_step`` - 1, in order."""
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="specfm-simulate") if self.threads else None
        slots, following = range(len(self.counts)), start_step
        waiting: deque[list[Future[Parts]]] = deque()
        try:
            for step in range(start_step, stop_step):
                began = time.perf_counter()
                while pool is not None and following < min(stop_step, step + self.prefetch + 1):
                    waiting.append([pool.submit(self.part, following, slot) for slot in slots])
                    following += 1
                if pool is None:
                    parts = [self.part(step, slot) for slot in slots]
                else:
                    parts = [part.result() for part in waiting.popleft()]
                first, second = (Batch(side).to(self.device) for side in zip(*parts, strict=True))
                self.data_wait = time.perf_counter() - began
                yield Pairs(first, second)
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def part(self, step: int, place: int) -> Parts:
        """Both sides of this rank's share of a slot."""
        share = self.counts[place] // self.world
        first = sum(self.counts[:place]) + self.rank * share
        slot = self.source.slot(step, place)
        numbers = range(first, first + share)
        windows = self.source.windows(step, slot, numbers)
        index_B = step * self.count + torch.arange(first, first + share)
        domain = self._first_domain + slot.first * len(self.source.names) + slot.second
        one, two = (
            self._described(torch.from_numpy(x_NHWC), sensor, index_B, domain)
            for x_NHWC, sensor in zip(windows, slot.sensors, strict=True)
        )
        return one, two

    def _described(self, x_BHWC: Tensor, sensor: Sensor, index_B: Tensor, domain: int) -> BatchPart:
        """Ids that no shard has: each surface is an instance, a group and a scene of its own."""
        alone_B = -2 - index_B  # -1 means unknown, shards count from 0
        return BatchPart(
            x_BHWC=x_BHWC,
            bands=BandTensors.from_sensors(sensor),
            mask_BHW=torch.ones(x_BHWC.shape[:3], dtype=torch.bool),
            sample_id_B=self._first_id + index_B,
            instance_id_B=alone_B,
            group_B=alone_B,
            scene_id_B=self._first_scene + index_B,
            origin_B2=torch.zeros(len(x_BHWC), 2, dtype=torch.int64),
            label_B=torch.full_like(index_B, -1),
            domain_B=torch.full_like(index_B, domain),
            stem_B=torch.full_like(index_B, -1),  # of no acquisition, whatever its sensor is called
        )
