"""The library of spectra beside an encoder: its file, what it refuses, and how other bands see it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from specfm import BandGrid, SpecfmError
from specfm.library import MOST_SPECTRA, STEP_NM, Library, merge, on_steps, same_bands
from specfm.sensors import Sensor
from tests.properties.cases import comb


def smooth(grid: BandGrid, count: int = 5, seed: int = 0) -> np.ndarray:
    """spectra_LC: smooth bumps of random height."""
    lam = np.nan_to_num(grid.wavelengths_nm, nan=1000.0)
    bumps = np.stack([np.exp(-(((lam - middle) / 200) ** 2)) for middle in range(500, 2400, 150)])
    height = np.random.default_rng(seed).uniform(0.05, 0.5, (count, len(bumps)))
    return (0.1 + height @ bumps).astype(np.float32)


def library(low: float = 420.0, high: float = 2400.0, count: int = 5, seed: int = 0, quantity: int = 3) -> Library:
    steps = int((high - low) // STEP_NM) + 1
    grid = BandGrid(low + STEP_NM * np.arange(steps), np.full(steps, STEP_NM))
    return Library(low, smooth(grid, count, seed), np.full(count, quantity, np.int64))


def test_the_file_keeps_everything() -> None:
    one = library(quantity=-1)
    again = Library.from_bytes(one.to_bytes())
    assert again.low_nm == one.low_nm and np.array_equal(again.spectra_LS, one.spectra_LS)
    assert np.array_equal(again.quantity_L, one.quantity_L) and again.digest == one.digest
    assert again.digest != library(seed=1).digest


def at_home(count: int = 5) -> Library:
    bands = BandGrid(np.r_[np.linspace(500, 1500, 60), np.linspace(1400, 2300, 40)])  # detectors overlap, no widths
    sensor = Sensor(bands, "radiance", gsd_m=20.0, name="mine")
    return Library(500.0, smooth(bands, count), np.full(count, 1), sensor)


def test_spectra_on_the_bands_of_a_sensor_stay_as_they_are_for_it() -> None:
    one = at_home()
    again = Library.from_bytes(one.to_bytes())
    assert again.home == one.home and again.digest == one.digest and (again.low_nm, again.high_nm) == (500.0, 2300.0)
    assert one.home is not None and np.array_equal(again.seen_through(one.home.bands), one.spectra_LS)
    wide = BandGrid(np.array([700.0, 1450.0, 2000.0]), np.full(3, 60.0))
    assert np.allclose(one.seen_through(wide), smooth(wide), atol=0.02)
    with pytest.raises(SpecfmError, match="bands are not those"):
        dataclasses.replace(one, spectra_LS=one.spectra_LS[:, :-1])


@pytest.mark.parametrize("told", ["7", "[1]", "{}", json.dumps({"bands": 3}), "[" * 100_000])
def test_an_odd_home_is_no_library(told: str) -> None:
    one = at_home()
    tensors = {"spectra_LS": one.spectra_LS, "quantity_L": one.quantity_L, "low_nm": np.array([one.low_nm])}
    with pytest.raises(SpecfmError, match="not a library"):
        Library.from_bytes(save(tensors, {"home": told}))


def crafted(**changes: Any) -> bytes:
    whole = library()
    tensors = {"spectra_LS": whole.spectra_LS, "quantity_L": whole.quantity_L, "low_nm": np.array([whole.low_nm])}
    return save({name: value for name, value in (tensors | changes).items() if value is not None})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 20,
        library().to_bytes()[:-9],
        b"\x02" + b"\x00" * 7 + b"{}",
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        crafted(spectra_LS=None),
        crafted(spectra_LS=library().spectra_LS.astype(np.float64)),
        crafted(low_nm=np.array([420.0, 1.0])),
        crafted(low_nm=np.array([np.nan])),
        crafted(low_nm=np.array([99_999.0])),
        crafted(quantity_L=np.full(5, 4)),
        crafted(quantity_L=np.zeros(4, np.int64)),
        crafted(spectra_LS=np.full((5, 397), np.inf, np.float32)),
        crafted(spectra_LS=np.full((5, 397), 3e38, np.float32)),
        crafted(spectra_LS=np.zeros((5, 6000), np.float32)),
        crafted(spectra_LS=np.zeros((2000, 30), np.float32), quantity_L=np.zeros(2000, np.int64)),
    ],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(SpecfmError, match="not a library of spectra"):
        Library.from_bytes(data)


def test_few_spectra_and_short_ranges_are_refused() -> None:
    with pytest.raises(SpecfmError, match="1 spectra of 397 steps"):
        library(count=1)
    with pytest.raises(SpecfmError, match="5 spectra of 11 steps"):
        library(high=470.0)
    with pytest.raises(SpecfmError, match="do not fit"):
        dataclasses.replace(library(), quantity_L=np.zeros(3, np.int64))


def test_merging_keeps_the_shared_range_and_is_thinned() -> None:
    one, two = library(), library(450.0, 2390.0, seed=1, quantity=1)
    found = merge([one, None, two])
    assert found is not None and len(found) == 10 and (found.low_nm, found.high_nm) == (450.0, 2390.0)
    assert np.abs(found.spectra_LS[:5] - one.spectra_LS[:, 6:395]).max() < 1e-6
    assert found.quantity_L.tolist() == [3] * 5 + [1] * 5
    assert merge([None, None]) is None and merge([None, one]) is one
    short = merge([one, library(420.0, 1000.0)])
    assert short is not None and len(short) == 5, "what sees much less is left out"
    many = merge([library(count=900), library(count=900, seed=1)])
    assert many is not None and 800 < len(many) <= MOST_SPECTRA


def test_other_bands_see_what_they_would_have_measured() -> None:
    coarse = comb(40, 450, 2300, 30.0)
    assert np.abs(library().seen_through(coarse) - smooth(coarse)).max() < 1e-2
    beyond = BandGrid([600, 2600], [10, 10])
    assert (library().seen_through(beyond)[:, 1] == 0).all()


def test_gaps_are_bridged_by_straight_lines() -> None:
    fine = comb(400, fwhm=5.0)
    away = np.abs(fine.wavelengths_nm - 1200) > 60
    order = np.random.default_rng(0).permutation(int(away.sum()))
    found = on_steps(fine.wavelengths_nm[away][order], smooth(fine)[:, away][:, order].astype(float), 420.0, 397)
    whole = library().spectra_LS
    assert np.abs(found - whole).max() < 0.05
    outside = np.abs(library().grid.wavelengths_nm - 1200) > 70
    assert np.abs(found - whole)[:, outside].max() < 1e-3


def test_which_bands_are_the_same() -> None:
    grid = comb(50)
    order = np.random.default_rng(0).permutation(50)
    assert same_bands(grid, BandGrid(grid.wavelengths_nm[order], grid.fwhm_nm[order]))
    assert same_bands(grid, BandGrid(grid.wavelengths_nm + 0.4, grid.fwhm_nm))
    assert not same_bands(grid, BandGrid(grid.wavelengths_nm + 1.0, grid.fwhm_nm))
    assert not same_bands(grid, comb(49))
