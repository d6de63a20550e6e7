"""The band-prediction term: its targets are the right numbers, its loss has the right zeros, and it can be learnt."""

from __future__ import annotations

import pytest
import torch

from pretrain.objectives.band_prediction import BandPredictor, BandTargets, band_prediction_loss, band_targets
from pretrain.objectives.config import BandPredictionConfig
from pretrain.views.config import ViewConfig
from pretrain.views.view import make_view
from specfm.batch import Batch
from specfm.models.patches import patchify
from tests.pretrain.samples import part, random_batch, sensor_of

CLEAN = {"gain": 0.0, "tilt": 0.0, "noise": 0.0}


def smooth_batch(count: int = 8, side: int = 8) -> Batch:
    """Two sensors looking at the same family of spectra: a + b * wavelength, another slope in every pixel."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for first, sensor in enumerate(
        (sensor_of(400, 1000, 40, scale=1e-4), sensor_of(500, 900, 21, scale=2.0, offset=-0.1))
    ):
        t = torch.from_numpy((sensor.bands.wavelengths_nm - 700) / 600).float()
        slope = torch.rand(count, side, side, 1, generator=generator) - 0.5
        physical = 0.5 + 0.4 * slope * t
        parts.append(part((physical - sensor.offset) / sensor.scale, sensor, first_id=100 * first))
    return Batch(tuple(parts))


def targets_of(batch: Batch, views: ViewConfig, step: int = 2, patch: int = 2, **settings: object) -> BandTargets:
    return band_targets(batch, views, BandPredictionConfig(**settings), patch, seed=1, step=step, view=0)  # type: ignore[arg-type]


def assert_same(one: BandTargets, two: BandTargets) -> None:
    for name, value in vars(one).items():
        torch.testing.assert_close(value, getattr(two, name), rtol=0, atol=0)


@pytest.mark.parametrize("preset", ["mild", "strong"])
@pytest.mark.parametrize("crop", [6, 5])
def test_targets_are_the_held_out_bands_of_the_same_crop(preset: str, crop: int) -> None:
    batch = smooth_batch()
    views = ViewConfig(**{**CLEAN, "preset": preset, "crop": crop, "pixel_dropout": 0.0})  # type: ignore[arg-type]
    found = targets_of(batch, views, targets=12)
    view = make_view(batch, views, 1, 2, 0)
    start = 0
    for made, raw in zip(view, batch, strict=True):
        patches = patchify(made.x_BHWC, made.bands, made.mask_BHW, 2)
        rows = slice(start, start + len(raw))
        start += len(raw)
        weight, centres = found.weight_BT[rows], found.wavelengths_nm_BT[rows]
        torch.testing.assert_close(weight.sum(1), torch.ones(len(raw)))
        raw_bands = raw.bands.wavelengths_nm_GC[0]
        for b in range(len(raw)):
            used = centres[b][weight[b] > 0]
            assert torch.isin(used, raw_bands).all() and len(used.unique()) == len(used)
            if found.held_out_B[rows][b] and preset == "mild":
                assert not torch.isin(used, made.bands.wavelengths_nm_GC[b][made.bands.valid_GC[b]]).any()
            # spectra are linear in wavelength, so what the view shows of a patch foretells its held-out bands
            valid = made.bands.valid_GC[b]
            seen, values = made.bands.wavelengths_nm_GC[b][valid].float(), patches.x_BCNP[b].mean(-1)[valid]
            basis = torch.stack([torch.ones_like(seen), seen / 700], 1)
            coefficients = torch.linalg.lstsq(basis, values).solution
            wanted = torch.stack([torch.ones(len(used)), used.float() / 700], 1) @ coefficients
            torch.testing.assert_close(found.value_BNT[rows][b][:, weight[b] > 0], wanted.T, rtol=2e-3, atol=2e-3)
    assert found.mask_BN.all() and found.mask_BN.shape[1] == 9


def test_pooled_targets_are_means_over_the_crop() -> None:
    batch, views = smooth_batch(), ViewConfig(**CLEAN, crop=6)  # type: ignore[arg-type]
    tokens, pooled = targets_of(batch, views), targets_of(batch, views, per="pooled")
    assert pooled.value_BNT.shape[1] == 1
    torch.testing.assert_close(tokens.value_BNT.mean(1, keepdim=True), pooled.value_BNT)


def test_targets_do_not_change_with_gain_tilt_noise_or_the_stored_scale() -> None:
    batch = smooth_batch()
    quiet, loud = ViewConfig(**CLEAN, crop=6), ViewConfig(crop=6, gain=0.5, tilt=0.3, noise=0.2)  # type: ignore[arg-type]
    assert_same(targets_of(batch, quiet), targets_of(batch, loud))
    dimmer = Batch(
        tuple(
            p.replace(bands=p.bands.replace(scale_G=p.bands.scale_G / 3, offset_G=p.bands.offset_G / 3)) for p in batch
        )
    )
    torch.testing.assert_close(targets_of(batch, quiet).value_BNT, targets_of(dimmer, quiet).value_BNT)


def test_seen_bands_stand_in_where_nothing_was_held_out() -> None:
    views = ViewConfig(**CLEAN, keep_low=1.0)  # type: ignore[arg-type]
    found = targets_of(smooth_batch(), views, seen_share=0.25)
    assert not found.held_out_B.any()
    assert (found.weight_BT[:8] > 0).sum(1).tolist() == [10] * 8 and (found.weight_BT[8:] > 0).sum(1).tolist() == [
        6
    ] * 8


def test_invalid_pixels_and_bands_are_no_targets() -> None:
    batch = random_batch(side=8)
    one = batch.parts[0]
    x = one.x_BHWC.float()
    mask = torch.ones(x.shape[:3], dtype=torch.bool)
    mask[:, :4, :4] = False
    mask[2] = False
    valid = one.bands.valid_GC.clone()
    valid[:, 5] = False
    clean = Batch((one.replace(x_BHWC=x, mask_BHW=mask, bands=one.bands.replace(valid_GC=valid)),))
    dirty_x = torch.where(mask[..., None], x, torch.nan)
    dirty_x[..., 5] = torch.nan
    dirty = Batch((clean.parts[0].replace(x_BHWC=dirty_x),))
    views = ViewConfig(keep_low=0.5, keep_high=0.6)
    a, b = targets_of(clean, views, targets=30), targets_of(dirty, views, targets=30)
    assert_same(a, b)
    assert b.value_BNT.isfinite().all() and not b.mask_BN[2].any() and int(b.mask_BN[0].sum()) == 12
    bad = one.bands.wavelengths_nm_GC[0, 5]
    assert not (b.wavelengths_nm_BT[b.weight_BT > 0] == bad).any()


def loss_of(prediction: torch.Tensor, targets: BandTargets, **settings: object) -> torch.Tensor:
    return band_prediction_loss(prediction, targets, BandPredictionConfig(**settings))[0]  # type: ignore[arg-type]


def test_the_loss_is_zero_at_the_target_and_weighs_its_two_terms() -> None:
    targets = targets_of(smooth_batch(), ViewConfig(crop=6))
    exact = targets.value_BNT
    assert loss_of(exact, targets).abs() < 1e-6
    shifted = loss_of(exact + 0.1, targets, cosine_weight=0.0)
    torch.testing.assert_close(shifted, torch.tensor((0.1**2 + 1e-6) ** 0.5 - 1e-3))
    # twice the spectrum: the angle does not notice, the Charbonnier term does
    _, figures = band_prediction_loss(2 * exact, targets, BandPredictionConfig())
    assert figures["bands/angle"] < 1e-5 and figures["bands/charbonnier"] > 0.5
    _, figures = band_prediction_loss(-exact, targets, BandPredictionConfig())
    assert figures["bands/angle"] == pytest.approx(2.0, abs=1e-5)


def test_the_loss_of_a_batch_is_the_mean_of_its_halves() -> None:
    targets = targets_of(smooth_batch(), ViewConfig(crop=6))
    prediction = torch.rand_like(targets.value_BNT)
    halves = []
    for rows in (slice(0, 8), slice(8, 16)):
        halves.append(loss_of(prediction[rows], BandTargets(**{k: v[rows] for k, v in vars(targets).items()})))
    torch.testing.assert_close(loss_of(prediction, targets), (halves[0] + halves[1]) / 2)


def test_masked_tokens_have_no_say_even_if_not_finite() -> None:
    targets = targets_of(smooth_batch(), ViewConfig(crop=6))
    prediction = torch.rand_like(targets.value_BNT)
    mask = torch.ones_like(targets.mask_BN)
    mask[:, 3] = False
    config = BandPredictionConfig()
    wanted = band_prediction_loss(prediction, targets, config, mask)[0]
    spoilt = prediction.clone()
    spoilt[:, 3] = torch.nan
    spoilt.requires_grad_()
    found = band_prediction_loss(spoilt, targets, config, mask)[0]
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.grad(found, spoilt)[0].isfinite().all()
    assert not torch.isclose(wanted, band_prediction_loss(prediction, targets, config)[0])


def test_a_token_that_knows_the_slope_learns_to_foretell_every_band() -> None:
    torch.manual_seed(0)
    batch, views, config = smooth_batch(), ViewConfig(**CLEAN, crop=6), BandPredictionConfig()  # type: ignore[arg-type]
    predictor = BandPredictor(width=16, rank=8)
    optimiser = torch.optim.Adam(predictor.parameters(), lr=0.01)
    embed = torch.randn(2, 16)
    losses = []
    for step in range(60):
        targets = targets_of(batch, views, step=step)
        # the line through a token's targets, as the encoder could know it
        t = (targets.wavelengths_nm_BT.float() - 700) / 300
        basis = torch.stack([torch.ones_like(t), t], -1) * targets.weight_BT[..., None].sqrt()
        known = torch.linalg.lstsq(
            basis, (targets.value_BNT * targets.weight_BT[:, None].sqrt()).transpose(1, 2)
        ).solution
        prediction = predictor(known.transpose(1, 2) @ embed, targets.wavelengths_nm_BT, targets.fwhm_nm_BT)
        loss, _ = band_prediction_loss(prediction, targets, config)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in predictor.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])


def test_the_readout_follows_wavelength_not_position() -> None:
    predictor = BandPredictor(width=16, rank=8)
    tokens = torch.randn(2, 3, 16)
    centres, widths = torch.tensor([[450.0, 700.0, 901.5]] * 2).double(), torch.full((2, 3), 10.0).double()
    base = predictor(tokens, centres, widths)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(predictor(tokens, centres[:, order], widths), base[..., order])
    assert base.shape == (2, 3, 3) and base.std() > 1e-3
