"""Small networks: dense features, what they see, and backbones like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.models import build_encoder, create_backbone
from specfm.models.small import SMALL, create_small


@pytest.mark.parametrize("bands", [1, 9, 200])
@pytest.mark.parametrize("name", SMALL)
def test_features_of_every_pixel(name: str, bands: int) -> None:
    torch.manual_seed(0)
    net = create_small(name, bands, width=16).eval()
    x_BCHW = torch.rand(2, bands, 5, 7)
    found = net.forward_features(x_BCHW)
    assert found.shape == (2, 16, 5, 7) and net.num_features == 16
    changed = x_BCHW.clone()
    changed[:, :, 0, 0] += 1
    moved = (net.forward_features(changed) - found).abs().amax((0, 1)) > 0
    alone = name in ("mlp", "cnn1d")
    assert moved[0, 0] and bool(moved[0, 1]) != alone and not moved[-1, -1]


@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_like_any_other(name: str) -> None:
    torch.manual_seed(0)
    grid = BandGrid(np.linspace(450, 900, 10), np.full(10, 50.0))
    made = create_backbone(f"small:{name}", grid, drop_path=0.5, options={"width": 8})
    x = torch.rand(3, 5, 5, 10)
    order = np.random.default_rng(0).permutation(10)
    found = made.eval()(x, grid)
    assert found.tokens_BND.shape == (3, 25, 8)
    assert torch.allclose(made(x[..., order], grid.subset(order)).tokens_BND, found.tokens_BND, atol=1e-6)
    twin = build_encoder(made.config).eval()
    twin.load_state_dict(made.state_dict())
    assert torch.equal(twin(x, grid).tokens_BND, found.tokens_BND)
    made.train()
    assert not torch.equal(made(x, grid).tokens_BND, made(x, grid).tokens_BND)  # drop_path is dropout here


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("small:cnn4d", {}, "no small network 'cnn4d'"),
        ("small:mlp", {"stride": 2}, "its stride is 1, not 2"),
        ("small:mlp", {"options": {"width": 0}}, "width of small:mlp must be a whole number"),
        ("small:mlp", {"options": {"filters": 3}}, "does not take these options"),
    ],
)
def test_what_cannot_be_built(backbone: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_backbone(backbone, BandGrid([500.0, 600.0]), **options)  # type: ignore[arg-type]
