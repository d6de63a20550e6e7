"""Which baselines a table has: supports from pixel to window, both metrics, pretreated spectra; and what they see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from downstream.baselines import run as baselines
from downstream.baselines.mnf import fit_splits
from downstream.features.spectra import Spectra, spectra
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.protocols.knn import knn_predict
from downstream.protocols.linear import linear_probe
from downstream.splits.samples import collect_samples
from downstream.splits.split import make_splits
from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.pretreatment import pretreat, pretreat_spectra
from tests.downstream.toy_scenes import SENSOR, ToyEncoder, plots

OPTIONS = ProbeOptions(seeds=2, init_seeds=0, window=9, max_per_class=15, draws=50, grid=(1e-2, 1.0), ks=(1, 5, 20))
SCENES = plots(9, noise=0.3)
SAMPLES = collect_samples(SCENES, 9, max_per_class=15)
SPLITS = make_splits(SAMPLES, "group", 2)


def table(options: ProbeOptions = OPTIONS, scenes: Any = None, **more: Any) -> dict[tuple[str, str], dict[str, Any]]:
    rows = probe(ToyEncoder(), scenes or SCENES, options, **more).rows
    return {(row["method"], row["protocol"]): row for row in rows}


def raw() -> Spectra:
    found = spectra(SCENES, 9, SAMPLES, patch=3)
    assert found is not None
    return found


ROWS = table()


def test_every_table_has_the_supports_and_metrics() -> None:
    few = ("knn1", "knn5")
    expected = {(name, k) for name in ("pixel spectrum, Euclid", "3x3 mean", "3x3 mean, Euclid") for k in few}
    expected |= {(f"MNF-30 {name}", k) for name in ("pixel, Euclid", "3x3 mean", "3x3 mean, Euclid") for k in few}
    expected |= {(name, "linear") for name in ("3x3 mean", "MNF-30 3x3 mean")}
    expected |= {(f"{name} pixel", k) for name in ("SNV", "SG1", "continuum removed") for k in (*few, "linear")}
    assert expected <= ROWS.keys()
    support = {row["method"]: row["support"] for row in ROWS.values() if row["kind"] == "baseline"}
    assert {support[name] for name in ("3x3 mean", "MNF-30 3x3 mean, Euclid")} == {"patch"}
    assert {support[name] for name in ("SNV pixel", "MNF-30 pixel, Euclid")} == {"pixel"}
    assert ("3x3 mean", "knn20") not in ROWS and ("pixel spectrum", "knn20") in ROWS


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("support", ["pixel", "patch"])
def test_neighbours_are_those_of_the_support_and_metric(support: str, metric: Any) -> None:
    features = getattr(raw(), support)
    fits = fit_splits(SCENES, 9, SAMPLES, SPLITS, 30)
    label = "3x3 mean" if support == "patch" else "pixel"
    named = {"pixel": "pixel spectrum", "patch": "3x3 mean"}[support]
    suffix = "" if metric == "cosine" else ", Euclid"
    for name, spectra_of in (
        (f"{named}{suffix}", lambda number: features.X_ND),
        (f"MNF-30 {label}{suffix}", lambda number: fits[number].scores(features.X_ND)),
    ):
        accuracy = []
        for number, split in enumerate(SPLITS):
            X = spectra_of(number)
            y = SAMPLES.y_N
            told = knn_predict(X[split.fit_I], y[split.fit_I], X[split.test_I], (1,), classes=3, metric=metric)
            accuracy.append((told[1] == y[split.test_I]).mean())
        assert ROWS[name, "knn1"]["oa"]["mean"] == pytest.approx(np.mean(accuracy), abs=1e-6)


def test_pretreated_rows_are_classics_of_pretreated_pixels() -> None:
    X, bands = pretreat_spectra(raw().pixel.X_ND, SENSOR.bands, ["sg1"])
    accuracy, near = [], []
    for split in SPLITS:
        sides = X[split.train_I], SAMPLES.y_N[split.train_I], X[split.val_I], SAMPLES.y_N[split.val_I], X[split.test_I]
        told = linear_probe(*sides, grid=OPTIONS.grid, train_group_M=split.unit_N[split.train_I], seed=split.seed)
        accuracy.append((told.predicted_N == SAMPLES.y_N[split.test_I]).mean())
        fit, test = split.fit_I, split.test_I
        nearest = knn_predict(X[fit], SAMPLES.y_N[fit], X[test], (1,), classes=3, metric="cosine")[1]
        near.append((nearest == SAMPLES.y_N[test]).mean())
    assert ROWS["SG1 pixel", "knn1"]["oa"]["mean"] == pytest.approx(np.mean(near), abs=1e-6)
    assert bands.valid.all()
    assert ROWS["SG1 pixel", "linear"]["oa"]["mean"] == pytest.approx(np.mean(accuracy), abs=1e-6)


def test_bands_too_far_apart_for_a_derivative_cost_its_row_and_are_told() -> None:
    sparse = SENSOR.replace(bands=BandGrid([443, 490, 560, 665, 865, 1610, 2190, 2500]))
    rows = table(scenes=plots(9, sensor=sparse))
    assert ("SNV pixel", "linear") in rows and ("SG1 pixel", "linear") not in rows
    assert any("no SG1 baseline: pretreatment sg1:11:2 needs 3 bands" in n for n in rows["encoder", "knn1"]["notices"])


def test_a_patch_of_one_pixel_and_other_protocols_have_fewer_rows() -> None:
    class Point(ToyEncoder):
        patch_size = 1

    rows = probe(Point(), SCENES, replace(OPTIONS, protocols=("knn",))).rows
    names = {row["method"] for row in rows}
    assert not any("3x3" in name for name in names) and "pixel spectrum, Euclid" in names
    assert {row["protocol"] for row in rows if row["method"] == "SNV pixel"} == {"knn1", "knn5"}
    ridge = {row["protocol"] for row in probe(ToyEncoder(), SCENES, replace(OPTIONS, protocols=("ridge",))).rows}
    assert ridge == {
        "ridge",
        "linear",
        "svm",
        "knn1",
        "knn5",
        "knn20",
        "-",
    }  # the others come always


def test_robustness_keeps_its_columns() -> None:
    found = {"": raw()}
    runs, _ = baselines.baseline_rows(found, SCENES, SPLITS, OPTIONS, OPTIONS, every=False)
    names = {each.method for each in runs[""]}
    assert names == {"pixel spectrum", "mean spectrum", "PCA-30 pixel", "PCA-30 mean", "MNF-30 pixel"}


def test_a_pretreated_probe_is_the_probe_of_pretreated_scenes() -> None:
    asked = table(replace(OPTIONS, pretreatment=("snv", "sg0:5")))
    given = table(scenes=[pretreat(scene, ["snv", "sg0:5"]) for scene in SCENES])
    assert asked.keys() == given.keys() and ("SNV pixel", "linear") not in asked
    for key, row in asked.items():
        assert row["oa"] == given[key]["oa"] and row["digests"]["data"] == given[key]["digests"]["data"]
        assert "all rows are of spectra pretreated by snv, sg0:5:2" in row["notices"]
    assert asked["encoder", "knn1"]["digests"]["data"] != ROWS["encoder", "knn1"]["digests"]["data"]
    assert asked["encoder", "knn1"]["oa"] != ROWS["encoder", "knn1"]["oa"]


def test_an_encoder_that_learnt_from_other_spectra_is_told_of_in_its_rows_alone() -> None:
    encoder = ToyEncoder()
    encoder.card = {"scenes": ["others"]}  # type: ignore[attr-defined]
    for row in probe(encoder, SCENES, replace(OPTIONS, pretreatment=("snv",))).rows:
        said = any(note.startswith("the encoder learnt from other spectra") for note in row["notices"])
        assert said == (row["kind"] == "encoder")


def test_what_pretreated_spectra_cannot_be_used_for() -> None:
    from downstream.robustness.options import RobustnessOptions
    from downstream.robustness.run import robustness

    with pytest.raises(UsageError, match="leave --peers out"):
        table(replace(OPTIONS, pretreatment=("snv",), peers=("timm:resnet18",)))
    with pytest.raises(UsageError, match="unknown pretreatment 'nothing'"):
        table(replace(OPTIONS, pretreatment=("nothing",)))
    with pytest.raises(UsageError, match="sensors are aligned by spectra as measured"):
        table(replace(OPTIONS, pretreatment=("snv",), align=True))
    with pytest.raises(UsageError, match="no pretreatment"):
        RobustnessOptions(replace(OPTIONS, pretreatment=("snv",))).check()
    with pytest.raises(UsageError, match="plot_0: is pretreated"):
        robustness(ToyEncoder(), [pretreat(scene, ["snv"]) for scene in SCENES], RobustnessOptions(OPTIONS))


@pytest.mark.parametrize("fit", [True, "scene"])
def test_beside_a_fitted_encoder_stands_mnf_of_the_very_same_pixels(fit: Any) -> None:
    """Fitted to all valid pixels of the scenes, test plots among them; and its rows say so."""
    found = {"": raw()}
    runs, _ = baselines.baseline_rows(found, SCENES, SPLITS, OPTIONS, OPTIONS, fit=fit)
    plain, _ = baselines.baseline_rows(found, SCENES, SPLITS, OPTIONS, OPTIONS)
    whole = {(r.method, r.protocol): r for r in runs[""] if r.method.endswith(baselines.WHOLE)}
    assert {name for name, _ in whole} == {"MNF-30 pixel, whole scenes", "MNF-30 3x3 mean, whole scenes"}
    assert {p for _, p in whole} == {"knn1", "knn5", "knn20", "linear"} and len(runs[""]) == len(plain[""]) + len(whole)
    y, few = SAMPLES.y_N, SPLITS[0]
    X = np.zeros((len(y), len(SENSOR.bands)), np.float32)
    for index, scene in enumerate(SCENES):
        mine, of = SAMPLES.scene_N == index, [scene] if fit == "scene" else SCENES
        by_hand = fit_by_hand(of, X.shape[1])
        X[mine] = (by_hand if fit != "scene" else baselines.turned_back(by_hand)).scores(raw().pixel.X_ND[mine])
    told = knn_predict(X[few.fit_I], y[few.fit_I], X[few.test_I], (1,), classes=3, metric="cosine")[1]
    first = whole["MNF-30 pixel, whole scenes", "knn1"].conf_SUKK[0].sum(0)
    assert first.trace() / first.sum() == pytest.approx((told == y[few.test_I]).mean(), abs=0.02)


def fit_by_hand(scenes: Any, components: int) -> Any:
    """All pixels at once."""
    from downstream.baselines.mnf import Moments, solve

    moments = Moments.empty(len(SENSOR.bands))
    for scene in scenes:
        x_HWK = scene.values().astype(np.float64)
        moments.add_pixels(x_HWK.reshape(-1, x_HWK.shape[2]))
        for axis in (0, 1):
            moments.add_differences(np.diff(x_HWK, axis=axis).reshape(-1, x_HWK.shape[2]))
    return solve(moments, components)


def test_components_of_each_scene_are_compared_on_common_axes() -> None:
    """Scenes alike but for their pixels' order: what one scene says of a class the other says too."""
    whole = {}
    for fit in (True, "scene"):
        runs, _ = baselines.baseline_rows({"": raw()}, SCENES, SPLITS, OPTIONS, OPTIONS, fit=fit)
        of = next(r for r in runs[""] if r.method == "MNF-30 pixel, whole scenes" and r.protocol == "linear")
        whole[fit] = np.mean([c.sum(0).trace() / c.sum() for c in of.conf_SUKK])
    assert whole["scene"] > whole[True] - 0.1
    fitted = fit_by_hand(SCENES[:1], 5)
    turned = baselines.turned_back(fitted)
    apart = [np.linalg.norm(np.diff(f.scores(raw().pixel.X_ND[:40]), axis=0), axis=1) for f in (fitted, turned)]
    np.testing.assert_allclose(apart[0], apart[1], rtol=1e-3)
    assert np.allclose(turned.basis_KD, turned.basis_KD.T)


def test_a_scene_of_too_few_neighbours_costs_its_row_and_is_told_by_name() -> None:
    """12 x 12 pixels have 264 pairs."""
    many = SENSOR.replace(bands=BandGrid(np.linspace(400, 2400, 300)))
    scenes = plots(6, sensor=many)
    samples = collect_samples(scenes, 9, max_per_class=15)
    found = spectra(scenes, 9, samples, patch=3)
    assert found is not None
    splits = make_splits(samples, "group", 1)
    few = replace(OPTIONS, protocols=("knn",))
    runs, notices = baselines.baseline_rows({"": found}, scenes, splits, few, few, fit="scene")
    names = {r.method for r in runs[""]}
    assert not any(name.endswith(baselines.WHOLE) for name in names) and "MNF-30 pixel" in names
    assert any("no baseline of MNF of whole scenes: " in text and "264 pairs" in text for text in notices)
