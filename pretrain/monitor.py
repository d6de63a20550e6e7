"""What is watched while training besides the loss: kNN and linear accuracy on labelled windows.

Shapes: N samples, D features, H W pixels, C bands.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.protocols.knn import vote
from downstream.protocols.ridge import left_out_classes
from pretrain.config import MonitorConfig
from pretrain.rng import permute
from pretrain.stems import StemRouter
from pretrain.views.plain import pooled
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.models.encoder import Encoder
from specfm.shards import ShardSet

log = logging.getLogger(__name__)

_CHUNK = 64
_FEWEST = 2  # labelled samples of a class below which it says nothing


@dataclass(frozen=True)
class _Domain:
    """Labelled samples of one domain: (shard, local ids) and, in the same order, what decides who may vote for whom."""

    name: str
    parts: list[tuple[int, NDArray[np.int64]]]
    label_N: NDArray[np.int64]
    classes: int
    allowed_NN: NDArray[np.bool_]

    @property
    def asked_N(self) -> NDArray[np.bool_]:
        """Queries that somebody of their class may vote for; the others would be wrong whatever the features."""
        return (self.allowed_NN & (self.label_N[:, None] == self.label_N[None])).any(1)

    @property
    def majority(self) -> float:
        """Share of the queries that are of their commonest class."""
        asked = self.label_N[self.asked_N]
        return float(np.bincount(asked).max() / len(asked))


class Monitor:
    """Leave-one-out kNN and ridge regression on the labelled samples of each domain, features of plain windows.

    A sample may vote, or teach the regression, if it neither overlaps nor touches the query and, where another group
    has the query's class, is none of the query's group: neighbouring windows share pixels and light, and counting them
    would measure memory.
    A query whose class nobody may vote for is not asked; a domain without queries has no score.

    Args:
        shards: Store with labels; domains without two classes, or without windows to compare, are left out.
        config: ``k``, ``max_samples``: cost and memory of an evaluation are bounded by it, however long the run.
        seed: Chooses the samples.
        route: Names the stem of each sample, where the shards are those of the run; default by the sensors' names.

    Attributes:
        before: scores of the encoder before its first step, told beside every later one; a checkpoint keeps them.
    """

    def __init__(self, shards: ShardSet, config: MonitorConfig, seed: int, route: StemRouter | None = None) -> None:
        self.shards, self.k, self.route = shards, config.k, route
        self.before: dict[str, float] = {}
        self.domains = [
            domain
            for name in shards.domain_names
            if (domain := _choose(shards, name, config.max_samples, seed)) is not None
        ]
        if not self.domains:
            log.info("no labelled windows of one class lie apart from each other; the monitor stays off")

    def start(self, encoder: Encoder, name: str) -> None:
        """Keep the scores of the encoder that a run begins with, as ``<name>/knn`` and ``<name>/linear``."""
        found = self(encoder)
        self.before = {f"{name}/{key}": found[key] for key in ("knn", "linear") if key in found}

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Accuracies; empty without labels.

        ``knn`` and ``linear`` are means over domains, ``knn/<domain>`` and ``linear/<domain>`` those of each;
        ``majority`` is what naming each domain's commonest class would score; and what is known of :attr:`before`.
        """
        if not self.domains:
            return {}
        training, scores = encoder.training, dict[str, float]()
        encoder.eval()
        try:
            for domain in self.domains:
                feature_ND = torch.cat([self._features(encoder, shard, ids) for shard, ids in domain.parts])
                asked_N = domain.asked_N
                for key, said_N in (("knn", self._voted(feature_ND, domain)), ("linear", _taught(feature_ND, domain))):
                    scores[f"{key}/{domain.name}"] = float((said_N == domain.label_N)[asked_N].mean())
        finally:
            encoder.train(training)
        means = {
            key: float(np.mean([scores[f"{key}/{domain.name}"] for domain in self.domains]))
            for key in ("knn", "linear")
        }
        majority = float(np.mean([domain.majority for domain in self.domains]))
        return {**means, "majority": majority, **self.before, **scores}

    def _voted(self, feature_ND: Tensor, domain: _Domain) -> NDArray[np.int64]:
        feature_ND = torch.nn.functional.normalize(feature_ND, dim=1)
        similarity_NN = (feature_ND @ feature_ND.T).cpu().numpy()
        similarity_NN[~domain.allowed_NN] = -np.inf
        k = min(self.k, len(similarity_NN) - 1)
        index_Nk = np.argsort(-similarity_NN, axis=1, kind="stable")[:, :k]
        nearest_Nk = np.take_along_axis(similarity_NN, index_Nk, axis=1)
        return vote(domain.label_N[index_Nk], nearest_Nk, domain.classes)

    def _features(self, encoder: Encoder, shard: int, ids: NDArray[np.int64]) -> Tensor:
        reader = self.shards.readers[shard]
        bands = BandTensors.from_sensors(reader.sensor)
        chunks = []
        for start in range(0, len(ids), _CHUNK):
            some = ids[start : start + _CHUNK]
            x_BHWC, mask_BHW = (torch.from_numpy(each) for each in reader.read(some))
            fields = {key: torch.from_numpy(value) for key, value in self.shards.describe(shard, some).items()}
            part = BatchPart(x_BHWC=x_BHWC, bands=bands, mask_BHW=mask_BHW, **fields)
            batch = Batch((part,)) if self.route is None else self.route(Batch((part,)))
            chunks.append(pooled(encoder, batch.to(encoder.device)).float())
        return torch.cat(chunks)


