"""Explanations find the bands that tell classes apart, and are what their names say."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from downstream.explain.gradients import integrated_gradients
from downstream.explain.judge import Judge
from downstream.explain.occlusion import bootstrap_means
from downstream.explain.options import ExplainOptions
from downstream.explain.ranges import band_ranges, changed_features, occlude, one_sensor
from downstream.explain.run import explain
from downstream.features.extract import extract
from downstream.probe.options import ProbeOptions
from downstream.protocols.linear import linear_probe
from downstream.protocols.options import ProtocolOptions
from downstream.protocols.weights import ClassWeights
from downstream.splits.samples import collect_samples
from downstream.splits.split import make_split
from specfm.bands import BandGrid
from specfm.cli import app
from specfm.errors import UsageError
from specfm.models import create_encoder
from specfm.scene import Scene
from specfm.simulate import write_specimens

GRID = BandGrid(np.linspace(400, 800, 21))
PROBE = ProbeOptions(seeds=2, window=3, max_per_class=12, draws=200, grid=(1e-2, 1.0))
TELLING = slice(9, 12)  # 580-620 nm


def scenes(count: int = 9) -> list[Scene]:
    """Plots whose three classes differ in three neighbouring bands alone."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        labels = np.repeat(np.arange(3), 3)[:, None].repeat(9, 1).astype(np.int32)
        cube = 0.3 + 0.2 * np.sin(np.arange(21) / 5) + 0.01 * rng.normal(size=(9, 9, 21))
        cube[..., TELLING] += 0.1 * (labels[..., None] - 1)
        cube *= rng.uniform(0.8, 1.2)
        found.append(
            Scene.from_array(cube.astype(np.float32), GRID, name=f"p{number}", group=f"p{number}",
                             labels_HW=labels, label_names=("a", "b", "c"))
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    torch.manual_seed(1)
    return create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3).eval()


def test_occlusion_and_gradients_find_the_telling_bands(encoder: torch.nn.Module) -> None:
    pytest.importorskip("captum")
    found = explain(encoder, scenes(), ExplainOptions(PROBE, widths_nm=(60.0, 120.0), gradients=30), name="tiny")
    assert found.facts["accuracy"]["tiny"] > 0.9 and found.facts["completeness_error"] < 0.01
    for features in ("tiny", "mean spectrum"):
        for width in (60.0, 120.0):
            mine = [r for r in found.occlusion if r["features"] == features and r["width_nm"] == width]
            worst = max(mine, key=lambda r: r["accuracy_lost"])
            assert worst["low_nm"] < 600 < worst["high_nm"] and worst["accuracy_lost"] > 0.3
            assert worst["accuracy_lost_low"] <= worst["accuracy_lost"] <= worst["accuracy_lost_high"]
            assert worst["margin_lost"] > 0
            far = [r for r in mine if r["high_nm"] < 570 or r["low_nm"] > 630]
            assert max(abs(r["accuracy_lost"]) for r in far) < 0.5 * worst["accuracy_lost"]
    share = np.array([row["share"] for row in found.gradients])
    assert share[TELLING].sum() > 0.6 and abs(share.sum() - 1) < 1e-6
    assert [row["band"] for row in found.gradients] == list(range(1, 22))
    means = np.array([[row[f"{name} mean"] for name in "abc"] for row in found.signatures])
    assert np.ptp(means[TELLING], 1).min() > 0.1 > 0.05 > np.ptp(means[:6], 1).max()


def test_ranges_cover_the_sensor_and_leave_unusable_bands_alone() -> None:
    bands = BandGrid(GRID.wavelengths_nm, valid=np.arange(21) != 4)
    ranges = band_ranges(bands, (50.0, 200.0))
    for width in (50.0, 200.0):
        hidden = np.concatenate([r.index_K for r in ranges if r.width_nm == width])
        assert set(hidden.tolist()) == set(range(21)) - {4}
    with pytest.raises(UsageError, match="hides all of 400-800 nm"):
        band_ranges(bands, (400.0,))


def test_what_is_hidden_says_nothing_and_keeps_the_brightness() -> None:
    mean = np.linspace(1, 2, 21)
    change = occlude(np.array([3, 4, 5]), mean, np.ones(21, bool))
    x = torch.from_numpy(mean).float() * 3.5
    other = x.clone()
    other[3:6] = torch.tensor([9.0, -4.0, 0.0])
    given = torch.stack([x, other])[:, None, None]
    assert torch.allclose(change(given)[0, 0, 0], x, rtol=1e-5)
    assert torch.equal(change(given)[0], change(given)[1])


def test_unchanged_windows_give_the_features_of_a_probe(encoder: torch.nn.Module) -> None:
    some = scenes(2)
    samples = collect_samples(some, 3)
    (x_ND,) = changed_features(encoder, some, samples, 3, [lambda x: x], pooling="concat")
    assert np.allclose(x_ND, extract(encoder, some, 3, samples).X_ND, atol=1e-5)


