"""Projection heads with and without lightly; collapse figures on embeddings whose answer is known."""

from __future__ import annotations

import builtins
import math

import pytest
import torch
from torch import nn

from pretrain.objectives.collapse import (
    alignment,
    effective_rank,
    feature_figures,
    projection_figures,
    spread,
    uniformity,
)
from pretrain.objectives.heads import PlainHead, projection_head
from specfm.errors import UsageError


@pytest.mark.parametrize(("layers", "norm"), [(1, True), (2, True), (3, False)])
def test_the_head_is_the_same_without_lightly(layers: int, norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lightly = pytest.importorskip("lightly.models.modules.heads")
    head = projection_head(12, hidden=20, out=8, layers=layers, norm=norm)
    assert isinstance(head, lightly.ProjectionHead)
    original = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("lightly"):
            raise ImportError(name)
        return original(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    plain = projection_head(12, hidden=20, out=8, layers=layers, norm=norm)
    monkeypatch.undo()
    assert isinstance(plain, PlainHead)
    plain.load_state_dict(head.state_dict(), strict=True)
    x = torch.randn(5, 12)
    assert torch.equal(plain(x), head(x)) and head(x).shape == (5, 8)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in head.modules())
    assert sum(isinstance(m, nn.LayerNorm) for m in head.modules()) == (layers - 1 if norm else 0)
    assert all(m.bias is not None for m in head.modules() if isinstance(m, nn.Linear))


def test_a_head_without_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 layer"):
        projection_head(4, layers=0)


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
