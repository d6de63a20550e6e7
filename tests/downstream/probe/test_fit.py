"""Encoders fitted without labels to what is probed: rows say so, twins are too, kept features know it, none stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import downstream.protocols.trained
from downstream.baselines.run import WHOLE
from downstream.features.bank import Bank
from downstream.features.extract import extract
from downstream.features.fit import BEGINS_FITTED, NOT_FITTED, begins_fitted, fitted
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.protocols.options import TrainOptions
from downstream.results import text
from downstream.robustness.options import RobustnessOptions
from downstream.robustness.run import robustness
from specfm.bands import BandGrid
from specfm.digests import state_digest
from specfm.errors import UsageError
from specfm.models import create_encoder
from specfm.sensors import Sensor
from tests.downstream.toy_scenes import ToyEncoder, plots

QUICK = ProbeOptions(
    seeds=2, init_seeds=1, window=6, max_per_class=10, draws=50, protocols=("knn",), ks=(1,), baselines=False, fit=True
)


def encoder(**options: Any) -> Any:
    torch.manual_seed(0)
    small = {"patch_size": 3, "dim": 16, "depth": 1, "heads": 2, "hidden": 8, "code_width": 16}
    return create_encoder("nano", **{**small, **options}).eval()


def rows(options: ProbeOptions, model: Any = None, **more: Any) -> dict[str, dict[str, Any]]:
    found = probe(model or encoder(), plots(6), options, **more).rows
    return {row["kind"]: row for row in found}


def test_rows_of_frozen_features_say_so_and_no_others() -> None:
    model = encoder()
    before, card = state_digest(model), dict(model.card)
    with_baselines = replace(QUICK, baselines=True)
    every = probe(model, plots(6), with_baselines).rows
    assert {row["method"]: row["fitted"] for row in every if row["kind"] == "baseline" and row["fitted"]} == {
        "MNF-30 pixel, whole scenes": "scenes", "MNF-30 3x3 mean, whole scenes": "scenes",
    }  # fmt: skip
    found = {row["kind"]: row for row in every if not row["method"].endswith(WHOLE)}
    assert {kind: row["fitted"] for kind, row in found.items()} == {
        "encoder": "scenes", "twin": "scenes", "baseline": None, "majority": None,
    }  # fmt: skip
    assert "fitted without labels to scenes" in " ".join(found["encoder"]["notices"])
    assert not any("fitted" in notice for notice in found["majority"]["notices"])
    assert "fitted" in text.seen(found["encoder"]) and "fitted" not in text.seen(found["majority"])
    assert state_digest(model) == before and model.card == card and found["encoder"]["digests"]["checkpoint"] == before
    plain = rows(replace(with_baselines, fit=False), model)
    assert all(row["fitted"] is None for row in plain.values())
    assert plain["encoder"]["digests"]["config"] != found["encoder"]["digests"]["config"]


@pytest.mark.parametrize(("fit", "told"), [(False, None), (True, "scenes"), ("scene", None)])
def test_what_is_fine_tuned_begins_with_the_stem_that_frozen_features_have(
    fit: Any, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: dict[str, str] = {}

    def train_on(model: Any, *arguments: Any, **options: Any) -> Any:
        began["finetune" if options["pretrained"] else "scratch"] = state_digest(model)
        return plain(model, *arguments, **options)

    plain = downstream.protocols.trained.train_on
    monkeypatch.setattr(downstream.protocols.trained, "train_on", train_on)
    model, scenes = encoder(), plots(6)
    asked = replace(QUICK, fit=fit, protocols=("finetune", "scratch"), train=TrainOptions(steps=4), trained_seeds=1)
    found = {row["protocol"]: row for row in probe(model, scenes, asked).rows if row["protocol"] != "-"}
    assert (found["finetune"]["fitted"], found["scratch"]["fitted"]) == (told, None)
    said = {name: [text for text in found[name]["notices"] if "fitted" in text] for name in found}
    assert said["scratch"] == [] and said["finetune"] == {False: [], True: [BEGINS_FITTED], "scene": [NOT_FITTED]}[fit]
    assert began["scratch"] == state_digest(model)
    fitted_alone = state_digest(encoder().fit(scenes))
    assert began["finetune"] == (fitted_alone if fit is True else state_digest(model))


def test_one_stem_is_no_start_for_several_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go through it only where they are aligned, and training aligns nothing."""
    coarse = Sensor(BandGrid(np.linspace(450, 900, 8)), quantity="surface_reflectance", name="coarse")
    several = [*plots(6), *(scene.replace(name=f"other {scene.name}") for scene in plots(6, sensor=coarse))]
    assert begins_fitted(True, plots(2)) and not begins_fitted(True, several) and not begins_fitted("scene", plots(2))
    asked = replace(QUICK, protocols=("finetune",), train=TrainOptions(steps=2), trained_seeds=1, align=False)
    (row,) = (row for row in probe(encoder(), several, asked).rows if row["protocol"] == "finetune")
    assert row["fitted"] is None and NOT_FITTED in row["notices"] and BEGINS_FITTED not in row["notices"]


