"""Features of several sensors: aligned where a probe, a benchmark or a map needs it, and said so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import specfm
from downstream.features.bank import Bank
from downstream.features.extract import extract
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.splits.samples import collect_samples
from specfm import BandGrid, Encoder, Sensor, UsageError
from specfm.cli import app
from specfm.dense.align import aligned, wants_alignment
from specfm.digests import state_digest
from specfm.scene import Scene
from tests.downstream.toy_scenes import plots
from tests.properties.cases import comb
from tests.test_library import library, smooth

KNOWN = Sensor(comb(60, 430, 990), "surface_reflectance", name="known")
NEW = Sensor(BandGrid(np.linspace(450, 950, 25), np.full(25, 25.0)), "surface_reflectance", name="new")
OPTIONS = ProbeOptions(protocols=("knn",), ks=(1,), seeds=2, init_seeds=1, window=3, max_per_class=6)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3).eval()
    made.library = library(high=1000.0, count=40)
    return made


@pytest.fixture(scope="module")
def both() -> list[Scene]:
    """Plots seen by two sensors."""
    renamed = [scene.replace(name=f"{scene.name}b", group=f"{scene.group}b") for scene in plots(4, seed=1, sensor=NEW)]
    return [*plots(4, sensor=KNOWN), *renamed]


def told(rows: list[dict]) -> set[bool]:
    """Whether the rows of the encoder and its twins say that they are aligned; no other row does."""
    said = {row["method"]: any("aligned by 40 spectra" in notice for notice in row["notices"]) for row in rows}
    found = {said.pop("encoder"), said.pop("random-init")}
    assert len(said) > 2 and not any(said.values())
    return found


def test_it_is_done_where_scenes_differ_in_their_bands(encoder: Encoder, both: list[Scene]) -> None:
    one = both[:4]
    assert wants_alignment(both, None) and not wants_alignment(one, None)
    assert wants_alignment(one, True) and not wants_alignment(both, False)
    rows = probe(encoder, both, OPTIONS).rows
    assert told(rows) == {True} and encoder.alignment is None
    plain = ProbeOptions(**{**vars(OPTIONS), "align": False})
    assert told(probe(encoder, both, plain).rows) == {False} == told(probe(encoder, one, OPTIONS).rows)
    asked = ProbeOptions(**{**vars(OPTIONS), "align": True})
    assert told(probe(encoder, one, asked).rows) == {True}


def test_what_is_kept_of_one_comparison_is_not_taken_for_another(
    encoder: Encoder, both: list[Scene], tmp_path: Path
) -> None:
    """Features of a scene depend on the sensors that it is compared with."""
    bank = Bank(tmp_path)
    found = []
    for scenes in (both[:4], both):
        samples = collect_samples(scenes, 3)
        with aligned(encoder, scenes, True) as on:
            found.append(extract(encoder, scenes, 3, samples, bank=bank).X_ND)
            own = extract(encoder, both[:4], 3, collect_samples(both[:4], 3), bank=bank).X_ND
        assert on and bank.hits == 1
        np.testing.assert_array_equal(found[-1][: len(own)], own)
    assert np.abs(found[0] - found[1][: len(found[0])]).max() > 1e-3


def test_an_encoder_without_a_library_is_left_as_it_is_unless_asked(encoder: Encoder, both: list[Scene]) -> None:
    encoder.library = None
    assert told(probe(encoder, both, OPTIONS).rows) == {False}
    with pytest.raises(UsageError, match="without a library"):
        probe(encoder, both, ProbeOptions(**{**vars(OPTIONS), "align": True}))


def test_where_one_sensor_is_not_covered_none_is_moved(encoder: Encoder, both: list[Scene], caplog) -> None:
    encoder.library = library(low=700.0, high=1000.0, count=40)
    assert told(probe(encoder, both, OPTIONS).rows) == {False}
    assert any("not aligned" in record.message for record in caplog.records)
    with pytest.raises(UsageError, match="does not cover"):
        probe(encoder, both, ProbeOptions(**{**vars(OPTIONS), "align": True}))


def test_what_was_aligned_before_stays_so(encoder: Encoder, both: list[Scene]) -> None:
    before = encoder.align().alignment
    with aligned(encoder, both[:4], None) as on:
        assert on and encoder.alignment is before
    with aligned(encoder, both, False) as on:
        assert not on and encoder.alignment is None
    assert encoder.alignment is before


@pytest.fixture
def trained_so() -> Encoder:
    """An encoder of aligned tokens."""
    torch.manual_seed(0)
    made = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3, aligned=True).eval()
    made.library = library(high=1000.0, count=40)
    return made


def test_an_encoder_of_aligned_tokens_is_aligned_on_one_sensor_too(trained_so: Encoder, both: list[Scene]) -> None:
    assert told(probe(trained_so, both[:4], OPTIONS).rows) == {True}
    assert told(probe(trained_so, both[:4], ProbeOptions(**{**vars(OPTIONS), "align": False})).rows) == {False}
    assert trained_so.alignment is not None  # as it was
    assert trained_so.train().alignment is not None and trained_so.eval().align(False).alignment is None


def test_an_encoder_of_aligned_tokens_keeps_what_alignment_there_is(
    trained_so: Encoder, both: list[Scene], caplog
) -> None:
    trained_so.library = library(low=700.0, high=1000.0, count=40)
    with aligned(trained_so, both, None) as on:
        assert on and trained_so.alignment is not None
    assert any("not aligned" in record.message for record in caplog.records)


def test_kept_features_and_digests_know_the_difference(encoder: Encoder, both: list[Scene], tmp_path: Path) -> None:
    samples = collect_samples(both, 3, max_per_class=4)
    bank = Bank(tmp_path)

    def take() -> np.ndarray:
        return np.array(extract(encoder, both, 3, samples, bank=bank).X_ND)

    plain, moved = take(), (encoder.align(), take())[1]
    assert bank.misses == 2 and not np.array_equal(plain, moved)
    assert np.array_equal(plain, (encoder.align(False), take())[1]) and bank.hits == 1
    named = state_digest(encoder)
    encoder.library = library(high=1000.0, count=40, seed=1)
    assert state_digest(encoder) != named


@pytest.fixture
def folder(encoder: Encoder, tmp_path: Path) -> Iterator[Path]:
    """A release, and one scene of a sensor that it does not know."""
    specfm.save(encoder, tmp_path / "model")
    np.save(tmp_path / "scene.npy", smooth(NEW.bands, 12 * 12).reshape(12, 12, -1))
    lines = [f"{i + 1},{centre:.1f},25" for i, centre in enumerate(NEW.bands.wavelengths_nm)]
    (tmp_path / "bands.csv").write_text("\n".join(["band,centre_nm,fwhm_nm", *lines]) + "\n")
    yield tmp_path


def test_an_aligned_trunk_does_what_it_can_for_sensors_that_are_not_covered(
    trained_so: Encoder, both: list[Scene]
) -> None:
    """Nobody asked for alignment, so nothing is refused; twins do as the encoder does."""
    trained_so.library = library(low=700.0, high=1000.0, count=40)
    rows = probe(trained_so, both, OPTIONS).rows
    assert {"encoder", "random-init"} <= {row["method"] for row in rows}


def test_commands_do_as_the_encoder_was_trained(trained_so: Encoder, folder: Path) -> None:
    specfm.save(trained_so, folder / "made")
    found = {}
    for name, words in (("plain", []), ("on", ["--align"]), ("off", ["--no-align"])):
        out = folder / f"{name}.npy"
        words = ["--wavelengths", str(folder / "bands.csv"), "--quantity", "surface_reflectance", *words]
        done = CliRunner().invoke(
            app, ["embed", str(folder / "made"), str(folder / "scene.npy"), "--out", str(out), "--window", "6", *words]
        )
        assert done.exit_code == 0, done.output
        found[name] = np.load(out)
    assert np.array_equal(found["plain"], found["on"]) and not np.array_equal(found["plain"], found["off"])


@pytest.mark.parametrize("command", ["embed", "cluster", "search"])
def test_commands_on_one_scene_do_it_when_asked(command: str, folder: Path) -> None:
    more = {"embed": [], "cluster": ["--classes", "3"], "search": ["--like", "1,1"]}[command]
    results = []
    for name, words in (("plain", []), ("aligned", ["--align"])):
        out = folder / f"{name}.npy"
        done = CliRunner().invoke(
            app,
            [command, str(folder / "model"), str(folder / "scene.npy"), "--wavelengths", str(folder / "bands.csv"),
             "--quantity", "surface_reflectance", "--window", "6", "--out", str(out), *more, *words],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        results.append(np.load(out))
        facts = list(folder.glob(f"{name}*.json"))
        assert any(json.loads(p.read_text()).get("aligned") == bool(words) for p in facts), facts
    assert results[0].shape == results[1].shape
    if command != "cluster":  # other features may well fall into the same groups
        assert not np.array_equal(*results)


def test_features_are_written_for_a_comparison_with_other_sensors(folder: Path) -> None:
    def embed(name: str, *words: str) -> tuple[np.ndarray, dict, int]:
        out = folder / f"{name}.npy"
        done = CliRunner().invoke(
            app,
            ["embed", str(folder / "model"), str(folder / "scene.npy"), "--wavelengths", str(folder / "bands.csv"),
             "--quantity", "surface_reflectance", "--window", "6", "--out", str(out), *words],
        )  # fmt: skip
        if done.exit_code:
            return np.zeros(0), {"said": done.output}, done.exit_code
        return np.load(out), json.loads((folder / f"{name}.json").read_text()), 0

    ideal, facts, _ = embed("ideal", "--align")
    assert facts["aligned_with"] == []
    poorer, facts, _ = embed("poorer", "--align-with", "ROSIS-03")
    assert facts["aligned"] and facts["aligned_with"] == ["ROSIS-03"] and np.abs(poorer - ideal).max() > 1e-3
    _, facts, code = embed("both", "--align-with", "rosis", "--no-align")
    assert code == 2 and "leave one out" in facts["said"]
    _, facts, code = embed("none", "--align-with", "nosuch")
    assert code and "nosuch" in facts["said"]


def test_a_sensor_that_is_not_covered_is_refused_when_asked_for(encoder: Encoder, folder: Path) -> None:
    encoder.library = library(low=700.0, high=1000.0, count=40)
    specfm.save(encoder, folder / "other")
    done = CliRunner().invoke(
        app,
        ["embed", str(folder / "other"), str(folder / "scene.npy"), "--wavelengths", str(folder / "bands.csv"),
         "--quantity", "surface_reflectance", "--out", str(folder / "x.npy"), "--align"],
    )  # fmt: skip
    assert done.exit_code == 2 and "does not cover" in done.output and not (folder / "x.npy").exists()
