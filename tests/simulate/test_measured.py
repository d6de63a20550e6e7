"""Materials of simulated scenes out of libraries of spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm.cards import load_card
from specfm.cli import app
from specfm.errors import UsageError
from specfm.simulate import simulate_scene
from specfm.simulate.materials import FINE_NM
from specfm.simulate.measured import measured_materials
from specfm.simulate.spectra import GRID_NM, read_library

STILL = {"blur": 0.0, "variability": 0.0, "illumination": 0.0, "gain": 0.0, "tilt": 0.0, "snr": 1e9}


def test_a_material_is_the_mean_of_its_class_and_varies_as_it_does() -> None:
    (soil,) = measured_materials("earthlib", ["soil"])
    spectra = read_library("earthlib")
    own_NL = spectra.spectra_NL[spectra.class_N == spectra.classes.index("bare.soil")]
    at = [int(np.argmin(np.abs(FINE_NM - nm))) for nm in (500, 1000, 2200)]
    grid = [int(np.argmin(np.abs(GRID_NM - nm))) for nm in (500, 1000, 2200)]
    assert soil.name == "bare.soil" and soil.range_nm == (400.0, 2450.0)
    np.testing.assert_allclose(soil.basis()[0, at], own_NL.mean(0)[grid], rtol=1e-4)
    explained = (soil.basis()[1:, at] ** 2).sum(0) / own_NL[:, grid].var(0)
    assert (explained > 0.7).all() and (explained < 1.01).all(), "three directions hold most of the variance"


def test_a_scene_of_measured_materials() -> None:
    materials = measured_materials("earthlib", ["soil", "canopy"])
    scene = simulate_scene("emit", materials, shape=(12, 12), seed=3, quantity="surface_reflectance", **STILL)
    assert scene.label_names == ("bare.soil", "vegetation.canopy")
    bands = scene.sensor.bands
    outside = (bands.wavelengths_nm < 395) | (bands.wavelengths_nm > 2455)
    assert outside.any() and not bands.valid[outside].any(), "bands beyond the library are not usable"
    values = scene.values()
    assert np.isfinite(values[..., bands.valid]).all()
    assert scene.labels_HW is not None
    for number, material in enumerate(materials):
        seen = values[scene.labels_HW == number][:, bands.valid].mean(0)
        expected = np.interp(bands.wavelengths_nm[bands.valid], FINE_NM, material.basis()[0])
        np.testing.assert_allclose(seen, expected, atol=0.01)


def test_all_classes_with_enough_spectra() -> None:
    names = [material.name for material in measured_materials("earthlib")]
    assert len(names) == 25 and "built.glass" not in names


def test_command_line(tmp_path: Path) -> None:
    arguments = ["simulate", "--out", str(tmp_path / "sim"), "--library", "earthlib", "--sensors", "sentinel2"]
    arguments += ["--materials", "soil,road", "--size", "8", "--scenes", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (scene,) = load_card(tmp_path / "sim" / "sentinel2_msi.yaml").scenes()
    assert scene.label_names == ("bare.soil", "built.road")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gravel", "several classes 'gravel'; name one of bare.gravel, built.gravel"),
        ("soils", "no class 'soils'; name one of bare.soil"),
        ("glass", "built.glass has 2 spectra over 400-2450 nm; a material that varies takes 5"),
    ],
)
def test_classes_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measured_materials("earthlib", [name])
