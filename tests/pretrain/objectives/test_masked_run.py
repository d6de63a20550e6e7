"""A run of masked modelling alone, end to end: record, monitor, checkpoint, resume, micro-batches, bf16."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import specfm
from pretrain.loop import train
from specfm.errors import UsageError
from tests.pretrain.runs import debug_config, make_shards, metrics, weights

ALONE = (
    "objective.nt_xent.weight=0",
    "objective.masked.mask=both",
    "objective.masked.bands=12",
    "objective.masked.decoder.width=16",
    "objective.masked.decoder.depth=1",
    "views.crop=9",
    "monitor.every=6",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, shards: list[str]) -> Path:
    return train(debug_config(tmp_path_factory.mktemp("plain") / "run", shards, *ALONE))


def test_the_run_is_complete(plain: Path) -> None:
    rows = metrics(plain)
    assert len(rows) == 12 and {"loss", "masked/angle", "masked/charbonnier", "grad_norm"} <= rows[0].keys()
    assert {"knn", "knn/alpha", "embedding/rank"} <= rows[-1].keys()
    assert sum(row["loss"] for row in rows[-4:]) < sum(row["loss"] for row in rows[:4])
    encoder = specfm.load(plain)
    assert encoder.card["config"]["objective"]["masked"]["mask"] == "both"


def test_the_result_does_not_depend_on_the_micro_batch(tmp_path: Path, shards: list[str], plain: Path) -> None:
    out = train(debug_config(tmp_path / "run", shards, *ALONE, "optim.micro_batch=5"))
    for one, other in zip(metrics(out), metrics(plain), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5), one["step"]
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path, shards: list[str], plain: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    shutil.rmtree(out / "model")
    for folder in sorted((out / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(folder)
    kept = sorted((out / "checkpoints").glob("step-*"))
    assert len(kept) == 1 and not kept[0].name.endswith("12")
    train(debug_config(out, shards, *ALONE), resume=True)
    assert weights(out) == weights(plain)


@pytest.mark.parametrize(
    "overrides",
    [
        ("optim.precision=bf16", "objective.masked.target=pixel"),
        ("objective.masked.mask=ranges", "objective.masked.window_start=0.5", "objective.masked.window_steps=6"),
        ("objective.nt_xent.weight=1", "objective.masked.target=patch", "views.band_draw=part"),
        ("model.grad_checkpointing=true", "model.embedding=basis", "objective.masked.mask=patches"),
        (
            "model.embedding=specaware",
            "model.options={dim: 48, depth: 1, heads: 3, image_size: 9, rank: 4, trunk: mae, level: none}",
            "model.options.layer_scale=0",
            "objective.masked.published=true",
            "objective.masked.eps=1",
        ),
    ],
    ids=["bf16", "ranges in a window", "beside NT-Xent", "another embedding", "as published"],
)
def test_other_settings_run(tmp_path: Path, shards: list[str], overrides: tuple[str, ...]) -> None:
    out = train(debug_config(tmp_path / "run", shards, *ALONE, "steps=4", "monitor.every=0", *overrides))
    rows = metrics(out)
    assert len(rows) == 4 and all(0 < row["masked/angle"] < 2 for row in rows)


def test_the_published_decoder_has_codes_of_one_width(tmp_path: Path, shards: list[str]) -> None:
    sizes = "model.options={dim: 48, depth: 1, heads: 3, image_size: 9, rank: 4, trunk: mae, level: none}"
    published = ("model.embedding=specaware", sizes, "model.options.layer_scale=0", "objective.masked.published=true")
    with pytest.raises(UsageError, match="code_width is 64.*128 wide; leave it out"):
        train(
            debug_config(
                tmp_path / "run", shards, *ALONE, *published, "steps=1", "objective.masked.decoder.code_width=64"
            )
        )
