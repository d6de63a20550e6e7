"""Views: what they keep, what they may change, and that they depend on their key alone."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pretrain.views.config import ViewConfig
from pretrain.views.view import make_view, plan_part
from specfm.bands import BandGrid
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.config import load_config
from specfm.errors import UsageError
from specfm.sensors import Sensor
from tests.pretrain.samples import part, random_batch, sensor_of

QUIET = {"gain": 0.0, "tilt": 0.0, "noise": 0.0}
NOTHING = {**QUIET, "dihedral": False, "keep_low": 1.0}


def one(batch: Batch, **settings: object) -> BatchPart:
    """View 0 at step 3 of the batch's first part."""
    strength = settings.pop("strength", 1.0)
    return make_view(batch, ViewConfig(**settings), seed=7, step=3, view=0, strength=strength).parts[0]  # type: ignore[arg-type]


def test_nothing_to_change_returns_the_physical_cube() -> None:
    batch = random_batch()
    view = make_view(batch, ViewConfig(**NOTHING), seed=0, step=0, view=0)
    for made, raw in zip(view, batch, strict=True):
        scale, offset = raw.bands.scale_G, raw.bands.offset_G
        torch.testing.assert_close(made.x_BHWC[..., : raw.bands.channels], raw.x_BHWC.float() * scale + offset)
        assert made.x_BHWC.dtype == torch.float32 and made.mask_BHW is not None and made.mask_BHW.all()
        assert torch.equal(made.bands.wavelengths_nm_GC, raw.bands.wavelengths_nm_GC.expand(len(raw), -1))
        assert (made.bands.scale_G == 1).all() and (made.bands.offset_G == 0).all()


@pytest.mark.parametrize("preset", ["mild", "strong"])
def test_a_view_depends_on_sample_step_and_view_alone(preset: str) -> None:
    config = ViewConfig(preset=preset, crop=5)  # type: ignore[arg-type]
    batch = random_batch()
    view = make_view(batch, config, 7, 3, 0)
    shuffled = torch.tensor([4, 1, 5])
    raw = batch.parts[0].select(shuffled)
    # the same samples in another order, in another company, padded by a band that is not there
    wider = raw.replace(
        x_BHWC=torch.cat([raw.x_BHWC, torch.full_like(raw.x_BHWC[..., :9], 77)], dim=-1),
        bands=BandTensors.from_sensors(sensor_of(400, 2400, 30, scale=1e-4), channels=39),
    )
    again = make_view(Batch((wider,)), config, 7, 3, 0).parts[0]
    first = view.parts[0].select(shuffled)
    bands = int(again.bands.valid_GC.sum(1).max())
    torch.testing.assert_close(again.x_BHWC[..., :bands], first.x_BHWC[..., :bands], rtol=1e-6, atol=1e-7)
    assert torch.equal(again.bands.wavelengths_nm_GC[:, :bands], first.bands.wavelengths_nm_GC[:, :bands])
    assert torch.equal(again.mask_BHW, first.mask_BHW) and torch.equal(again.origin_B2, first.origin_B2)
    for other in (
        make_view(batch, config, 8, 3, 0),
        make_view(batch, config, 7, 4, 0),
        make_view(batch, config, 7, 3, 1),
    ):
        ours, theirs = view.parts[0].x_BHWC, other.parts[0].x_BHWC
        assert ours.shape != theirs.shape or all(not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.gpu
def test_same_view_on_cuda() -> None:
    batch, config = random_batch(), ViewConfig(preset="strong", crop=5)
    here = make_view(batch, config, 7, 3, 0)
    there = make_view(batch.to("cuda"), config, 7, 3, 0).to("cpu")
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a.x_BHWC, b.x_BHWC, rtol=1e-5, atol=1e-6)
        assert torch.equal(a.bands.valid_GC, b.bands.valid_GC) and torch.equal(a.mask_BHW, b.mask_BHW)


