"""Which samples a step uses: a pure function of (seed, step, global batch), with no state and no stream of random
numbers.

Every step is made of parts. A part comes from one shard (one window, one type, one band grid) and is split evenly
over ranks. A table of ``CYCLE`` steps, made once from the seed, says which domain and shard fill each slot and how
many samples of that shard were used before in the cycle; so the position in a shard's endless sequence of
permutations is known at any step in O(1), and the permutation itself is a function of its key (``pretrain.rng``):
nothing is stored, nothing is replayed.

Shapes: B samples of a part, S shards, M slots of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.rng import mix64, permute
from specfm.digests import digest_json, digest_parts
from specfm.errors import UsageError
from specfm.shards.shard_set import choose_domains

CYCLE = 4096
DEFAULT_DOMAINS_PER_BATCH = 6


class MixtureSampler:
    """Mixes domains at fixed counts; the same samples in the same global order for any number of ranks and threads.

    Args:
        sizes: samples per shard.
        domains: domain name per shard.
        global_batch: samples of a step over all ranks.
        seed: any integer.
        domain_weights: relative share per domain name (all domains, or those that differ from the default); 0 leaves
            one out. Default: square root of the domain's size, so that small domains are seen more often than their
            size says.
        domains_per_batch: slots M of a step; default all domains up to six. With more domains than slots a step takes
            a random subset, each domain as often as its weight says.
        divisor: every part's count is a multiple of it: a common multiple of the numbers of ranks that will ever be
            used.
        include: domains to keep.
        exclude: domains to leave out.
        keep: per shard, the local ids that may be used (None: all), such as the ids of the training groups.

    Raises:
        UsageError: batch, divisor and slots do not fit, or nothing is left to sample.

    Example:
        >>> sampler = MixtureSampler([100, 50], ["a", "b"], global_batch=16, seed=0, divisor=2)
        >>> [(shard, len(ids)) for shard, ids in sampler.batch(0)]
        [(0, 10), (1, 6)]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        domains: Sequence[str],
        global_batch: int,
        seed: int,
        domain_weights: dict[str, float] | None = None,
        domains_per_batch: int | None = None,
        divisor: int = 1,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        keep: Sequence[NDArray[np.integer[Any]] | None] | None = None,
    ) -> None:
        if len(sizes) != len(domains) or (keep is not None and len(keep) != len(sizes)):
            raise UsageError(
                f"{len(sizes)} shard sizes, {len(domains)} domains and {len(keep or sizes)} id filters do not agree"
            )
        if divisor < 1 or global_batch < 1 or global_batch % divisor:
            raise UsageError(
                f"batch {global_batch} is not a multiple of {divisor} (ranks must divide every part of a batch)"
            )
        self.global_batch, self.seed, self.divisor = int(global_batch), int(seed), int(divisor)
        self._keep = [None if keep is None or k is None else np.unique(np.asarray(k, np.int64)) for k in keep or sizes]
        self._sizes = [int(size) if ids is None else len(ids) for size, ids in zip(sizes, self._keep, strict=True)]
        for shard, (ids, size) in enumerate(zip(self._keep, sizes, strict=True)):
            if ids is not None and len(ids) and (ids[0] < 0 or ids[-1] >= size):
                raise UsageError(f"the id filter of shard {shard} leaves 0 to {size - 1}")
        shards: dict[str, list[int]] = {}
        for shard, (name, size) in enumerate(zip(domains, self._sizes, strict=True)):
            if size:
                shards.setdefault(name, []).append(shard)
        if not shards:
            raise UsageError("no sample is left to draw from; check the shards and the id filter")
        kept = choose_domains(sorted(shards), include, exclude)
        self.weights = _weights({name: sum(self._sizes[s] for s in shards[name]) for name in kept}, domain_weights)
        self.domain_names = sorted(self.weights)
        self._shards = {name: shards[name] for name in self.domain_names}
        slots = min(domains_per_batch or DEFAULT_DOMAINS_PER_BATCH, len(self.domain_names), global_batch // divisor)
        if domains_per_batch is not None and domains_per_batch < 1:
            raise UsageError(f"domains_per_batch is {domains_per_batch}; give 1 or more")
        asked = min(domains_per_batch or 1, len(self.domain_names))
        if asked > global_batch // divisor:
            raise UsageError(
                f"{asked} domains a batch (data.domains_per_batch), each with at least {divisor} samples, do not fit "
                f"data.global_batch {global_batch}; make it {asked * divisor} or more, or mix fewer domains"
            )
        self._plan(slots)

    # -- the table ---------------------------------------------------------------------------------------------------

    def _plan(self, slots: int) -> None:
        names, units = self.domain_names, self.global_batch // self.divisor
        weights = np.array([self.weights[name] for name in names])
        if slots == len(names):
            chosen = np.tile(np.arange(slots), (CYCLE, 1))
            counts = _apportion(weights, units)
        else:
            chosen = _subsets(_inclusion(weights, slots), slots, self.seed)
            counts = _apportion(np.ones(slots), units)
        self.counts = [int(count) * self.divisor for count in counts]
        self._shard_TM = np.zeros(chosen.shape, np.int64)
        for place, name in enumerate(names):
            rows, columns = np.nonzero(chosen == place)
            self._shard_TM[rows, columns] = self._share_out(self._shards[name], len(rows), place)
        used = np.zeros(len(self._sizes), np.int64)
        self._start_TM = np.zeros(chosen.shape, np.int64)
        for step in range(CYCLE):
            row = self._shard_TM[step]
            self._start_TM[step] = used[row]  # a shard fills at most one slot of a step: one domain, one slot
            used[row] += self.counts
        self._per_cycle = used
        self._epoch = self._epoch_lengths()

    def _share_out(self, shards: list[int], turns: int, place: int) -> NDArray[np.int64]:
        """Which shard serves each turn of a domain: in proportion to size, in an order shuffled by the seed."""
        if len(shards) == 1:
            return np.full(turns, shards[0])
        edges = np.cumsum([self._sizes[s] for s in shards]) / sum(self._sizes[s] for s in shards)
        order = permute(np.arange(turns), turns, mix64(self.seed, 1, place)) if turns else np.zeros(0, np.int64)
        picks = np.searchsorted(edges, (order + 0.5) / max(turns, 1), side="right")
        return np.asarray(shards)[np.minimum(picks, len(shards) - 1)]

    def _epoch_lengths(self) -> NDArray[np.int64]:
        """Samples of one pass over each shard. Where a shard always gives the same count, the incomplete last part of
        a pass is dropped (another one in each pass), so that no part straddles two passes and holds a sample twice."""
        lengths = np.array(self._sizes, np.int64)
        counts = np.array(self.counts)
        for shard in np.unique(self._shard_TM):
            seen = np.unique(counts[np.nonzero(self._shard_TM == shard)[1]])
            if len(seen) == 1 and seen[0] <= lengths[shard]:
                lengths[shard] = lengths[shard] // seen[0] * seen[0]
        return lengths

    # -- the answer --------------------------------------------------------------------------------------------------

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[tuple[int, NDArray[np.int64]]]:
        """Parts of a step: (shard index, local ids [B]); with ``world`` ranks, this rank's equal and contiguous share
        of each.

        Raises:
            UsageError: a part cannot be split evenly over ``world``.
        """
        if step < 0:
            raise UsageError(f"steps count from 0, got {step}")
        self.check_world(world)
        turn, row = divmod(step, CYCLE)
        parts = []
        for slot, count in enumerate(self.counts):
            shard = int(self._shard_TM[row, slot])
            share = count // world
            start = turn * int(self._per_cycle[shard]) + int(self._start_TM[row, slot]) + rank * share
            parts.append((shard, self._sequence(shard, start, share)))
        return parts

    def check_world(self, world: int) -> None:
        """Raise :class:`UsageError` unless every part splits evenly over ``world`` ranks."""
        if uneven := [count for count in self.counts if count % world]:
            raise UsageError(
                f"a part of {uneven[0]} samples does not split over {world} ranks; set divisor to a multiple of {world}"
            )

    def repeats(self) -> dict[str, tuple[int, int]]:
        """Domains with a shard that a step draws more from than it holds: samples drawn and held, where it is worst."""
        counts, found = np.array(self.counts), {}
        for name in self.domain_names:
            for shard in sorted(self._shards[name], key=lambda shard: -self._sizes[shard]):
                used = (self._shard_TM == shard).any(0)
                if used.any() and counts[used].max() > self._sizes[shard]:
                    found[name] = (int(counts[used].max()), self._sizes[shard])
        return found

    def _sequence(self, shard: int, start: int, count: int) -> NDArray[np.int64]:
        position = np.arange(start, start + count, dtype=np.int64)
        epoch, index = np.divmod(position, self._epoch[shard])
        ids = permute(index, self._sizes[shard], mix64(self.seed, 2, shard, epoch.astype(np.uint64)))
        keep = self._keep[shard]
        return ids if keep is None else keep[ids]

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which as many samples were drawn as there are."""
        total = sum(self._sizes[s] for name in self.domain_names for s in self._shards[name])
        return max(1, total // self.global_batch)

    def state(self) -> dict[str, Any]:
        """JSON-safe description for checkpoints: with it (and the shards' fingerprint) the sequence is fixed."""
        kept = digest_parts(b"-" if k is None else k for k in self._keep)
        return {
            "kind": "mixture-1",
            "seed": self.seed,
            "global_batch": self.global_batch,
            "divisor": self.divisor,
            "counts": self.counts,
            "sizes": self._sizes,
            "weights": self.weights,
            "keep": kept,
        }

    @property
    def digest(self) -> str:
        """16 hex digits of :meth:`state`."""
        return digest_json(self.state())


def _weights(sizes: dict[str, int], given: dict[str, float] | None) -> dict[str, float]:
    given = dict(given or {})
    if unknown := sorted(set(given) - set(sizes)):
        raise UsageError(f"weights name no known domain: {', '.join(unknown)}; there are {', '.join(sorted(sizes))}")
    if bad := [name for name, weight in given.items() if not 0 <= weight < float("inf")]:
        raise UsageError(f"the weight of domain {bad[0]} is {given[bad[0]]}; give a number of 0 or more")
    raw = {name: float(given.get(name, size**0.5)) for name, size in sizes.items()}
    total = sum(raw.values())
    if total <= 0:
        raise UsageError("every domain has weight 0")
    return {name: weight / total for name, weight in raw.items() if weight > 0}


def _apportion(weights: NDArray[np.float64], units: int) -> NDArray[np.int64]:
    """``units`` shared out by weight (largest remainder), at least one each."""
    counts = np.ones(len(weights), np.int64)
    ideal = weights / weights.sum() * units
    counts = np.maximum(counts, np.floor(ideal).astype(np.int64))
    while counts.sum() > units:  # the ones given to tiny weights are taken from those most above their share
        over = np.where(counts > 1, counts - ideal, -np.inf)
        counts[int(np.argmax(over))] -= 1
    rest = units - int(counts.sum())
    for place in np.argsort(counts - ideal, kind="stable")[:rest]:
        counts[place] += 1
    return counts


def _inclusion(weights: NDArray[np.float64], slots: int) -> NDArray[np.float64]:
    """Chance of each domain to be in a step: ``slots`` times its weight, at most 1, the excess given to the others."""
    chance = np.zeros(len(weights))
    free = np.ones(len(weights), bool)
    while True:
        share = weights * free / (weights * free).sum() * (slots - (~free).sum())
        over = free & (share >= 1)
        if not over.any():
            chance[free] = share[free]
            return chance
        chance[over], free[over] = 1.0, False


def _subsets(chance: NDArray[np.float64], slots: int, seed: int) -> NDArray[np.int64]:
    """[CYCLE, slots] domains: systematic sampling over a list shuffled at every step, at stratified starting points."""
    start = (permute(np.arange(CYCLE), CYCLE, mix64(seed, 3)) + 0.5) / CYCLE
    chosen = np.zeros((CYCLE, slots), np.int64)
    for step in range(CYCLE):
        order = np.argsort(mix64(seed, 4, step, np.arange(len(chance), dtype=np.uint64)), kind="stable")
        edges = np.cumsum(chance[order])
        edges *= slots / edges[-1]
        picks = np.searchsorted(edges, start[step] + np.arange(slots), side="right")
        chosen[step] = order[np.minimum(picks, len(chance) - 1)]
    return chosen
