"""Each pretreatment against its formula, a slow reference or SciPy, and its properties.

Shapes: N spectra, C bands.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import savgol_filter
from scipy.spatial import ConvexHull

from specfm.bands import BandGrid
from specfm.pretreatment import pretreat_spectra
from specfm.pretreatment.continuum import remove_continuum
from specfm.pretreatment.savitzky_golay import filter_matrix, segments

EVEN = np.arange(400.0, 1000.0, 5.0)
UNEVEN = np.cumsum(np.random.default_rng(3).uniform(4, 7, 90)) + 400


def curves(count: int, wavelengths_nm: np.ndarray, seed: int = 0) -> np.ndarray:
    """Positive spectra with a few features and noise."""
    rng = np.random.default_rng(seed)
    centre, width, depth = (rng.uniform(*span, (count, 4, 1)) for span in ((400, 1000), (10, 80), (0.1, 0.9)))
    cut = 1 - 0.25 * (depth * np.exp(-0.5 * ((wavelengths_nm - centre) / width) ** 2)).sum(1)
    return 0.5 * cut + 0.01 * rng.standard_normal(cut.shape)


def hull_by_segments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """At each band the highest of all lines between a band on its left and one on its right: the definition."""
    hull = y.copy()
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            inside = slice(i, j + 1)
            line = y[i] + (x[inside] - x[i]) / (x[j] - x[i]) * (y[j] - y[i])
            hull[inside] = np.maximum(hull[inside], line)
    return hull


@pytest.mark.parametrize("wavelengths_nm", [EVEN[:40], UNEVEN[:40], np.r_[EVEN[:15], EVEN[60:85]]])
def test_continuum_is_the_hull_by_definition(wavelengths_nm: np.ndarray) -> None:
    x_NC = curves(20, wavelengths_nm)
    slow = np.stack([spectrum / hull_by_segments(wavelengths_nm, spectrum) for spectrum in x_NC])
    np.testing.assert_allclose(remove_continuum(x_NC, wavelengths_nm), slow, atol=1e-12)


def test_continuum_touches_where_the_convex_hull_has_its_upper_corners() -> None:
    x_NC = curves(30, UNEVEN)
    found_NC = remove_continuum(x_NC, UNEVEN)
    for spectrum, ratio in zip(x_NC, found_NC, strict=True):
        below = np.r_[UNEVEN[[0, -1]], UNEVEN], np.r_[-10.0, -10.0, spectrum]
        corners = ConvexHull(np.stack(below, 1)).vertices
        upper = np.sort(corners[corners >= 2] - 2)
        assert set(upper) <= set(np.flatnonzero(ratio > 1 - 1e-9))
        np.testing.assert_allclose(ratio * np.interp(UNEVEN, UNEVEN[upper], spectrum[upper]), spectrum, atol=1e-12)


def test_continuum_has_no_scale_and_no_order() -> None:
    x_NC = curves(9, EVEN)
    found = remove_continuum(x_NC, EVEN)
    assert found.max() <= 1 and (found[:, [0, -1]] == 1).all()
    np.testing.assert_allclose(remove_continuum(37.0 * x_NC, EVEN), found, atol=1e-12)
    mixed = np.random.default_rng(0).permutation(len(EVEN))
    np.testing.assert_allclose(remove_continuum(x_NC[:, mixed], EVEN[mixed]), found[:, mixed], atol=1e-12)


def test_continuum_of_dark_values_and_of_bands_with_one_centre() -> None:
    dark = np.array([[-0.1, 0.0, 0.2, 0.1, -0.05], [0.0, 0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(remove_continuum(dark, EVEN[:5]), [[1, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    twice_nm = np.array([400.0, 410.0, 410.0, 420.0])  # two detectors meet
    np.testing.assert_allclose(remove_continuum(np.array([[1.0, 1.5, 0.75, 1.0]]), twice_nm), [[1, 1, 0.5, 1]])


def test_many_blocks_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NC = curves(23, EVEN)
    whole = remove_continuum(x_NC, EVEN)
    monkeypatch.setattr("specfm.pretreatment.continuum.BLOCK", 5)
    np.testing.assert_array_equal(remove_continuum(x_NC, EVEN), whole)


@pytest.mark.parametrize("derivative", [0, 1, 2])
@pytest.mark.parametrize(("window", "degree"), [(5, 2), (11, 2), (15, 3), (7, 4)])
def test_even_bands_are_filtered_as_scipy_does(derivative: int, window: int, degree: int) -> None:
    x_NC = curves(8, EVEN)
    matrix_CC, usable_C = filter_matrix(EVEN, derivative, window, False, degree)
    assert usable_C.all()
    expected = savgol_filter(x_NC, window, degree, deriv=derivative, delta=5.0, mode="interp")
    np.testing.assert_allclose(x_NC @ matrix_CC, expected, atol=1e-12)


@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_polynomials_are_exact_on_uneven_and_unsorted_bands(derivative: int) -> None:
    mixed_nm = np.random.default_rng(1).permutation(UNEVEN)
    shape = np.polynomial.Polynomial([0.2, 3e-3, -4e-6])
    matrix_CC, _ = filter_matrix(mixed_nm, derivative, 9, False, 2)
    expected = shape.deriv(derivative)(mixed_nm) if derivative else shape(mixed_nm)
    np.testing.assert_allclose(shape(mixed_nm) @ matrix_CC, expected, rtol=1e-7, atol=1e-12)


def test_no_window_reaches_over_a_gap() -> None:
    gapped_nm = np.r_[400:500:10.0, 600:700:10.0, 900:920:10.0]
    assert [(part.start, part.stop) for part in segments(gapped_nm)] == [(0, 10), (10, 20), (20, 22)]
    x = np.random.default_rng(0).random(22)
    matrix_CC, usable_C = filter_matrix(gapped_nm, 1, 7, False, 2)
    assert usable_C.tolist() == [True] * 20 + [False] * 2  # two bands make no parabola
    for part in (slice(0, 10), slice(10, 20)):
        expected = savgol_filter(x[part], 7, 2, deriv=1, delta=10.0)
        np.testing.assert_allclose((x @ matrix_CC)[part], expected, atol=1e-12)


@pytest.mark.parametrize(
    "wavelengths_nm",
    [
        np.r_[400:700:3.0, 705:1000:10.0],  # two detectors of other spacing
        np.delete(EVEN, 40),  # one band missing
        np.sort(np.r_[400:670:9.7, 655:1000:9.9]),  # detectors that overlap
        np.array([550.0]),
    ],
)
def test_what_is_no_gap(wavelengths_nm: np.ndarray) -> None:
    assert len(segments(wavelengths_nm)) == 1


def test_a_window_in_nm_is_as_many_bands_as_each_segment_has_of_it() -> None:
    two_nm = np.r_[400:500:2.0, 800:1000:10.0]
    by_nm, _ = filter_matrix(two_nm, 0, 50.0, True, 2)
    for part, bands in ((slice(0, 50), 25), (slice(50, 70), 5)):
        alone, _ = filter_matrix(two_nm[part], 0, bands, False, 2)
        np.testing.assert_allclose(by_nm[part, part], alone, atol=1e-12)
    narrow, usable_C = filter_matrix(EVEN, 0, 1.0, True, 2)  # never fewer than a polynomial needs
    assert usable_C.all() and ((narrow != 0).sum(0) <= 3).all()


def test_snv_is_its_formula_and_takes_out_gain_and_offset() -> None:
    x_NC = curves(7, EVEN)
    bands = BandGrid(EVEN)
    found, same = pretreat_spectra(x_NC, bands, ["snv"])
    np.testing.assert_allclose(found, [(x - x.mean()) / x.std(ddof=1) for x in x_NC], rtol=1e-5, atol=1e-6)
    assert same == bands
    np.testing.assert_allclose(pretreat_spectra(3 * x_NC + 0.4, bands, ["snv"])[0], found, atol=1e-4)


def test_bad_bands_and_bad_values_never_enter_arithmetic() -> None:
    x_NC = curves(6, EVEN)
    valid_C = np.ones(len(EVEN), bool)
    valid_C[[0, 30, 31]] = False
    bands = BandGrid(EVEN, valid=valid_C)
    poisoned = x_NC.copy()
    poisoned[:, ~valid_C] = [np.nan, np.inf, -1e30]
    poisoned[2, 50] = np.nan
    poisoned[4] = 0.25  # no deviation
    for steps in (["snv"], ["continuum"], ["sg1"], ["continuum", "sg0:5", "snv"]):
        found, after = pretreat_spectra(poisoned, bands, steps)
        clean, _ = pretreat_spectra(x_NC[:, valid_C], bands.subset(valid_C), steps)
        keep = [0, 1, 3, 5]
        np.testing.assert_array_equal(found[np.ix_(keep, np.flatnonzero(valid_C))], clean[keep])
        assert np.isnan(found[2]).all() and np.isnan(found[:, ~valid_C]).all() and found.dtype == np.float32
        assert np.isnan(found[4]).all() == ("snv" in steps)
        assert after.valid.tolist() == valid_C.tolist()


def test_steps_are_done_in_order() -> None:
    x_NC, bands = curves(5, EVEN), BandGrid(EVEN)
    once, _ = pretreat_spectra(x_NC, bands, ["snv"])
    then, _ = pretreat_spectra(once, bands, ["sg1"])
    both, _ = pretreat_spectra(x_NC, bands, ["snv", "sg1"])
    other, _ = pretreat_spectra(x_NC, bands, ["sg1", "snv"])
    np.testing.assert_allclose(both, then, atol=1e-6)
    assert np.abs(other - both).max() > 0.1
