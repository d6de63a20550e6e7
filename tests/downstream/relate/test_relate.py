"""Specimens beside each other: nearest others, groups, and how well both follow labels, beside mean spectra."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import specfm
from downstream.relate.run import SPECTRUM, mean_spectra, relate
from specfm.cli import app
from specfm.errors import UsageError
from specfm.specimens import find_specimens
from tests.shards.make import ramp_scene


def specimens(labels: str) -> list[dict[str, Any]]:
    return [{"specimen": f"{label}{i}", "label": label.strip("-")} for i, label in enumerate(labels)]


def corners(labels: str, noise: float = 0.05) -> np.ndarray:
    """Vectors in a cluster for each letter, on top of a large common part."""
    rng = np.random.default_rng(0)
    ways = {letter: rng.normal(size=16) for letter in sorted(set(labels))}
    return np.stack([20 + ways[letter] + noise * rng.normal(size=16) for letter in labels])


def test_specimens_of_a_kind_are_nearest_and_in_a_group() -> None:
    labels, noise_ND = "aaabbbcccc", np.random.default_rng(1).normal(size=(10, 5))
    found = relate(specimens(labels), {"encoder": corners(labels), "noise": noise_ND})
    for row in found.rows:
        assert row["nearest_label"] == row["label"] and row["nearest"] != row["specimen"] and row["similarity"] > 0.8
    assert {row["group_found"] for row in found.rows if row["label"] == "c"} == {1}, "the largest group comes first"
    encoder, noise = found.agreement
    assert encoder["nearest_right"] == encoder["labelled"] == 10 and encoder["adjusted_rand"] == pytest.approx(1)
    assert encoder["by_chance"] == pytest.approx((3 * 2 + 3 * 2 + 4 * 3) / 9)
    assert noise["nearest_right"] < 8 and noise["adjusted_rand"] < 0.5
    assert found.facts["features"] == ["encoder", "noise"] and found.facts["groups"] == 3


def test_specimens_without_a_label_take_part_but_do_not_count() -> None:
    found = relate(specimens("aab-b"), {"encoder": corners("aab-b")}, groups=2)
    assert found.agreement[0]["labelled"] == 4 and len(found.rows) == 5
    assert relate(specimens("-----"), {"encoder": corners("abcde")}).agreement == []
    with pytest.raises(UsageError, match="2 specimens are too few for 4 groups"):
        relate(specimens("--"), {"encoder": corners("ab")})


def test_mean_spectra_are_physical_and_of_the_specimen_alone() -> None:
    scene = ramp_scene(9, 8, 5)
    mask_HW = np.zeros((9, 8), bool)
    mask_HW[2:5, 3:6] = mask_HW[4, 1] = True
    (specimen,) = find_specimens(scene, mask_HW)
    found = mean_spectra([specimen])
    assert found is not None
    np.testing.assert_allclose(found[0], scene.values()[mask_HW].mean(0), rtol=1e-5)
    assert mean_spectra([specimen, *find_specimens(ramp_scene(9, 8, 4))]) is None, "of other bands"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("relate") / "scans"
    asked = ["--specimens", "2", "--species", "2", "--size", "32", "--seed", "1"]
    assert CliRunner().invoke(app, ["simulate", *asked, "--out", str(out)]).exit_code == 0
    return out


def test_the_command_writes_what_the_function_returns(scans: Path) -> None:
    card = str(scans / "specimens.yaml")
    done = CliRunner().invoke(app, ["relate", "real_nano", card, "--out", str(scans / "r")])
    assert done.exit_code == 0, done.output
    assert "4 specimens, 2 labels, 2 groups" in done.output and f"{SPECTRUM}: nearest other" in done.output
    assert (scans / "r" / "relate.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((scans / "r" / "facts.json").read_text())["features"] == ["real_nano", SPECTRUM]
    with (scans / "r" / "specimens.csv").open() as file:
        written = list(csv.DictReader(file))
    found = specfm.relate("real_nano", list(specfm.load_card(card).scenes()), out=scans / "again")
    assert [row["nearest"] for row in found.rows] == [row["nearest"] for row in written]
    assert {row["label"] for row in written} == {"ultraviolet_a", "ultraviolet_b"}
    assert "exists" in CliRunner().invoke(app, ["relate", "real_nano", card, "--out", str(scans / "r")]).output
