"""Collapse figures on embeddings whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from pretrain.objectives.collapse import (
    alignment,
    effective_rank,
    feature_figures,
    projection_figures,
    spread,
    uniformity,
)


def test_effective_rank_counts_directions() -> None:
    basis = torch.linalg.qr(torch.randn(200, 6, generator=torch.Generator().manual_seed(0))).Q
    basis = basis - basis.mean(0)
    basis = torch.linalg.qr(basis).Q
    assert float(effective_rank(basis @ torch.eye(6, 30))) == pytest.approx(6.0, rel=1e-3)
    assert float(effective_rank(basis[:, :1] @ torch.ones(1, 30))) == pytest.approx(1.0, rel=1e-2)
    assert float(effective_rank(100 + basis @ torch.eye(6, 30))) == pytest.approx(6.0, rel=1e-2)  # centred


def test_uniformity_alignment_and_spread_of_known_sets() -> None:
    same = torch.ones(10, 4)
    assert float(uniformity(same)) == pytest.approx(0.0, abs=1e-6) and float(spread(same)) == 0.0
    poles = torch.tensor([[3.0, 0.0], [-2.0, 0.0]])
    assert float(uniformity(poles)) == pytest.approx(-8.0)
    assert float(alignment(poles, poles * 5)) == pytest.approx(0.0) and float(
        alignment(poles, -poles)
    ) == pytest.approx(4)
    gaussian = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert float(spread(gaussian)) == pytest.approx(1.0, abs=0.02)
    assert float(uniformity(gaussian[:500])) == pytest.approx(-3.9, abs=0.1)


def test_the_figures_of_a_batch_are_floats_from_a_subsample() -> None:
    features = torch.randn(1000, 16, requires_grad=True)

    def figures(x: torch.Tensor, **most: int) -> dict[str, float]:
        return feature_figures(x.bfloat16(), **most) | projection_figures(x, x, **most)

    found = figures(features, max_samples=100)
    assert set(found) == {"embedding/rank", "embedding/std", "embedding/uniformity", "embedding/alignment"}
    assert all(isinstance(v, float) and math.isfinite(v) for v in found.values())
    assert found == pytest.approx(figures(features[::10]))
    assert all(math.isnan(v) for v in figures(features[:1]).values())
