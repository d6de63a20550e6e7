"""Quantisation-aware training: weights and inputs on their levels, gradients straight through, nothing left behind."""

from __future__ import annotations

import pytest
import torch

from downstream.compress.aware import LEVELS, WEIGHT_TOP, Rounding, rounded_activation
from downstream.compress.magnitude import weights_of
from tests.downstream.compress.make import model, windows


@pytest.mark.parametrize("kind", ["encoder", "small:cnn2d"])
def test_layers_compute_with_rounded_weights(kind: str) -> None:
    made, (view, y_B) = model(kind), windows()
    names, before = set(made.state_dict()), made(view).detach()
    with Rounding(made):
        for layer, name in weights_of(made):
            weight = getattr(layer, name).detach()
            scale = layer.parametrizations.weight.original.detach().abs().flatten(1).amax(1) / WEIGHT_TOP
            levels = weight.flatten(1) / scale[:, None]
            assert torch.allclose(levels, levels.round(), atol=1e-3)
        rounded = made(view)
        torch.nn.functional.cross_entropy(made(view), y_B).backward()
        gradients = [layer.parametrizations.weight.original.grad for layer, _ in weights_of(made)]
        assert all(g is not None and g.abs().max() > 0 for g in gradients)
    assert 0 < float((rounded - before).abs().max()) < 0.5
    assert set(made.state_dict()) == names and torch.equal(made(view), before)


def test_what_training_changes_stays() -> None:
    made, (view, y_B) = model("small:mlp"), windows()
    before = made(view)
    with Rounding(made):
        optimizer = torch.optim.SGD(made.parameters(), 0.1)
        torch.nn.functional.cross_entropy(made(view), y_B).backward()
        optimizer.step()
    assert not torch.equal(made(view), before)


def test_activations_have_256_levels_and_zero_is_one() -> None:
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0)) + 1
    found = rounded_activation(torch.cat([x, torch.zeros(1)]))
    assert len(found.unique()) <= LEVELS + 1 and found[-1] == 0
    assert float((found[:-1] - x).abs().max()) <= float(x.max() - x.min()) / LEVELS
    assert torch.equal(rounded_activation(torch.zeros(3)), torch.zeros(3))
