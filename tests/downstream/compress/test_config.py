"""What a compression benchmark may be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from downstream.compress.config import CompressionConfig
from specfm.config import load_config
from specfm.errors import UsageError

BASE: dict[str, Any] = {
    "name": "toy", "scenes": [{"card": "salinas_a"}], "reference": "whole",
    "models": {"nano": {"encoder": "random:nano:3"}, "mlp": {"network": "small:mlp", "window": 1}},
    "pipelines": {"whole": {"model": "nano"}},
}  # fmt: skip
STEPS = {
    "quantise ends in a file": [{"quantise": {}}, {"prune": {}}],
    "online trains an untrained model": [{"prune": {}}, {"online": {"how": "one"}}],
    "a step is one of": [{"prune": {}, "quantise": {}}],
    "names the model 'vit'; models are": [{"distil": {"teacher": "vit"}}],
    "Extra inputs|unknown": [{"prune": {"ration": 0.5}}],
}


def read(tmp_path: Path, **changes: Any) -> CompressionConfig:
    path = tmp_path / "compression.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}))
    return load_config(path, CompressionConfig)


@pytest.mark.parametrize("message", STEPS)
def test_steps_that_make_no_sense(message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, pipelines={"whole": {"model": "nano", "steps": STEPS[message]}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "other"}, "reference 'other' is no pipeline"),
        ({"pipelines": {"whole": {"model": "vit"}}}, "names the model 'vit'"),
        ({"window": 0}, "greater than or equal to 1|at least 1"),
        ({"models": {"nano": {"encoder": "a", "network": "b"}}}, "an encoder or a network"),
        ({"models": {**BASE["models"], "mlp": {"network": "small:mlp", "window": 11}}}, "wider than window 9"),
        ({"models": {"nano": {"network": "small:mlp", "fit": True}}}, "fit is for the encoder of a checkpoint"),
        ({"models": {"nano": {"encoder": "random:nano:3", "fit": True}}}, "fit is for the encoder of a checkpoint"),
        ({"models": {"nano": {"encoder": "a", "fit": True, "options": {"depth": 2}}}}, "fit is for the encoder of a"),
    ],
)
def test_values_that_make_no_sense(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, **changes)


def test_the_benchmark_we_ship() -> None:
    config = load_config("downstream/compression.yaml", CompressionConfig)
    kinds = {step.kind for pipeline in config.pipelines.values() for step in pipeline.steps}
    assert kinds == {"distil", "online", "deep_to_shallow", "prune", "quantise"}
