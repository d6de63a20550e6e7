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


def feature_figures(pooled_BD: Tensor, max_samples: int = MAX_SAMPLES) -> dict[str, float]:
    """``embedding/rank`` and ``embedding/std`` of an encoder's features, on ``max_samples`` evenly spaced samples.

    NaN for batches of fewer than two samples.
    """
    pooled_BD = _thinned(pooled_BD, max_samples)
    figures = [effective_rank(pooled_BD), spread(pooled_BD)] if len(pooled_BD) > 1 else [torch.tensor(torch.nan)] * 2
    return dict(zip(("embedding/rank", "embedding/std"), torch.stack(figures).tolist(), strict=True))


def projection_figures(z1_BD: Tensor, z2_BD: Tensor, max_samples: int = MAX_SAMPLES) -> dict[str, float]:
    """``embedding/uniformity`` and ``embedding/alignment`` of the projections of two views; see `feature_figures`."""
    z1_BD, z2_BD = _thinned(z1_BD, max_samples), _thinned(z2_BD, max_samples)
    figures = [uniformity(z1_BD), alignment(z1_BD, z2_BD)] if len(z1_BD) > 1 else [torch.tensor(torch.nan)] * 2
    return dict(zip(("embedding/uniformity", "embedding/alignment"), torch.stack(figures).tolist(), strict=True))


def _thinned(x_BD: Tensor, max_samples: int) -> Tensor:
    return x_BD[:: -(-len(x_BD) // max_samples)]
