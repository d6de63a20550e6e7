"""A pairing tells, for the samples of a step, which samples their second views are made of.

Like all that decides a batch it is a function of (seed, step, sample): the same for any number of ranks, after any
interruption. A pairing of other samples reads them like any others: :class:`PairedSampler` asks the loader for both
sides as parts of one batch.

Shapes: B samples, E components of a descriptor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.sampler import MixtureSampler
from specfm.batch import Batch

Parts = list[tuple[int, NDArray[np.int64]]]  # (shard, local ids)


@dataclass(frozen=True)
class Nearness:
    """What is known of how alike samples are, before any training.

    Attributes:
        first_BE: descriptors of the first sides; NaN where nothing is known, so that nothing is near.
        second_BE: descriptors of the second sides.
        radius_B: a sample that is nearer to a first one is as good as its partner, so no negative of it.
        space_B: descriptors of one number can be compared.
    """

    first_BE: Tensor
    second_BE: Tensor
    radius_B: Tensor
    space_B: Tensor

    def select(self, start: int, stop: int) -> Nearness:
        """Samples ``start`` to ``stop``."""
        return Nearness(*(getattr(self, each.name)[start:stop] for each in fields(self)))


@dataclass(frozen=True)
class Pairs:
    """The samples of a step as stored.

    Attributes:
        first: what the first views are views of.
        second: what the second views are of, in the same order; the same object where both are of the sample. It bears
            the sample ids of the first, so that a crop is of one place where both show one ground.
        nearness: None where nothing was measured.
    """

    first: Batch
    second: Batch
    nearness: Nearness | None = None

    @classmethod
    def of(cls, batch: Batch) -> Pairs:
        """Both views of the sample itself."""
        return cls(batch, batch)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def sides(self) -> tuple[Batch, Batch]:
        """First and second."""
        return self.first, self.second

    def select(self, start: int, stop: int) -> Pairs:
        """Pairs ``start`` to ``stop`` (micro-batches)."""
        first = self.first.select(start, stop)
        second = first if self.second is self.first else self.second.select(start, stop)
        return Pairs(first, second, None if self.nearness is None else self.nearness.select(start, stop))


def joined(one: Pairs, other: Pairs) -> Pairs:
    """The samples of both; those of ``other`` are near to none."""
    nearness = one.nearness
    if nearness is not None:
        count = len(other)
        unknown_BE = nearness.first_BE.new_full((count, nearness.first_BE.shape[1]), torch.nan)
        nearness = Nearness(
            torch.cat([nearness.first_BE, unknown_BE]),
            torch.cat([nearness.second_BE, unknown_BE]),
            torch.cat([nearness.radius_B, nearness.radius_B.new_zeros(count)]),
            torch.cat([nearness.space_B, nearness.space_B.new_full((count,), -1)]),
        )
    first, second = (Batch(a.parts + b.parts) for a, b in zip(one.sides, other.sides, strict=True))
    return Pairs(first, second, nearness)


class Pairing(Protocol):
    """How samples are paired."""

    def start(self) -> None:
        """Work out what it needs from the data, once, before the first step. Collective."""
        return

    def partners(self, step: int, shard: int, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and local id of the partner of each sample at a step."""
        ...

    def nearness(self, pairs: Pairs) -> Nearness | None:
        """What it knows of the samples of a step; by default nothing."""
        return None


class PairedSampler:
    """A sampler whose steps hold both sides of every pair, first sides first; see :meth:`pair`.

    Args:
        sampler: who is drawn.
        pairing: None pairs each sample with itself.
    """

    def __init__(self, sampler: MixtureSampler, pairing: Pairing | None) -> None:
        self.sampler, self.pairing = sampler, pairing

    def check_world(self, world: int) -> None:
        """As the sampler's."""
        self.sampler.check_world(world)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Parts:
        """Parts of a step on this rank."""
        parts = self.sampler.batch(step, rank, world)
        if self.pairing is None:
            return parts
        first: Parts = []
        second: Parts = []
        for shard, ids in parts:
            shard_B, id_B = self.pairing.partners(step, shard, ids)
            for other in np.unique(shard_B):  # a part holds samples of one shard, on either side
                mine_B = shard_B == other
                first.append((shard, ids[mine_B]))
                second.append((int(other), id_B[mine_B]))
        return first + second

    def pair(self, batch: Batch) -> Pairs:
        """The pairs of a batch that was read by the parts of :meth:`batch`."""
        if self.pairing is None:
            return Pairs.of(batch)
        half = len(batch.parts) // 2
        pairs = Pairs(Batch(batch.parts[:half]), Batch(batch.parts[half:]))
        second = (b.replace(sample_id_B=a.sample_id_B) for a, b in zip(pairs.first, pairs.second, strict=True))
        return replace(pairs, second=Batch(tuple(second)), nearness=self.pairing.nearness(pairs))

    def state(self) -> dict[str, Any]:
        """As the sampler's."""
        return self.sampler.state()
