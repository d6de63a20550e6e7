"""The panel's own reflectance: a number or a table, interpolated, never guessed beyond its ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.bands import BandGrid
from specfm.calibration import calibrate
from specfm.calibration.panel import panel_reflectance
from specfm.errors import SpecfmError
from tests.calibration.lab import CENTRES_NM, Lab

GRID = BandGrid(CENTRES_NM)


def table(path: Path, text: str) -> Path:
    path.write_text("wavelength_nm,reflectance\n" + text)
    return path


def test_a_grey_panel_gives_true_reflectance(tmp_path: Path) -> None:
    lab = Lab()
    scan, dark = lab.scene("s", lab.truth_HWC, 8), lab.scene("d", 0.0, 8)
    np.testing.assert_allclose(
        calibrate(scan, lab.scene("w", 0.5, 8), dark, reflectance=0.5).values(), lab.truth_HWC, atol=1.5e-3
    )
    sloped = table(tmp_path / "panel.csv", "1000,0.4\n400,0.6\n")  # in any order
    share_C = np.interp(CENTRES_NM, [400, 1000], [0.6, 0.4])
    found = calibrate(scan, lab.scene("w", share_C, 8), dark, reflectance=sloped)
    np.testing.assert_allclose(found.values(), lab.truth_HWC, atol=1.5e-3)


def test_a_table_is_interpolated_at_the_band_centres(tmp_path: Path) -> None:
    path = table(tmp_path / "panel.csv", "450,0.99\n650,0.97\n950,0.91\n")
    np.testing.assert_allclose(panel_reflectance(path, GRID), [0.99, 0.98, 0.97, 0.95, 0.93, 0.91])


def test_a_table_that_does_not_cover_the_bands_is_refused_by_both_ranges(tmp_path: Path) -> None:
    path = table(tmp_path / "panel.csv", "450,0.99\n900,0.97\n")
    with pytest.raises(SpecfmError, match=r"panel.csv: covers 450-900 nm and the scan 450-950 nm"):
        panel_reflectance(path, GRID)
    narrower = BandGrid(CENTRES_NM, valid=CENTRES_NM < 900)  # a bad band needs none
    assert panel_reflectance(path, narrower)[-1] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("450,99\n950,98\n", "not 99; write 50 % as 0.5"),
        ("450,0.9\n450,0.8\n950,0.9\n", "every row of wavelength_nm must be another number"),
        ("450,white\n", "hold numbers only"),
        ("", "needs the columns wavelength_nm and reflectance"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecfmError, match=message):
        panel_reflectance(table(tmp_path / "panel.csv", text), GRID)


@pytest.mark.parametrize("share", [0.0, -1.0, 50.0, float("nan")])
def test_a_number_is_a_share(share: float) -> None:
    with pytest.raises(SpecfmError, match="must be a share above 0"):
        panel_reflectance(share, GRID)
