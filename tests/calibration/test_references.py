"""References get the checks of a scan: saturation, nodata, lost frames, dead elements, bands without light."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from specfm.calibration import MASKED, calibrate
from specfm.errors import SpecfmError
from specfm.scene import ArraySource, Scene
from tests.calibration.lab import Lab


def made(noise: float = 0.0, lines: int = 12) -> tuple[Lab, Scene, Scene, Scene]:
    lab = Lab(noise=noise, lines=lines)
    scan, white, dark = (lab.scene(n, r, 8, said=False) for n, r in (("s", lab.truth_HWC), ("w", 1.0), ("d", 0.0)))
    return lab, scan, white, dark


def changed(scene: Scene, where: Any, value: float, **fields: Any) -> Scene:
    cube = scene.read()
    cube[where] = value
    return scene.replace(source=ArraySource(cube), **fields)


def test_a_white_saturated_in_two_bands_marks_them_bad(caplog: pytest.LogCaptureFixture) -> None:
    lab, scan, white, dark = made()
    found = calibrate(scan, changed(white, np.s_[:, :, [1, 4]], 65535), dark)
    assert found.sensor.bands.valid.tolist() == [True, False, True, True, False, True]
    good = [0, 2, 3, 5]
    np.testing.assert_allclose(found.values(bands=good), lab.truth_HWC[..., good], atol=1.5e-3)
    assert found.mask().all()
    (note,) = caplog.messages
    assert "white reference w: bands 2, 5 (saturated) have no usable reference and are marked bad" in note


@pytest.mark.parametrize("whose", ["white", "scan", "argument"])
def test_the_limit_of_14_bits_is_kept_where_it_is_stated(whose: str) -> None:
    """Above 16382 a 14-bit count means nothing; without the statement nobody can know."""
    lab, scan, white, dark = made()
    clipped = changed(white, np.s_[:, :, 2], 16383)
    limit = {"saturation": 16383.0}
    scan = scan.replace(**limit) if whose == "scan" else scan
    clipped = clipped.replace(**limit) if whose == "white" else clipped
    found = calibrate(scan, clipped, dark, 16383.0 if whose == "argument" else None)
    assert np.flatnonzero(~found.sensor.bands.valid).tolist() == [2]
    assert calibrate(scan.replace(saturation=None), clipped.replace(saturation=None), dark).sensor.bands.valid.all()


def test_saturated_lines_leave_the_mean(caplog: pytest.LogCaptureFixture) -> None:
    lab, scan, white, dark = made()
    glint = changed(white, np.s_[:3, 2:5, :], 65535)
    np.testing.assert_allclose(calibrate(scan, glint, dark).values(), lab.truth_HWC, atol=1.5e-3)
    assert "white reference w: 10.7% of its values are saturated and left out" in caplog.text


def test_a_hot_element_of_the_dark_masks_its_column(caplog: pytest.LogCaptureFixture) -> None:
    lab, scan, white, dark = made()
    found = calibrate(scan, white, changed(dark, np.s_[:, 3, 2], 65535))
    assert found.sensor.bands.valid.all()
    assert (found.read()[:, 3, 2] == MASKED).all() and not found.mask()[:, 3].any()
    assert found.mask().sum() == 12 * 6
    assert "single elements are not usable, so their columns are masked (columns 4; bands 3)" in caplog.text


def test_nodata_columns_of_the_white_are_masked_not_averaged() -> None:
    lab, scan, white, dark = made()
    found = calibrate(scan, changed(white, np.s_[:, :2], 9, nodata=9.0), dark)
    assert not found.mask()[:, :2].any() and found.mask()[:, 2:].all()
    np.testing.assert_allclose(found.values()[:, 2:], lab.truth_HWC[:, 2:], atol=1.5e-3)


def test_nodata_lines_and_lost_frames_leave_the_mean_of_white_and_dark() -> None:
    lab, scan, white, dark = made()
    some = calibrate(scan, changed(white, np.s_[:4], 9, nodata=9.0), changed(dark, np.s_[:6], 9, nodata=9.0))
    np.testing.assert_allclose(some.values(), lab.truth_HWC, atol=1.5e-3)
    lost = calibrate(scan, changed(white, np.s_[:4], 0), changed(dark, np.s_[:6], 0))
    np.testing.assert_allclose(lost.values(), lab.truth_HWC, atol=1.5e-3)


def test_a_dark_of_zeros_is_a_dark() -> None:
    lab, scan, white, dark = made()
    lab.bias_WC[:], lab.current_WC[:] = 0, 0
    scan, white = lab.scene("s", lab.truth_HWC, 8), lab.scene("w", 1.0, 8)
    np.testing.assert_allclose(calibrate(scan, white, lab.scene("d", 0.0, 8)).values(), lab.truth_HWC, atol=1.5e-3)


def test_an_element_that_repeats_one_count_among_noisy_ones_is_dead(caplog: pytest.LogCaptureFixture) -> None:
    lab, scan, white, dark = made(noise=5.0, lines=20)
    found = calibrate(scan, changed(white, np.s_[:, 5, 1], 1500), dark)
    assert not found.mask()[:, 5].any() and np.delete(found.mask(), 5, axis=1).all()
    assert "(columns 6; bands 2)" in caplog.text
    # without noise every element repeats its count, and none is dead
    lab, scan, white, dark = made()
    assert calibrate(scan, changed(white, np.s_[:, 5, 1], 1500), dark).mask().all()


def test_dead_elements_of_a_whole_band_are_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    lab, scan, white, dark = made(noise=5.0, lines=20)
    found = calibrate(scan, changed(white, np.s_[:, :, 5], 0), dark)
    assert np.flatnonzero(~found.sensor.bands.valid).tolist() == [5]
    assert "bands 6 (no brighter than the dark)" in caplog.text


def test_a_band_without_light_is_bad_though_noise_lifts_half_of_it_above_the_dark(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lab, scan, white, dark = made(noise=5.0, lines=20)
    lab.light_WC[:, 3] = 0
    white = lab.scene("w", 1.0, 8)
    assert ((white.read().mean(0) > dark.read().mean(0))[:, 3]).any()
    found = calibrate(lab.scene("s", lab.truth_HWC, 8), white, dark.replace(integration=white.integration))
    assert np.flatnonzero(~found.sensor.bands.valid).tolist() == [3]
    assert "bands 4 (no brighter than the dark)" in caplog.text


def test_bands_that_are_bad_already_are_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    lab, scan, white, dark = made()
    bands = scan.sensor.bands
    valid = np.array([True, False, True, True, True, True])
    known = scan.sensor.replace(bands=type(bands)(bands.wavelengths_nm, bands.fwhm_nm, valid))
    found = calibrate(scan.replace(sensor=known), changed(white, np.s_[:, :, 1], 65535), dark)
    assert found.sensor.bands.valid.tolist() == valid.tolist()
    assert "marked bad" not in caplog.text


def test_a_white_that_is_saturated_everywhere_is_refused() -> None:
    _, scan, white, dark = made()
    with pytest.raises(SpecfmError, match="white reference w or dark d is saturated in every band; take it again"):
        calibrate(scan, changed(white, np.s_[:], 65535), dark)


def test_a_mean_spectrum_is_a_reference_and_other_widths_are_told(caplog: pytest.LogCaptureFixture) -> None:
    lab, scan, white, dark = made()
    lab.bias_WC[:], lab.current_WC[:], lab.light_WC[:] = 100, 2, lab.light_WC[0]
    scan, white, dark = (lab.scene(n, r, 8) for n, r in (("s", lab.truth_HWC), ("w", 1.0), ("d", 0.0)))
    alone = white.replace(source=ArraySource(white.read(rows=0, cols=0)))
    np.testing.assert_allclose(calibrate(scan, alone, dark).values(), lab.truth_HWC, atol=1.5e-3)
    assert caplog.messages == []
    crop = white.replace(source=ArraySource(white.read(cols=slice(0, 3))))
    np.testing.assert_allclose(calibrate(scan, crop, dark).values(), lab.truth_HWC, atol=1.5e-3)
    assert "w has 3 columns, the scan 7); one value per band is used" in caplog.text
