"""Mixtures of bands that a network sees in their place: what varies beside the noise, without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from specfm.models import Backbone, create_backbone
from specfm.models.mixtures import fit_mixtures
from specfm.models.whitening import Moments, leading, whitening

BANDS = BandGrid(np.linspace(400.0, 900.0, 12))
Tile = tuple[torch.Tensor, BandGrid, torch.Tensor | None]


def tiles(seed: int = 0, count: int = 4, side: int = 6) -> list[Tile]:
    """Two smooth directions that change slowly over the ground, and loud noise in the last four bands."""
    rng = np.random.default_rng(seed)
    shape = np.stack([np.sin(np.arange(12) / 3), np.cos(np.arange(12) / 2)])
    found: list[Tile] = []
    for _ in range(count):
        slow_HW2 = rng.normal(size=(1, 1, 2)) + 0.05 * rng.normal(size=(side, side, 2)).cumsum(0)
        cube_HWC = 3 + slow_HW2 @ shape + 0.02 * rng.normal(size=(side, side, 12))
        cube_HWC[..., 8:] += 2 * rng.normal(size=(side, side, 4))
        found.append((torch.tensor(cube_HWC, dtype=torch.float32)[None], BANDS, None))
    return found


def network(mixtures: int | None = 3) -> Backbone:
    return create_backbone("small:mlp", BANDS, mixtures=mixtures, options={"width": 8}).eval()


def fitted(given: list[Tile], mixtures: int = 3) -> Backbone:
    made = network(mixtures)
    made.fit_statistics(given)
    fit_mixtures(made, given)
    return made


def test_they_look_at_what_varies_and_not_at_noise() -> None:
    mix_KC = fitted(tiles()).mix_KC
    assert mix_KC is not None
    loud = mix_KC[:2, 8:].norm() / mix_KC[:2].norm()
    assert loud < 0.1, "bands of noise have the largest variance after all but the ground's"
    principal = torch.pca_lowrank(torch.cat([x.flatten(0, 2) for x, _, _ in tiles()]), 3)[2].T
    assert principal[:2, 8:].norm() / principal[:2].norm() > 0.5


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_they_are_the_directions_that_whitening_keeps(count: int, power: float) -> None:
    moments = Moments(12)
    for x_BHWC, _, _ in tiles():
        moments.add_lattice(x_BHWC.flatten(1, 2), torch.ones(1, 36, dtype=torch.bool), (6, 6), 1)
    whole_DD, _ = whitening(moments, power, count)
    some_KD = leading(moments, count, power)
    assert some_KD.shape == (count, 12)
    torch.testing.assert_close(some_KD.T @ some_KD * 12 / count, whole_DD.T @ whole_DD)  # variance 1 of K and of D
    variance_K = torch.einsum("ij,jk,ik->i", some_KD, moments.covariance_DD, some_KD)
    assert float(variance_K.mean()) == pytest.approx(1)
    if power:
        assert (variance_K.diff() <= 1e-9).all(), "the largest share of signal comes first"


def test_invalid_pixels_and_order_of_bands_do_not_matter() -> None:
    given = tiles()
    torn = [
        (torch.cat([x, x], 1), bands, torch.arange(12)[None, :, None].expand(1, 12, 6) < 6) for x, bands, _ in given
    ]
    turned = [(x.flip(-1), BandGrid(BANDS.wavelengths_nm[::-1].copy()), mask) for x, _, mask in given]
    for x_BHWC, _, mask in torn:
        assert mask is not None
        x_BHWC[~mask] = torch.nan
    wanted = fitted(given).mix_KC
    for others in (torn, turned):
        found = fitted(others).mix_KC  # type: ignore[arg-type]
        assert wanted is not None and found is not None
        torch.testing.assert_close(found.abs(), wanted.abs(), rtol=1e-4, atol=1e-5)


def test_a_network_says_with_them_what_it_says_of_the_mixed_channels() -> None:
    given = tiles()
    made = fitted(given)
    assert made.mix_KC is not None
    z_BHWC, _ = made.standardised(given[0][0], BANDS)
    mixed = made.net.forward_features((z_BHWC @ made.mix_KC.T).movedim(-1, 1))
    found = made(given[0][0], BANDS).tokens_BND
    torch.testing.assert_close(found, mixed.flatten(2).mT if mixed.ndim == 4 else mixed)


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(UsageError, match="no mixtures to fit; build it with mixtures=N"):
        fit_mixtures(network(None), tiles())
    lone = [(x[:, :1, :1], bands, None) for x, bands, _ in tiles()]
    with pytest.raises(SpecfmError, match="no two valid pixels are neighbours"):
        fitted(lone)  # type: ignore[arg-type]
    same: list[Tile] = [(torch.ones(1, 4, 4, 12), BANDS, None)]
    with pytest.raises(SpecfmError, match="neighbours do not differ at all"):
        fitted(same)
