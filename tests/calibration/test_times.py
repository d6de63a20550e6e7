"""Integration times of scan and references: divided out where both are known, never guessed, told once."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from specfm.calibration import calibrate
from specfm.errors import SpecfmError
from specfm.sensors import IntegrationTime
from tests.calibration.lab import Lab

LOGGER = "specfm.calibration"


def test_white_of_a_shorter_time_gives_the_same_reflectance(caplog: pytest.LogCaptureFixture) -> None:
    """The dark of each time is found; neither bias nor dark current is left over."""
    lab = Lab()
    scan, white = lab.scene("scan", lab.truth_HWC, 8), lab.scene("white", 1.0, 4)
    darks = [lab.scene("dark8", 0.0, 8), lab.scene("dark4", 0.0, 4)]
    with caplog.at_level(logging.INFO, LOGGER):
        for order in (darks, darks[::-1]):
            found = calibrate(scan, white, order)
            np.testing.assert_allclose(found.values(), lab.truth_HWC, atol=1.5e-3)
            assert found.integration is None
    notes = [record for record in caplog.records if record.name.startswith(LOGGER)]
    assert [note.levelname for note in notes] == ["INFO", "INFO"]
    said = "scan: integration times of scan (8 ms) and white reference white (4 ms) differ and are divided out"
    assert notes[0].getMessage() == said


@pytest.mark.parametrize("dark_ms", [8, 4])
def test_one_dark_of_another_time_is_subtracted_as_it_is(dark_ms: int, caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong is the dark current of the other time, not the bias: 8 - 12 counts of 1200 and more."""
    lab = Lab()
    scan, white, dark = lab.scene("scan", lab.truth_HWC, 8), lab.scene("white", 1.0, 4), lab.scene("dark", 0.0, dark_ms)
    with caplog.at_level(logging.INFO, LOGGER):
        found = calibrate(scan, white, dark)
    np.testing.assert_allclose(found.values(), lab.truth_HWC, atol=0.015)
    (note,) = [record for record in caplog.records if record.name.startswith(LOGGER)]
    partner = "white reference white (4 ms)" if dark_ms == 8 else "scan (8 ms)"
    assert note.levelname == "WARNING"
    assert f"dark reference dark ({dark_ms} ms) was taken with another time than {partner} and is" in note.getMessage()


def test_bias_alone_is_right_exactly_whatever_the_time_of_the_dark() -> None:
    lab = Lab()
    lab.current_WC[:] = 0
    scan, white, dark = lab.scene("scan", lab.truth_HWC, 8), lab.scene("white", 1.0, 4), lab.scene("dark", 0.0, 2)
    np.testing.assert_allclose(calibrate(scan, white, dark).values(), lab.truth_HWC, atol=1.5e-3)


@pytest.mark.parametrize(
    ("stated", "silent"), [((True, False, True), "white reference white not"), ((False, True, True), "by scan not")]
)
def test_times_that_only_some_state_are_not_divided_and_told(
    stated: tuple[bool, bool, bool], silent: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab()
    scan, white, dark = (
        lab.scene(name, light, 8, said=said)
        for (name, light), said in zip((("scan", lab.truth_HWC), ("white", 1.0), ("dark", 0.0)), stated, strict=True)
    )
    found = calibrate(scan, white, dark)
    np.testing.assert_allclose(found.values(), lab.truth_HWC, atol=1.5e-3)
    (note,) = caplog.messages
    assert f"{silent}, so taken as equal" in note and "dark reference dark (8 ms)" in note and "integration_ms" in note


def test_a_dark_without_a_time_is_named(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab()
    scan, white = lab.scene("scan", lab.truth_HWC, 8), lab.scene("white", 1.0, 4)
    calibrate(scan, white, lab.scene("dark", 0.0, 8, said=False))
    (note,) = caplog.messages
    assert "divided out" in note and "by dark reference dark not, which is subtracted as it is" in note


def test_nothing_is_said_where_no_file_states_a_time_or_all_state_one(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab()
    for said in (True, False):
        scenes = [lab.scene(n, r, 8, said=said) for n, r in (("s", lab.truth_HWC), ("w", 1.0), ("d", 0.0))]
        calibrate(*scenes)
    assert caplog.messages == []


def test_times_in_units_nobody_names_are_compared_with_their_like_only(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab()
    scan, white, dark = (lab.scene(n, r, t) for n, r, t in (("s", lab.truth_HWC, 8), ("w", 1.0, 4), ("d", 0.0, 8)))
    unknown = [IntegrationTime((time,), "the unit of exposure", f"exposure = {time:g}") for time in (800.0, 400.0)]
    scan, dark = (each.replace(integration=unknown[0]) for each in (scan, dark))
    found = calibrate(scan, white.replace(integration=unknown[1]), dark)
    np.testing.assert_allclose(found.values(), lab.truth_HWC, atol=0.015)
    assert "exposure = 800" in caplog.text and "exposure = 400" in caplog.text
    caplog.clear()
    doubled = calibrate(scan, white, dark)  # exposure = 800 against 4 ms
    np.testing.assert_allclose(doubled.values(), 2 * lab.truth_HWC, atol=0.03)
    assert "cannot be compared" in caplog.text and "exposure = 800" in caplog.text and "4 ms" in caplog.text


def test_two_detectors_have_each_their_own_time() -> None:
    lab = Lab()
    lab.current_WC[:] = 0
    scan, white, dark = (lab.scene(n, r, 8) for n, r in (("s", lab.truth_HWC), ("w", 1.0), ("d", 0.0)))
    faster = white.read().astype(np.float64)
    faster[..., 3:] = lab.counts(1.0, 2)[..., 3:]
    shorter = white.replace(
        source=type(white.source)(np.rint(faster).astype(np.uint16)),
        integration=IntegrationTime((8.0, 8.0, 8.0, 2.0, 2.0, 2.0), "ms", "tint1 = 8, tint2 = 2"),
    )
    np.testing.assert_allclose(calibrate(scan, shorter, dark).values(), lab.truth_HWC, atol=1.5e-3)


def test_several_darks_need_times() -> None:
    lab = Lab()
    scan, white = lab.scene("scan", lab.truth_HWC, 8, said=False), lab.scene("white", 1.0, 8, said=False)
    with pytest.raises(SpecfmError, match=r"scan: 2 dark references and no integration times .* integration_ms"):
        calibrate(scan, white, [lab.scene("a", 0.0, 8), lab.scene("b", 0.0, 4)])