def _taught(feature_ND: Tensor, domain: _Domain) -> NDArray[np.int64]:
    return left_out_classes(feature_ND.double().cpu().numpy(), domain.label_N, domain.allowed_NN)


def _choose(shards: ShardSet, name: str, max_samples: int, seed: int) -> _Domain | None:
    """Labelled samples of a domain, classes as even as the labels allow; None if there is nothing to tell apart."""
    members = [index for index, domain in enumerate(shards.domains) if domain == name]
    class_names = sorted({label for index in members for label in shards.readers[index].label_names})
    shard_N, local_N, label_N = [], [], []
    for index in members:
        reader = shards.readers[index]
        raw = np.asarray(reader.label_N, np.int64)
        local = np.nonzero(raw >= 0)[0]
        # The same class may have another number in another shard; names decide, and numbers where there are none.
        table = np.array([class_names.index(label) for label in reader.label_names], np.int64)
        label_N.append(table[raw[local]] if len(table) else raw[local])
        local_N.append(local)
        shard_N.append(np.full(len(local), index))
    shard, local, label = np.concatenate(shard_N), np.concatenate(local_N), np.concatenate(label_N)
    counts = np.bincount(label) if len(label) else np.zeros(0, np.int64)
    usable = np.nonzero(counts >= _FEWEST)[0]
    if len(usable) < 2:
        return None
    order = permute(np.arange(len(label)), len(label), seed & 0xFFFFFFFF)
    rank_in_class = np.zeros(len(label), np.int64)
    for one in usable:
        where = np.nonzero(label == one)[0]
        rank_in_class[where[np.argsort(order[where])]] = np.arange(len(where))
    candidates = np.nonzero(np.isin(label, usable))[0]
    chosen = np.sort(candidates[np.lexsort((order[candidates], rank_in_class[candidates]))][:max_samples])
    shard, local, label = shard[chosen], local[chosen], label[chosen]  # sorted, so each shard's samples lie together
    parts = [(int(index), local[shard == index]) for index in np.unique(shard)]
    found = _Domain(name, parts, label, int(label.max()) + 1, _may_vote(shards, parts, label))
    return found if found.asked_N.any() else None


def _may_vote(
    shards: ShardSet, parts: list[tuple[int, NDArray[np.int64]]], label_N: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """allowed_NN: False for windows that meet (the sample itself too) and, if others have the class, the own group."""
    scene, row, col, high, wide, group = [], [], [], [], [], []
    for index, ids in parts:
        reader, fields = shards.readers[index], shards.describe(index, ids)
        scene.append(fields["scene_id_B"])
        row.append(fields["origin_B2"][:, 0])
        col.append(fields["origin_B2"][:, 1])
        high.append(np.full(len(ids), reader.window[0]))
        wide.append(np.full(len(ids), reader.window[1]))
        group.append(fields["group_B"])
    scene_N, row_N, col_N, high_N, wide_N, group_N = map(np.concatenate, (scene, row, col, high, wide, group))
    # Scenes of one group may show one ground (two dates) or one specimen.
    own_group = group_N[:, None] == group_N[None]
    near = own_group | (scene_N[:, None] == scene_N[None])
    near &= (row_N[:, None] <= (row_N + high_N)[None]) & (row_N[None] <= (row_N + high_N)[:, None])
    near &= (col_N[:, None] <= (col_N + wide_N)[None]) & (col_N[None] <= (col_N + wide_N)[:, None])
    elsewhere_N = (~near & ~own_group & (label_N[:, None] == label_N[None])).any(1)  # another group has the class
    return ~near & ~(own_group & elsewhere_N[:, None])
