"""Which negatives of NT-Xent are false: the same instance, overlapping windows, or the same material by their spectra.

In a homogeneous scene most negatives of a window are the same material. Each reason can be switched; what is excluded
(or down-weighted) per anchor is capped, because a fixed cosine threshold would take .24 of the pairs of one real scene
and .92 of another. Rules work on the raw windows, not on their views, and are gathered across ranks like the features.

Shapes: B local samples, N samples over all ranks (rank-major), R rows and C columns of a tile of samples.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pretrain.objectives.collect import all_gather, world
from pretrain.objectives.descriptors import CommonCosine, describe
from pretrain.rng import Keys
from specfm.batch import Batch
from specfm.config import Strict

UNKNOWN_INSTANCE = -1
_SURE = 3.0  # added to the score of pairs known by their ids: they go before any cosine
_TILE = 512
_KEPT = 1 << 20  # scores of at most this many pairs (8 MB) are kept between the passes instead of computed again


class NegativesConfig(Strict):
    """Which pairs are no true negatives.

    Attributes:
        same_instance: pairs of one ``instance_id`` (window neighbourhood, specimen).
        overlap: pairs of windows that share a pixel of one scene.
        spectral: pairs whose raw mean spectra have a cosine above ``cosine`` on their common covered range.
        min_common_share, min_common_bins: how much common range a comparison of spectra needs, as a share of the
            smaller coverage and in bins of 4 % width; less, and spectra exclude nothing.
        max_share: at most this share of an anchor's negatives is touched, the most certain and most similar first.
        mode: ``exclude`` or ``downweight`` (by ``weight``).
    """

    same_instance: bool = True
    overlap: bool = True
    spectral: bool = True
    cosine: float = Field(default=0.99, ge=-1.0, le=1.0)
    min_common_share: float = Field(default=0.5, ge=0.0, le=1.0)
    min_common_bins: int = Field(default=8, ge=1)
    max_share: float = Field(default=0.5, ge=0.0, le=1.0)
    mode: Literal["exclude", "downweight"] = "exclude"
    weight: float = Field(default=0.1, ge=0.0, le=1.0)

    @property
    def active(self) -> bool:
        """Whether any pair could be touched."""
        return (self.same_instance or self.overlap or self.spectral) and self.max_share > 0


def build_rule(batch: Batch, config: NegativesConfig, gather: bool = True) -> FalseNegatives | None:
    """The rule for the samples of this rank's raw batch (as stored, before views), in its order; None if inactive.

    Collective: with ``gather`` every rank must call it, with the same number of samples.
    """
    return FalseNegatives(batch, config, gather) if config.active else None


class FalseNegatives:
    """The rule :func:`pretrain.objectives.nt_xent.nt_xent` asks for weights, tile by tile.

    Attributes:
        stats: shares of the possible negatives, averaged over all anchors of all ranks: touched by each reason alone
            (before the cap), touched in the end (``excluded``), and the share of anchors at the cap (``capped``).
    """

    def __init__(self, batch: Batch, config: NegativesConfig, gather: bool = True):
        self.config = config
        rank, size = world() if gather else (0, 1)

        def shared(local: Tensor) -> Tensor:
            return all_gather(local) if size > 1 else local

        size_B2 = torch.cat([torch.full_like(p.origin_B2, 1) * _sides(p.x_BHWC) for p in batch])
        fields = [batch.cat("instance_id_B"), batch.cat("scene_id_B"), batch.cat("sample_id_B")]
        ids_B7 = shared(torch.cat([torch.stack(fields, 1), batch.cat("origin_B2"), size_B2], dim=1).long())
        self.instance_N, self.scene_N, sample_N = ids_B7[:, 0], ids_B7[:, 1], ids_B7[:, 2]
        self.low_N2, self.high_N2 = ids_B7[:, 3:5], ids_B7[:, 3:5] + ids_B7[:, 5:7]
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
        return len(self.instance_N)

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
        return by_row.float(), by_col.float()

    def _scores(self, rows: slice, cols: slice) -> tuple[Tensor, list[Tensor]]:
        """Score of each pair (float64; -inf = a true negative, or the sample itself) and a mask per reason."""
        config = self.config
        index = torch.arange(len(self), device=self.instance_N.device)
        other_RC = index[rows, None] != index[cols]
        nothing_RC = torch.zeros_like(other_RC)
        instance_RC = overlap_RC = spectral_RC = nothing_RC
        score_RC = torch.zeros(other_RC.shape, dtype=torch.float64, device=other_RC.device)
        if config.same_instance:
            known_C = self.instance_N[cols] != UNKNOWN_INSTANCE
            instance_RC = other_RC & known_C & (self.instance_N[rows, None] == self.instance_N[cols])
        if config.overlap:
            inside = self.low_N2[rows, None] < self.high_N2[cols]
            inside = inside & (self.low_N2[cols] < self.high_N2[rows, None])
            overlap_RC = other_RC & inside.all(-1) & (self.scene_N[rows, None] == self.scene_N[cols])
        if self.cosine is not None:
            score_RC, comparable_RC = self.cosine.tile(rows, cols)
            spectral_RC = other_RC & comparable_RC & (score_RC > config.cosine)
        sure_RC = instance_RC | overlap_RC
        score_RC = torch.where(sure_RC, score_RC + _SURE, torch.where(spectral_RC, score_RC, -torch.inf))
        return score_RC, [instance_RC, overlap_RC, spectral_RC]

    def _caps(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Per local anchor the score that a pair must exceed to be touched, and the figures of :data:`_STATS`."""
        total = len(self)
        allowed = int(self.config.max_share * (total - 1) + 1e-9)
        caps, kept = [], []
        sums = torch.zeros(len(_STATS), dtype=torch.float64, device=self.instance_N.device)
        every = slice(0, total)
        for first in range(start, stop, _TILE):
            rows = slice(first, min(first + _TILE, stop))
            score_RN, reasons = self._scores(rows, every)
            if (stop - start) * total <= _KEPT:
                kept.append(score_RN)
            score_RN = score_RN + self.jitter_N
            # half-way between the last score that may be touched and the next: no rounding tips a pair over it
            cap_R = score_RN.kthvalue(total - allowed, dim=1).values
            if allowed:
                cap_R = (cap_R + score_RN.kthvalue(total - allowed + 1, dim=1).values) / 2
            else:
                cap_R = torch.full_like(cap_R, torch.inf)
            caps.append(cap_R)
            touched = (score_RN > cap_R[:, None]).sum()
            sums += torch.stack([*(r.sum() for r in reasons), touched, cap_R.isfinite().sum() * (total - 1)])
        if kept:
            self._kept = (start, stop, torch.cat(kept))
        return torch.cat(caps), sums / max((stop - start) * (total - 1), 1)


_STATS = ("same_instance", "overlap", "spectral", "excluded", "capped")


def _sides(x_BHWC: Tensor) -> Tensor:
    return torch.tensor(x_BHWC.shape[1:3], device=x_BHWC.device)
