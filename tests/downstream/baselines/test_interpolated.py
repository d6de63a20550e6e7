"""Spectra of several cameras on one list: by index it is wrong on purpose, by wavelength it is right."""

from __future__ import annotations

import numpy as np
import pytest

from downstream.baselines.classics import pca_features
from downstream.baselines.interpolated import common_list, onto, patch_spectra
from downstream.splits.samples import collect_samples
from specfm.bands import BandGrid
from specfm.scene import Scene
from specfm.sensors import Sensor

SHORT = BandGrid(np.linspace(400, 1000, 31))
LONG = BandGrid(np.linspace(900, 1700, 17)[::-1], valid=np.arange(17) != 3)  # falling, one bad band


def scene_of(grid: BandGrid, name: str) -> Scene:
    """Values that are the wavelength, with a little place in it, stored at a hundredth above -5."""
    values = grid.wavelengths_nm + np.arange(48).reshape(6, 8, 1) * 0.1
    cube = ((values + 5) * 100).astype(np.float32)
    cube[..., ~grid.valid] = np.inf
    cube[2, 3] = np.nan
    sensor = Sensor(grid, "surface_reflectance", scale=0.01, offset=-5.0, name=name)
    labels = np.zeros((6, 8), np.int32)
    return Scene.from_array(cube, sensor, name=name, labels_HW=labels, label_names=("all",))


@pytest.mark.parametrize("grid", [SHORT, LONG])
def test_matrices_are_interpolation(grid: BandGrid) -> None:
    centres = np.linspace(400, 1700, 50)
    spectrum = np.random.default_rng(0).random(len(grid))
    valid = np.flatnonzero(grid.valid)
    order = valid[np.argsort(grid.wavelengths_nm[valid])]
    expected = np.interp(centres, grid.wavelengths_nm[order], spectrum[order])
    np.testing.assert_allclose(spectrum @ onto(grid, centres, "wavelength"), expected, rtol=1e-5)
    expected = np.interp(np.linspace(0, len(valid) - 1, 50), np.arange(len(valid)), spectrum[valid])
    np.testing.assert_allclose(spectrum @ onto(grid, centres, "index"), expected, rtol=1e-5)
    assert not onto(grid, centres, "index")[~grid.valid].any()


def test_by_wavelength_two_cameras_agree_where_both_see() -> None:
    scenes = [scene_of(SHORT, "short"), scene_of(LONG, "long")]
    samples = collect_samples(scenes, 3)
    centres = common_list(scenes, 40)
    assert centres[0] == 400 and centres[-1] == 1700
    both = (centres >= 900) & (centres <= 1000)
    found = {by: patch_spectra(scenes, samples, centres, by).X_ND for by in ("index", "wavelength")}
    first, second = (np.flatnonzero((samples.scene_N == i) & (samples.rc_N2 == [4, 4]).all(1))[0] for i in (0, 1))
    np.testing.assert_allclose(found["wavelength"][first, both], found["wavelength"][second, both], rtol=1e-4)
    assert np.median(np.abs(found["index"][first] - found["index"][second])) > 100
    np.testing.assert_allclose(found["wavelength"][first, both] - centres[both], (4 * 8 + 4) * 0.1, atol=0.05)


def test_masked_pixels_never_count() -> None:
    scene = scene_of(SHORT, "short")
    samples = collect_samples([scene], 3)
    X = patch_spectra([scene], samples, np.linspace(400, 1000, 20), "wavelength").X_ND
    i = int(np.flatnonzero((samples.rc_N2 == [1, 3]).all(1))[0])
    offsets = [(r * 8 + c) * 0.1 for r in range(3) for c in range(2, 5) if (r, c) != (2, 3)]
    np.testing.assert_allclose(X[i] - np.linspace(400, 1000, 20), np.mean(offsets), atol=0.05)
    assert np.isfinite(X).all()


def test_components_are_fitted_on_other_spectra_alone() -> None:
    rng = np.random.default_rng(0)
    fit, other = rng.normal(size=(60, 12)) * np.arange(12, 0, -1), rng.normal(size=(9, 12))
    centred = fit - fit.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
    np.testing.assert_allclose(
        np.abs(pca_features(fit, other, 3)[1]), np.abs((other - fit.mean(0)) @ axes.T), rtol=1e-4
    )
    assert pca_features(fit[:2], other)[1].shape == (9, 2)
