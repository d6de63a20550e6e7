"""The four ways to normalise: each does what its name says, on any sensor, fitted on training data alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from downstream.features.encoders import random_twin
from specfm.bands import BandGrid
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.checkpoint import load, save
from specfm.errors import SpecfmError, UsageError
from specfm.models import create_encoder

TINY = {"dim": 16, "depth": 1, "heads": 2}
GRID = BandGrid(np.linspace(400, 900, 20))


def cube(seed: int = 0, bands: int = 20, count: int = 6) -> torch.Tensor:
    """Bright and dark windows whose bands differ in level and deviation."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, bands)
    spectrum = 0.2 + 0.6 * t + rng.normal(size=(count, 6, 6, bands)) * (0.01 + 0.05 * t)
    return torch.from_numpy(spectrum * rng.uniform(0.5, 2, (count, 1, 1, 1))).float()


def batch(x: torch.Tensor, grid: BandGrid = GRID, mask: torch.Tensor | None = None) -> Batch:
    mask = torch.ones(x.shape[:3], dtype=torch.bool) if mask is None else mask
    ids = {name: torch.zeros(len(x), dtype=torch.long) for name in ("sample_id_B", "instance_id_B", "group_B")}
    ids |= {name: torch.zeros(len(x), dtype=torch.long) for name in ("scene_id_B", "label_B", "domain_B")}
    part = BatchPart(
        x_BHWC=x, bands=BandTensors.from_sensors(grid), mask_BHW=mask, origin_B2=torch.zeros(len(x), 2).long(), **ids
    )
    return Batch((part,))


def fitted(kind: str, **options: object) -> object:
    encoder = create_encoder("nano", patch_size=3, normalise=kind, **TINY, **options)
    encoder.fit_normaliser([batch(cube(seed)) for seed in range(4)])
    return encoder


def test_per_pixel_leaves_the_shape_of_each_spectrum_alone() -> None:
    encoder = create_encoder("nano", patch_size=3, level="pixel", **TINY)
    x = cube()
    gains = torch.rand(x.shape[:3])[..., None] * 0.8 + 0.6
    one, other = encoder.prepare(x, GRID).x_BCNP, encoder.prepare(x * gains, GRID).x_BCNP
    assert torch.allclose(one, other, rtol=1e-4)
    weights = torch.from_numpy(GRID.weights).float()
    assert torch.allclose(torch.einsum("bcnp,c->bnp", one.abs(), weights), torch.ones(6, 4, 9), atol=1e-4)
    by_patch = create_encoder("nano", patch_size=3, level="patch", **TINY)
    assert not torch.allclose(by_patch.prepare(x, GRID).x_BCNP, by_patch.prepare(x * gains, GRID).x_BCNP, rtol=1e-2)


def test_per_sample_divides_by_one_level() -> None:
    x = cube()
    encoder = create_encoder("nano", patch_size=3, level="sample", **TINY)
    scales = torch.linspace(0.5, 3, 6)[:, None, None, None]
    assert torch.allclose(encoder.prepare(x, GRID).x_BCNP, encoder.prepare(x * scales, GRID).x_BCNP, rtol=1e-4)


def test_per_band_gives_every_band_mean_0_and_deviation_1() -> None:
    x_BCNP = fitted("band").prepare(torch.cat([cube(seed) for seed in range(4)]), GRID).x_BCNP
    assert x_BCNP.mean((0, 2, 3)).abs().max() < 0.05
    assert (x_BCNP.std((0, 2, 3)) - 1).abs().max() < 0.1


def test_data_set_keeps_the_differences_between_bands() -> None:
    whole = torch.cat([cube(seed) for seed in range(4)])
    x_BCNP = fitted("dataset").prepare(whole, GRID).x_BCNP
    weights = torch.from_numpy(GRID.weights).float()
    assert abs(float(torch.einsum("bcnp,c->bnp", x_BCNP, weights).mean())) < 0.05
    assert abs(float(torch.einsum("bcnp,c->bnp", x_BCNP.square(), weights).mean()) - 1) < 0.05
    assert x_BCNP.mean((0, 2, 3)).std() > 0.5


def test_statistics_are_of_wavelengths_so_other_sensors_are_normalised_alike() -> None:
    encoder = fitted("band")
    every_second = BandGrid(GRID.wavelengths_nm[::2])
    x = cube(9)
    encoder.level = "none"
    whole, half = encoder.prepare(x, GRID).x_BCNP, encoder.prepare(x[..., ::2], every_second).x_BCNP
    assert torch.allclose(whole[:, ::2], half, atol=1e-5)


def test_test_data_change_nothing() -> None:
    encoder = fitted("band")
    before = encoder.normaliser.mean_L.clone()
    encoder(cube(99) * 50, GRID)
    assert torch.equal(before, encoder.normaliser.mean_L)


def test_masked_pixels_and_unusable_bands_take_no_part() -> None:
    valid = np.arange(20) != 7
    grid = BandGrid(GRID.wavelengths_nm, valid=valid)
    x, mask = cube(1), torch.rand(6, 6, 6) > 0.3
    mask[:, :3, :3] = False  # a token without a pixel
    spoiled = x.clone()
    spoiled[~mask] = torch.nan
    spoiled[..., 7] = torch.inf
    encoders = []
    for values in (x, spoiled):
        encoder = create_encoder("nano", patch_size=3, normalise="band", **TINY)
        encoder.fit_normaliser([batch(values, grid, mask)])
        encoders.append(encoder)
    assert torch.allclose(encoders[0].normaliser.mean_L, encoders[1].normaliser.mean_L, atol=1e-6)
    patches = encoders[1].prepare(spoiled, grid, mask)
    assert patches.x_BCNP.isfinite().all()
    assert (patches.x_BCNP[:, 7] == 0).all() and (patches.x_BCNP[:, :, 0] == 0).all()


def test_statistics_travel_with_the_weights_and_to_twins(tmp_path: Path) -> None:
    encoder = fitted("band").eval()
    save(encoder, tmp_path / "model")
    again, twin = load(tmp_path / "model"), random_twin(encoder, 5)
    x = cube(3)
    assert torch.equal(again(x, GRID).pooled_BD, encoder(x, GRID).pooled_BD)
    assert torch.equal(twin.prepare(x, GRID).x_BCNP, encoder.prepare(x, GRID).x_BCNP)


def test_without_statistics_it_says_what_to_do() -> None:
    encoder = create_encoder("nano", patch_size=3, normalise="band", **TINY)
    with pytest.raises(SpecfmError, match="has no statistics of training data yet; pretrain it"):
        encoder(cube(), GRID)
    with pytest.raises(UsageError, match="normalise must be one of none, band and dataset"):
        create_encoder("nano", normalise="pixels")
