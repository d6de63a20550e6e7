"""Objectives of distillation as formulas: from scores and features of student and teacher to a number.

Shapes: B samples, K classes, N tokens, D width, A peers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL = 1e-12


def softened_kl(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, mean over samples (Hinton et al., arXiv 1503.02531).

    Args:
        student_BK: scores before the softmax.
        teacher_BK: likewise; detach it where no gradient is to go into it.
        temperature: T.
    """
    log_student = F.log_softmax(student_BK / temperature, -1)
    log_teacher = F.log_softmax(teacher_BK / temperature, -1)
    return temperature**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def hint(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean squared difference of features of one width (Romero et al. 2015, FitNets, arXiv 1412.6550, eq. 3)."""
    return F.mse_loss(student_BD, teacher_BD)


def relational(student_BD: Tensor, teacher_BE: Tensor) -> Tensor:
    """``RKD-D + 2 RKD-A``: distances and angles among the samples of a batch (Park et al., arXiv 1904.05068, eqs. 4-8).

    Both are Huber losses (delta 1): of distances over their mean, and of cosines of the angles of all triplets. Widths
    may differ.
    """
    distance = F.smooth_l1_loss(_distances(student_BD), _distances(teacher_BE))
    return distance + 2 * F.smooth_l1_loss(_angles(student_BD), _angles(teacher_BE))


def _distances(x_BD: Tensor) -> Tensor:
    """Euclidean distances of all pairs over their mean (of those that are not zero)."""
    squared_BB = ((x_BD[:, None] - x_BD[None]) ** 2).sum(-1)
    distance_BB = torch.where(squared_BB > SMALL, squared_BB.clamp_min(SMALL).sqrt(), 0.0)
    apart = distance_BB > 0
    return distance_BB / (distance_BB.sum() / apart.sum().clamp_min(1)).clamp_min(SMALL)


def _angles(x_BD: Tensor) -> Tensor:
    """Cosines ``[B, B, B]`` of the angle at the first sample between the two others."""
    towards_BBD = F.normalize(x_BD[None] - x_BD[:, None], dim=-1)
    return towards_BBD @ towards_BBD.mT


def attention(student_BND: Tensor, teacher_BND: Tensor) -> Tensor:
    """Where on the map the activation is (Zagoruyko and Komodakis 2017, arXiv 1612.03928, eq. 2, p = 2).

    The maps are sums of squares over the width, each of norm 1; the loss is the mean squared difference.
    """
    return (_activation(student_BND) - _activation(teacher_BND)).square().mean()


def _activation(x_BND: Tensor) -> Tensor:
    return F.normalize(x_BND.square().mean(-1), dim=-1)


def mutual(scores_ABK: Tensor, temperature: float) -> Tensor:
    """Each of the peers learns from the others (Zhang et al. 2018, deep mutual learning, arXiv 1706.00384).

    Sum over peers of the mean over the others of ``softened_kl(peer, other)``.
    """
    peers = range(len(scores_ABK))
    terms = [softened_kl(scores_ABK[a], scores_ABK[b].detach(), temperature) for a in peers for b in peers if a != b]
    return torch.stack(terms).sum() / max(len(scores_ABK) - 1, 1)


def peer_targets(scores_ABK: Tensor, queries_ABE: Tensor, keys_ABE: Tensor) -> Tensor:
    """What each peer learns from in OKDDip (Chen et al. 2020, arXiv 1912.00350, eqs. 5-6): ``sum_b A_ab z_b``.

    ``A_ab = softmax_b(q_a . k_b)``, sample by sample; a peer's own scores are among those that are mixed.
    """
    weight_BAA = torch.einsum("abe,cbe->bac", queries_ABE, keys_ABE).softmax(-1)
    return torch.einsum("bac,cbk->abk", weight_BAA, scores_ABK)


def ramp_up(step: float, length: float) -> float:
    """``exp(-5 (1 - t / length)^2)`` up to ``length``, then 1 (Laine and Aila 2017, arXiv 1610.02242)."""
    return math.exp(-5 * (1 - min(max(step / length, 0.0), 1.0)) ** 2)
