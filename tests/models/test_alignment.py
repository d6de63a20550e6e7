"""Alignment: sensors that an encoder never met tell it what those it knows do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import specfm
from specfm import BandGrid, Encoder, Sensor, UsageError
from specfm.batch import BandTensors
from specfm.models import alignment as module
from tests.properties.cases import comb
from tests.test_library import library, smooth

KNOWN = Sensor(comb(120, fwhm=18.0), "surface_reflectance", name="known")
# ends 150 nm earlier, wider bands and a gap
NEW = Sensor(BandGrid(np.r_[np.linspace(450, 1300, 40), np.linspace(1500, 2250, 30)], np.full(70, 30.0)),
             "surface_reflectance", name="new")  # fmt: skip


def amplifying(count: int = 200) -> Encoder:
    """An encoder whose stem is whitened on the library it comes with, as pretraining would leave it."""
    torch.manual_seed(0)
    encoder = specfm.create_encoder("nano", patch_size=3, rank=1).eval()
    encoder.library = library(count=count)
    with torch.no_grad():
        tokens_LD = module.stem_tokens(encoder, smooth(KNOWN.bands, count), BandTensors.from_sensors(KNOWN))
        value_D, vector_DD = torch.linalg.eigh(tokens_LD.T.cov())
        matrix_DD = vector_DD * (value_D.clamp_min(0) + 1e-3 * value_D.mean()).rsqrt() @ vector_DD.T
        encoder.stem.weight.copy_(matrix_DD)
        encoder.stem.bias.copy_(-matrix_DD @ tokens_LD.mean(0))
    return encoder


def windows(spectra_LC: np.ndarray) -> Tensor:
    return torch.from_numpy(spectra_LC)[:, None, None].expand(-1, 3, 3, -1)


@torch.no_grad()
def pooled(encoder: Encoder, sensor: Sensor, seed: int = 7) -> Tensor:
    """Features of spectra that are not in the library."""
    return encoder(windows(smooth(sensor.bands, 30, seed)), sensor).pooled_BD


def apart(encoder: Encoder) -> float:
    """Distance of one spectrum in two sensors, relative to that of two spectra in one."""
    one, two = pooled(encoder, KNOWN), pooled(encoder, NEW)
    return float((one - two).norm(dim=1).mean() / torch.cdist(one, one).mean())


def test_sensors_agree_better() -> None:
    encoder = amplifying()
    before = apart(encoder)
    encoder.align()
    assert apart(encoder) < 0.5 * before
    encoder.align(False)
    assert apart(encoder) == before


def test_a_mixed_batch_is_aligned_sample_by_sample() -> None:
    encoder = amplifying().align()
    grids = [KNOWN, NEW, NEW, KNOWN]
    x_BHWC = torch.zeros(4, 3, 3, len(KNOWN.bands))
    for row, sensor in enumerate(grids):
        x_BHWC[row, ..., : len(sensor.bands)] = windows(smooth(sensor.bands, 4, 9))[row]
    with torch.no_grad():
        mixed = encoder(x_BHWC, grids).pooled_BD
        single = torch.cat([
            encoder(x_BHWC[row : row + 1, ..., : len(sensor.bands)], sensor).pooled_BD
            for row, sensor in enumerate(grids)
        ])  # fmt: skip
    assert torch.allclose(mixed, single, atol=1e-2)  # the stem amplifies rounding


def test_the_map_is_the_ridge_solution() -> None:
    """By the normal equations of the stacked system, solved as least squares."""
    encoder = amplifying()
    assert encoder.library is not None
    found = module.Alignment(encoder.library).fit(encoder, BandTensors.from_sensors(NEW))
    assert found is not None
    ideal = KNOWN.replace(bands=encoder.library.grid)
    with torch.no_grad():
        view_LC = encoder.library.seen_through(NEW.bands)
        t_LD = module.stem_tokens(encoder, view_LC, BandTensors.from_sensors(NEW)).numpy()
        t0_LD = module.stem_tokens(encoder, encoder.library.spectra_LS, BandTensors.from_sensors(ideal)).numpy()
    centred, goal = t_LD - t_LD.mean(0), t0_LD - t0_LD.mean(0)
    ridge = np.sqrt(module.RIDGE * np.mean((centred**2).sum(0)))
    width = centred.shape[1]
    change = np.linalg.lstsq(np.r_[centred, ridge * np.eye(width)], np.r_[goal - centred, np.zeros((width, width))])[0]
    expected = np.eye(width) + change.T
    assert np.allclose(found[0].numpy(), expected, atol=1e-8)
    assert np.allclose(t_LD.mean(0) @ expected.T + found[1].numpy(), t0_LD.mean(0))


POOR = Sensor(
    BandGrid([490, 560, 665, 842, 1610, 2190], [65, 35, 30, 110, 90, 180]), "surface_reflectance", name="poor"
)


def test_sensors_that_are_compared_agree_best_as_the_poorest_would_tell() -> None:
    encoder = amplifying()

    def apart_of_poor() -> float:
        one, two = pooled(encoder, KNOWN), pooled(encoder, POOR)
        return float((one - two).norm(dim=1).mean() / torch.cdist(two, two).mean())

    plain = apart_of_poor()
    encoder.align()
    ideal, alone = apart_of_poor(), pooled(encoder, POOR)
    encoder.align(sensors=[NEW, POOR, KNOWN])
    assert apart_of_poor() < 0.6 * ideal < 0.6 * plain
    assert torch.allclose(pooled(encoder, POOR), alone, atol=1e-4), "it is put where it was before"
    told = pooled(encoder, NEW)
    encoder.align(sensors=[KNOWN, NEW, POOR, NEW])
    assert torch.equal(pooled(encoder, NEW), told)


def test_one_sensor_is_compared_with_nothing() -> None:
    encoder = amplifying().align()
    ideal = pooled(encoder, NEW)
    assert encoder.alignment is not None and encoder.alignment.digest == ""
    encoder.align(sensors=[NEW, NEW])
    assert torch.equal(pooled(encoder, NEW), ideal)
    thermal = Sensor(comb(30, 8000, 12000, 100.0), "radiance", name="thermal")
    encoder.align(sensors=[NEW, thermal])  # which cannot be mapped, so that it is not the poorest either
    assert encoder.alignment.digest and torch.allclose(pooled(encoder, NEW), ideal, atol=1e-4)


@pytest.mark.parametrize(
    "grid",
    [
        comb(30, 8000, 12000, 100.0),
        comb(60, 420, 3400, 12.0),
        BandGrid([600.0]),
        BandGrid([600, 700], None, [True, False]),
    ],
    ids=["thermal", "two thirds", "one band of unknown width", "one usable band of unknown width"],
)
def test_sensors_that_cannot_be_aligned_are_left_alone_and_named(grid: BandGrid, caplog) -> None:
    encoder, x_BHWC = amplifying(), torch.rand(2, 3, 3, len(grid))
    with torch.no_grad():
        plain = encoder(x_BHWC, grid).pooled_BD
        encoder.align()
        assert torch.equal(encoder(x_BHWC, grid).pooled_BD, plain)
        encoder(x_BHWC, grid)
    assert [record.message for record in caplog.records if "cannot be aligned" in record.message] == [
        f"a sensor of {int(grid.valid.sum())} bands cannot be aligned: 80% of its bands must lie within 420 to 2400 nm "
        "and have known widths"
    ]


def test_bands_outside_the_library_are_not_looked_at() -> None:
    encoder = amplifying().align()
    longer = Sensor(comb(150, 430, 2600, 15.0), "surface_reflectance")
    cut = longer.replace(
        bands=BandGrid(longer.bands.wavelengths_nm, longer.bands.fwhm_nm, longer.bands.wavelengths_nm < 2402.5)
    )
    x_BHWC = windows(smooth(longer.bands, 4))
    with torch.no_grad():
        assert torch.equal(encoder(x_BHWC, longer).pooled_BD, encoder(x_BHWC, cut).pooled_BD)


def test_scale_and_offset_of_stored_values_do_not_enter_the_map() -> None:
    encoder = amplifying().align()
    stored = NEW.replace(scale=1e-4, offset=-0.1)
    x_BHWC = windows(smooth(NEW.bands, 4))
    counts = ((x_BHWC.double() + 0.1) / 1e-4).round().to(torch.int16)
    with torch.no_grad():
        one, two = encoder(x_BHWC, NEW).pooled_BD, encoder(counts, stored).pooled_BD
    assert (one - two).abs().max() < 0.1 * torch.cdist(one, one).max()


def test_the_mode_in_which_a_sensor_is_first_met_does_not_matter() -> None:
    x_BHWC = windows(smooth(NEW.bands, 4))
    with torch.no_grad():
        expected = amplifying().align()(x_BHWC, NEW).pooled_BD
    with torch.inference_mode():
        encoder = amplifying().align()
        encoder(x_BHWC, NEW)
    encoder = amplifying().align()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        encoder(x_BHWC, NEW)
    x_BHWC.requires_grad_()
    found = encoder(x_BHWC, NEW).pooled_BD
    found.sum().backward()
    assert torch.allclose(found.detach(), expected, atol=1e-4) and x_BHWC.grad is not None


def test_maps_follow_the_weights() -> None:
    encoder = amplifying().align()
    first = pooled(encoder, NEW)
    with torch.no_grad():
        encoder.stem.weight.mul_(3.0)
        encoder.stem.bias.mul_(3.0)
    fresh = amplifying()
    fresh.load_state_dict(encoder.state_dict())
    assert not torch.equal(pooled(encoder, NEW), first)
    assert torch.allclose(pooled(encoder, NEW), pooled(fresh.align(), NEW), atol=1e-5)


def test_training_sets_it_aside_and_afterwards_it_is_fitted_anew(caplog: pytest.LogCaptureFixture) -> None:
    encoder = amplifying().align()
    before = pooled(encoder, NEW)
    with caplog.at_level("INFO"):
        assert encoder.train().alignment is None and encoder.aligned_to == []
    assert "its alignment is set aside" in caplog.text
    assert torch.allclose(pooled(encoder.eval(), NEW), before, atol=1e-6)
    encoder.train()
    with torch.no_grad():
        encoder.stem.weight.mul_(3.0)
    fresh = amplifying()
    fresh.load_state_dict(encoder.state_dict())
    assert torch.allclose(pooled(encoder.eval(), NEW), pooled(fresh.align(), NEW), atol=1e-5)
    encoder.train()
    encoder.align(False)
    assert encoder.eval().alignment is None and encoder.aligned_to is None


def test_what_looks_at_it_in_training_leaves_it_set_aside(tmp_path) -> None:
    """A fit, a probe and a plain look put an encoder to use for a while; then it is in training as it was."""
    from specfm.dense.align import aligned
    from specfm.scene import Scene

    rng = np.random.default_rng(0)
    scene = Scene.from_array(rng.random((24, 24, len(NEW.bands))).astype(np.float32), NEW)
    encoder = amplifying().align(True, [NEW]).train()
    with encoder.plain():
        assert not encoder.training and encoder.alignment is None
    assert encoder.training and encoder.alignment is None and len(encoder.aligned_to) == 1
    with aligned(encoder, [scene], False) as on:
        assert not on and not encoder.training and encoder.eval().alignment is None
    assert encoder.training and len(encoder.aligned_to) == 1
    encoder.fit(scene)
    assert encoder.training and encoder.alignment is None and len(encoder.aligned_to) == 1
    assert encoder.eval().alignment is not None


def test_it_is_saved_with_the_encoder_in_training_too(tmp_path) -> None:
    encoder = amplifying().align(True, [NEW])
    for name, mode in (("still", False), ("training", True)):
        specfm.save(encoder.train(mode), tmp_path / name)
        again = specfm.load(tmp_path / name)
        assert torch.allclose(pooled(again, NEW), pooled(encoder.eval(), NEW), atol=1e-6) and len(again.aligned_to) == 1
    assert specfm.load(tmp_path / "still", align=False).alignment is None
    specfm.save(specfm.load(tmp_path / "still", align=False), tmp_path / "plain")
    assert specfm.load(tmp_path / "plain").alignment is None
    card = tmp_path / "plain" / "card.json"
    assert "aligned_to" not in card.read_text()


def test_without_a_library_it_is_refused() -> None:
    encoder = amplifying()
    encoder.library = None
    with pytest.raises(UsageError, match="without a library of spectra"):
        encoder.align()


def test_a_release_carries_its_library(tmp_path) -> None:
    encoder = amplifying()
    specfm.save(encoder, tmp_path / "release")
    plain, aligned = specfm.load(tmp_path / "release"), specfm.load(tmp_path / "release", align=True)
    assert plain.alignment is None and torch.equal(pooled(plain, NEW), pooled(encoder, NEW))
    assert torch.allclose(pooled(aligned, NEW), pooled(encoder.align(), NEW), atol=1e-6)
    assert not torch.equal(pooled(aligned, NEW), pooled(plain, NEW))


def test_a_changed_library_is_refused(tmp_path) -> None:
    specfm.save(amplifying(), tmp_path / "release")
    path = tmp_path / "release" / "library.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(specfm.SpecfmError, match=r"library\.safetensors does not match"):
        specfm.load(tmp_path / "release")


def test_sensors_are_named_as_sensors_are_everywhere() -> None:
    encoder = amplifying()

    def told(sensors: object) -> Tensor:
        return pooled(encoder.align(sensors=sensors), KNOWN)

    expected = told([specfm.get_sensor("enmap")])
    for sensors in (["EnMAP"], "enmap", specfm.get_sensor("enmap").bands):
        assert torch.equal(told(sensors), expected)
    with pytest.raises(specfm.SpecfmError, match="got int"):
        encoder.align(sensors=[3])
