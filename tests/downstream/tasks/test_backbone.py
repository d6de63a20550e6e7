"""`specfm finetune` with a network of timm, through a curriculum: it learns, resumes bit by bit, maps its sensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from downstream.results.files import read_rows
from downstream.supervised.folder import load_task
from downstream.tasks.config import FinetuneConfig
from downstream.tasks.data import Crops, label_rasters, make_samples, open_places
from downstream.tasks.finetune import finetune
from specfm.cli import app
from specfm.config import load_config, read_yaml
from specfm.engine.faults import FaultError
from specfm.engine.record import read_metrics
from specfm.errors import SpecfmError, UsageError
from specfm.models import Backbone
from tests.downstream.tasks.toys import COARSE, FINE, config, field_card, reflectance, write_card

PLAIN: dict[str, Any] = {"size": "nano", "patch_size": 3, "options": {}}
STAGES = [{"bands": 4, "size": 0.5}, {"bands": 12, "size": 0.8}, {}]


@pytest.fixture(scope="module")
def field(tmp_path_factory) -> Path:
    return field_card(tmp_path_factory.mktemp("field"))


def settings(out: Path, card: Path, **sections: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "encoder": "timm:test_resnet", "model": PLAIN, "data": {"tile": 5, "batch": 16}, "head": {"pooling": "mean"},
        "optim": {"lr": 3e-3, "head_lr": 1, "layer_decay": 1, "drop_path": 0},
    }  # fmt: skip
    return config(out, card, "classification", **{**values, **sections})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, field) -> Path:
    """Sixty steps through three stages of components, each measured."""
    out = tmp_path_factory.mktemp("trained") / "run"
    curriculum = {"stages": STAGES, "reducer": "pca", "repeats": 1}
    return finetune(settings(out, field, curriculum=curriculum, controls=["frozen"]))


def test_the_curriculum_of_the_shipped_configuration_runs(field, tmp_path) -> None:
    words = [f"data.card={field}", f"out={tmp_path / 'run'}", "steps=4", "data.batch=8", "optim.warmup_steps=1"]
    shipped = load_config("downstream/curriculum_salinas_a.yaml", FinetuneConfig, words)
    out = finetune(shipped)
    assert {"timm:resnet18 from-scratch", "majority class"} <= {
        row["method"] for row in read_rows(out / "results.jsonl")
    }
    assert load_task(out).encoder.mix_KC is None, "the last stage sees all bands"


def test_mixtures_are_fitted_to_the_training_tiles(field, tmp_path) -> None:
    options = {"encoder": "small:mlp", "model": {**PLAIN, "options": {"mixtures": 3, "options": {"width": 8}}}}
    out = finetune(settings(tmp_path / "run", field, **options, controls=[], steps=20))
    mix_KC = load_task(out).encoder.mix_KC
    assert mix_KC is not None and not torch.equal(mix_KC, torch.eye(*mix_KC.shape))
    z_KC = mix_KC / mix_KC.norm(dim=1, keepdim=True)
    assert (z_KC.abs() > 0.05).sum(1).min() > 3, "noise is averaged over many bands"
    assert read_rows(out / "results.jsonl")[0]["oa"]["mean"] > 0.5
    with pytest.raises(SpecfmError, match="no two valid pixels are neighbours"):
        finetune(settings(tmp_path / "one", field, **options, controls=[], data={"tile": 1, "batch": 16}, steps=4))


def test_a_network_learns_through_its_stages(trained) -> None:
    row = read_rows(trained / "results.jsonl")[0]
    assert row["method"] == "timm:test_resnet from-scratch" and row["oa"]["mean"] > 0.8
    rows = read_metrics(trained / "runs" / "random-full-0")
    assert [r["stage"] for r in rows] == sorted(r["stage"] for r in rows) and {r["stage"] for r in rows} == {1, 2, 3}
    encoder = load_task(trained).encoder
    assert isinstance(encoder, Backbone)
    assert np.allclose(encoder.bands.wavelengths_nm, FINE.bands.wavelengths_nm, atol=0.01)
    assert float(encoder.factor_C.std()) > 0  # of the training tiles


def test_a_frozen_untrained_network_is_standardised_as_it_is_evaluated(trained, field) -> None:
    folder = trained / "runs" / "random-frozen-0"
    model, told = load_task(folder), FinetuneConfig(**read_yaml(trained / "config.yaml"))
    places = open_places(told)
    samples, splits = make_samples(places, told)
    rasters = label_rasters(places, samples, splits[0].train_I, splits[0].classes)
    crops = Crops(places, rasters, len(splits[0].classes), told)
    with torch.no_grad():
        tokens = [model.pooled(view) for step in range(8) for part in crops(step) for view in part.views]
    seen_MD = torch.cat(tokens)
    assert float(seen_MD.mean(0).abs().max()) < 0.05 and float((seen_MD.std(0) - 1).abs().max()) < 0.05


def test_its_map_is_made_of_windows_and_other_bands_are_refused(tmp_path, trained, field) -> None:
    scene = field.parent / "scene.npy"
    out = tmp_path / "map.npy"
    words = ["predict", str(trained), str(field), "--out", str(out), "--no-preview"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    truth = np.load(field.parent / "labels.npy")
    found = np.load(out)[..., 0].astype(int) - 1
    assert found.shape == truth.shape and (found == truth)[6:-6, 6:-6].mean() > 0.8
    model = load_task(trained)
    cube = torch.from_numpy(np.load(scene))
    for row, col in ((10, 11), (20, 30)):  # the class of a pixel is that of the window around it
        window = cube[None, row - 2 : row + 3, col - 2 : col + 3]
        level = torch.ones(1)
        assert found[row, col] == int(model.predict_tile(window, FINE, level_B=level)[0, 2, 2].argmax())
    labels = np.zeros((20, 20), int)
    labels[:, 10:] = 1
    cubes = {"scene": reflectance(labels, COARSE, np.random.default_rng(0))}
    other = write_card(tmp_path / "other", "other", cubes, labels, "classification")
    refused = CliRunner().invoke(app, ["predict", str(trained), str(other), "--out", str(tmp_path / "no.npy")])
    assert refused.exit_code == 1 and "built for other bands (24 at 450-2400 nm; here are 6" in refused.output


def nine(out: Path, card: Path, reducer: str) -> FinetuneConfig:
    """Three steps a stage and a checkpoint every two."""
    stages = [{"bands": b, "size": s, "share": b * s**2} for b, s in ((0.2, 0.5), (0.5, 0.8), (1, 1))]
    curriculum = {"stages": stages, "reducer": reducer, "cost": "formula"}
    return settings(out, card, steps=9, checkpoint={"every": 2}, curriculum=curriculum)


@pytest.fixture(scope="module", params=["pca", "merge"])
def whole(request, tmp_path_factory, field) -> tuple[str, Path]:
    return request.param, finetune(nine(tmp_path_factory.mktemp("whole") / "run", field, request.param))


@pytest.mark.parametrize(
    "stop", [3, pytest.param(5, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)  # from the first stage, from the second, at a switch
def test_resuming_in_any_stage_changes_no_bit(tmp_path, field, monkeypatch, whole, stop: int) -> None:
    config, out = nine(tmp_path / "cut", field, whole[0]), whole[1]
    monkeypatch.setenv("SPECFM_FAULTS", f"step.forward:raise@step={stop}")
    with pytest.raises(FaultError):
        finetune(config)
    monkeypatch.delenv("SPECFM_FAULTS")
    cut = finetune(config, resume=True)
    one, two = (read_metrics(run / "runs" / "random-full-0") for run in (out, cut))
    assert [(r["stage"], r["loss"]) for r in one] == [(r["stage"], r["loss"]) for r in two]
    assert [r["stage"] for r in one] == [1] * 3 + [2] * 3 + [3] * 3
    place = Path("runs") / "random-full-0" / "model" / "model.safetensors"
    assert (out / place).read_bytes() == (cut / place).read_bytes()


def test_our_encoder_goes_through_stages_of_merged_bands(tmp_path, field) -> None:
    out = finetune(config(tmp_path / "run", field, "segmentation", curriculum={"stages": 2, "repeats": 1}, steps=20))
    assert {r["stage"] for r in read_metrics(out / "runs" / "random-full-0")} == {1, 2}
    with pytest.raises(UsageError, match=r"set curriculum.reducer=merge"):
        finetune(config(tmp_path / "no", field, "segmentation", curriculum={"reducer": "pca"}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"init": "real_nano"}, "init one that is trained; give one of them"),
        ({"model": {"size": "tiny", "options": {}}}, "model.size is of an encoder of ours; leave it out"),
        ({"model": {**PLAIN, "options": {"heads": 3}}}, "model.options: timm:test_resnet does not take these"),
        ({"encoder": "timm:resnot"}, "no network .*resnot"),
        ({"mode": "partial"}, "train_blocks 2 is more than the encoder's 1 blocks"),
    ],
)
def test_what_does_not_fit_is_a_sentence(tmp_path, field, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(settings(tmp_path / "run", field, **sections))
    assert not (tmp_path / "run").exists()


def test_scenes_of_several_sensors_are_refused(tmp_path) -> None:
    labels = np.arange(20 * 20).reshape(20, 20) % 2
    rng = np.random.default_rng(0)
    cubes = {"fine": reflectance(labels, FINE, rng), "coarse": reflectance(labels, COARSE, rng)}
    card = write_card(tmp_path / "card", "mixed", cubes, labels, "classification")
    with pytest.raises(UsageError, match="serves one list of bands, and scenes of .* have several; choose some by"):
        finetune(settings(tmp_path / "run", card))
