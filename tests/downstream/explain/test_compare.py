"""Choices of bands side by side: the same samples and splits for all, and more or better bands tell more."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from downstream.explain.compare import choices, compare_bands, rebuild
from downstream.explain.options import CompareOptions
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from specfm.cli import app
from specfm.errors import UsageError
from specfm.pretreatment import pretreat
from specfm.simulate import simulate_specimen, write_specimens
from tests.downstream.toy_scenes import ToyEncoder, plots

PROBE = ProbeOptions(seeds=2, window=3, max_per_class=12, draws=100, grid=(1.0,), protocols=("knn", "linear"), ks=(5,))
OPTIONS = CompareOptions(
    PROBE, counts=(1, 4, 12, 50), selections=("sample:3", "importance:3", "pca:2", "rgb", "pca:99")
)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return compare_bands(ToyEncoder(), plots(noise=0.15), OPTIONS, name="toy")


def test_every_choice_has_the_same_rows_on_the_same_splits(rows: list[dict]) -> None:
    choices = list(dict.fromkeys(row["condition"] for row in rows))
    assert choices == ["all", "uniform:1", "uniform:4", "sample:3", "importance:3", "pca:2", "rgb"]
    assert {row["condition"]: row["bands"] for row in rows} == dict(
        zip(choices, [[12], [1], [4], [1], [3], [2], [3]], strict=True)
    )
    assert len({row["digests"]["splits"] for row in rows}) == 1
    for choice in choices:
        found = {(row["kind"], row["method"], row["protocol"]) for row in rows if row["condition"] == choice}
        raw = ("PCA-2 pixel", "PCA-2 window") if choice == "pca:2" else ("pixel spectrum", "mean spectrum")
        expected = {("baseline", name, protocol) for name in raw for protocol in ("knn5", "linear")}
        expected |= {("encoder", "toy", "knn5"), ("encoder", "toy", "linear"), ("majority", "majority class", "-")}
        assert found == expected


def test_what_cannot_be_had_is_said(rows: list[dict]) -> None:
    notices = {note for row in rows for note in row["notices"]}
    assert any(note.startswith("uniform:50 left out: ") for note in notices)
    assert "pca:99 left out: the samples have 12 components at most" in notices
    assert any(note.startswith("pca:2: the encoder sees windows rebuilt") for note in notices)
    assert any(note.startswith("importance:3: bands chosen on the samples") for note in notices)


def test_more_bands_tell_more(rows: list[dict]) -> None:
    def accuracy(choice: str, method: str) -> float:
        mine = [r for r in rows if (r["condition"], r["protocol"]) == (choice, "linear") and r["method"] == method]
        return mine[0]["aa"]["mean"]

    for method in ("toy", "pixel spectrum"):
        assert accuracy("uniform:1", method) + 0.1 < accuracy("all", method)


def test_no_other_band_has_a_part_in_a_choice_of_pretreated_spectra() -> None:
    """All that tells the classes is the last band: it must not reach the others through a pretreatment of all."""
    scenes = plots(6)
    for seed, scene in enumerate(scenes):
        scene.source.cube_HWC[..., :11] = 1 + np.random.default_rng(seed).normal(0, 0.01, (12, 12, 11))
        scene.source.cube_HWC[..., 11] = np.array([1, 4, -2, 1])[scene.labels_HW]
    options = CompareOptions(replace(PROBE, protocols=("linear",)), (), ("sample:2,5,8", "sample:3", "importance:4"))
    by_card = [pretreat(scene, ["snv"]) for scene in scenes]
    asked = replace(options, probe=replace(options.probe, pretreatment=("snv",)))
    rows = compare_bands(ToyEncoder(), scenes, asked, name="toy")
    for one, other in zip(rows, compare_bands(ToyEncoder(), by_card, options, name="toy"), strict=True):
        assert (one["condition"], one["oa"]) == (other["condition"], other["oa"])
    accuracy = {(row["condition"], row["method"]): row["aa"]["mean"] for row in rows}
    for method in ("toy", "pixel spectrum", "mean spectrum"):
        assert min(accuracy["all", method], accuracy["importance:4", method]) > 0.65
        assert accuracy["sample:2,5,8", method] < 0.5
    assert "sample:3 left out: plot_0: pretreatment snv needs 2 bands, not 1; leave it out" in rows[0]["notices"]
    # a probe of these bands says the same
    probed = probe(ToyEncoder(), scenes, replace(asked.probe, bands="sample:2,5,8", init_seeds=0)).rows
    expected = {row["method"]: row["oa"] for row in probed if row["protocol"] == "linear"}
    found = {row["method"]: row["oa"] for row in rows if row["condition"] == "sample:2,5,8"}
    assert found["toy"] == expected["encoder"] and found["pixel spectrum"] == expected["pixel spectrum"]


def test_rebuilding_keeps_so_many_components_and_no_more() -> None:
    rng = np.random.default_rng(0)
    spectra = (rng.normal(size=(200, 4)) @ rng.normal(size=(4, 10))).astype(np.float32) + 3
    x = torch.from_numpy(spectra[:5])[:, None, None]
    assert torch.allclose(rebuild(spectra, 4, np.arange(10))(x), x, atol=1e-4)
    two = rebuild(spectra, 2, np.arange(10))
    assert torch.allclose(two(two(x)), two(x), atol=1e-4) and not torch.allclose(two(x), x, atol=1e-2)
    all_of_it = two(torch.from_numpy(spectra)[:, None, None])[:, 0, 0].numpy()
    assert np.linalg.matrix_rank(all_of_it - spectra.mean(0), 1e-2) == 2


def test_the_specimen_sensor_has_all_choices_of_the_toolkit() -> None:
    scene = simulate_specimen(0, (24, 24))
    pixels = scene.values()[scene.labels_HW >= 0]
    found, notices = choices(CompareOptions(), scene, pixels)
    assert [choice.text for choice in found] == [
        "all", "uniform:10", "uniform:20", "uniform:50", "uniform:100", "uniform:200",
        "rgb", "regions:4", "importance:20", "pca:20",
    ]  # fmt: skip
    assert [choice.count for choice in found] == [408, 10, 20, 50, 100, 200, 3, 20, 20, 20] and not notices


def test_command(tmp_path: Path) -> None:
    card = write_specimens(tmp_path / "set", 2, 5, (24, 24))
    words = ["compare-bands", "random:nano:3", "--data", str(card), "--window", "3", "--seeds", "1", "--counts", "5,20"]
    words += ["--max-per-class", "4", "--choice", "rgb", "--choice", "pca:3", "--protocol", "linear"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    table = list(csv.DictReader((tmp_path / "out" / "bands.csv").open()))
    assert list(dict.fromkeys(row["bands"] for row in table)) == ["all", "uniform:5", "uniform:20", "rgb", "pca:3"]
    assert (tmp_path / "out" / "bands.png").read_bytes()[:4] == b"\x89PNG"
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == len(table)
    told = json.loads((tmp_path / "out" / "facts.json").read_text())["notices"]
    assert any(note.startswith("pca:3: the encoder sees windows rebuilt") for note in told)
    bad = CliRunner().invoke(app, [*words, "--choice", "pink", "--out", str(tmp_path / "other")])
    assert bad.exit_code == 2 and "bands are chosen by" in " ".join(bad.output.split())


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        replace(OPTIONS, counts=(), selections=()).check()
    with pytest.raises(UsageError, match="--counts"):
        replace(OPTIONS, counts=(0,)).check()
    with pytest.raises(UsageError, match="--protocol scratch trains the encoder.*; choose among knn, linear, ridge"):
        replace(OPTIONS, probe=replace(PROBE, protocols=("knn", "scratch"))).check()
    with pytest.raises(UsageError, match="one number of shots"):
        replace(OPTIONS, probe=replace(PROBE, shots=(5, 10))).check()
    with pytest.raises(UsageError, match="nothing here reads peers, baselines, init_seeds of the probe"):
        replace(OPTIONS, probe=replace(PROBE, peers=("timm:resnet18",), baselines=False, init_seeds=1)).check()
