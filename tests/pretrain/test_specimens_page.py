"""The page of flags names tests that exist; its configurations run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pretrain.config import PretrainConfig
from pretrain.loop import train
from specfm.config import load_config
from specfm.engine.record import read_metrics
from specfm.shards.build import write_shards
from specfm.simulate import simulate_specimen

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "configs" / "pretrain" / "SPECIMENS.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", PAGE)
    assert len(named) > 25
    for file, name in named:
        text = (ROOT / (file or "tests/pretrain/test_flags.py")).read_text(encoding="utf-8")
        assert f"def {name}(" in text, (file, name)
    for file in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize(
    ("name", "side", "short"),
    [
        ("specimens", 24, ["whiten.batches=1", "data.global_batch=4", "data.bands=uniform:9"]),
        ("specimens_bands", 9, ["whiten.batches=1", "data.global_batch=8"]),
        ("specimens_resnet50", 64, ["device=cpu", "data.global_batch=4", "data.bands=uniform:9"]),
    ],
)
def test_its_configurations_run(tmp_path: Path, name: str, side: int, short: list[str]) -> None:
    scenes = [simulate_specimen(kind, (32, 32), seed) for kind in (0, 2) for seed in range(3)]
    whole = name.endswith("50")
    write_shards(scenes, tmp_path / "shards", None if whole else side, whole=side if whole else None)
    keys = [f"data.shards={tmp_path / 'shards'}", f"out={tmp_path / 'run'}", "steps=1", "monitor.every=0", *short]
    keys.append("optim.warmup_steps=0")
    folder = train(load_config(f"pretrain/{name}.yaml", PretrainConfig, keys))
    assert np.isfinite(read_metrics(folder)[0]["loss"]) and (folder / "model").is_dir()
