"""What callers hand over becomes the same scene, or is refused by what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from specfm import BandGrid, Scene, Sensor, create_encoder
from specfm.dense.given import as_scene
from specfm.errors import SpecfmError

GRID = BandGrid(np.linspace(400, 1000, 7), np.full(7, 10.0))
CUBE = np.random.default_rng(0).random((4, 5, 7)).astype(np.float32)


@pytest.mark.parametrize(
    "given",
    [
        CUBE,
        torch.from_numpy(CUBE),
        {"image": CUBE, "wavelengths_nm": GRID.wavelengths_nm},
        {"image": torch.from_numpy(CUBE).permute(2, 0, 1), "wavelengths": GRID.wavelengths_nm / 1000, "units": "um"},
        {"image": CUBE, "wavelengths_nm": torch.from_numpy(GRID.wavelengths_nm.copy()), "label": 3},
    ],
)
def test_arrays_tensors_and_mappings(given: Any) -> None:
    scene = as_scene(given, None if isinstance(given, dict) else GRID)
    np.testing.assert_array_equal(scene.read(), CUBE)
    np.testing.assert_allclose(scene.sensor.bands.wavelengths_nm, GRID.wavelengths_nm)


def test_xarray_there_and_back_in_any_order_of_axes() -> None:
    bands = BandGrid(GRID.wavelengths_nm, GRID.fwhm_nm, np.arange(7) != 2)
    scene = Scene.from_array(CUBE, Sensor(bands, "radiance"), name="plot")
    for axes in (("y", "x", "wavelength"), ("wavelength", "y", "x")):
        found = as_scene(scene.to_xarray().transpose(*axes), None)
        np.testing.assert_array_equal(found.read(), CUBE)
        assert found.sensor.bands == bands and found.sensor.quantity == "radiance" and found.name == "plot"


@pytest.mark.parametrize(
    ("given", "sensor", "words"),
    [
        (np.moveaxis(CUBE, 2, 0), GRID, "has its 7 bands first"),
        (CUBE, None, "pass sensor="),
        ({"image": CUBE, "wavelengths": GRID.wavelengths_nm}, None, "states no units, which are never guessed"),
        ({"image": CUBE}, None, "add wavelengths_nm"),
        ({"wavelengths_nm": GRID.wavelengths_nm}, None, "has no image"),
        ({"image": np.zeros((7, 5, 7)), "wavelengths_nm": GRID.wavelengths_nm}, None, "nobody knows which axis"),
        ({"image": np.zeros((3, 5, 6)), "wavelengths_nm": GRID.wavelengths_nm}, None, "no axis of 7 bands"),
        (CUBE.tolist(), GRID, "not of a list"),
        (Scene.from_array(CUBE, GRID), GRID, "carries its own sensor"),
    ],
)
def test_what_is_missing_is_said(given: Any, sensor: Any, words: str) -> None:
    with pytest.raises(SpecfmError, match=words):
        as_scene(given, sensor)


def test_xarray_without_units_or_bands_is_refused() -> None:
    import xarray

    plain = xarray.DataArray(CUBE, dims=("y", "x", "wavelength"), coords={"wavelength": GRID.wavelengths_nm})
    with pytest.raises(SpecfmError, match="states no units"):
        as_scene(plain, None)
    assert as_scene(plain, GRID).shape == CUBE.shape
    with pytest.raises(SpecfmError, match="no two axes and one of bands"):
        as_scene(xarray.DataArray(CUBE, dims=("a", "b", "c")), None)


def test_spectra_come_as_an_array_or_as_a_table() -> None:
    pandas = pytest.importorskip("pandas")
    spectra_NC = CUBE[0]
    table = pandas.DataFrame(spectra_NC, columns=[f"{nm:g} nm" for nm in GRID.wavelengths_nm], index=list("abcde"))
    for given, sensor in ((spectra_NC, GRID), (torch.from_numpy(spectra_NC), GRID), (table, None), (table, GRID)):
        scene = as_scene(given, sensor)
        assert scene.shape == (5, 1, 7) and not scene.neighbours
        np.testing.assert_array_equal(scene.read()[:, 0], spectra_NC)
        np.testing.assert_allclose(scene.sensor.bands.wavelengths_nm, GRID.wavelengths_nm)
    with pytest.raises(SpecfmError, match="450 nm"):
        as_scene(table.rename(columns=lambda name: name.removesuffix(" nm")), None)
    with pytest.raises(SpecfmError, match="holds numbers alone"):
        as_scene(table.assign(**{"450 nm": "x"}), table.shape[1] and BandGrid(np.linspace(400, 1000, 8)))


def test_each_spectrum_is_seen_by_itself() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3).train()
    spectra_NC = CUBE.reshape(-1, 7).copy()
    spectra_NC[4, 2] = np.nan
    found = encoder.embed(spectra_NC, GRID)
    assert encoder.training and found.features_hwD.shape == (20, 1, 48)
    alone = encoder.embed(spectra_NC[7:8], GRID).features_hwD
    np.testing.assert_allclose(found.features_hwD[7:8], alone, atol=1e-5)
    assert np.isnan(found.features_hwD[4]).all() and len(found.to_dataframe()) == 19
