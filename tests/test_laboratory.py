"""Simulated laboratory scans: they calibrate to what lies on the tray, look like counts, and repeat byte for byte.

Shapes: H W of a scan, C bands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.bands import BandGrid
from specfm.calibration import calibrate
from specfm.cards import load_card
from specfm.errors import UsageError
from specfm.simulate.lab_materials import DOMAINS, TRAY, get_domains
from specfm.simulate.laboratory import FULL_WELL, PANEL, simulate_scan, write_laboratory
from specfm.simulate.materials import FINE_NM


@pytest.fixture(scope="module", params=["paper", "grapes"])
def scan(request: pytest.FixtureRequest):
    return simulate_scan(DOMAINS[request.param], (64, 72), seed=3, number=1)


def test_cameras_are_those_of_the_study() -> None:
    assert {name: len(domain.grid) for name, domain in DOMAINS.items()} == {
        "coffee": 256, "grapes": 160, "pottery": 256, "sugar": 256, "paper": 288, "archaeology": 256, "branches": 160
    }  # fmt: skip
    materials = [material.name for domain in DOMAINS.values() for material in domain.materials]
    assert len(materials) == len(set(materials)) == 21
    for domain in DOMAINS.values():
        assert domain.grid.wavelengths_nm[[0, -1]].tolist() == pytest.approx(domain.range_nm)


def test_raw_counts_have_the_lamp_and_the_dark_in_them(scan) -> None:
    raw, white, dark = (each.read().astype(float) for each in (scan.scene, scan.white, scan.dark))
    assert raw.min() >= 1 and raw.max() <= FULL_WELL and scan.scene.sensor.quantity == "dn"
    assert 80 < dark.mean() < 140 and 0.6 * FULL_WELL < white.max() < 0.95 * FULL_WELL
    span_C = (white.mean((0, 1)) - dark.mean((0, 1))) / FULL_WELL
    assert span_C.min() > 0.01 and span_C.max() > 3 * span_C.min()  # a lamp is no flat spectrum
    columns_W = (white - dark).mean((0, 2))
    assert columns_W[len(columns_W) // 2] > 1.1 * columns_W[0]  # vignetting
    # shot noise: the variance over lines grows with the counts (variance = PER_ELECTRON * counts + read noise)
    grow = np.polyfit(white.mean(0).ravel(), white.var(0, ddof=1).ravel(), 1)[0]
    assert 0.06 < grow < 0.1


def test_calibration_gives_back_what_lies_on_the_tray(scan) -> None:
    scene = calibrate(scan.scene, scan.white, scan.dark, None, PANEL)
    values, labels = scene.values(), scan.scene.labels_HW
    domain = DOMAINS[scene.domain]
    _, matrix_CL = BandGrid(FINE_NM, np.ones_like(FINE_NM)).resample(domain.grid)
    tray = np.nanmedian(values[labels < 0], 0)
    np.testing.assert_allclose(tray, matrix_CL @ TRAY.reflectance(), rtol=0.5)
    for k, material in enumerate(domain.materials):
        found, truth = np.nanmean(values[labels == k], 0), matrix_CL @ material.reflectance()
        assert np.corrcoef(found, truth)[0, 1] > 0.97, material.name
        assert 0.5 < found.mean() / truth.mean() < 1.5
    assert scene.mask().mean() > 0.99


def test_objects_are_numbered_and_have_one_material(scan) -> None:
    labels, groups = scan.scene.labels_HW, scan.scene.groups_HW
    np.testing.assert_array_equal(labels >= 0, groups >= 0)
    assert set(np.unique(labels)) == {-1, 0, 1, 2} and 0.3 < (labels >= 0).mean() < 0.9
    for number in np.unique(groups[groups >= 0]):
        assert len(np.unique(labels[groups == number])) == 1


def test_a_seed_and_a_number_decide_a_scan() -> None:
    domain = DOMAINS["branches"]
    first, again = (simulate_scan(domain, (48, 48), 0, 1) for _ in range(2))
    np.testing.assert_array_equal(first.scene.read(), again.scene.read())
    for other in (simulate_scan(domain, (48, 48), 0, 2), simulate_scan(domain, (48, 48), 1, 1)):
        assert (first.scene.read() != other.scene.read()).mean() > 0.5


def test_files_go_in_through_their_cards(tmp_path: Path) -> None:
    (card,) = write_laboratory(tmp_path / "lab", ("grapes",), seed=2, scans=2, size=(48, 56))
    scans = list(load_card(card).scans())
    scenes = [scene for _, scene in scans]
    for number, (counts, scene) in enumerate(scans):
        made = simulate_scan(DOMAINS["grapes"], (48, 56), 2, number)
        np.testing.assert_array_equal(counts.read(), made.scene.read())
        np.testing.assert_array_equal(scene.labels_HW, made.scene.labels_HW)
        np.testing.assert_array_equal(scene.read(), calibrate(made.scene, made.white, made.dark, None, PANEL).read())
        assert (scene.domain, scene.group, scene.sensor.quantity) == ("grapes", made.scene.name, "surface_reflectance")
    assert len({scene.group for scene in scenes}) == 2


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no room for lots"):
        simulate_scan(DOMAINS["paper"], (40, 60), 0)
    with pytest.raises(UsageError, match="unknown domain 'tea'; one of coffee"):
        get_domains(("tea",))
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists"):
        write_laboratory(tmp_path / "there", ("paper",))
