"""The whole road of a collection, small, as its commands are typed: simulate, shard, pretrain, embed, probe, explain.

configs/pretrain/SPECIMENS.md shows the same commands at their proper size.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm.cli import app
from specfm.shards import ShardSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("road")


def call(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_road(folder: Path) -> None:
    call("simulate", "--out", folder / "scans", "--specimens", 5, "--species", 3, "--size", 32)
    card = folder / "scans" / "specimens.yaml"
    call("shard", card, "--out", folder / "shards", "--whole", 24, "--bands", "uniform:40")
    (reader,) = ShardSet(folder / "shards").readers
    assert reader.shape == (15, 24, 24, 40) and len(set(reader.group_N.tolist())) == 15

    run, model = folder / "run", folder / "run" / "model"
    settings = [f"out={run}", f"data.shards=[{folder / 'shards'}]", "data.global_batch=8", "steps=2", "views.crop=12"]
    told = call("pretrain", "pretrain/debug.yaml", *settings, "data.bands=regions")
    assert "peak memory" in told and model.is_dir()

    call("embed", model, card, "--per", "specimen", "--whole", 24, "--bands", "regions", "--out", folder / "v.csv")
    rows = list(csv.DictReader((folder / "v.csv").open()))
    assert len(rows) == 15 and {row["label"] for row in rows} == {"ultraviolet_a", "ultraviolet_b", "blue_a"}

    probed = ["--seeds", 1, "--init-seeds", 1, "--protocol", "knn", "--cache", "none", "--no-scratch"]
    call("probe", model, "--data", card, "--whole", 24, "--bands", "regions", *probed, "--out", folder / "rows.jsonl")
    row = json.loads((folder / "rows.jsonl").read_text().splitlines()[0])
    assert row["split"] == "group" and row["samples"]["all"] == 15 and row["leakage"]["overlap_share"] == 0
    assert any(note.startswith("bands regions:4") for note in row["notices"])

    small = ["--data", card, "--bands", "uniform:30", "--window", 3, "--max-per-class", 3, "--seeds", 1]
    call("explain", model, *small, "--widths", 150, "--gradients", 0, "--out", folder / "explain")
    call(
        "compare-bands",
        model,
        *small,
        "--counts",
        5,
        "--choice",
        "rgb",
        "--protocol",
        "linear",
        "--out",
        folder / "bands",
    )
    for name in ("explain/explain.png", "explain/occlusion.csv", "bands/bands.png", "bands/bands.csv"):
        assert (folder / name).stat().st_size > 200, name


def test_vectors_are_those_of_the_checkpoint_named(folder: Path) -> None:
    """Embeddings-only mode loads the checkpoint: another one gives other vectors, the same one the same."""
    card, model = folder / "scans" / "specimens.yaml", folder / "run" / "model"
    for name, checkpoint in (("again", model), ("other", "real_nano")):
        call("embed", checkpoint, card, "--per", "specimen", "--bands", "regions", "--out", folder / f"{name}.npy")
    call("embed", model, card, "--per", "specimen", "--bands", "regions", "--batch-size", 3, "--out", folder / "b.npy")
    again, chunked, shipped = (np.load(folder / f"{name}.npy") for name in ("again", "b", "other"))
    assert np.allclose(again, chunked, atol=1e-5)
    assert again.shape != shipped.shape or not np.allclose(again, shipped, atol=1e-2)