@pytest.mark.parametrize("min_overlap", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_crops_overlap_as_promised_and_say_where_they_are(min_overlap: float) -> None:
    side, crop, count = 12, 7, 300
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = (rows * side + cols)[None, :, :, None].expand(count, -1, -1, 2).to(torch.int16)
    batch = Batch((part(place, sensor_of(400, 900, 2)).replace(origin_B2=torch.tensor([[100, 200]]).expand(count, 2)),))
    config = ViewConfig(crop=crop, min_overlap=min_overlap, **NOTHING)
    origins = []
    for view in range(3):
        made = make_view(batch, config, 0, 0, view).parts[0]
        offset = made.origin_B2 - batch.parts[0].origin_B2
        torch.testing.assert_close(made.x_BHWC[:, 0, 0, 0], (offset[:, 0] * side + offset[:, 1]).float())
        assert offset.min() == 0 and offset.max() == side - crop
        origins.append(offset)
    shared = crop - (torch.stack(origins).amax(0) - torch.stack(origins).amin(0))
    share = shared.clamp_min(0).prod(1) / crop**2
    assert share.min() >= min_overlap - 1e-9
    assert (share < 1).any() == (min_overlap < 0.9)  # the freedom that is left is used
    still = [make_view(batch, config, 0, 0, v, strength=0.0).parts[0].origin_B2 for v in range(2)]
    assert torch.equal(*still)


def test_flips_and_turns_are_the_eight_of_a_square() -> None:
    x = torch.arange(9, dtype=torch.float32).view(1, 3, 3, 1).expand(400, -1, -1, -1).contiguous()
    batch = Batch((part(x, sensor_of(500, 500, 1)),))
    made = make_view(batch, ViewConfig(**{**NOTHING, "dihedral": True}), 0, 0, 0).parts[0].x_BHWC[..., 0]
    base = x[0, :, :, 0]
    wanted = {tuple(torch.rot90(side, k).flatten().tolist()) for side in (base, base.flip(0)) for k in range(4)}
    assert {tuple(v.flatten().tolist()) for v in made} == wanted


def test_windows_that_are_not_square_are_flipped_but_not_turned() -> None:
    x = torch.arange(6, dtype=torch.float32).view(1, 2, 3, 1).expand(100, -1, -1, -1).contiguous()
    made = make_view(Batch((part(x, sensor_of(500, 500, 1)),)), ViewConfig(**{**NOTHING, "dihedral": True}), 0, 0, 0)
    base = x[0, :, :, 0]
    wanted = {tuple(v.flatten().tolist()) for v in (base, base.flip(0), base.flip(1), base.flip(0, 1))}
    assert {tuple(v.flatten().tolist()) for v in made.parts[0].x_BHWC[..., 0]} == wanted


def test_kept_bands_carry_their_own_values_and_metadata() -> None:
    wavelengths = torch.linspace(900, 400, 24, dtype=torch.float64)  # descending, with one bad band
    grid = BandGrid(wavelengths.numpy(), np.arange(5.0, 29.0), np.arange(24) != 4)
    x = wavelengths.float().expand(200, 2, 2, 24).contiguous()
    x[..., 4] = torch.nan
    made = one(Batch((part(x, _sensor(grid)),)), **{**QUIET, "keep_low": 0.3, "keep_high": 0.8})
    valid = made.bands.valid_GC
    counts = valid.sum(1)
    assert counts.min() >= round(0.3 * 23) and counts.max() <= round(0.8 * 23) and len(counts.unique()) > 5
    assert made.x_BHWC.shape[-1] == min(-(-int(counts.max()) // 8) * 8, 24)
    seen = torch.where(valid, made.bands.wavelengths_nm_GC, 0.0)
    torch.testing.assert_close(made.x_BHWC[:, 0, 0].double(), seen, rtol=1e-6, atol=0)
    assert float(wavelengths[4]) not in seen.unique().tolist()
    position = (wavelengths[None, None] - seen[..., None]).abs().argmin(-1)
    assert torch.equal(made.bands.fwhm_nm_GC[valid], (position + 5).double()[valid])
    assert all(len(row[ok].unique()) == ok.sum() for row, ok in zip(seen, valid, strict=True))
    assert made.mask_BHW is not None and made.mask_BHW.all()


def test_a_window_is_contiguous_in_wavelength() -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    grid = BandGrid(np.linspace(400, 1180, 40)[order.numpy()])
    batch = Batch((part(torch.ones(100, 1, 1, 40), _sensor(grid)),))
    made = one(batch, **{**QUIET, "keep_low": 1.0, "window_probability": 1.0, "window_low": 0.4})
    for centres, ok in zip(made.bands.wavelengths_nm_GC, made.bands.valid_GC, strict=True):
        kept = centres[ok]
        assert len(kept) >= 16
        torch.testing.assert_close(kept.diff(), torch.full((len(kept) - 1,), 20.0, dtype=torch.float64))


def _sensor(grid: BandGrid) -> Sensor:
    return Sensor(grid)


@pytest.mark.parametrize("fwhm", [np.linspace(5, 40, 21), np.where(np.arange(21) % 3 == 0, np.nan, 12.0), None])
def test_merged_bands_are_those_of_band_grid_merge(fwhm: np.ndarray | None) -> None:
    centres = 400 + 600 * np.random.default_rng(0).random(21)
    grid = BandGrid(centres, fwhm, np.arange(21) != 6)
    x = torch.rand(60, 2, 2, 21, generator=torch.Generator().manual_seed(1))
    batch = Batch((part(x, _sensor(grid)),))
    # a width that is unknown is told to views as the spacing of all bands says it
    told = BandGrid(grid.wavelengths_nm, grid.effective_fwhm_nm, grid.valid)
    settings = {**QUIET, "dihedral": False, "window_probability": 0.5, "window_low": 0.5, "keep_low": 0.6}
    settings |= {"merge_probability": 0.8, "merge_max": 4}
    made = one(batch, **settings)
    plan = plan_part(batch.parts[0], ViewConfig(**settings), 7, 3, 0, 1.0).spectral  # type: ignore[arg-type]
    sizes = set()
    for b in range(len(x)):
        slot = plan.slot_BC[b].numpy()
        groups = [np.flatnonzero(slot == k) for k in range(slot.max() + 1)]
        sizes |= {len(g) for g in groups}
        assert int(made.bands.valid_GC[b].sum()) == len(groups)
        wanted, matrix = told.merge(groups)
        for name in ("wavelengths_nm", "fwhm_nm"):
            np.testing.assert_allclose(getattr(made.bands, f"{name}_GC")[b, : len(groups)], getattr(wanted, name))
        np.testing.assert_allclose(made.x_BHWC[b, :, :, : len(groups)], x[b].numpy() @ matrix.T, rtol=1e-5)
    assert sizes == {1, 2, 3, 4}


def test_gain_tilt_and_noise_stay_within_their_ranges() -> None:
    flat = Batch((part(torch.full((300, 9, 9, 40), 0.5), sensor_of(400, 2400, 40)),))
    base = {**QUIET, "keep_low": 1.0}
    gain = one(flat, **{**base, "gain": 0.1}).x_BHWC / 0.5
    assert gain.amin() >= 0.9 - 1e-6 and gain.amax() <= 1.1 + 1e-6 and gain.std() > 0.04
    assert (gain.flatten(1).std(1) < 1e-6).all()
    tilt = one(flat, **{**base, "tilt": 0.05}).x_BHWC[:, 0, 0] / 0.5
    assert (tilt - 1).abs().max() <= 0.05 + 1e-6 and (tilt - 1).abs().max() > 0.03
    # a quadratic in log wavelength: smooth, so three coefficients explain it
    t = torch.linspace(400, 2400, 40).log()
    basis = torch.stack([torch.ones(40), t, t.square()], dim=1)
    assert (tilt.T - basis @ torch.linalg.lstsq(basis, tilt.T).solution).abs().max() < 1e-4
    noise = one(flat, **{**base, "noise": 0.02}).x_BHWC - 0.5
    assert abs(noise.std() - 0.01) < 2e-4 and abs(noise.mean()) < 2e-4
    pixels = noise[:, 4, 4].flatten(), noise[:, 4, 5].flatten(), noise[:, 5, 4].flatten()
    assert (torch.corrcoef(torch.stack(pixels)) - torch.eye(3)).abs().max() < 0.05


def test_strength_scales_every_change() -> None:
    batch = Batch((part(torch.full((200, 8, 8, 40), 0.5), sensor_of(400, 2400, 40)),))
    away, bands, pixels = [], [], []
    for strength in (0.0, 0.5, 1.0):
        made = one(batch, preset="strong", crop=6, strength=strength)
        usable = made.bands.valid_GC[:, None, None] & made.mask_BHW[..., None]  # type: ignore[index]
        away.append(float((made.x_BHWC - 0.5)[usable].abs().mean()))
        bands.append(float(made.bands.valid_GC.sum(1).float().mean()))
        pixels.append(float(made.mask_BHW.float().mean()))  # type: ignore[union-attr]
    assert away[0] == 0 and away[0] < away[1] < away[2]
    assert bands[0] == 40 and bands[0] > bands[1] > bands[2]
    assert pixels[0] == 1 and pixels[1] == pytest.approx(0.95, abs=0.01) and pixels[2] == pytest.approx(0.9, abs=0.01)
    with pytest.raises(UsageError, match="strength 1.5 is outside"):
        one(batch, strength=1.5)


@pytest.mark.parametrize("preset", ["mild", "strong"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -9999.0])
def test_invalid_values_never_reach_the_view(preset: str, bad: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 6, 6, 30, generator=generator) + 0.1
    mask = torch.ones(20, 6, 6, dtype=torch.bool)
    mask[:, 1, 2] = False
    mask[3] = False  # nothing valid at all
    grid = BandGrid(np.linspace(400, 2400, 30), None, np.arange(30) != 10)
    clean = Batch((part(x, _sensor(grid), mask_BHW=mask),))
    dirty_x = x.clone()
    dirty_x[:, 1, 2] = bad
    dirty_x[3] = bad
    dirty_x[..., 10] = bad
    dirty = Batch((part(dirty_x, _sensor(grid), mask_BHW=mask),))
    a, b = one(clean, preset=preset, crop=5), one(dirty, preset=preset, crop=5)
    assert torch.equal(a.x_BHWC, b.x_BHWC) and torch.equal(a.mask_BHW, b.mask_BHW)
    assert b.x_BHWC.isfinite().all()
    assert (b.x_BHWC[~b.mask_BHW] == 0).all() and not b.mask_BHW[3].any()  # type: ignore[index]


def test_a_non_finite_pixel_is_masked_without_being_told() -> None:
    x = torch.ones(5, 3, 3, 6)
    x[2, 0, 1, 3] = torch.nan
    made = one(Batch((part(x, sensor_of(400, 900, 6)),)), dihedral=False)
    assert made.mask_BHW is not None
    assert [tuple(i) for i in (~made.mask_BHW).nonzero().tolist()] == [(2, 0, 1)]


def test_pixel_dropout_never_takes_the_last_pixel() -> None:
    made = one(Batch((part(torch.ones(500, 1, 2, 4), sensor_of(400, 900, 4)),)), pixel_dropout=0.9)
    assert made.mask_BHW is not None and made.mask_BHW.any((1, 2)).all() and not made.mask_BHW.all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.float16, torch.float64])
def test_every_stored_type(dtype: torch.dtype) -> None:
    values = torch.randint(0, 200, (4, 6, 6, 12)).to(dtype)
    made = one(Batch((part(values, sensor_of(400, 900, 12, scale=0.5)),)), crop=4)
    assert made.x_BHWC.dtype == torch.float32 and made.x_BHWC.abs().max() > 10


def test_one_band_and_no_band() -> None:
    single = one(Batch((part(torch.ones(4, 3, 3, 1), sensor_of(550, 550, 1)),)), preset="strong")
    assert single.bands.valid_GC.tolist() == [[True]] * 4
    empty = BandGrid([500.0, 600.0], None, [False, False])
    none = one(Batch((part(torch.ones(4, 3, 3, 2), _sensor(empty)),)), preset="strong")
    assert not none.bands.valid_GC.any() and none.x_BHWC.isfinite().all()


def test_presets_and_given_keys() -> None:
    mild, strong = ViewConfig(), ViewConfig(preset="strong")
    assert (mild.keep_low, mild.gain, mild.tilt, mild.noise) == (0.5, 0.1, 0.05, 0.02)
    assert (mild.window_probability, mild.merge_probability) == (0.0, 0.0)
    assert strong.window_probability == 1.0 and strong.gain == 0.2
    assert load_config(None, ViewConfig, ["preset=strong", "gain=0.15"]).gain == 0.15
    with pytest.raises(UsageError, match="gian.*gain"):
        load_config(None, ViewConfig, ["gian=0.1"])
    with pytest.raises(ValidationError, match="keep_low 0.9 is above keep_high 0.8"):
        ViewConfig(keep_low=0.9, keep_high=0.8)


def test_a_part_can_share_its_bands_and_they_do_not_depend_on_the_batch() -> None:
    part = next(iter(random_batch(6)))
    config = ViewConfig(band_draw="part", keep_low=0.3, keep_high=0.6)
    whole = next(iter(make_view(Batch((part,)), config, 1, 2, 0)))
    half = next(iter(make_view(Batch((part.select(torch.tensor([3, 4])),)), config, 1, 2, 0)))
    other = next(iter(make_view(Batch((part,)), config, 1, 2, 1)))
    assert len(whole.bands) == 1 and 0.3 <= int(whole.bands.valid_GC.sum()) / part.bands.channels <= 0.61
    assert torch.equal(whole.bands.wavelengths_nm_GC, half.bands.wavelengths_nm_GC)
    assert torch.equal(whole.x_BHWC[3:5], half.x_BHWC)
    assert not torch.equal(whole.bands.wavelengths_nm_GC, other.bands.wavelengths_nm_GC)


@pytest.mark.parametrize(
    ("changes", "alike"),
    (
        ({}, True),
        ({"preset": "strong", "merge_max": 1, "keep_low": 1.0, "window_probability": 0.0}, True),
        ({"keep_low": 0.9}, False),
        ({"keep_low": 0.5, "keep_high": 0.5}, False),
        ({"merge_probability": 0.5}, False),
        ({"window_probability": 0.5}, False),
        ({"attribute_dropout": 0.1}, False),
    ),
)
def test_what_is_not_drawn_is_told_once_for_all_samples(changes: dict[str, Any], alike: bool) -> None:
    part = next(iter(random_batch(6)))
    config = ViewConfig(**{"keep_low": 1.0, "attribute_dropout": 0.0, "noise": 0.02, **changes})
    view = next(iter(make_view(Batch((part,)), config, 1, 2, 0)))
    assert len(part.bands) == 1 and len(view.bands) == (1 if alike else 6)
    assert len(next(iter(make_view(Batch((part,)), config, 1, 2, 0, strength=0.0))).bands) == 1
    with mock.patch.object(ViewConfig, "tells_alike", return_value=False):
        drawn = next(iter(make_view(Batch((part,)), config, 1, 2, 0)))
    if alike:  # the very same samples, told one by one
        assert len(drawn.bands) == 6 and torch.equal(drawn.x_BHWC, view.x_BHWC)
        for name in ("wavelengths_nm_GC", "fwhm_nm_GC", "valid_GC", "quantity_G", "gsd_m_G"):
            told = getattr(view.bands, name)
            torch.testing.assert_close(getattr(drawn.bands, name), told.expand(6, *told.shape[1:]), equal_nan=True)


def test_attributes_are_forgotten_at_the_stated_rate_and_bands_never() -> None:
    part = next(iter(random_batch(400)))
    told = part.bands.replace(
        quantity_G=torch.ones_like(part.bands.quantity_G), gsd_m_G=torch.full_like(part.bands.gsd_m_G, 2.0)
    )
    config = ViewConfig(attribute_dropout=0.25, keep_low=1.0)
    view = next(iter(make_view(Batch((part.replace(bands=told),)), config, 0, 0, 0))).bands
    for gone in (view.quantity_G < 0, ~view.gsd_m_G.isfinite()):
        assert 0.17 < float(gone.float().mean()) < 0.33
    assert view.valid_GC.sum(1).unique().numel() == 1
