"""Projection heads with and without lightly."""

from __future__ import annotations

import builtins

import pytest
import torch
from torch import nn

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
