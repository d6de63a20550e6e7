"""Which negatives of NT-Xent are false: the same instance, overlapping windows, or the same material by their spectra.

Or near, in a metric measured before training, where samples are paired by it; and, if asked for, of another domain.

In a homogeneous scene most negatives of a window are the same material. Each reason can be switched; what is excluded
(or down-weighted) per anchor is capped, because a fixed cosine threshold would take .24 of the pairs of one real scene
and .92 of another. Rules work on the raw windows, not on their views, and are gathered across ranks like the features.

Shapes: B local samples, N samples over all ranks (rank-major), R rows and C columns of a tile of samples.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from pretrain.objectives.collect import all_gather, world
from pretrain.objectives.config import NegativesConfig
from pretrain.objectives.descriptors import CommonCosine, describe
from pretrain.pairs.pairing import Pairs
from pretrain.rng import Keys
from specfm.batch import Batch

UNKNOWN_INSTANCE = -1
_SURE = 3.0  # added to the score of pairs known by their ids: they go before any cosine
_TILE = 512
_KEPT = 1 << 20  # scores of at most this many pairs (8 MB) are kept between the passes instead of computed again


def build_rule(pairs: Pairs, config: NegativesConfig, gather: bool = True) -> FalseNegatives | None:
    """The rule for this rank's samples (as stored, before views), in their order; None if inactive.

    Collective: with ``gather`` every rank must call it, with the same number of samples.
    """
    return FalseNegatives(pairs, config, gather) if config.touches(pairs) else None


class FalseNegatives:
    """The rule :func:`pretrain.objectives.nt_xent.nt_xent` asks for weights, tile by tile.

    Attributes:
        stats: shares of the possible negatives, averaged over all anchors of all ranks: touched by each reason alone
            (before the cap), touched in the end (``excluded``), and the share of anchors at the cap (``capped``).
    """

    def __init__(self, pairs: Pairs, config: NegativesConfig, gather: bool = True):
        self.config = config
        batch = pairs.first
        rank, size = world() if gather else (0, 1)

        def shared(local: Tensor) -> Tensor:
            return all_gather(local) if size > 1 else local

        own = (batch,) if pairs.second is batch else pairs.sides
        self.sides = [_Side(shared(_ids(side))) for side in own]
        sample_N, self.domain_N = shared(torch.stack([batch.cat("sample_id_B"), batch.cat("domain_B")]).T).T
        self.near: list[Tensor] = []
        if config.near and (near := pairs.nearness) is not None:
            self.near = [shared(each) for each in (near.first_BE, near.second_BE, near.radius_B, near.space_B)]
        self.cosine: CommonCosine | None = None
        if config.spectral:
            spectrum_BJ, covered_BJ = describe(batch)
            self.cosine = CommonCosine.of(
                shared(spectrum_BJ), shared(covered_BJ), config.min_common_share, config.min_common_bins
            )
        # equal scores are told apart by sample, so that the cap need not drop or take all of a tie
        self.jitter_N = 1e-9 * Keys.of(sample_N, 0, 0, 0).uniform("tie")
        count = len(batch)
        self._kept: tuple[int, int, Tensor] | None = None
        cap_B, stats = self._caps(rank * count, (rank + 1) * count)
        self.cap_N = shared(cap_B)
        self.stats = {
            f"negatives/{name}": value for name, value in zip(_STATS, shared(stats[None]).mean(0).tolist(), strict=True)
        }

    def __len__(self) -> int:
        return len(self.domain_N)

    def pair(self, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
        """Weights (float32, (R, C)) of c as a negative of anchor r, and of r as a negative of anchor c."""
        if self._kept is not None and self._kept[0] <= rows.start and rows.stop <= self._kept[1]:
            first = self._kept[0]
            score_RC = self._kept[2][rows.start - first : rows.stop - first, cols]
        else:
            score_RC = self._scores(rows, cols)[0]
        light = 0.0 if self.config.mode == "exclude" else self.config.weight
        by_row = torch.where(score_RC + self.jitter_N[cols] > self.cap_N[rows, None], light, 1.0)
        by_col = torch.where(score_RC + self.jitter_N[rows, None] > self.cap_N[cols], light, 1.0)
        if self.config.within == "domain":
            alike_RC = self.domain_N[rows, None] == self.domain_N[cols]
            by_row, by_col = by_row * alike_RC, by_col * alike_RC
        return by_row.float(), by_col.float()

    def _scores(self, rows: slice, cols: slice) -> tuple[Tensor, list[Tensor]]:
        """Score of each pair (float64; -inf = a true negative, or the sample itself) and a mask per reason."""
        config = self.config
        index = torch.arange(len(self), device=self.domain_N.device)
        other_RC = index[rows, None] != index[cols]
        nothing_RC = torch.zeros_like(other_RC)
        instance_RC = overlap_RC = near_RC = spectral_RC = nothing_RC
        score_RC = torch.zeros(other_RC.shape, dtype=torch.float64, device=other_RC.device)
        for one, two in product(self.sides, repeat=2):
            if config.same_instance:
                instance_RC = instance_RC | (other_RC & one.same_instance(rows, two, cols))
            if config.overlap:
                overlap_RC = overlap_RC | (other_RC & one.overlaps(rows, two, cols))
        if self.cosine is not None:
            score_RC, comparable_RC = self.cosine.tile(rows, cols)
            spectral_RC = other_RC & comparable_RC & (score_RC > config.cosine)
        base_RC, score_RC = score_RC, torch.where(spectral_RC, score_RC, -torch.inf)
        if self.near:
            first_NE, second_NE, radius_N, space_N = self.near
            tiles = [torch.cdist(first_NE[rows], side_NE[cols]) for side_NE in (first_NE, second_NE)]
            distance_RC = torch.minimum(torch.minimum(*tiles), torch.cdist(second_NE[rows], first_NE[cols]))
            near_RC = other_RC & (space_N[rows, None] == space_N[cols])
            near_RC = near_RC & (distance_RC < torch.maximum(radius_N[rows, None], radius_N[cols]))
            score_RC = torch.where(near_RC, 1 + 1 / (1 + distance_RC.double()), score_RC)
        sure_RC = instance_RC | overlap_RC
        score_RC = torch.where(sure_RC, base_RC + _SURE, score_RC)
        if config.within == "domain":  # others weigh nothing anyway
            score_RC = torch.where(self.domain_N[rows, None] == self.domain_N[cols], score_RC, -torch.inf)
        return score_RC, [instance_RC, overlap_RC, near_RC, spectral_RC]

    def _caps(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Per local anchor the score that a pair must exceed to be touched, and the figures of :data:`_STATS`."""
        total = len(self)
        caps, kept = [], []
        sums = torch.zeros(len(_STATS), dtype=torch.float64, device=self.domain_N.device)
        every = slice(0, total)
        for first in range(start, stop, _TILE):
            rows = slice(first, min(first + _TILE, stop))
            score_RN, reasons = self._scores(rows, every)
            if (stop - start) * total <= _KEPT:
                kept.append(score_RN)
            score_RN = score_RN + self.jitter_N
            if self.config.within == "domain":
                others_R = (self.domain_N[rows, None] == self.domain_N).sum(1) - 1
                cap_R = _caps_by_row(score_RN, (self.config.max_share * others_R + 1e-9).long())
            else:
                cap_R = _caps_alike(score_RN, int(self.config.max_share * (total - 1) + 1e-9))
            caps.append(cap_R)
            touched = (score_RN > cap_R[:, None]).sum()
            sums += torch.stack([*(r.sum() for r in reasons), touched, cap_R.isfinite().sum() * (total - 1)])
        if kept:
            self._kept = (start, stop, torch.cat(kept))
        return torch.cat(caps), sums / max((stop - start) * (total - 1), 1)


