"""Is the embedding collapsing? Cheap figures on a subsample of a batch, to log beside the loss.

Shapes: B samples, D features.
Sources: Wang and Isola 2020 (alignment, uniformity; arXiv 2005.10242); Roy and Vetterli 2007 (effective rank).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SAMPLES = 512


def effective_rank(x_BD: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of the centred features: 1 (collapsed) to min(B - 1, D)."""
    x_BD = x_BD.detach().float()
    values = torch.linalg.svdvals(x_BD - x_BD.mean(0))
    share = values / values.sum().clamp_min(1e-12)
    return torch.special.entr(share).sum().exp()


def uniformity(x_BD: Tensor, t: float = 2.0) -> Tensor:
    """log of the mean Gaussian potential of pairs of normalised features: 0 (all equal) down to about -2 t."""
    x_BD = F.normalize(x_BD.detach().float(), dim=1)
    return torch.pdist(x_BD).square().mul(-t).exp().mean().log()


def alignment(x_BD: Tensor, y_BD: Tensor) -> Tensor:
    """Mean squared distance between the normalised features of two views of the same samples: 0 to 4."""
    x_BD, y_BD = (F.normalize(v.detach().float(), dim=1) for v in (x_BD, y_BD))
    return (x_BD - y_BD).square().sum(1).mean()


def spread(x_BD: Tensor) -> Tensor:
    """Mean over features of the deviation of the normalised features, times sqrt(D): 0 (collapsed) to about 1."""
    x_BD = F.normalize(x_BD.detach().float(), dim=1)
    return x_BD.std(0).mean() * x_BD.shape[1] ** 0.5


def embedding_metrics(
    pooled_BD: Tensor, z1_BD: Tensor, z2_BD: Tensor, max_samples: int = MAX_SAMPLES
) -> dict[str, float]:
    """Figures of one batch on at most ``max_samples`` evenly spaced samples.

    Args:
        pooled_BD: encoder features. z1_BD, z2_BD: projections of the two views.

    Returns:
        ``embedding/rank``, ``embedding/std`` of the features; ``embedding/uniformity``, ``embedding/alignment`` of the
        projections. NaN for batches of fewer than two samples.
    """
    step = -(-len(pooled_BD) // max_samples)
    pooled_BD, z1_BD, z2_BD = pooled_BD[::step], z1_BD[::step], z2_BD[::step]
    figures = torch.stack(
        [effective_rank(pooled_BD), spread(pooled_BD), uniformity(z1_BD), alignment(z1_BD, z2_BD)]
        if len(pooled_BD) > 1
        else [pooled_BD.new_full((), torch.nan)] * 4
    ).tolist()
    return dict(
        zip(("embedding/rank", "embedding/std", "embedding/uniformity", "embedding/alignment"), figures, strict=True)
    )
