"""Integers in place of weights: every kind in the runtime, what they cost, and what is refused; ranges by formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from specfm.deploy.calibrate import LEVELS, calibrated_ranges, one_range
from specfm.deploy.runtime import Deployed, date_inputs
from specfm.errors import UsageError
from tests.deploy.make import SENSOR, encoder, off, tiles
from tests.deploy.test_graph import exported

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
MOST_BYTES = {"dynamic": 0.6, "static": 0.6, "weights8": 0.6, "weights4": 0.5}


def given(path: Path, count: int = 4) -> dict[str, np.ndarray]:
    x_BHWC, mask_BHW = tiles(count)
    return date_inputs(Deployed(path).facts, 1, x_BHWC.numpy(), mask_BHW.numpy(), 0.6, SENSOR)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer as it is."""
    made = encoder("hyper-light", dim=96, depth=3)
    made.stem.set(torch.eye(96), torch.zeros(96))
    out = tmp_path_factory.mktemp("int8") / "whole.onnx"
    exported(made, SENSOR, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", MOST_BYTES)
def test_integers_are_smaller_and_close(how: str, whole: Path, tmp_path: Path) -> None:
    from specfm.deploy.int8 import PRECISION, quantise

    out = tmp_path / "small.onnx"
    facts = Deployed(whole).facts
    samples = [given(whole, count) for count in (4, 3)] if how == "static" else None
    quantise(whole, out, facts.__class__(**{**vars(facts), "precision": PRECISION[how]}), how, samples)
    assert out.stat().st_size < MOST_BYTES[how] * whole.stat().st_size
    small = Deployed(out, threads=1)
    assert small.facts.precision == PRECISION[how]
    found, wanted = (each(given(whole))["tokens_BND"] for each in (small, Deployed(whole, threads=1)))
    assert 1e-6 < off(found, wanted) < (0.3 if how == "weights4" else 0.08)


@pytest.mark.slow
def test_convolutions_become_static_integers(tmp_path: Path) -> None:
    made, out = encoder("timm:resnet10t"), tmp_path / "net.onnx"
    exported(made, SENSOR, out, scene_level=False)
    x_BHWC, mask_BHW = tiles(4)
    samples = [{"x_BHWC": x_BHWC.numpy(), "mask_BHW": mask_BHW.numpy()}]
    small = tmp_path / "small.onnx"
    exported(made, SENSOR, small, scene_level=False, integers="static", samples=samples, calibration="mse")
    assert small.stat().st_size < 0.3 * out.stat().st_size
    found, wanted = (Deployed(path)(samples[0])["pooled_BD"] for path in (small, out))
    assert off(found, wanted) < 0.1
    with pytest.raises(UsageError, match="no matrix products"):
        exported(made, SENSOR, tmp_path / "x.onnx", scene_level=False, integers="dynamic")
    with pytest.raises(UsageError, match="no matrix products"):
        exported(made, SENSOR, tmp_path / "x.onnx", scene_level=False, integers="weights4")
    with pytest.raises(UsageError, match="need calibration inputs"):
        exported(made, SENSOR, tmp_path / "x.onnx", scene_level=False, integers="static", samples=[])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["net.onnx", "small.onnx"]


def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="integers are for ONNX Runtime"):
        exported(encoder("hyper-metadata"), SENSOR, tmp_path / "x.pt2", integers="dynamic")
    with pytest.raises(UsageError, match="calibration is 'best'"):
        calibrated_ranges(tmp_path / "x.onnx", ("MatMul",), [], "best")  # type: ignore[arg-type]


def histogram(values: np.ndarray, bins: int = 2000) -> tuple[np.ndarray, np.ndarray, float, float]:
    top = np.abs(values).max()
    hist, edges = np.histogram(values, bins, range=(-top, top))
    return hist, edges, float(values.min()), float(values.max())


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    """Slow reference: every value rounded to its level."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / LEVELS
    rounded = np.clip(np.round((values - low) / step), 0, LEVELS) * step + low
    return float(((values - rounded) ** 2).mean())


def test_ranges_of_activations() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=50000), [40.0]])  # one value far outside
    told = histogram(values)
    whole = one_range(*told, "minmax")
    assert (float(whole[0]), float(whole[1])) == (values.min(), 40.0)
    low, high = (float(each) for each in one_range(*told, "percentile"))
    assert np.mean((values < low) | (values > high)) < 3e-4 and high < 6
    low, high = (float(each) for each in one_range(*told, "mse"))
    least = squared_error(values, low, high)
    tried = [squared_error(values, values.min() * share, 40.0 * share) for share in np.linspace(0.02, 1, 50)]
    assert least <= 1.05 * min(tried)


@pytest.mark.parametrize("how", ["minmax", "percentile", "mse"])
def test_ranges_of_what_does_not_vary(how: str) -> None:
    low, high = one_range(*histogram(np.full(100, 3.0)), how)  # type: ignore[arg-type]
    assert low <= high and high >= 2.9
    low, high = one_range(np.array([5, 5]), np.array([-1.0, 0.0, 1.0]), 0.0, 0.0, how)  # type: ignore[arg-type]
    assert low <= high