_STATS = ("same_instance", "overlap", "near", "spectral", "excluded", "capped")


def _caps_alike(score_RN: Tensor, allowed: int) -> Tensor:
    """The score above which at most ``allowed`` of each row lie: half-way between the last that may be touched and the
    next, so that no rounding tips a pair over it."""
    total = score_RN.shape[1]
    cap_R = score_RN.kthvalue(total - allowed, dim=1).values
    if not allowed:
        return torch.full_like(cap_R, torch.inf)
    return (cap_R + score_RN.kthvalue(total - allowed + 1, dim=1).values) / 2


def _caps_by_row(score_RN: Tensor, allowed_R: Tensor) -> Tensor:
    """As :func:`_caps_alike`, with a number of its own for each row."""
    falling_RN = score_RN.sort(dim=1, descending=True).values
    next_R = falling_RN.gather(1, allowed_R[:, None])[:, 0]
    last_R = falling_RN.gather(1, (allowed_R - 1).clamp_min(0)[:, None])[:, 0]
    return torch.where(allowed_R > 0, (next_R + last_R) / 2, torch.inf)


class _Side:
    """Where the samples of one side of all pairs come from."""

    def __init__(self, ids_N6: Tensor) -> None:
        self.instance_N, self.scene_N = ids_N6[:, 0], ids_N6[:, 1]
        self.low_N2, self.high_N2 = ids_N6[:, 2:4], ids_N6[:, 2:4] + ids_N6[:, 4:6]

    def same_instance(self, rows: slice, other: _Side, cols: slice) -> Tensor:
        """(R, C): one instance, and known to be."""
        known_C = other.instance_N[cols] != UNKNOWN_INSTANCE
        return known_C & (self.instance_N[rows, None] == other.instance_N[cols])

    def overlaps(self, rows: slice, other: _Side, cols: slice) -> Tensor:
        """(R, C): windows of one scene that share a pixel."""
        inside = self.low_N2[rows, None] < other.high_N2[cols]
        inside = inside & (other.low_N2[cols] < self.high_N2[rows, None])
        return inside.all(-1) & (self.scene_N[rows, None] == other.scene_N[cols])


def _ids(batch: Batch) -> Tensor:
    """(B, 6): instance, scene, first row and column, rows and columns of each window."""
    size_B2 = torch.cat([torch.full_like(p.origin_B2, 1) * _sides(p.x_BHWC) for p in batch])
    fields = [batch.cat("instance_id_B"), batch.cat("scene_id_B")]
    return torch.cat([torch.stack(fields, 1), batch.cat("origin_B2"), size_B2], dim=1).long()


def _sides(x_BHWC: Tensor) -> Tensor:
    return torch.tensor(x_BHWC.shape[1:3], device=x_BHWC.device)
