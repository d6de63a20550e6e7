"""VICReg: two views agree, every feature varies, and no two features say the same (arXiv 2105.04906).

No sample is another's negative, so nothing has to be known of false ones: in a scene of few materials most negatives of
NT-Xent are. Variances and covariances are those of the whole global batch. Ranks share their moments, not their rows.

Shapes: B samples of this rank, N of all ranks, E width of the projection.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.objectives.base import VIEWS, MicroBatch, Objective, Rows, Surroundings
from pretrain.objectives.collapse import projection_figures
from pretrain.objectives.collect import all_sum, world
from pretrain.objectives.config import VicRegConfig
from pretrain.objectives.contrastive import make_projection
from pretrain.objectives.nt_xent import exact_matmul
from specfm.errors import UsageError


class VicReg(Objective):
    """Agreement of the two sides of a pair, variance and decorrelation of features over the global batch."""

    def __init__(self, config: VicRegConfig, around: Surroundings) -> None:
        self.config, self.weight = config, config.weight
        self.projection = make_projection(config.projection, around)
        self.heads = {"vicreg": self.projection}

    def rows(self, part: MicroBatch) -> Rows:
        """Projections of both views, by the name of the view."""
        projected = self.projection(part.features.pooled_BD).float().split(len(part.pairs))
        return dict(zip(VIEWS, projected, strict=True))

    def couple(self, rows: Rows, prepared: object) -> tuple[Tensor, dict[str, float]]:
        z1_BE, z2_BE = rows.values()
        terms = vicreg_terms(z1_BE, z2_BE, self.config.eps)
        config = self.config
        weights = {"invariance": config.invariance, "variance": config.variance, "covariance": config.covariance}
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        told = torch.stack([terms[name].detach() for name in weights]).tolist()
        return loss, {f"vicreg/{name}": value for name, value in zip(weights, told, strict=True)}

    def watch(self, rows: Rows) -> dict[str, float]:
        z1_BE, z2_BE = rows.values()
        return projection_figures(z1_BE, z2_BE)


def vicreg_terms(z1_BE: Tensor, z2_BE: Tensor, eps: float = 1e-4) -> dict[str, Tensor]:
    """The three terms of VICReg (equations 1 to 5), before their factors; each is the sum or mean over both views.

    As in the authors' code the squared difference is a mean over features too, and the variance term is halved.
    Gradients are those of the sum of all ranks' terms, as for :func:`pretrain.objectives.nt_xent.nt_xent`.

    Args:
        z1_BE: projections of the first views, float32 or float64. Every rank must bring the same B.
        z2_BE: projections of the second views, in the same order.
        eps: added to variances before the root.

    Returns:
        ``invariance`` of this rank's samples, ``variance`` and ``covariance`` of all ranks' samples.

    Raises:
        UsageError: views of different shapes, or a single sample in all.
    """
    if z1_BE.shape != z2_BE.shape or z1_BE.ndim != 2:
        raise UsageError(f"two views of shape (batch, features) expected, got {z1_BE.shape} and {z2_BE.shape}")
    count, width = len(z1_BE) * world()[1], z1_BE.shape[1]
    if count < 2:
        raise UsageError("VICReg needs at least 2 samples in a batch, since it is about their variance")
    z_2BE = torch.stack([z1_BE, z2_BE])
    with exact_matmul(z_2BE.device.type):
        centred_2BE = z_2BE - all_sum(z_2BE.sum(1, keepdim=True)) / count
        covariance_2EE = all_sum(centred_2BE.mT @ centred_2BE) / (count - 1)
        variance_2E = covariance_2EE.diagonal(dim1=1, dim2=2)
        off_2EE = covariance_2EE - torch.diag_embed(variance_2E)
        return {
            "invariance": (z1_BE - z2_BE).square().mean(),
            "variance": (1 - (variance_2E + eps).sqrt()).relu().mean(),
            "covariance": off_2EE.square().sum() / width,
        }