@pytest.mark.parametrize("how", ["balanced", "none"])
def test_the_judge_says_what_the_probe_says(encoder: torch.nn.Module, how: ClassWeights) -> None:
    some = scenes()
    samples = collect_samples(some, 3, max_per_class=12)
    split = make_split(samples, "group", 0)
    x_ND = extract(encoder, some, 3, samples).X_ND
    options = ProtocolOptions(grid=(1.0,), class_weights=how)
    judge = Judge.fit(x_ND, samples.y_N, split, options)
    y, test = samples.y_N, split.test_I
    sides = (x_ND[split.train_I], y[split.train_I], x_ND[split.val_I], y[split.val_I], x_ND[test])
    told_N = judge.classes_K[judge.logits(x_ND[test]).argmax(1)]
    assert np.array_equal(told_N, linear_probe(*sides, grid=(1.0,), class_weights=how).predicted_N)
    right, margin = judge.right_and_margin(x_ND[test], y[test])
    assert np.array_equal(right > 0, margin > 0) and np.abs(judge.logits(x_ND).sum(1)).max() < 1e-6


def test_attributions_of_a_linear_encoder_are_weight_times_difference() -> None:
    """In closed form: for a linear function every path gives the same."""
    pytest.importorskip("captum")
    from tests.downstream.toy_scenes import ToyEncoder

    some = scenes(3)
    samples = collect_samples(some, 3, max_per_class=2)
    encoder = ToyEncoder(3)
    weight = np.random.default_rng(0).normal(size=(3, 16))
    weight -= weight.mean(0)
    judge, mean_C = Judge(weight, np.zeros(3), np.arange(3)), np.linspace(0.2, 0.4, 21)
    found_NC, error = integrated_gradients(encoder, judge, some, samples, 3, mean_C, pooling="mean")
    assert error < 1e-4
    for place in range(len(samples)):
        row, col = samples.rc_N2[place]
        x = some[samples.scene_N[place]].read()[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
        base = (x @ mean_C)[..., None] / (mean_C @ mean_C) * mean_C
        by_band = (weight[samples.y_N[place]] @ encoder.weight[:21].numpy().T) * (x - base).mean((0, 1))
        assert np.allclose(found_NC[place], by_band, atol=1e-4)


def test_intervals_are_over_units() -> None:
    rng = np.random.default_rng(0)
    values, unit = rng.normal(1, 1, (1, 40, 2)), np.arange(40) // 10
    values[0, :, 1] = 5 * unit  # all the spread is between units
    low, mean, high = bootstrap_means(values, np.ones(40), unit, 500)
    assert np.allclose(mean[0], values[0].mean(0))
    assert high[0, 1] - low[0, 1] > 5
    counted = np.where(unit == 0, 2.0, 1.0)
    _, twice, _ = bootstrap_means(values * counted[:, None], counted, unit, 10)
    assert np.allclose(twice[0], (values[0] * counted[:, None]).sum(0) / counted.sum())


def test_scenes_of_two_sensors_are_refused(encoder: torch.nn.Module) -> None:
    other = scenes(1)[0]
    other = other.replace(sensor=other.sensor.replace(bands=BandGrid(GRID.wavelengths_nm + 1)))
    with pytest.raises(UsageError, match="have different bands; explain scenes of one sensor"):
        one_sensor([*scenes(2), other])
    near = other.replace(sensor=other.sensor.replace(bands=BandGrid(GRID.wavelengths_nm + 0.2)))
    assert one_sensor([*scenes(1), near]) == scenes(1)[0].sensor.bands, "of another calibration of one camera"


def test_command_writes_tables_and_a_picture(tmp_path: Path) -> None:
    card = write_specimens(tmp_path / "set", 3, 5, (24, 24))
    words = ["explain", "random:nano:3", "--data", str(card), "--bands", "uniform:24", "--window", "3", "--seeds", "1"]
    words += ["--max-per-class", "4", "--widths", "150", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--gradients", "0"])
    assert done.exit_code == 0, done.output
    assert "most is lost without" in done.output and "mean spectrum: accuracy" in done.output
    rows = list(csv.DictReader((tmp_path / "out" / "occlusion.csv").open()))
    assert {row["features"] for row in rows} == {"random:nano:3", "mean spectrum"}
    assert len((tmp_path / "out" / "signatures.csv").read_text().splitlines()) == 25
    assert not (tmp_path / "out" / "gradients.csv").exists()
    assert (tmp_path / "out" / "explain.png").read_bytes()[:4] == b"\x89PNG"
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert facts["seen"] == "-" and any("bands uniform:24" in note for note in facts["notices"])
    assert facts["data"].endswith(" (bands uniform:24)")
    again = CliRunner().invoke(app, [*words, "--gradients", "0"])
    assert again.exit_code == 2 and "exists; choose another --out" in " ".join(again.output.split())


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="--widths"):
        ExplainOptions(PROBE, widths_nm=()).check()
    with pytest.raises(UsageError, match="--gradients"):
        replace(ExplainOptions(PROBE), gradients=-1).check()
    with pytest.raises(UsageError, match="nothing here reads protocols, ks of the probe"):
        ExplainOptions(replace(PROBE, protocols=("knn",), ks=(3,))).check()
