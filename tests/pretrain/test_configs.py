"""Recipes in configs/pretrain run as they are, short and on small shards."""

from __future__ import annotations

from pathlib import Path

import pytest

import specfm
from pretrain.config import PretrainConfig
from pretrain.loop import train
from specfm.config import load_config
from tests.pretrain.runs import make_shards, metrics, settings

SMALL = (
    "steps=2", "data.global_batch=16", "data.domains_per_batch=2", "views.crop=6", "optim.warmup_steps=1",
    "whiten.batches=1", "monitor.every=2",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("specimens", (), {"nt_xent", "local", "local/right"}),
        ("long", ("data.weights={}",), {"loss", "untrained/linear"}),
    ],
)
def test_the_recipe_runs(tmp_path: Path, name: str, overrides: tuple[str, ...], told: set[str]) -> None:
    words = settings(tmp_path / "run", make_shards(tmp_path), *SMALL, *overrides)
    config = load_config(f"pretrain/{name}.yaml", PretrainConfig, words)
    out = train(config)
    assert told <= metrics(out)[-1].keys()
    averaged = specfm.load(out).card["weights"].startswith("running average")
    assert averaged == (config.ema is not None) == (name == "long")
