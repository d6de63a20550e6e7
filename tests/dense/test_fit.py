"""Fitting the stem to scenes without labels: what it promises, what it refuses, how it is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import specfm
from specfm.bands import BandGrid
from specfm.dense.fit import acquisition, fit_encoder, of_one_sensor
from specfm.dense.fit_tokens import add_lattices, empty_moments, lattices, whitened
from specfm.errors import SpecfmError, UsageError
from specfm.models import create_encoder
from specfm.scene import Scene
from specfm.sensors import Sensor
from specfm.whiten_recipe import WhitenRecipe

SENSOR = Sensor(BandGrid(np.linspace(450, 900, 12), np.full(12, 12.0)), "radiance", name="toy")


def scene(seed: int = 0, side: int = 24, name: str = "toy", **fields: object) -> Scene:
    """Few smooth materials, and noise that is much stronger in the last bands."""
    rng = np.random.default_rng(seed)
    fields_HWK = np.kron(rng.random((side // 4, side // 4, 3)), np.ones((4, 4, 1)))
    cube = fields_HWK @ rng.uniform(0.2, 1, (3, 12)) + rng.normal(size=(side, side, 12)) * np.geomspace(1e-3, 0.1, 12)
    return Scene.from_array((cube + 0.3).astype(np.float32), SENSOR, name=name, **fields)


def encoder(**options: object) -> specfm.Encoder:
    torch.manual_seed(0)
    return create_encoder("nano", patch_size=2, dim=16, depth=1, heads=2, hidden=8, code_width=16, **options).eval()


def tokens(model: specfm.Encoder, of: Scene) -> torch.Tensor:
    """Stem tokens of all 6 x 6 windows of a scene, before they are made of one size."""
    cube = torch.from_numpy(of.read()).unfold(0, 6, 3).unfold(1, 6, 3).permute(0, 1, 3, 4, 2).flatten(0, 1)
    with torch.no_grad():
        return model.stem(model.generated(model.prepare(cube, of.sensor))).flatten(0, 1)


def test_tokens_of_the_scene_have_mean_zero_and_deviation_one() -> None:
    model = encoder().fit(scene())
    found = tokens(model, scene())
    assert found.mean(0).abs().max() < 0.1
    assert float(found.var(0).mean()) == pytest.approx(1, abs=0.1)


def test_neighbours_elsewhere_are_found_better_though_no_label_is_looked_at() -> None:
    """Materials differ least in the bands that are least noisy: plain tokens see noise, fitted ones the materials."""
    rng = np.random.default_rng(0)
    kind_HW = np.kron(rng.integers(0, 5, (12, 12)), np.ones((6, 6), int))
    spectra_KC = 1 + rng.normal(size=(5, 12)) * np.geomspace(0.02, 0.1, 12)
    cube = spectra_KC[kind_HW] + rng.normal(size=(72, 72, 12)) * np.geomspace(0.005, 0.5, 12)
    of = Scene.from_array(cube.astype(np.float32), SENSOR)

    def found(model: specfm.Encoder) -> float:
        """Share of patches whose nearest one, 12 pixels away and more, is of their material."""
        z_ND = torch.from_numpy(model.embed(of, tile=6, stride=6).features_hwD).flatten(0, 1)
        z_ND = torch.nn.functional.normalize(z_ND - z_ND.mean(0), dim=1)
        place = torch.cartesian_prod(torch.arange(36), torch.arange(36))
        near = (place[:, None] - place[None]).abs().amax(-1) < 6
        nearest = (z_ND @ z_ND.T).masked_fill(near, -9).argmax(1)
        kind = torch.from_numpy(kind_HW[::2, ::2]).flatten()
        return float((kind[nearest] == kind).float().mean())

    model = encoder()
    before = found(model)
    assert found(model.fit(of)) > before + 0.15


def test_several_scenes_are_one_acquisition_in_any_order_and_however_they_are_given() -> None:
    one, two = scene(1, name="a"), scene(2, name="b")
    first, second = encoder().fit([one, two]), encoder().fit(iter([two, one]))
    torch.testing.assert_close(first.stem.weight, second.stem.weight, rtol=1e-4, atol=1e-4)
    pairs = encoder().fit([(one.read(), SENSOR), (two.read(), SENSOR)])
    assert torch.equal(pairs.stem.weight, first.stem.weight)
    assert torch.equal(encoder().fit(one.read(), SENSOR).stem.weight, encoder().fit(one).stem.weight)
    assert torch.equal(encoder().fit((one.read(), SENSOR)).stem.weight, encoder().fit(one).stem.weight)
    assert [each["name"] for each in first.card["fitted"]["scenes"]] == ["a", "b"]
    assert not torch.equal(encoder().fit(one).stem.weight, first.stem.weight)


def test_gain_and_offset_of_what_is_stored_change_nothing() -> None:
    """The same radiances stored as other numbers."""
    plain = scene()
    stored = plain.replace(
        source=Scene.from_array(plain.read() * 4 - 8, SENSOR).source, sensor=SENSOR.replace(scale=0.25, offset=2.0)
    )
    one, other = encoder().fit(plain), encoder().fit(stored)
    torch.testing.assert_close(tokens(one, plain), tokens(other, stored), rtol=1e-2, atol=1e-2)


def test_another_gain_of_every_band_hardly_matters() -> None:
    """To not matter at all the tokens would have to be linear in it: the level that is divided out weighs all bands."""
    plain, gain_C = scene(), np.random.default_rng(5).uniform(0.7, 1.4, 12).astype(np.float32)
    other = plain.replace(source=Scene.from_array(plain.read() * gain_C, SENSOR).source)

    def likeness(model: specfm.Encoder, of: Scene) -> torch.Tensor:
        t = torch.nn.functional.normalize(tokens(model, of), dim=1)
        return (t @ t.T).flatten()

    one, two = likeness(encoder().fit(plain), plain), likeness(encoder().fit(other), other)
    assert float(torch.corrcoef(torch.stack([one, two]))[0, 1]) > 0.95


def test_pixels_without_data_do_not_count() -> None:
    plain = scene(nodata=-1.0)
    holed = plain.read()
    holed[:, 16:] = -1.0  # a third has no data
    wild = holed.copy()
    wild[:, 16:] = np.nan
    cut = plain.replace(source=Scene.from_array(plain.read()[:, :16], SENSOR).source)
    results = [encoder().fit(plain.replace(source=Scene.from_array(x, SENSOR).source)) for x in (holed, wild)]
    assert torch.equal(results[0].stem.weight, results[1].stem.weight)
    # windows that straddle the edge add the patches on this side of it
    torch.testing.assert_close(tokens(results[0], cut), tokens(encoder().fit(cut), cut), rtol=0.2, atol=0.2)


def test_a_big_scene_is_thinned_and_the_result_hardly_changes() -> None:
    big = scene(side=96)
    few, all_of_it = (fit_encoder(encoder(), big, patches=count) for count in (2_000, 10**9))
    assert few.card["fitted"]["patches"] <= 2_000 < all_of_it.card["fitted"]["patches"]
    one, other = tokens(few, big), tokens(all_of_it, big)
    assert float((one - other).norm() / other.norm()) < 0.1


def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoder().fit(scene())
    monkeypatch.setattr("specfm.dense.survey.WINDOWS", 3)
    pieces = encoder().fit(scene())
    torch.testing.assert_close(tokens(pieces, scene()), tokens(whole, scene()), rtol=1e-3, atol=1e-3)


def test_what_it_was_fitted_on_is_kept_with_it(tmp_path: Path) -> None:
    fitted = encoder().fit(scene(), power=0.5, components=5)
    specfm.save(fitted, tmp_path / "fitted")
    again = specfm.load(tmp_path / "fitted")
    assert torch.equal(again.stem.weight, fitted.stem.weight) and torch.equal(again.stem.bias, fitted.stem.bias)
    record = again.card["fitted"]
    recipe = {"shift": 3, "power": 0.5, "components": 5, "damping": 1e-5, "brightness": False}
    assert record["labels"] is None and record["recipe"] == recipe
    assert record["scenes"][0]["name"] == "toy" and len(record["scenes"][0]["digest"]) == 16
    assert record["patches"] == record["scenes"][0]["patches"] > 1000
    assert specfm.checkpoint.has_whitened_stem(again.card)
    assert torch.linalg.matrix_rank(again.stem.weight.double(), rtol=1e-4) == 5


def test_the_recipe_of_the_card_is_used_where_none_is_given() -> None:
    model = encoder()
    recipe = {"shift": 2, "power": 0.5, "components": 4, "damping": 1e-4, "brightness": True}
    model.card = {"whiten": {"per": "scene", **recipe}}
    model.fit(scene())
    assert model.card["fitted"]["recipe"] == recipe
    model.fit(scene(), components=0, power=0.25)
    assert model.card["fitted"]["recipe"] == {**recipe, "power": 0.25, "components": None}
    assert model.card["whiten"]["power"] == 0.5


def test_an_encoder_in_training_stays_so_and_can_be_trained_after() -> None:
    model = encoder().train()
    with torch.inference_mode():
        model.fit(scene())
    assert model.training
    model(torch.rand(2, 6, 6, 12), SENSOR).pooled_BD.sum().backward()
    assert model.stem.weight.grad is not None


def test_aligned_maps_follow_the_fitted_stem(tmp_path: Path) -> None:
    from specfm.library import Library

    model = encoder()
    rng = np.random.default_rng(0)
    model.library = Library(440.0, rng.random((40, 95)).cumsum(1).astype(np.float32) + 1, np.full(40, 1))
    model.align()
    window = torch.from_numpy(scene().read()[None, :6, :6])
    before = model(window, SENSOR).pooled_BD
    model.fit(scene())
    assert model.alignment is not None
    after = model(window, SENSOR).pooled_BD
    fresh = encoder().fit(scene())
    fresh.library = model.library
    assert torch.equal(fresh.align()(window, SENSOR).pooled_BD, after) and not torch.equal(before, after)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shift": 0}, "shift"), ({"power": float("nan")}, "power"), ({"damping": 0.0}, "damping"),
     ({"components": -1}, "components"), ({"patches": 0}, "patches")],
)  # fmt: skip
def test_odd_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder().fit(scene(), **options)


def test_what_cannot_be_fitted_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="no scene"):
        encoder().fit([])
    with pytest.raises(UsageError, match="list of spectra"):
        encoder().fit(scene(neighbours=False))
    with pytest.raises(UsageError, match="aligned with each other"):
        encoder(aligned=True).fit(scene())
    with pytest.raises(SpecfmError, match=r"tiny: \d+ pairs .* too few"):
        encoder().fit(scene(side=4, name="tiny"))
    with pytest.raises(SpecfmError, match="sensor="):
        encoder().fit(scene().read())
    with pytest.raises(SpecfmError, match="do not differ"):
        flat = Scene.from_array(np.ones((24, 24, 12), np.float32), SENSOR, name="flat")
        encoder(content=False).fit(flat)


def test_the_encoder_is_left_alone_where_the_fit_fails() -> None:
    model = encoder().fit(scene())
    before, card = model.stem.weight.clone(), dict(model.card)
    with pytest.raises(SpecfmError):
        model.fit(scene(side=4))
    assert torch.equal(model.stem.weight, before) and model.card == card


def test_patches_lie_apart_by_the_shift_on_the_lattice_of_disjoint_patches() -> None:
    assert [WhitenRecipe(shift=shift).step(patch) for shift, patch in ((3, 3), (3, 1), (3, 2), (3, 8), (6, 3))] == [
        1, 3, 2, 1, 2,
    ]  # fmt: skip
    model, recipe = encoder(), WhitenRecipe(shift=2)
    moments = empty_moments(model)
    cube = torch.rand(5, 6, 6, 12)
    add_lattices(moments, lattices(model, cube, specfm.BandTensors.from_sensors(SENSOR), None), recipe.step(2))
    assert (moments[0].count, moments[0].pairs) == (5 * 9, 5 * 12)
    assert len(whitened(model, moments, recipe, "here")) == 1
    assert acquisition(model, [scene()]).record["labels"] is None


RICH = Sensor(BandGrid(np.linspace(450, 2400, 60)), "radiance", gsd_m=5.0, name="rich")  # widths not stated
POOR = Sensor(BandGrid(np.linspace(500, 2200, 20), np.full(20, 90.0)), "radiance", name="poor")


def seen_by(sensor: Sensor, noise: float = 1e-3) -> Scene:
    """One ground of smooth materials as one sensor or the other sees it."""
    rng = np.random.default_rng(0)
    share_HWK = np.kron(rng.dirichlet(np.ones(6) / 3, (12, 12)), np.ones((4, 4, 1)))
    lam = np.linspace(400, 2500, 400)
    middle_K1 = rng.uniform(500, 2300, (6, 1))
    true_KS = 1 + 0.5 * np.exp(-(((lam - middle_K1) / 150) ** 2)) + 0.3 * np.sin(lam / 300 + middle_K1)
    seen_KC = true_KS @ BandGrid(lam).resample(sensor.bands)[1].T
    cube = share_HWK @ seen_KC
    cube += rng.normal(size=cube.shape) * noise
    return Scene.from_array(cube.astype(np.float32), sensor, name=sensor.name or "")


@torch.no_grad()
def test_other_sensors_are_put_as_the_one_fitted_to_would_tell_them(tmp_path: Path) -> None:
    """One patch seen by both is found again among all patches of the ground; without alignment it is not."""
    model, rich, poor = encoder(brightness=False), seen_by(RICH), seen_by(POOR)
    model.fit(rich)
    library = model.library
    assert library is not None and library.home is not None and library.home.name == "rich"
    measured = {row.tobytes() for row in np.asarray(rich.read()).reshape(-1, 60)}
    assert not measured & {row.tobytes() for row in library.spectra_LS}  # drawn anew

    def found(of: specfm.Encoder) -> float:
        a, b = (torch.from_numpy(of.embed(each, tile=4, stride=4).features_hwD).flatten(0, 1) for each in (rich, poor))
        a, b = (torch.nn.functional.normalize(each - a.mean(0), dim=1) for each in (a, b))
        return float(((b @ a.T).argmax(1) == torch.arange(len(a))).float().mean())

    before, alone = found(model), model.embed(rich, tile=4, stride=4).features_hwD
    model.align()
    assert np.array_equal(model.embed(rich, tile=4, stride=4).features_hwD, alone)  # at home nothing moves
    after = found(model)
    assert after > 0.6 > 2 * before
    specfm.save(model, tmp_path / "fitted")
    assert found(specfm.load(tmp_path / "fitted", align=True)) == after


def test_of_several_sensors_the_first_that_can_stand_for_others_is_fitted_to(caplog: pytest.LogCaptureFixture) -> None:
    poor, rich = seen_by(POOR), seen_by(RICH)
    model = encoder().fit([poor, rich, seen_by(POOR)])
    assert "rich alone, of 60 bands" in caplog.text
    assert model.card["fitted"]["left_out"] == ["poor", "poor"]
    assert torch.equal(model.stem.weight, encoder().fit(rich).stem.weight)
    found, left_out = of_one_sensor([poor, seen_by(POOR)])
    assert len(found) == 2 and not left_out


def test_few_bands_give_no_library() -> None:
    assert encoder().fit(scene()).library is None


@torch.no_grad()
def test_a_small_scene_has_a_library_too_as_far_as_its_spectra_differ() -> None:
    """A direction needs two spectra, and there are no more directions than bands, nor fewer than are seen to differ."""
    bands = BandGrid(np.linspace(450, 900, 60), np.full(60, 8.0))
    cube = scene(side=20).read() @ np.random.default_rng(1).random((12, 60), np.float32)
    wide = Sensor(bands, "radiance", name="wide")
    found = acquisition(encoder(), [Scene.from_array(cube, wide)]).library
    assert found is not None and found.home is not None and len(found.home.bands) == 60
    spare = Scene.from_array(cube[:10, :10], wide)
    assert acquisition(encoder(), [spare]).library is None


def test_brightness_of_a_patch_is_left_out_unless_asked_for() -> None:
    """With brightness a patch in the shade differs from what it is in the light, else it does not."""
    of = scene()
    lit = torch.from_numpy(of.read()[:6, :6])[None]
    shade = lit * torch.where(torch.arange(6) < 4, 1.0, 0.4)[None, None, :, None]

    def moved(model: specfm.Encoder) -> float:
        one, other = (model.stem(model.generated(model.prepare(x, of.sensor)))[:, 2] for x in (lit, shade))
        return float((one - other).norm())

    assert moved(encoder(content=False).fit(of)) < 1e-2 < moved(encoder(content=False).fit(of, brightness=True))
