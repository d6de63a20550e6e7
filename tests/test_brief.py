"""Results print as one line each, however much they hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specfm
from downstream.explain.run import Explanation
from downstream.probe.run import ProbeResult
from downstream.relate.run import Relations
from downstream.robustness.run import Robustness
from pretrain.multidomain import StudyResult
from pretrain.planning.plan import Plan
from specfm.bands import BandGrid
from specfm.brief import brief
from specfm.cli import _results
from specfm.dense.memory import DenseFeatures
from specfm.dense.per_specimen import SpecimenVectors

RESULTS = [
    each for each in vars(_results).values() if dataclasses.is_dataclass(each) and each.__module__ == _results.__name__
]
RESULTS += [ProbeResult, Relations, Robustness, Explanation, StudyResult, DenseFeatures, SpecimenVectors, Plan]
MUCH: Any = [{"x": np.arange(500).tolist()}] * 300


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_a_result_full_of_numbers_is_one_short_line(kind: type) -> None:
    filled: dict[str, Any] = {each.name: MUCH for each in dataclasses.fields(kind)}
    said = repr(kind(**filled))
    assert said.startswith(f"{kind.__name__}(")
    assert "\n" not in said
    assert len(said) < 500


def test_what_a_public_function_returns_is_among_them() -> None:
    public = (name for name in specfm.__all__ if hasattr(getattr(specfm, name), "options"))
    returned = {kind for name in public for kind in getattr(specfm, name).__annotations__["return"].split(" | ")}
    assert {"ProbeResult", "ClassMap"} <= returned
    assert returned <= {each.__name__ for each in RESULTS}


def test_arrays_are_told_by_type_and_shape_and_short_values_as_they_are() -> None:
    found = DenseFeatures(np.zeros((4, 5, 192), np.float32), np.arange(4.0), np.arange(5.0))
    assert repr(found) == (
        "DenseFeatures(features_hwD=<float32 4x5x192>, rows_h=<float64 4>, cols_w=<float64 5>, x_w=None, y_h=None)"
    )
    told = _results.Descriptions([{"scene": 1}, {"scene": 2}], ["no such file"], single=True)
    assert repr(told) == "Descriptions(rows=<list of 2 dict>, refused=['no such file'], single=True)"


def test_a_field_with_a_line_of_its_own_keeps_it() -> None:
    @dataclasses.dataclass
    class Held:
        bands: BandGrid
        hidden: str = dataclasses.field(default="not shown", repr=False)

        __repr__ = brief

    assert "3 bands" in repr(Held(BandGrid([400.0, 500.0, 600.0])))
    assert "hidden" not in repr(Held(BandGrid([400.0, 500.0, 600.0])))


def test_an_argument_of_the_wrong_kind_is_told_by_its_type_where_it_is_long() -> None:
    sentence = r"^cluster: checkpoint takes text or an object of class Encoder, not one of class ndarray$"
    with pytest.raises(ValueError, match=sentence):
        specfm.cluster(np.zeros(1000), "scene.hdr", out="groups.tif")


def test_a_misspelt_or_missing_argument_names_the_function_and_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"^specfm\.probe: .* argument 'shot'; did you mean shots\?$"):
        specfm.probe("real_nano", data="salinas_a", shot=5)
    with pytest.raises(TypeError, match=r"^specfm\.embed: missing a required argument: 'out'$"):
        specfm.embed("real_nano", "scene.hdr")


def test_a_scene_keeps_its_own_line_and_features_of_a_call_are_told_by_their_shapes() -> None:
    bands = BandGrid([400.0, 500.0, 600.0])
    scene = specfm.Scene.from_array(np.zeros((4, 5, 3), np.float32), specfm.Sensor(bands), name="field")
    assert "scene=Scene('field'" in repr(_results.Raster(Path("map.tif"), scene))
    features = specfm.load("real_nano")(np.zeros((2, 6, 6, 3), np.float32), bands)
    assert repr(features).startswith("Features(tokens_BND=<torch.float32 2x4x192>")


def test_a_wrong_argument_of_an_encoder_is_a_value_error() -> None:
    encoder, bands, x = specfm.load("real_nano"), BandGrid([400.0, 500.0, 600.0]), np.zeros((1, 6, 6, 3), np.float32)
    for call in (
        lambda: encoder(x[0], bands),
        lambda: encoder(x[:0], bands),
        lambda: encoder(x.transpose(0, 3, 1, 2), bands),
        lambda: encoder(x, BandGrid([400.0, 500.0])),
        lambda: encoder(x, bands.wavelengths_nm),
        lambda: encoder(x),
        lambda: encoder.embed(x[0]),
        lambda: encoder.embed("scene.hdr"),
    ):
        with pytest.raises(ValueError, match=r"."):
            call()
