"""Windows seen by two sensors: counter-based, physical, as noisy as they say, and alike where they should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.sensor_table import get_row
from specfm.simulate.pairs import Slot, SurfacePairs, SurfacePairsConfig
from specfm.simulate.responses import responses
from specfm.simulate.seen import REFERENCE, SensorErrors, View, reference
from specfm.simulate.skies import Skies, standard_skies
from specfm.simulate.spectra import GRID_NM, read_library
from specfm.simulate.surfaces import Ground, Surfaces


def make(seed: int = 0, **options: Any) -> SurfacePairs:
    few: dict[str, Any] = {"sensors": ("emit", "sentinel2_msi", "casi_1500"), "drawn_sensors": 3, "window": 5}
    return SurfacePairs(SurfacePairsConfig(**(few | options)), seed)


@pytest.fixture(scope="module")
def pairs() -> SurfacePairs:
    return make()


def flat(reflectance: np.ndarray, pixels: int = 400) -> Surfaces:
    """One material of each row of ``reflectance``, in the open, in surroundings of its own kind."""
    spectra_NKL = reflectance[:, None].astype(np.float32)
    return Surfaces(spectra_NKL, np.ones((len(spectra_NKL), pixels, 1), np.float32), spectra_NKL[:, 0])


def view(name: str, quantity: str, errors: SensorErrors | None, believed: Skies | None = None) -> View:
    skies = standard_skies()[0]
    return View(responses(get_row(name).bands, 400.0, 2450.0), quantity, skies, believed or skies, errors)


# -- the counter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", ["surface_reflectance", "toa_reflectance", "radiance"])
def test_a_sample_does_not_depend_on_its_batch(quantity: str) -> None:
    pairs = make(quantities=(quantity,), errors={"stripes": 0.01})
    slot = pairs.slot(7, 2)
    whole = pairs.windows(7, slot, range(12))
    other = [5, 11, 0, 3]
    again = make(quantities=(quantity,), errors={"stripes": 0.01})
    some = again.windows(7, again.slot(7, 2), other)
    for a, b in zip(whole, some, strict=True):
        np.testing.assert_array_equal(a[other], b)
    for n in (4, 9):
        for a, b in zip(whole, pairs.windows(7, slot, [n]), strict=True):
            np.testing.assert_array_equal(a[[n]], b)


def test_other_seed_step_or_number_other_sample(pairs: SurfacePairs) -> None:
    slot = pairs.slot(0, 0)
    one = pairs.windows(0, slot, [0, 1])[0]
    assert np.abs(one[0] - one[1]).max() > 1e-3
    assert np.abs(one - pairs.windows(1, slot, [0, 1])[0]).max() > 1e-3
    different = make(seed=1)
    assert np.abs(one - different.windows(0, slot, [0, 1])[0]).max() > 1e-3
    chosen = {(slot.first, slot.second) for slot in (pairs.slot(step, place) for step in range(9) for place in (0, 1))}
    assert len(chosen) > 4, "sensors change from step to step and slot to slot"
    assert pairs.digest == make().digest != different.digest


# -- what a slot is ----------------------------------------------------------------------------------------------------


def test_both_sides_hold_the_same_quantity_and_only_usable_bands(pairs: SurfacePairs) -> None:
    for step in range(12):
        slot = pairs.slot(step, 0)
        first, second = slot.sensors
        assert first.quantity == second.quantity and first.level == second.level
        windows = pairs.windows(step, slot, range(6))
        for x_NHWC, sensor in zip(windows, slot.sensors, strict=True):
            assert x_NHWC.shape == (6, 5, 5, len(sensor.bands)) and x_NHWC.dtype == np.float32
            assert np.isfinite(x_NHWC).all() and not x_NHWC[..., ~sensor.bands.valid].any()
            seen = x_NHWC[..., sensor.bands.valid]
            low, high = (-0.2, 2.0) if sensor.quantity != "radiance" else (-5.0, 700.0)
            assert low <= seen.min() and seen.max() <= high
            assert np.median(seen) > 0


def test_sensors_of_a_pair_look_at_the_same_part_of_the_spectrum() -> None:
    pairs = make(sensors=("specim_fx10", "specim_swir", "emit"), drawn=0)
    found = {tuple(sorted(pairs.names[i] for i in (s.first, s.second))) for s in (pairs.slot(k, 0) for k in range(60))}
    assert ("specim_fx10", "specim_swir") not in found
    assert ("emit", "specim_fx10") in found and ("emit", "specim_swir") in found


def test_names_are_told_of_known_sensors_only() -> None:
    slot = make(drawn=1.0).slot(0, 0)
    assert [sensor.name for sensor in slot.sensors] == [None, None]
    assert {sensor.name for sensor in make(drawn=0.0, sensors=("emit",)).slot(0, 0).sensors} == {"emit"}
    names = make(exclude=("enmap", "Sentinel-2"), sensors=None).names
    assert "enmap" not in names and "sentinel2_msi" not in names and "emit" in names


def test_samples_in_a_row_share_their_layout_and_not_their_materials() -> None:
    ground = Ground([read_library("earthlib")], side=7, siblings=4)
    surfaces = ground.make(ground.pools[0], 0, 0, [0, 1, 3, 4])
    np.testing.assert_array_equal(surfaces.weights_NPK[0], surfaces.weights_NPK[2])
    assert np.abs(surfaces.weights_NPK[0] - surfaces.weights_NPK[3]).max() > 0.01
    assert np.abs(surfaces.reflectance_NKL[0] - surfaces.reflectance_NKL[1]).max() > 0.01
    total = surfaces.weights_NPK.sum(-1)
    assert total.min() > 0.5 and total.max() < 2, "shares sum to 1, times the brightness of a pixel"


def test_common_classes_do_not_crowd_out_the_rest() -> None:
    ground = Ground([read_library("earthlib")], side=3, siblings=1)
    pool = ground.pools[0]
    drawn = ground.spectra.class_N[pool.index[pool.draw(np.linspace(0, 1, 5000, endpoint=False))]]
    soil = [i for i, name in enumerate(ground.spectra.classes) if name.endswith("bare.soil")]
    assert 0.05 < np.isin(drawn, soil).mean() < 0.3, "57 % of the spectra are soils"
    place = pool.draw(np.linspace(0, 1, 200, endpoint=False))
    alike = pool.alike(place, np.linspace(0, 1, 200, endpoint=False))
    np.testing.assert_array_equal(ground.spectra.class_N[pool.index[place]], ground.spectra.class_N[pool.index[alike]])


# -- physics -----------------------------------------------------------------------------------------------------------


def test_responses_average_what_they_cover() -> None:
    bands = BandGrid([395.0, 500.0, 800.0, 1000.0], [10.0, 10.0, 3.0, 40.0])
    seen = responses(bands, 400.0, 1000.0)
    assert seen.bands.valid.tolist() == [False, True, True, False]
    line = (2 + 0.001 * GRID_NM).astype(np.float32)
    np.testing.assert_allclose((seen.matrix_CL @ line)[1:3], [2.5, 2.8], rtol=1e-5)
    fine = np.interp(np.arange(400.0, 1001.0), GRID_NM, np.sin(GRID_NM / 40))
    weight = np.exp(-4 * np.log(2) * ((np.arange(400.0, 1001.0) - 500) / 10) ** 2)
    expected = (weight * fine).sum() / weight.sum()
    assert (seen.matrix_CL @ np.sin(GRID_NM / 40))[1] == pytest.approx(expected, abs=2e-4)


def test_radiance_of_white_is_that_of_its_sky() -> None:
    skies = standard_skies()[0]
    seen = view("emit", "radiance", None)
    x_NPC = seen.see(flat(np.ones((6, len(GRID_NM)))), 0, 0, range(6), 0)
    white = (skies.direct_JL + skies.diffuse_JL + skies.around_JL) / (1 - skies.bounce_JL) + skies.path_JL
    all_JC = white @ seen.seen_by.matrix_CL.T
    for x_PC in x_NPC:
        apart_J = np.abs(all_JC - x_PC[0])[:, seen.valid_C].max(1)
        assert apart_J.min() < 1e-3 * x_PC.max(), "one of the skies, E cos / pi"
    oxygen = [int(np.argmin(np.abs(seen.seen_by.bands.wavelengths_nm - nm))) for nm in (745, 762, 785)]
    left, dip, right = x_NPC[:, 0, oxygen].T
    assert (dip < 0.92 * (left + right) / 2).all(), "O2-A"


def test_two_sensors_agree_on_a_surface_where_their_bands_do() -> None:
    ground = Ground([read_library("earthlib")], side=3, siblings=1)
    surfaces = ground.make(ground.pools[0], 0, 0, range(8))
    one, two = (view(name, "surface_reflectance", None) for name in ("neon_ais", "sentinel2_msi"))
    x_NPC, y_NPC = (v.see(surfaces, 0, 0, range(8), 0) for v in (one, two))
    merged, matrix_KC = BandGrid(one.seen_by.bands.wavelengths_nm, one.seen_by.bands.fwhm_nm, one.valid_C).resample(
        two.seen_by.bands
    )
    both = merged.valid & two.valid_C
    assert both.sum() >= 10
    expected = (x_NPC @ matrix_KC.T)[..., both]
    np.testing.assert_allclose(y_NPC[..., both], expected, rtol=0.05, atol=0.005)


def test_reflectance_comes_back_but_for_the_errors_of_the_correction() -> None:
    grey = np.repeat(np.linspace(0.05, 0.6, 6)[:, None], len(GRID_NM), 1)
    exact = view("enmap", "surface_reflectance", None)
    x_NPC = exact.see(flat(grey), 0, 0, range(6), 0)[..., exact.valid_C]
    np.testing.assert_allclose(x_NPC, np.broadcast_to(grey[:, :1, None], x_NPC.shape), rtol=3e-3)
    erring = view("enmap", "surface_reflectance", None, standard_skies()[1])
    wrong = erring.see(flat(grey), 0, 0, range(6), 0)[..., erring.valid_C] - x_NPC
    assert 0.001 < np.abs(wrong).mean() < 0.05
    assert not exact.valid_C[np.argmin(np.abs(exact.seen_by.bands.wavelengths_nm - 1400))], "dark in water vapour"


def test_noise_is_that_of_the_stated_ratio() -> None:
    quiet = SensorErrors(snr=(100, 100), gain=0, band_gain=0, shadow=0, light=0, relief=0)
    seen = view("aviris_classic_2010s", "radiance", quiet)
    still = view("aviris_classic_2010s", "radiance", None)
    surface = flat(np.full((24, len(GRID_NM)), REFERENCE), pixels=900)
    noise = seen.see(surface, 0, 0, range(24), 0) - still.see(surface, 0, 0, range(24), 0)
    signal_NC, sigma_NC = still.see(surface, 0, 0, range(24), 0)[:, 0], noise.std(1)
    at = reference(seen.seen_by, standard_skies()[0])
    units_NC = signal_NC * at.photons_C / 0.9  # light, 1 = the median band at the reference
    expected = at.floor_C / 100 * np.sqrt(0.9 * units_NC + 0.1)
    np.testing.assert_allclose(sigma_NC[:, seen.valid_C], expected[:, seen.valid_C], rtol=0.15)
    near = (np.abs(units_NC - 1) < 0.1) & seen.valid_C
    assert near.sum() > 50
    assert np.median(signal_NC[near] / sigma_NC[near]) == pytest.approx(100, rel=0.06), (
        "SNR of the median band at the reference"
    )
    bright, dark = (units_NC > 2) & seen.valid_C, (units_NC < 0.3) & seen.valid_C
    assert (signal_NC[bright] / sigma_NC[bright]).min() > 110 and np.median(signal_NC[dark] / sigma_NC[dark]) < 60


def test_shadow_darkens_the_sun_more_than_the_sky() -> None:
    quiet = {"snr": (1e6, 1e6), "gain": 0, "band_gain": 0, "light": 0, "relief": 0}
    shaded, lit = (view("emit", "radiance", SensorErrors(shadow=p, **quiet)) for p in (1.0, 0.0))
    surface = flat(np.full((16, len(GRID_NM)), 0.4), pixels=81)
    ratio_NPC = shaded.see(surface, 0, 0, range(16), 0) / np.maximum(lit.see(surface, 0, 0, range(16), 0), 1e-3)
    nm = shaded.seen_by.bands.wavelengths_nm
    blue, red = ratio_NPC[..., np.argmin(np.abs(nm - 450))], ratio_NPC[..., np.argmin(np.abs(nm - 860))]
    dark = red < 0.6
    assert dark.any() and (red <= 1.01).all() and (blue[dark] > red[dark]).all()


def test_stripes_run_along_columns() -> None:
    clean = {"snr": (1e6, 1e6), "gain": 0, "band_gain": 0, "light": 0, "relief": 0, "shadow": 0}
    surface = flat(np.full((2, len(GRID_NM)), 0.4), pixels=81)
    striped = view("emit", "radiance", SensorErrors(stripes=0.02, **clean))
    x_NHWC = striped.see(surface, 0, 0, range(2), 0).reshape(2, 9, 9, -1)[..., striped.valid_C]
    assert np.ptp(x_NHWC, axis=1).max() < 1e-3 * x_NHWC.max()
    assert 0.01 < (x_NHWC.std(2) / x_NHWC.mean(2)).mean() < 0.03


# -- errors ------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_simulated_is_refused(tmp_path: Any) -> None:
    from specfm.simulate.spectra import SHIPPED, pack

    with pytest.raises(UsageError, match="unknown sensor 'emitt'"):
        make(sensors=("emitt",))
    with pytest.raises(UsageError, match="'no_such' is no library"):
        make(libraries=("no_such",))
    with pytest.raises(ValueError, match="a range of positive ratios, the lower first, got 9 to 3"):
        SensorErrors(snr=(9, 3))
    with pytest.raises(UsageError, match="no sensor is left"):
        make(sensors=("emit",), exclude=("emit",))
    nm = np.arange(400.0, 701.0, 10.0)
    pack(tmp_path / "visible.h5", nm, np.random.default_rng(0).random((30, 31)), ["a"] * 30, "")
    monkey = pytest.MonkeyPatch()
    monkey.setitem(SHIPPED, "visible", tmp_path / "visible.h5")
    try:
        with pytest.raises(UsageError, match="no library covers half the bands of specim_swir: visible 400-700 nm"):
            make(libraries=("visible",), sensors=("specim_swir",))
        slot: Slot = make(libraries=("visible", "earthlib"), sensors=("specim_swir",), drawn=0).slot(0, 0)
        assert slot.pool.range_nm == (400.0, 2450.0), "spectra are used only where they reach"
    finally:
        monkey.undo()
