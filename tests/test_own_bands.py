"""A network for one list of bands, trained on some bands of a sensor, finds these in whole scenes of it by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import specfm
from specfm.bands import BandGrid
from specfm.cards.opening import open_scene
from specfm.cli import app
from specfm.pretreatment import pretreat
from specfm.scene import Scene
from specfm.selected_scene import for_encoder, select_scenes

BANDS = "uniform:10"


def call(*words: str | Path | int) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    call("simulate", "--out", folder / "scans", "--specimens", 4, "--species", 2, "--size", 64)
    call("shard", folder / "scans" / "specimens.yaml", "--out", folder / "shards", "--whole", 32)
    keys = ["device=cpu", "model.backbone=timm:test_resnet", "steps=1", "optim.warmup_steps=0", "monitor.every=0"]
    keys += [f"data.bands={BANDS}", "data.global_batch=4", f"data.shards={folder / 'shards'}", f"out={folder / 'run'}"]
    call("pretrain", "pretrain/specimens_resnet50.yaml", *keys)
    return folder


def scan(folder: Path) -> str:
    card = folder / "scans" / "specimens.yaml"
    return f"{card}:{specfm.load_card(card).names()[0]}"


@pytest.mark.parametrize("per", ["patch", "specimen"])
def test_features_are_those_of_the_bands_named(folder: Path, per: str) -> None:
    scene, ways = scan(folder), {"alone": (), "named": ("--bands", BANDS)}
    for name, more in ways.items():
        call("embed", folder / "run", scene, "--per", per, *more, "--out", folder / f"{per}-{name}.npy")
    alone, named = (np.load(folder / f"{per}-{name}.npy") for name in ways)
    assert np.isfinite(alone).any() and np.array_equal(alone, named, equal_nan=True)


def test_every_command_takes_a_whole_scene(folder: Path) -> None:
    model, card, scene = folder / "run", folder / "scans" / "specimens.yaml", scan(folder)
    call("embed", model, card, "--per", "specimen", "--whole", 32, "--out", folder / "whole.csv")
    call("cluster", model, scene, "--classes", 2, "--out", folder / "map.npy", "--no-preview")
    call("search", model, scene, "--like", "16,16", "--out", folder / "found.npy")
    call("relate", model, card, "--whole", 32, "--out", folder / "related")
    small = ["--data", card, "--window", 8, "--max-per-class", 4, "--seeds", 1]
    call("explain", model, *small, "--widths", 200, "--gradients", 0, "--out", folder / "explain")
    probed = ["--data", card, "--window", 8, "--max-per-class", 8, "--seeds", 1, "--init-seeds", 1]
    call("probe", model, *probed, "--protocol", "knn", "--cache", "none", "--no-scratch", "--out", folder / "r.jsonl")
    kinds = {json.loads(line)["kind"] for line in (folder / "r.jsonl").read_text().splitlines()}
    assert {"encoder", "twin", "baseline"} <= kinds
    keys = [f"data.card={card}", f"init={model}", f"out={folder / 'task'}", "encoder=null", "curriculum=null"]
    keys += ["mode=frozen", "controls=[]", "split.seeds=1", "steps=2", "data.tile=8", "data.batch=4"]
    call("finetune", "downstream/curriculum_salinas_a.yaml", *keys, "optim.warmup_steps=0")
    told = call("predict", folder / "task", scene, "--out", folder / "classes.npy", "--no-preview")
    assert "another sensor" not in told


def test_another_sensor_is_refused_still(folder: Path) -> None:
    encoder = specfm.load(folder / "run")
    scene = Scene.from_array(np.full((32, 32, 12), 0.3, np.float32), BandGrid(np.linspace(900, 2400, 12)))
    assert for_encoder(encoder, scene) is scene
    with pytest.raises(specfm.SpecfmError, match="built for other bands"):
        encoder.embed(scene)


def test_only_a_network_for_one_list_of_bands_leaves_some_out(folder: Path) -> None:
    scene = open_scene(scan(folder))
    encoder = specfm.load(folder / "run")
    (named,) = select_scenes([scene], BANDS)
    assert for_encoder(encoder, scene).sensor.bands == named.sensor.bands and for_encoder(encoder, named) is named
    assert for_encoder(specfm.load("real_nano"), scene) is scene


def test_pretreatment_is_of_these_bands_alone(folder: Path) -> None:
    scene = open_scene(scan(folder))
    encoder = specfm.load(folder / "run")
    seen = for_encoder(encoder, pretreat(scene, ("snv",)))
    (wanted,) = select_scenes([pretreat(scene, ("snv",))], BANDS)
    assert np.array_equal(seen.read(), wanted.read(), equal_nan=True)