def test_one_stem_for_all_or_one_for_each_scene(tmp_path: Path) -> None:
    model, scenes, bank = encoder(), plots(4), Bank(tmp_path / "bank")

    def features(how: Any) -> np.ndarray:
        with fitted(model, scenes, how) as stems:
            return np.array(extract(model, scenes, 6, pooling="centre", bank=bank, stems=stems).X_ND)

    plain, together, each = features(False), features(True), features("scene")
    assert bank.misses == 3 and bank.hits == 0
    for kept, how in ((plain, False), (together, True), (each, "scene")):
        assert np.array_equal(features(how), kept)
    assert bank.hits == 3
    assert not np.allclose(plain, together) and not np.allclose(together, each)
    alone = encoder().fit(scenes[2])
    own = extract(alone, scenes[2:3], 6, pooling="centre")
    everything = extract(model, scenes, 6, pooling="centre").samples
    np.testing.assert_allclose(each[everything.scene_N == 2], own.X_ND, rtol=1e-4, atol=1e-4)


def test_kept_features_know_what_else_each_stem_was_fitted_on(tmp_path: Path) -> None:
    """A pixel that no window shows but that the stem was fitted on."""
    bank = Bank(tmp_path / "bank")
    for value in (0.5, 0.6):
        scenes = plots(3, side=24)
        for scene in scenes:
            scene.labels_HW[12:] = -1  # windows see the upper half
            scene.source.cube_HWC[20:22, 10:14] = value
        with fitted(model := encoder(), scenes, "scene") as stems:
            extract(model, scenes, 6, pooling="centre", bank=bank, stems=stems)
    assert (bank.misses, bank.hits) == (2, 0)


def test_a_scene_each_in_the_table() -> None:
    found = rows(replace(QUICK, fit="scene"))
    assert found["encoder"]["fitted"] == found["twin"]["fitted"] == "each scene"


def test_untrained_twins_are_fitted_by_the_recipe_of_the_encoder() -> None:
    model, seen = encoder(), []
    model.card = {"whiten": {"per": "scene", "shift": 3, "power": 0.5, "components": 4, "damping": 1e-5}, "window": 9}

    def twin(seed: int) -> Any:
        seen.append(encoder())
        original = seen[-1].fit
        seen[-1].fit = lambda scenes, **options: seen.append(dict(original(scenes, **options).card["fitted"]))
        return seen[0]

    probe(model, plots(6), QUICK, make_random=twin)
    assert seen[1]["recipe"] == {"shift": 3, "power": 0.5, "components": 4, "damping": 1e-5, "brightness": False}
    assert seen[0].card == {}


def test_robustness_fits_to_the_scenes_as_measured() -> None:
    options = RobustnessOptions(QUICK, sensors=(), steps=(2,), snrs=(50.0,))
    found = robustness(encoder(), plots(6), options).rows
    assert {row["fitted"] for row in found if row["kind"] in ("encoder", "twin")} == {"scenes"}
    with pytest.raises(UsageError, match="--fit together"):
        RobustnessOptions(replace(QUICK, fit="scene")).check()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fit": "sometimes"}, "'scene'"), ({"fit": "scene", "align": True}, "a stem of its own"),
     ({"fit": 2}, "fit 2")],
)  # fmt: skip
def test_odd_ways_to_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rows(replace(QUICK, **options))


def test_what_has_no_stem_is_refused() -> None:
    with pytest.raises(UsageError, match="only encoders of specfm"):
        rows(QUICK, ToyEncoder())
    with pytest.raises(UsageError, match="aligned with each other"):
        rows(QUICK, encoder(aligned=True))


def test_pixel_tokens_and_patches_of_one_pixel_go_through_the_probe() -> None:
    options = replace(QUICK, protocols=("knn", "finetune"), pooling="centre+pixel", trained_seeds=1)
    found = rows(replace(options, train=replace(options.train, steps=3)), encoder(pixel=True))
    assert found["encoder"]["pooling"] == "centre+pixel"
    one = rows(replace(QUICK, window=1, fit=False), encoder(patch_size=1))
    assert one["encoder"]["window"] == 1
    fitted_one = rows(replace(QUICK, pooling="centre"), encoder(patch_size=1))
    assert fitted_one["encoder"]["aa"]["mean"] > 0.9
    with pytest.raises(UsageError, match="no token of single pixels"):
        rows(replace(QUICK, pooling="pixel"))
