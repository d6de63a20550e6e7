"""Distillation without a teacher: peers learn together with the model, which alone is deployed.

Peers have the model's architecture and first weights of their own; the first ``share`` stages may be one for all.

Shapes: A peers, B windows, K classes, D width, E of queries and keys.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from downstream.compress import losses
from downstream.compress.objectives import Objective, look
from downstream.supervised.model import TaskModel
from downstream.supervised.views import View
from specfm.errors import UsageError
from specfm.models.backbone import AnyEncoder, Backbone
from specfm.models.registry import fresh_like

Online = Literal["mutual", "one", "okddip"]
QUERIES = 8  # width of OKDDip's queries and keys


def stages(encoder: AnyEncoder) -> list[tuple[nn.Module, str]]:
    """The parts of a network from image to features, each as (holder, name): what peers can share."""
    if not isinstance(encoder, Backbone):
        return [(encoder.blocks, str(number)) for number in range(len(encoder.blocks))]
    found: list[tuple[nn.Module, str]] = []
    for name, child in encoder.net.named_children():
        inner = [(child, own) for own, _ in child.named_children()]
        found += inner if isinstance(child, (nn.Sequential, nn.ModuleList)) else [(encoder.net, name)]
    return [(holder, name) for holder, name in found if any(True for _ in getattr(holder, name).parameters())]


def make_peer(model: TaskModel, share: int, seed: int) -> TaskModel:
    """A model like another with first weights of its own, whose first ``share`` stages are the other's.

    Args:
        model: is not changed.
        share: 0: nothing is shared. Of an encoder of ours what precedes its blocks goes with the first.
        seed: of the weights.

    Raises:
        UsageError: more stages than there are to share.
    """
    most = len(stages(model.encoder)) - 1
    if not 0 <= share <= most:
        raise UsageError(f"share is {share}; of this network peers can share 0 to {most} stages")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = fresh_like(model.encoder)
        peer = TaskModel(encoder, model.task, model.label_names, model.tile, model.spec, level=model.level)
    peer = peer.to(model.device)
    peer.standardise = model.standardise
    if share and not isinstance(encoder, Backbone):
        for name, child in model.encoder.named_children():
            if name not in ("blocks", "norm"):
                setattr(encoder, name, child)
    for (holder, name), (theirs, _) in list(zip(stages(encoder), stages(model.encoder), strict=True))[:share]:
        setattr(holder, name, getattr(theirs, name))
    return peer


class Peers(Objective):
    """The model as group leader, and ``peers - 1`` others that are trained along.

    * ``mutual``: deep mutual learning (arXiv 1706.00384): CE of each and KL to each other.
    * ``one``: a gate mixes the scores of all into a teacher that learns the labels (Lan et al. 2018, arXiv 1806.04606):
      ``sum CE(z_i) + CE(z_e) + sum KL_T(z_i || z_e)``.
    * ``okddip``: Chen et al. 2020, arXiv 1912.00350: auxiliary peers learn from mixtures of each other that attention
      makes of their scores, and the leader from the mean of theirs::

          sum_a CE(z_a) + CE(z_GL) + alpha w(t) [ sum_a KL_T(z_a || z~_a) + KL_T(z_GL || mean_a z_a) ]

      The gradient of a mixture goes into its weights, that is queries and keys, not into the scores mixed.

    Args:
        model: the leader.
        how: one of the three.
        peers: networks in all, the leader included.
        share: stages that are one for all, see :func:`make_peer`.
        temperature: T.
        alpha: weight of the distillation.
        ramp_steps: over which it rises (:func:`downstream.compress.losses.ramp_up`); 0: at once.
        seed: of the peers' first weights.

    Raises:
        UsageError: fewer peers than the method needs, or more to share than there is.
    """

    def __init__(
        self, model: TaskModel, how: Online, *, peers: int = 3, share: int = 0, temperature: float = 3.0,
        alpha: float = 1.0, ramp_steps: int = 0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        least = 3 if how == "okddip" else 2
        if peers < least:
            raise UsageError(f"{how} needs at least {least} peers, the leader included, not {peers}")
        self.how, self.temperature, self.alpha, self.ramp_steps = how, temperature, alpha, ramp_steps
        self.others = nn.ModuleList(make_peer(model, share, seed + number) for number in range(1, peers))
        width = model.standardise.mean_LD.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.gate = nn.Linear(width, peers) if how == "one" else None
            self.query = nn.Linear(width, QUERIES, bias=False) if how == "okddip" else None
            self.key = nn.Linear(width, QUERIES, bias=False) if how == "okddip" else None

    def forward(self, model: TaskModel, view: View, y_B: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(loss, scores ``[B, K]`` of the leader)."""
        seen = [look(each, view) for each in (model, *self.others)]  # type: ignore[arg-type]
        scores_ABK = torch.stack([each.scores_BK for each in seen])
        features_ABD = torch.stack([each.pooled_BD for each in seen])
        labels = torch.stack([F.cross_entropy(scores_BK, y_B) for scores_BK in scores_ABK]).sum()
        weight = self.alpha * (losses.ramp_up(step, self.ramp_steps) if self.ramp_steps else 1.0)
        return labels + self._together(scores_ABK, features_ABD, y_B, weight), scores_ABK[0]

    def _together(self, scores_ABK: Tensor, features_ABD: Tensor, y_B: Tensor, weight: float) -> Tensor:
        """What is learnt from each other."""
        temperature = self.temperature
        if self.gate is not None:
            share_BA = self.gate(features_ABD[0]).softmax(-1)
            teacher_BK = torch.einsum("ba,abk->bk", share_BA, scores_ABK)
            each = [losses.softened_kl(scores_BK, teacher_BK.detach(), temperature) for scores_BK in scores_ABK]
            return F.cross_entropy(teacher_BK, y_B) + weight * torch.stack(each).sum()
        if self.query is not None and self.key is not None:
            own_ABK, x_ABD = scores_ABK[1:], features_ABD[1:]
            target_ABK = losses.peer_targets(own_ABK.detach(), self.query(x_ABD), self.key(x_ABD))
            each = [losses.softened_kl(*pair, temperature) for pair in zip(own_ABK, target_ABK, strict=True)]
            leader = losses.softened_kl(scores_ABK[0], own_ABK.detach().mean(0), temperature)
            return weight * (torch.stack(each).sum() + leader)
        return weight * losses.mutual(scores_ABK, temperature)
