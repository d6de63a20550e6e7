"""Wavelengths in the names of bands: centres, ranges, widths, and names that can be read in two ways."""

from __future__ import annotations

import numpy as np
import pytest

from specfm.readers.names import from_names, says_wavelength


def centres(*names: str) -> list[float] | None:
    found = from_names("the names", names)
    return None if found is None or found.centres_C is None else found.centres_C.tolist()


@pytest.mark.parametrize(
    ("name", "unit", "middle"),
    [
        ("Blue (465-515 nm)", "nm", 490),
        ("490-510 nm", "nm", 500),
        ("0.49-0.51 um", "um", 0.5),
        ("0.45–0.52 µm", "µm", 0.485),  # en dash
        ("0.45 — 0.52 μm", "μm", 0.485),  # em dash, the Greek letter
        ("490nm to 510nm", "nm", 500),
        ("between 490 and 510 nanometers", "nanometers", 500),
        ("B1 0.49-0.51 Micrometers", "Micrometers", 0.5),
        ("0,49-0,51 µm", "µm", 0.5),
        ("Blau (490 bis 510 nm)", "nm", 500),
        ("B05 400..410nm", "nm", 405),
        ("B1 (490 - 510)", None, 500),
        ("[490..510]", None, 500),
    ],
)
def test_a_range_means_its_middle(name: str, unit: str | None, middle: float) -> None:
    found = from_names("the names", [name])
    assert found is not None and found.fwhm_C is None and found.centres_C is not None
    assert found.units == unit and found.centres_C[0] == pytest.approx(middle)
    assert found.half_ranges_C is not None and found.half_ranges_C[0] > 0


@pytest.mark.parametrize(
    ("name", "centre"),
    [
        ("Resize (Band 8) (450.0 Nanometers)", 450),
        ("490 nm (fwhm 50 nm)", 490),
        ("443.5 nanometers", 443.5),
        ("band 8 (0.46 Micrometers)", 0.46),
        ("490 ± 10 nm", 490),
        ("490 nm +/- 10 nm", 490),
        ("Band 8: 842 nm", 842),
        ("Band 8 - 842 nm", 842),
        ("Band 450 - 900 nm", 900),  # the number of a band, not the beginning of a range
        ("B8-842nm", 842),
        ("Red 650 nm, 20 m", 650),
        ("450,5 nm", 450.5),
    ],
)
def test_a_centre_stays_a_centre(name: str, centre: float) -> None:
    assert centres(name) == [centre]
    assert says_wavelength(name)


@pytest.mark.parametrize(
    "name",
    [
        "Band 1", "B450", "450", "S2_B8A_865nm", "", "2021-05-03 B3", "490/20 nm", "650 nm / 850 nm", "510-490 nm",
        "1,450 nm", "490 nm - 0.51 um", "490-510 nm and 600-620 nm", "Band (3)", "R 20 m",
    ],
)  # fmt: skip
def test_what_is_not_clear_is_not_read(name: str) -> None:
    assert centres(name) is None and not says_wavelength(name)


def test_numbers_of_bands_before_the_wavelength() -> None:
    assert centres("1 - 490 nm", "2 - 540 nm") == [490, 540]
    many = [f"{band} - {band + 400} nm" for band in range(1, 301)]  # from band 150 on it could be a range
    assert centres(*many) is None
    assert centres("1 - 2.2 um") is None  # band 1, or from 1 to 2.2


def test_widths_that_are_called_so() -> None:
    names = ["490 nm (fwhm 50 nm)", "540 nm (20 nm FWHM)", "600 nm, width: 10nm", "700 nm bw=5 nm"]
    assert centres(*names) == [490, 540, 600, 700]
    found = from_names("the names", names)
    assert found is not None and found.fwhm_C is not None and found.fwhm_C.tolist() == [50, 20, 10, 5]
    part = from_names("the names", ["490 nm (fwhm 50 nm)", "540 nm"])
    assert part is not None and part.fwhm_C is None


def test_every_band_or_none_and_two_units() -> None:
    assert centres("490 nm", "quality") is None
    assert centres("490 nm", "B2 (500 - 520)") is None
    found = from_names("the names", ["490 nm", "10.9 um"])
    assert found is not None and found.units == "nm" and found.centres_C is not None
    np.testing.assert_allclose(found.centres_C, [490, 10900])
