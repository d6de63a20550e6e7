"""Whole fine-tunings on tiny scenes: they fit what can be fitted, resume bit by bit, and refuse what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import specfm
from downstream.maps.class_maps import as_taught
from downstream.maps.predict import predict_to_file
from downstream.results.files import comparable, read_rows
from downstream.supervised.folder import load_task
from downstream.supervised.trainer import unsettled
from downstream.tasks.config import FinetuneConfig
from downstream.tasks.finetune import finetune
from specfm.cards import load_card
from specfm.cli import app
from specfm.config import load_config
from specfm.engine.faults import FaultError
from specfm.engine.guard import DivergedError
from specfm.engine.record import read_metrics
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment import pretreat
from specfm.scene import Scene
from specfm.selected_scene import select_scenes
from tests.downstream.tasks.toys import COARSE, FINE, SMALL, config, field_card, pair_card, scene


def row(out: Path, number: int = 0) -> dict[str, Any]:
    return read_rows(out / "results.jsonl")[number]


@pytest.fixture(scope="module")
def field(tmp_path_factory) -> Path:
    return field_card(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def segmented(tmp_path_factory, field) -> Path:
    """A segmentation with all its controls."""
    out = tmp_path_factory.mktemp("run") / "segment"
    return finetune(config(out, field, "segmentation", controls=["scratch", "frozen", "simple"], head={"kind": "fpn"}))


def test_a_dense_head_fits_a_separable_scene(segmented) -> None:
    rows = read_rows(segmented / "results.jsonl")
    methods = [r["method"] for r in rows]
    assert methods == [
        "from-scratch", "random-init", "pixel spectrum", "pixel spectrum", "PCA-30 of pixel spectrum", "majority class"
    ]  # fmt: skip
    assert [r["protocol"] for r in rows][2:] == ["linear", "svm", "knn5", "-"]
    by = dict(zip(methods, rows, strict=True))
    assert by["from-scratch"]["oa"]["mean"] > 0.95 and by["from-scratch"]["miou"]["mean"] > 0.9
    assert by["pixel spectrum"]["oa"]["mean"] > 0.99 and by["majority class"]["oa"]["mean"] < 0.5
    for each in rows:
        assert each["split"] == "block" and each["guard"] == each["window"] - 1 == 5 and not each["leaky"]
        assert each["leakage"]["overlap_share"] == 0 and each["leakage"]["min_distance_px"] >= 6
        assert {"data", "splits", "config", "checkpoint"} <= each["digests"].keys() and each["seeds"] == [0]
        assert each["seen"] == "-"


def test_what_a_run_leaves_behind(segmented) -> None:
    names = {path.name for path in segmented.iterdir()}
    assert names == {"config.yaml", "results.jsonl", "map.png", "model", "runs"}
    assert {path.name for path in (segmented / "runs").iterdir()} == {"random-full-0", "random-frozen-0"}
    assert (segmented / "map.png").read_bytes()[:4] == b"\x89PNG"
    model = load_task(segmented, task="segmentation")
    assert model.tile == 6 and model.label_names == ("soil", "grass", "water")
    assert model.card["mode"] == "full" and model.card["init"] == "random"
    report = json.loads((segmented / "runs" / "random-full-0" / "test.json").read_text())
    best = max(report["validation"], key=lambda pair: (pair[1], pair[0]))
    assert model.card["steps"] == report["steps"] == best[0]


def test_resuming_a_finished_run_changes_nothing(segmented, field) -> None:
    before = {path: path.stat().st_mtime_ns for path in segmented.rglob("*") if path.is_file()}
    settings = config(segmented, field, "segmentation", controls=["scratch", "frozen", "simple"], head={"kind": "fpn"})
    finetune(settings, resume=True)
    assert {path: path.stat().st_mtime_ns for path in segmented.rglob("*") if path.is_file()} == before


def test_an_interrupted_run_continues_bit_by_bit(tmp_path, field, monkeypatch) -> None:
    """Killed in the middle of the second of two trainings, between two evaluations; drop path and dropout are on."""
    options = {"steps": 9, "checkpoint": {"every": 3}, "split": {"seeds": 2}, "optim": {"drop_path": 0.3}}
    whole = finetune(config(tmp_path / "whole", field, "segmentation", **options))
    monkeypatch.setenv("SPECFM_FAULTS", "step.forward:raise@hit=17")
    settings = config(tmp_path / "cut", field, "segmentation", **options)
    with pytest.raises(FaultError):
        finetune(settings)
    monkeypatch.delenv("SPECFM_FAULTS")
    assert not (tmp_path / "cut" / "results.jsonl").exists() and not (tmp_path / "cut" / "model").exists()
    cut = finetune(settings, resume=True)
    for number in (0, 1):
        place = Path("runs") / f"random-full-{number}" / "model" / "model.safetensors"
        assert (whole / place).read_bytes() == (cut / place).read_bytes()
        one, two = (read_metrics(run / "runs" / f"random-full-{number}") for run in (whole, cut))
        assert [(r["step"], r["loss"]) for r in one] == [(r["step"], r["loss"]) for r in two]
        assert len(one) == 9
    assert [comparable(r) for r in read_rows(whole / "results.jsonl")] == [
        comparable(r) for r in read_rows(cut / "results.jsonl")
    ]


def test_a_signal_that_comes_while_a_model_is_tested_stops_before_the_next(tmp_path, field, monkeypatch) -> None:
    import downstream.tasks.finetune as module

    options = {"steps": 3, "split": {"seeds": 2}}
    real = module.predict_samples

    def interrupted(*given: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGUSR1)
        return real(*given)

    monkeypatch.setattr(module, "predict_samples", interrupted)
    out = finetune(config(tmp_path / "cut", field, "segmentation", **options))
    assert json.loads((out / "REQUEUE").read_text()) == {"step": 3, "signal": signal.SIGUSR1}
    assert (out / "runs" / "random-full-0" / "test.json").is_file() and not (out / "results.jsonl").exists()
    assert not (out / "runs" / "random-full-1").exists()
    monkeypatch.undo()
    finetune(config(out, field, "segmentation", **options), resume=True)
    assert (out / "results.jsonl").is_file() and not (out / "REQUEUE").exists()


@pytest.mark.parametrize("changed", ["labels", "encoder"])
def test_what_was_trained_from_other_inputs_is_not_continued(tmp_path, monkeypatch, changed: str) -> None:
    """Labels or the encoder of init are replaced after the first of two trainings has ended."""
    card = field_card(tmp_path / "card")

    def release(seed: int) -> None:
        torch.manual_seed(seed)
        encoder = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3, code_width=32)
        shutil.rmtree(tmp_path / "pre", ignore_errors=True)
        specfm.save(encoder, tmp_path / "pre", {})

    release(0)
    options = {"init": str(tmp_path / "pre"), "mode": "frozen", "steps": 4, "checkpoint": {"every": 2}}
    settings = config(tmp_path / "run", card, "segmentation", **options, split={"seeds": 2})
    hit = {"labels": 6, "encoder": 7}[changed]  # another plan each, since hits are counted by plan
    monkeypatch.setenv("SPECFM_FAULTS", f"step.forward:raise@hit={hit}")
    with pytest.raises(FaultError):
        finetune(settings)
    monkeypatch.delenv("SPECFM_FAULTS")
    if changed == "encoder":
        release(1)
    else:
        labels = np.load(tmp_path / "card" / "labels.npy")
        np.save(tmp_path / "card" / "labels.npy", np.roll(labels, 1, axis=0))
    with pytest.raises(UsageError, match=r"have changed since .*init-frozen-0.test.json was written"):
        finetune(settings, resume=True)
    assert not (tmp_path / "run" / "results.jsonl").exists()
    (tmp_path / "run" / "runs" / "init-frozen-0" / "test.json").unlink()
    with pytest.raises(UsageError, match=r"have changed since .*step-.* was written"):
        finetune(settings, resume=True)


def test_results_appear_whole_or_not_at_all(tmp_path, field, monkeypatch) -> None:
    """A run that is killed while it writes its rows would else pass for finished with the rows it had."""
    settings = config(tmp_path / "run", field, "segmentation", steps=2, checkpoint={"every": 1})
    dumps, count = json.dumps, iter(range(100))

    def full(value: Any, **words: Any) -> str:
        if words.get("allow_nan") is False and isinstance(value, dict) and "confusion" in value and "oa" in value:
            assert next(count) == 0, "no space left"
        return dumps(value, **words)

    monkeypatch.setattr("downstream.results.files.json.dumps", full)
    with pytest.raises(AssertionError, match="no space left"):
        finetune(settings)
    assert not (tmp_path / "run" / "results.jsonl").exists()
    monkeypatch.undo()
    assert len(read_rows(finetune(settings, resume=True) / "results.jsonl")) == 2


def test_a_run_folder_is_never_overwritten(segmented, field) -> None:
    with pytest.raises(UsageError, match="exists; choose another folder"):
        finetune(config(segmented, field, "segmentation"))
    with pytest.raises(UsageError, match=r"another configuration .*optim.lr.*choose another out"):
        finetune(config(segmented, field, "segmentation", optim={"lr": 5e-3}), resume=True)


@pytest.mark.slow
def test_shuffled_labels_stay_at_chance(tmp_path) -> None:
    card = field_card(tmp_path / "card", shuffled=True)
    out = finetune(config(tmp_path / "run", card, "segmentation"))
    low, high = row(out)["oa"]["ci"]
    assert low <= 1 / 3 <= high or abs(row(out)["oa"]["mean"] - 1 / 3) < 0.06
    assert row(out)["kappa"]["mean"] < 0.1


@pytest.mark.slow
def test_classification_of_windows(tmp_path, field) -> None:
    out = finetune(config(tmp_path / "run", field, "classification", head={"pooling": "centre"}, steps=120))
    assert row(out)["oa"]["mean"] > 0.9
    assert load_task(out).task == "classification"


@pytest.mark.parametrize(
    ("fusion", "kind"),
    [
        ("difference", "linear"),
        pytest.param("concatenation", "fpn", marks=pytest.mark.slow),  # comparing takes more than a linear map
        pytest.param("cross_attention", "upernet", marks=pytest.mark.slow),
    ],
)
def test_change_between_two_dates(tmp_path, fusion: str, kind: str) -> None:
    card = pair_card(tmp_path / "card")
    head = {"fusion": fusion, "kind": kind, "channels": 32}
    out = finetune(config(tmp_path / "run", card, "change", mode="frozen", steps=40, head=head, optim={"lr": 2e-3}))
    found = row(out)
    assert found["f1_changed"]["mean"] > 0.8 and found["classes"] == ["unchanged", "changed"]
    model = load_task(out, task="change")
    assert model.threshold is not None and 0 < model.threshold < 1


@pytest.mark.slow
def test_change_between_two_sensors(tmp_path) -> None:
    """24 bands before, 6 after: each date goes through the encoder with its own bands."""
    card = pair_card(tmp_path / "card", after=COARSE)
    head = {"fusion": "concatenation", "kind": "fpn", "channels": 32}
    options = {"head": head, "controls": ["simple"], "mode": "frozen", "optim": {"lr": 2e-3}}
    out = finetune(config(tmp_path / "run", card, "change", **options))
    by = {r["method"]: r for r in read_rows(out / "results.jsonl")}
    assert by["random-init"]["f1_changed"]["mean"] > 0.8 and by["majority class"]["f1_changed"]["mean"] == 0
    assert by["spectral angle"]["f1_changed"]["mean"] > 0.8
    assert by["pixel spectra of both dates"]["f1_changed"]["mean"] > 0.6


def test_starting_from_a_pretrained_encoder(tmp_path, field) -> None:
    """The record of pretraining travels: the scene was seen."""
    encoder = specfm.create_encoder("nano", patch_size=3, dim=48, depth=2, heads=3, code_width=32)
    specfm.save(encoder, tmp_path / "pre", {"scenes": ["field/scene"], "sensors": [], "domains": ["toy"]})
    options = {"init": str(tmp_path / "pre"), "mode": "frozen", "controls": ["frozen"], "steps": 20}
    out = finetune(config(tmp_path / "run", field, "segmentation", **options))
    rows = read_rows(out / "results.jsonl")
    assert [r["method"] for r in rows] == ["pre", "random-init", "majority class"]
    assert [r["seen"] for r in rows] == ["scene seen", "-", "-"]
    assert {p.name for p in (out / "runs").iterdir()} == {"init-frozen-0", "random-frozen-0"}
    kept = load_task(out).encoder.state_dict()
    assert all(np.array_equal(kept[name], value) for name, value in encoder.state_dict().items())
    with pytest.raises(SpecfmError, match="holds a task model, not an encoder"):
        finetune(config(tmp_path / "again", field, "segmentation", init=str(out)))
    assert not (tmp_path / "again").exists()


def test_a_diverging_run_ends_with_its_own_exit_code(tmp_path, field, monkeypatch) -> None:
    monkeypatch.setenv("SPECFM_FAULTS", "step.grad:nan@step>=3")
    with pytest.raises(DivergedError):
        finetune(config(tmp_path / "run", field, "segmentation"))
    dumped = json.loads(next((tmp_path / "run" / "runs").rglob("bad_steps/*.json")).read_text())
    assert dumped["tiles"][0][0] == "field/scene"


def test_refused_before_anything_is_written(tmp_path, field) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="seed: input should be greater than or equal to 0"):
        config(tmp_path / "run", field, "segmentation", seed=-1)
    for options, message in (
        ({"data": {"tile": 7}}, "not a multiple of the encoder's patch of 3; try 6"),
        ({"data": {"scenes": "OSBS*"}}, "no scene of .* matches"),
        ({"data": {"tile": 36}}, "block|unit|class"),
        ({"init": str(tmp_path / "nothing")}, "is not a folder"),
    ):
        with pytest.raises(SpecfmError, match=message):
            finetune(config(tmp_path / "run", field, "segmentation", **options))
        assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="file is not a folder, so nothing can be written below it"):
        finetune(config(tmp_path / "file" / "run", field, "segmentation"))
    with pytest.raises(SpecfmError, match="has task classification, not change"):
        finetune(config(tmp_path / "run", field, "change"))
    with pytest.raises(UsageError, match="set task=change"):
        finetune(config(tmp_path / "run", pair_card(tmp_path / "pair"), "segmentation"))


def test_labels_that_do_not_match_the_cube(tmp_path) -> None:
    card = field_card(tmp_path / "card")
    np.save(tmp_path / "card" / "labels.npy", np.zeros((40, 48), int))
    with pytest.raises(SpecfmError, match=r"labels of shape \(40, 48\) do not fit a scene of 48 x 48 pixels"):
        finetune(config(tmp_path / "run", card, "segmentation"))


def test_pairs_that_are_none(tmp_path) -> None:
    card = pair_card(tmp_path / "card")
    cube = np.load(tmp_path / "card" / "later.npy")
    np.save(tmp_path / "card" / "later.npy", cube[:, :40])
    card.write_text(card.read_text().replace("labels: {path: labels.npy, unlabelled: [-1]}", ""))
    from specfm.cards import load_card

    with pytest.raises(SpecfmError, match=r"not on one grid: they differ in extent .48 x 48 and 48 x 40 pixels"):
        load_card(card).pairs()
    text = card.read_text()
    card.write_text(text.replace("2001-05-03", "2000-05-03"))
    with pytest.raises(SpecfmError, match="a pair needs two scenes of different dates"):
        load_card(card).pairs()
    card.write_text(text.replace(", date: 2001-05-03", ""))
    with pytest.raises(SpecfmError, match=r"later.npy has no date; write date: YYYY-MM-DD"):
        load_card(card).pairs()


def test_the_command(tmp_path, field) -> None:
    run = CliRunner()
    settings = tmp_path / "config.yaml"
    settings.write_text(
        f"out: {tmp_path / 'run'}\ntask: segmentation\nsteps: 4\ndevice: cpu\ncontrols: []\n"
        f"data: {{card: {field}, tile: 6, batch: 4}}\nsplit: {{rule: block, seeds: 1, block: 8}}\n"
        "model: {options: {dim: 48, depth: 1, heads: 3, code_width: 32}}\ncheckpoint: {every: 2}\n"
    )
    plan = run.invoke(app, ["finetune", str(settings), "--dry-run"])
    assert plan.exit_code == 0 and "nothing was written" in plan.output and not (tmp_path / "run").exists()
    wrong = run.invoke(app, ["finetune", str(settings), "head.kindd=fpn"])
    assert wrong.exit_code == 2 and "did you mean head.kind?" in wrong.output
    done = run.invoke(app, ["finetune", str(settings)])
    assert done.exit_code == 0 and "mIoU" in done.output and "from-scratch" in done.output
    again = run.invoke(app, ["finetune", str(settings)])
    assert again.exit_code == 2 and "exists" in again.output


@pytest.mark.parametrize("name", ["segment_salinas_a", "change_nanjing", "species_osbs"])
def test_shipped_configurations_are_valid_and_say_what_they_cost(name: str, repository: Path) -> None:
    path = repository / "configs" / "downstream" / f"{name}.yaml"
    load_config(path, FinetuneConfig)
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert comments[0].startswith("# specfm finetune") and "Cost" in " ".join(comments)


def test_a_model_of_pretreated_spectra_maps_scenes_as_measured(tmp_path, field) -> None:
    text = field.read_text()
    treated = field.with_name("treated.yaml")
    treated.write_text(text + "pretreatment: snv\n")
    out = finetune(config(tmp_path / "run", treated, "segmentation", steps=20))
    assert load_task(out).card["pretreatment"] == ["snv"]
    maps = {}
    for name, card in (("measured", field), ("treated", treated)):
        target = tmp_path / f"{name}.npy"
        told = CliRunner().invoke(app, ["predict", str(out), str(card), "--out", str(target), "--no-preview"])
        assert told.exit_code == 0, told.output
        maps[name] = np.load(target)
    np.testing.assert_array_equal(maps["measured"], maps["treated"])
    other = field.with_name("other.yaml")
    other.write_text(text + "pretreatment: continuum\n")
    told = CliRunner().invoke(app, ["predict", str(out), str(other), "--out", str(tmp_path / "x.npy")])
    assert told.exit_code == 2 and "pretreated by continuum; the model learnt from snv" in " ".join(told.output.split())


@pytest.mark.slow
def test_a_stem_fitted_without_labels_goes_into_the_model_and_is_fitted_anew_for_a_map(tmp_path, field) -> None:
    torch.manual_seed(5)  # not that of the control
    encoder = specfm.create_encoder("nano", patch_size=3, **SMALL["options"])
    specfm.save(encoder, tmp_path / "encoder", {"whiten": {"shift": 3, "power": 0.0}, "window": 9})
    init = str(tmp_path / "encoder")
    settings = config(tmp_path / "fit", field, "segmentation", init=init, fit=True, steps=5, controls=["frozen"])
    out = finetune(settings)
    scene = next(iter(specfm.load_card(field).scenes()))
    model, own = load_task(out), specfm.load(init).fit(scene)
    assert torch.equal(model.encoder.stem.weight, own.stem.weight) and not torch.equal(own.stem.weight, torch.eye(48))
    assert model.card["pretraining"]["fitted"]["recipe"]["power"] == 0.0
    twin = load_task(out / "runs" / "random-frozen-0")
    assert twin.card["pretraining"]["fitted"]["recipe"]["power"] == 0.0
    assert not torch.allclose(twin.encoder.stem.weight, own.stem.weight)
    rows = {each["kind"]: each for each in read_rows(out / "results.jsonl")}
    assert {kind for kind, each in rows.items() if each.get("fitted")} == {"encoder", "twin"}

    def mapped(run: Path, *words: str) -> Any:
        named = tmp_path / f"{run.name}{len(words)}.npy"
        done = CliRunner().invoke(app, ["predict", str(run), str(field), "--out", str(named), "--no-preview", *words])
        return np.load(named) if done.exit_code == 0 else done

    assert np.array_equal(mapped(out), mapped(out, "--fit"))  # the scene that it was fitted to
    told = json.loads((tmp_path / "fit1.json").read_text())
    assert told["fitted"]["scenes"][0]["name"] == scene.name
    plain = finetune(config(tmp_path / "plain", field, "segmentation", init=init, steps=2))
    refused = mapped(plain, "--fit")
    assert refused.exit_code == 2 and "or fine-tune with fit=true" in refused.output
    with pytest.raises(UsageError, match="fit is for the encoder of init, or mode=frozen"):
        config(tmp_path / "no", field, "segmentation", fit=True)


@pytest.mark.slow
def test_a_model_of_some_bands_maps_scenes_of_all(tmp_path, field) -> None:
    treated = field.with_name("snv.yaml")
    treated.write_text(field.read_text() + "pretreatment: snv\n")
    out = finetune(config(tmp_path / "run", treated, "segmentation", steps=20, data={"bands": "uniform:6"}))
    model, (whole,) = load_task(out), load_card(field).scenes()
    (narrow,) = select_scenes([whole], "uniform:6")
    assert model.card["bands"] == {
        "selection": "uniform:6", "wavelengths_nm": [narrow.sensor.bands.wavelengths_nm.tolist()]
    }  # fmt: skip
    maps = []
    for number, given in enumerate((whole, narrow, pretreat(whole, ["snv"]), pretreat(narrow, ["snv"]))):
        predict_to_file(model, [given], tmp_path / f"{number}.npy", preview=False)
        maps.append(np.load(tmp_path / f"{number}.npy"))
    assert all(np.array_equal(maps[0], other) for other in maps[1:])
    assert as_taught(whole, model.card).sensor == pretreat(narrow, ["snv"]).sensor


def test_bands_are_found_again_or_chosen_anew_or_refused() -> None:
    fine, coarse = (scene(np.zeros((6, 6), int), sensor, name=str(sensor.name)) for sensor in (FINE, COARSE))
    few = [FINE.bands.wavelengths_nm[[3, 20, 7]].tolist(), COARSE.bands.wavelengths_nm.tolist()]

    def bands_of(given: Scene, selection: str, lists: list[list[float]] = few) -> list[float]:
        card = {"bands": {"selection": selection, "wavelengths_nm": lists}}
        return as_taught(given, card).sensor.bands.wavelengths_nm.tolist()

    assert bands_of(fine, "importance:3") == few[0]  # in the order that was taken
    assert bands_of(coarse, "uniform:3") == few[1]  # the second date of a change model kept all of its own
    assert len(bands_of(coarse, "uniform:3", few[:1])) == 3  # a sensor that it never saw
    for selection in ("importance:3", "sample:4,21,8"):
        with pytest.raises(UsageError, match=f"coarse: lacks bands that {selection} took of the training data .3 from"):
            bands_of(coarse, selection, few[:1])


def test_another_kind_of_measurement_is_refused() -> None:
    labels = np.zeros((6, 6), int)
    counts = scene(labels, FINE.replace(quantity="dn"), name="scan")
    card = {"quantities": ["surface_reflectance"]}
    with pytest.raises(UsageError, match="scan: holds dn, and the model learnt from surface_reflectance; .*CARD:SCENE"):
        as_taught(counts, card)
    for near in ("toa_reflectance", None):  # above the air, or nobody knows
        as_taught(scene(labels, FINE.replace(quantity=near)), card)
    as_taught(counts, {})  # models of before say nothing of it


def test_trainings_that_have_not_converged_say_so() -> None:
    for settled in ([], [[50, 0.9], [100, 0.905]], [[50, 0.9], [100, 0.7]]):
        assert unsettled(settled) == ""
    assert unsettled([[14, 0.4]]) == "validation was looked at once, after step 14"
    assert unsettled([[50, 0.5], [100, 0.8]]) == "validation still rose at the last step, 100"
