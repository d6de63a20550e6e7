"""Heads attend to wavelengths, by content once it is learnt; the nine properties are held by tests/properties."""

from __future__ import annotations

import numpy as np
import torch

from specfm.batch import BandTensors
from specfm.models import create_encoder
from tests.properties.cases import build, comb, cube


def test_weights_are_a_distribution_over_usable_bands() -> None:
    grid = comb(40)
    encoder = build("spectral_attention", grid)
    patches = encoder.prepare(cube(grid), grid)
    weights_BKC = encoder.embedding.attention(patches)
    assert weights_BKC.shape == (2, 32, 40)
    assert torch.allclose(weights_BKC.sum(-1), torch.ones(2, 32)) and (weights_BKC >= 0).all()


def test_heads_of_a_new_embedding_look_at_parts_of_the_axis() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("nano", "spectral_attention", 2, dim=32, depth=0, heads=4)
    grid = comb(200)
    weights_KC = encoder.embedding.attention(encoder.prepare(cube(grid), grid))[0].detach().numpy()
    seen = 1 / (weights_KC**2).sum(1)  # about how many bands a head sees
    assert np.median(seen) < 100 and len(set(weights_KC.argmax(1).tolist())) > 8


def test_content_moves_attention_once_its_weights_do() -> None:
    grid = comb(30)
    x, other = cube(grid, seed=1), cube(grid, seed=2)

    def attention(encoder: torch.nn.Module, values: torch.Tensor) -> torch.Tensor:
        return encoder.embedding.attention(encoder.prepare(values, BandTensors.from_sensors(grid)))

    fresh, learnt = build("spectral_attention", grid, fresh=True), build("spectral_attention", grid)
    assert torch.equal(attention(fresh, x), attention(fresh, other))
    assert not torch.allclose(attention(learnt, x), attention(learnt, other), atol=1e-5)
