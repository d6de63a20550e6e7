"""Clear skies: energy is kept, gases absorb where they do, and a correction that knows the sky inverts it."""

from __future__ import annotations

import numpy as np
import pytest

from specfm.simulate.skies import Skies, believed, draw_conditions, make_skies, standard_skies
from specfm.simulate.spectra import GRID_NM


@pytest.fixture(scope="module")
def skies() -> Skies:
    return standard_skies()[0]


def band(values_JL: np.ndarray, nm: float) -> np.ndarray:
    return values_JL[:, int(np.argmin(np.abs(GRID_NM - nm)))]


def test_transmittance_is_at_most_one_and_products_are_finite(skies: Skies) -> None:
    for name in ("direct", "diffuse", "around", "path", "bounce", "white", "through"):
        values_JL = getattr(skies, f"{name}_JL")
        assert values_JL.shape == (len(skies), len(GRID_NM)) and np.isfinite(values_JL).all() and values_JL.min() >= 0
    assert skies.through_JL.max() <= 1 and skies.bounce_JL.max() < 0.5
    # a white ground sends no more light up than the sun sends down (a low sun in blue haze: the model errs by 6 %)
    gone = 1 / (1 - skies.bounce_JL)
    white = (skies.direct_JL + skies.diffuse_JL + skies.around_JL) * gone + skies.path_JL
    share = white / skies.white_JL
    assert share.max() < 1.07 and np.quantile(share, 0.95) < 1


def test_a_white_surface_without_air_sends_e_cos_over_pi() -> None:
    from pvlib.spectrum import get_reference_spectra

    extra_nm = get_reference_spectra(standard="ASTM G173-03")["extraterrestrial"]
    conditions = draw_conditions(64)
    skies = make_skies(conditions)
    distance = 1 + 0.033 * np.cos(2 * np.pi * conditions.day / 365)
    for nm in (550, 860, 1600):
        mean = float(extra_nm.loc[nm - 5 : nm + 5].mean()) * 1000
        expected_J = mean * distance * np.cos(np.radians(conditions.zenith_deg)) / np.pi
        np.testing.assert_allclose(band(skies.white_JL, nm), expected_J, rtol=0.06)


def test_oxygen_and_water_absorb(skies: Skies) -> None:
    shoulder = 0.5 * (band(skies.through_JL, 750) + band(skies.through_JL, 780))
    assert (band(skies.through_JL, 760) < 0.93 * shoulder).all(), "O2-A"
    wet = np.argsort(draw_conditions().water_cm)
    ratio = band(skies.through_JL, 940) / band(skies.through_JL, 860)
    assert ratio[wet[-50:]].mean() < 0.6 * ratio[wet[:50]].mean(), "more water, deeper band"
    assert np.median(band(skies.through_JL, 1380)) < 0.1


def test_air_scatters_blue_light(skies: Skies) -> None:
    path = skies.path_JL / skies.white_JL
    assert (band(path, 450) > 2 * band(path, 660)).mean() > 0.9
    assert 0.04 < np.median(band(path, 450)) < 0.2 and np.median(band(path, 2200)) < 0.01


def test_direct_light_falls_with_the_sun_and_haze() -> None:
    low, high = draw_conditions(200), draw_conditions(200)
    object.__setattr__(high, "zenith_deg", np.full(200, 15.0))
    object.__setattr__(low, "zenith_deg", np.full(200, 65.0))
    assert (make_skies(low).direct_JL < make_skies(high).direct_JL + 1e-9).all()
    hazy = draw_conditions(200)
    object.__setattr__(hazy, "haze", hazy.haze + 0.3)
    assert (band(make_skies(hazy).direct_JL, 500) < band(make_skies(draw_conditions(200)).direct_JL, 500)).all()


def radiance(skies: Skies, reflectance: float, around: float) -> np.ndarray:
    again = 1 / (1 - skies.bounce_JL * around)
    return ((skies.direct_JL + skies.diffuse_JL) * reflectance + skies.around_JL * around) * again + skies.path_JL


def inverted(radiance_JL: np.ndarray, skies: Skies) -> np.ndarray:
    y = (radiance_JL - skies.path_JL) / (skies.direct_JL + skies.diffuse_JL + skies.around_JL)
    return y / (1 + skies.bounce_JL * y)


def test_a_correction_that_knows_the_sky_is_exact(skies: Skies) -> None:
    bright = skies.through_JL > 0.05
    np.testing.assert_allclose(inverted(radiance(skies, 0.3, 0.3), skies)[bright], 0.3, rtol=2e-4)
    nearby = inverted(radiance(skies, 0.1, 0.5), skies)
    assert (nearby[bright] > 0.1).all(), "bright surroundings shine into a dark target"


def test_a_correction_that_errs_leaves_residuals_where_water_absorbs(skies: Skies) -> None:
    residual = inverted(radiance(skies, 0.3, 0.3), standard_skies()[1]) - 0.3
    assert 0.002 < band(residual, 450).std() < 0.03
    assert band(residual, 940).std() > 3 * band(residual, 860).std()
    same = believed(draw_conditions(16), water=0.0, haze=0.0)
    np.testing.assert_array_equal(same.water_cm, draw_conditions(16).water_cm)
