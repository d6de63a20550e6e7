"""What travels in an exported file, and which scenes it takes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from specfm.bands import BandGrid
from specfm.deploy.facts import Facts, fitting, outside
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from tests.deploy.make import BANDS, SENSOR, VALID

FACTS = Facts(
    "segmentation", (SENSOR,), 12, 3, "scene", "0" * 16, "1.0", classes=("oak", "fir"), palette=((1, 2, 3), (4, 5, 6)),
    threshold=0.25, taught={"pretreatment": ["snv"]}, trained_nm=(400.0, 900.0),
)  # fmt: skip


def scene(sensor=SENSOR) -> Scene:
    return Scene.from_array(np.ones((4, 5, len(sensor.bands)), np.float32), sensor, name="field")


def test_text_and_back() -> None:
    assert Facts.from_json(FACTS.to_json(), "x.onnx") == FACTS


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"kind": "song"}, {"tile": 0}, {"tile": "9"}, {"sensors": [{}]}, {"more": 1}]
)
def test_damaged_facts_are_refused(change: dict) -> None:
    text = json.dumps(json.loads(FACTS.to_json()) | change)
    with pytest.raises(SpecfmError, match="x.onnx: its facts .* export the model again"):
        Facts.from_json(text, "x.onnx")


def test_other_scale_of_the_same_sensor_is_put_into_that_of_the_graph() -> None:
    put = fitting(scene(SENSOR.replace(scale=1e-4, offset=0.0)), SENSOR, "m.onnx")
    stored = np.array([0.0, 3000.0], np.float32)
    np.testing.assert_allclose(put(stored) * SENSOR.scale + SENSOR.offset, stored * 1e-4, rtol=1e-6, atol=1e-7)
    assert fitting(scene(), SENSOR, "m.onnx")(stored) is stored
    np.testing.assert_allclose(fitting(scene(), None, "m.onnx")(stored), stored * 0.01 + 0.1, rtol=1e-6)


def test_strange_scenes_are_refused() -> None:
    bands = SENSOR.bands
    for sensor, words in (
        (SENSOR.replace(bands=bands.subset(range(BANDS - 1))), f"{BANDS - 1} bands.*baked for {BANDS}"),
        (SENSOR.replace(bands=BandGrid(bands.wavelengths_nm, bands.fwhm_nm)), "band 6 is usable.*the opposite"),
        (SENSOR.replace(bands=BandGrid(bands.wavelengths_nm + 0.7, bands.fwhm_nm, VALID)), "band .* nm"),
        (SENSOR.replace(quantity="radiance"), "holds radiance.*baked for dn"),
    ):
        with pytest.raises(UsageError, match=f"field: .*{words}.*--sensor field"):
            fitting(scene(sensor), SENSOR, "m.onnx")
    fitting(scene(SENSOR.replace(bands=BandGrid(bands.wavelengths_nm + 0.1, bands.fwhm_nm, VALID))), SENSOR, "m.onnx")


def test_wavelengths_that_training_did_not_see_are_told() -> None:
    said = outside([SENSOR], (400.0, 1000.0))
    assert said is not None and "2 of 11 bands (1041 to 1100 nm)" in said
    assert (
        outside([SENSOR], (400.0, 1200.0)) is None and outside([SENSOR], None) is None and outside([], (1, 2)) is None
    )
