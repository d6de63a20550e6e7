"""The library of spectra beside an encoder: its file, what it refuses, and how new bands see it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from specfm import BandGrid, Sensor, SpecfmError
from specfm.library import Library, merge, same_bands, see_through
from tests.properties.cases import comb


def smooth(grid: BandGrid, count: int = 5, seed: int = 0) -> np.ndarray:
    """spectra_LC: smooth bumps of random height."""
    lam = np.nan_to_num(grid.wavelengths_nm, nan=1000.0)
    bumps = np.stack([np.exp(-(((lam - middle) / 200) ** 2)) for middle in range(500, 2400, 150)])
    height = np.random.default_rng(seed).uniform(0.05, 0.5, (count, len(bumps)))
    return (0.1 + height @ bumps).astype(np.float32)


def library(bands: int = 80, name: str = "fine", seed: int = 0) -> Library:
    sensor = Sensor(comb(bands), "surface_reflectance", name=name)
    return Library((sensor,), (smooth(sensor.bands, seed=seed),))


def test_the_file_keeps_everything() -> None:
    grid = BandGrid([420, 600, np.nan, 2400], [5, 5, np.nan, 5], [True, True, False, True])
    one = merge([library(), Library((Sensor(grid, "radiance", gsd_m=2.0),), (np.ones((2, 4), np.float32),))])
    assert one is not None
    again = Library.from_bytes(one.to_bytes())
    assert [s.digest for s in again.sensors] == [s.digest for s in one.sensors] and again.digest == one.digest
    assert all(np.array_equal(a, b) for a, b in zip(again.spectra_LC, one.spectra_LC, strict=True))
    assert len(again) == 7


@pytest.mark.parametrize("data", [b"", b"\x00" * 20, library().to_bytes()[:-9], b"\x02" + b"\x00" * 7 + b"{}"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(SpecfmError, match="not a library of spectra"):
        Library.from_bytes(data)


@pytest.mark.parametrize("change", ["none", "bands", "nan", "empty"])
def test_spectra_that_do_not_fit_are_refused(change: str) -> None:
    whole = library()
    spectra = whole.spectra_LC[0].copy()
    spectra[0, 3] = np.nan if change == "nan" else spectra[0, 3]
    given = {"none": (), "bands": (spectra[:, 1:],), "nan": (spectra,), "empty": (spectra[:0],)}[change]
    with pytest.raises(SpecfmError):
        dataclasses.replace(whole, spectra_LC=given)


def test_merging_keeps_the_first_of_a_sensor() -> None:
    one, two, other = library(seed=0), library(seed=1), library(60, "other")
    found = merge([one, None, two, other])
    assert found is not None and len(found.sensors) == 2
    assert np.array_equal(found.spectra_LC[0], one.spectra_LC[0])
    assert merge([None, None]) is None


def test_merging_leaves_out_sensors_that_see_less() -> None:
    short = Sensor(comb(60, 420, 1000), "surface_reflectance", name="short")
    found = merge([library(), Library((short,), (smooth(short.bands),))])
    assert found is not None and [s.name for s in found.sensors] == ["fine"]


def test_other_bands_see_what_they_would_have_measured() -> None:
    fine, coarse = comb(300, fwhm=7.0), comb(40, 450, 2300, 30.0)
    seen = see_through(fine, smooth(fine), coarse)
    assert seen is not None and seen[0].all()
    assert np.abs(seen[1] - smooth(coarse)).max() < 2e-3


def test_gaps_are_bridged_and_what_lies_outside_is_not_told() -> None:
    fine = comb(300, fwhm=7.0)
    gap = BandGrid(fine.wavelengths_nm, fine.fwhm_nm, np.abs(fine.wavelengths_nm - 1200) > 60)
    target = BandGrid([600, 1200, 1600, 2000, 2600], np.full(5, 10.0))
    seen = see_through(gap, smooth(gap), target)
    assert seen is not None and seen[0].tolist() == [True, True, True, True, False]
    assert np.abs(seen[1][:, :4] - smooth(target)[:, :4]).max() < 0.05
    assert see_through(comb(60, 400, 900), smooth(comb(60, 400, 900)), comb(30, 1000, 2400)) is None


def test_which_bands_are_the_same() -> None:
    grid = comb(50)
    order = np.random.default_rng(0).permutation(50)
    assert same_bands(grid, BandGrid(grid.wavelengths_nm[order], grid.fwhm_nm[order]))
    assert same_bands(grid, BandGrid(grid.wavelengths_nm + 0.4, grid.fwhm_nm))
    assert not same_bands(grid, BandGrid(grid.wavelengths_nm + 1.0, grid.fwhm_nm))
    assert not same_bands(grid, comb(49))
