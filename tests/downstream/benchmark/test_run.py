"""`specfm benchmark`: the suite's keys, cells that resume to the same numbers, paired comparisons, the leaderboard."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import downstream.benchmark.run as benchmark_module
import specfm
from downstream.benchmark.cells import read_cell
from downstream.benchmark.leaderboard import paired_difference
from downstream.benchmark.run import run_benchmark
from downstream.benchmark.suite import DatasetConfig, SuiteConfig, open_dataset
from downstream.results.files import comparable, read_rows
from downstream.results.metrics import bootstrap_scores
from specfm.cli import app
from specfm.config import build_config, load_config
from specfm.errors import SpecfmError, UsageError
from specfm.simulate import MATERIALS, write_simulation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small simulated scenes of two sensors with their cards, two encoders, and a suite."""
    import torch

    root = tmp_path_factory.mktemp("bench")
    names = list(MATERIALS)[:3]
    write_simulation(root / "scenes", ["sentinel2_msi", "landsat8_oli"], scenes=5, size=(15, 15), materials=names)
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3)
        specfm.save(encoder, root / f"model{seed}", {"pretraining": {"scenes": [], "sensors": [], "domains": []}})
    return root


def suite_of(folder: Path, **changes: Any) -> SuiteConfig:
    card = {"split": "group", "max_per_class": 6, "min_groups": 2}
    values: dict[str, Any] = {
        "name": "toys", "seeds": 2, "ks": [1], "init_seeds": 1, "window": 3, "draws": 100, "shots": ["all", 3],
        "datasets": [
            {"cards": str(folder / "scenes" / f"{sensor}.yaml"), "name": sensor, **card}
            for sensor in ("sentinel2_msi", "landsat8_oli")
        ],
    }  # fmt: skip
    return build_config(values | changes, SuiteConfig, "test")


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [comparable(row) for row in read_rows(out / "results.jsonl")]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted benchmark of two encoders."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_benchmark(suite_of(folder), [str(folder / "model0"), str(folder / "model1")], out)
    return out


def test_a_dataset_says_which_scenes_and_bands(folder: Path, tmp_path: Path) -> None:
    card = suite_of(folder).datasets[0].model_dump(mode="json")
    suite = suite_of(folder, datasets=[card | {"bands": "sample:2-4"}], shots=["all"], seeds=1, init_seeds=0)
    run_benchmark(suite, [str(folder / "model0")], tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert len(rows) > 5 and all("bands sample:2,3,4: 3 of 13 are used" in row["notices"] for row in rows)
    some = suite_of(folder, datasets=[card | {"scenes": ["*/sentinel2_msi_0[13]"]}]).datasets[0]
    assert [scene.name.rpartition("/")[2] for scene in open_dataset(some)] == ["sentinel2_msi_01", "sentinel2_msi_03"]
    with pytest.raises(UsageError, match="no scene of .* matches 'sentinel2_msi_01'"):
        open_dataset(some.model_copy(update={"scenes": ("sentinel2_msi_01",)}))  # without its card
    with pytest.raises(UsageError, match="bands are chosen by"):
        suite_of(folder, datasets=[card | {"bands": "pink"}])


@pytest.mark.slow
def test_a_rerun_gives_identical_numbers(folder: Path, whole: Path, tmp_path: Path) -> None:
    suite = suite_of(folder, datasets=[suite_of(folder).datasets[0].model_dump(mode="json")])
    run_benchmark(suite, [str(folder / "model0"), str(folder / "model1")], tmp_path / "again")
    assert rows_of(tmp_path / "again") == [row for row in rows_of(whole) if row["data"] == "sentinel2_msi"]


@pytest.mark.slow
def test_interrupted_and_resumed_gives_identical_numbers(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, names = tmp_path / "out", [str(folder / "model0"), str(folder / "model1")]
    run_cell, computed = benchmark_module.run_cell, []

    def stop_after_three(plan: Any, cells: Path) -> Path:
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(plan.title)
        return run_cell(plan, cells)

    monkeypatch.setattr(benchmark_module, "run_cell", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(suite_of(folder), names, out)
    assert len(list((out / "cells").glob("*.json"))) == 3 and not (out / "results.jsonl").exists()
    (out / "cells" / ".tmp-half.json-00000000").write_text("{")  # as a kill would leave it
    later: list[str] = []

    def rest(plan: Any, cells: Path) -> Path:
        later.append(plan.title)
        return run_cell(plan, cells)

    monkeypatch.setattr(benchmark_module, "run_cell", rest)
    with pytest.raises(UsageError, match="--resume"):
        run_benchmark(suite_of(folder), names, out)
    run_benchmark(suite_of(folder), names, out, resume=True)
    assert not set(later) & set(computed) and len(later) + len(computed) == 8
    assert rows_of(out) == rows_of(whole)
    assert (out / "leaderboard.json").read_bytes() == (whole / "leaderboard.json").read_bytes()
    assert not list((out / "cells").glob(".tmp-*"))


@pytest.mark.slow
def test_killed_with_two_processes_and_resumed(folder: Path, whole: Path, tmp_path: Path) -> None:
    from specfm.config import to_yaml

    (tmp_path / "suite.yaml").write_text(to_yaml(suite_of(folder)))
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "specfm", "benchmark", str(tmp_path / "suite.yaml"), "--checkpoints",
        str(folder / "model0"), str(folder / "model1"), "--out", str(out), "--jobs", "2",
    ]  # fmt: skip
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 240
        while time.monotonic() < end and not list((out / "cells").glob("[!.]*.json")):
            time.sleep(0.05)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert 1 <= len(list((out / "cells").glob("[!.]*.json"))) <= 8
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows_of(out) == rows_of(whole)


@pytest.mark.slow
def test_trained_rows_are_cells_like_any_other(folder: Path, tmp_path: Path) -> None:
    """Fine-tuned encoders and their architecture from scratch: few seeds, compared with each other, resumed."""
    suite = suite_of(
        folder, protocols=["finetune", "scratch"], shots=["all"], seeds=3, trained_seeds=2, train_steps=3,
        datasets=[suite_of(folder).datasets[0].model_dump(mode="json")],
    )  # fmt: skip
    names, out = [str(folder / "model0"), str(folder / "model1")], tmp_path / "out"
    board = run_benchmark(suite, names, out, jobs=2)
    rows = read_rows(out / "results.jsonl")
    assert [(r["method"], r["protocol"], r["part"]) for r in rows if r["part"] != "baselines"] == [
        ("model0", "finetune", "finetune"), ("model1", "finetune", "finetune"), ("from-scratch", "scratch", "scratch")
    ]  # fmt: skip
    assert {(*r["seeds"],) for r in rows if r["protocol"] in ("finetune", "scratch")} == {(0, 1)}
    assert {(d.a, d.b) for d in board.differences if d.protocol == "finetune"} == {
        ("model0", "model1"), ("model0", "from-scratch"), ("model1", "from-scratch")
    }  # fmt: skip
    fine = next(r for r in rows if r["method"] == "model0")
    assert fine["seen"] == "unseen" and fine["wall_s"] > 0 and fine["pooling"] == "concat"
    (out / "cells" / next(p.name for p in (out / "cells").iterdir() if "scratch" in p.name)).unlink()
    run_benchmark(suite, names, out, resume=True)
    again = {(r["method"], r["protocol"]): comparable(r) for r in read_rows(out / "results.jsonl")}
    assert again == {(r["method"], r["protocol"]): comparable(r) for r in rows}


def test_rows_carry_marks_and_digests_and_stand_in_table_order(whole: Path) -> None:
    rows = read_rows(whole / "results.jsonl")
    first = [(r["method"], r["protocol"]) for r in rows if r["data"] == "sentinel2_msi" and r["shots"] is None]
    assert first == [
        ("model0", "knn1"), ("model0", "linear"), ("model1", "knn1"), ("model1", "linear"), ("random-init", "knn1"),
        ("random-init", "linear"), ("pixel spectrum", "knn1"), ("pixel spectrum, Euclid", "knn1"), ("3x3 mean", "knn1"),
        ("3x3 mean, Euclid", "knn1"), ("pixel spectrum", "linear"), ("3x3 mean", "linear"), ("mean spectrum", "linear"),
        ("SNV pixel", "knn1"), ("SNV pixel", "linear"), ("SG1 pixel", "knn1"), ("SG1 pixel", "linear"),
        ("continuum removed pixel", "knn1"), ("continuum removed pixel", "linear"),
        ("pixel spectrum", "svm"), ("PCA-30 pixel", "knn1"), ("PCA-30 mean", "knn1"),
        ("MNF-30 pixel", "knn1"), ("MNF-30 pixel, Euclid", "knn1"),
        ("MNF-30 pixel", "linear"), ("MNF-30 3x3 mean", "knn1"), ("MNF-30 3x3 mean, Euclid", "knn1"),
        ("MNF-30 3x3 mean", "linear"), ("majority class", "-"),
    ]  # fmt: skip
    assert {r["shots"] for r in rows} == {None, 3} and {r["suite"] for r in rows} == {"toys"}
    for data in {r["data"] for r in rows}:
        mine = [r for r in rows if r["data"] == data and r["shots"] is None]
        assert len({r["digests"]["splits"] for r in mine}) == len({r["digests"]["data"] for r in mine}) == 1
    assert {r["seen"] for r in rows if r["method"] == "model0"} == {"unseen"}
    text = (whole / "leaderboard.md").read_text()
    assert "more than chance" in text and "random-init" in text and "unseen" in text
    board = json.loads((whole / "leaderboard.json").read_text())
    pairs = {(d["a"], d["b"]) for d in board["differences"]}
    others = {method for method, _ in first if not method.startswith("m") and "30 mean" not in method}
    assert {"random-init", "pixel spectrum", "PCA-30 pixel", "MNF-30 3x3 mean, Euclid", "SNV pixel"} <= others
    assert pairs == {(a, b) for a in ("model0", "model1") for b in others} | {("model0", "model1")}


def test_cells_hold_the_counts_behind_the_rows(whole: Path) -> None:
    paths = sorted((whole / "cells").glob("*.json"))
    assert len(paths) == 8
    for path in paths:
        cell = read_cell(path)
        for row, counts in zip(cell.rows, cell.counts, strict=True):
            total = counts.sum((0, 1, 2))
            keep = np.flatnonzero(total.sum(0) + total.sum(1))
            assert total[np.ix_(keep, keep)].sum() == np.sum(row["confusion"])
    with pytest.raises(SpecfmError, match="choose another --out"):
        read_cell(paths[0], "0" * 16)


def test_another_suite_or_checkpoint_does_not_resume(folder: Path, whole: Path) -> None:
    names = [str(folder / "model0"), str(folder / "model1")]
    with pytest.raises(SpecfmError, match="another suite, checkpoint"):
        run_benchmark(suite_of(folder, seeds=3), names, whole, resume=True)
    with pytest.raises(SpecfmError, match="another suite, checkpoint"):
        run_benchmark(suite_of(folder), [f"model0={folder / 'model1'}"], whole, resume=True)


def test_data_that_changed_between_two_runs_is_not_compared(folder: Path, tmp_path: Path) -> None:
    """The scenes were corrected again between a benchmark that was stopped and its resumption."""
    scenes = tmp_path / "scenes"
    shutil.copytree(folder / "scenes", scenes)
    card = {"cards": str(scenes / "sentinel2_msi.yaml"), "name": "s2", "split": "group", "min_groups": 2}
    suite = suite_of(folder, datasets=[{**card, "max_per_class": 6}], shots=["all"])
    out, names = tmp_path / "out", [str(folder / "model0")]
    run_benchmark(suite, names, out)
    before = (out / "results.jsonl").read_bytes()
    next((out / "cells").glob("*baselines*")).unlink()
    cubes = [path for path in scenes.rglob("*") if "sentinel2" in path.name and path.suffix in (".img", ".npy", ".tif")]
    assert cubes
    for cube in cubes:
        values = np.fromfile(cube, np.uint8)
        values[-40:] = values[-80:-40]
        values.tofile(cube)
    with pytest.raises(SpecfmError, match="the data of s2 changed while the benchmark ran"):
        run_benchmark(suite, names, out, resume=True)
    assert (out / "results.jsonl").read_bytes() == before


def test_a_checkpoint_that_changes_while_it_runs_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is still training is named: its newest checkpoint is another one from cell to cell."""
    model = tmp_path / "model"
    shutil.copytree(folder / "model0", model)
    run_cell = benchmark_module.run_cell

    def trained_meanwhile(plan: Any, cells: Path) -> Path:
        path = run_cell(plan, cells)
        if plan.part == "encoder":
            shutil.copytree(folder / "model1", model, dirs_exist_ok=True)
        return path

    monkeypatch.setattr(benchmark_module, "run_cell", trained_meanwhile)
    with pytest.raises(SpecfmError, match="1 of 6 cells.*landsat8_oli x model: .* was changed while the benchmark ran"):
        run_benchmark(suite_of(folder, shots=["all"]), [str(model)], tmp_path / "out")


def test_a_cell_that_fails_leaves_the_others(folder: Path, tmp_path: Path) -> None:
    good, bad = (d.model_dump(mode="json") for d in suite_of(folder).datasets)
    suite = suite_of(folder, datasets=[good, {**bad, "min_groups": 99}], shots=["all"])
    with pytest.raises(SpecfmError, match="3 of 6 cells.*landsat8_oli x .*min-groups"):
        run_benchmark(suite, [str(folder / "model0")], tmp_path / "out")
    assert {r["data"] for r in read_rows(tmp_path / "out" / "results.jsonl")} == {"sentinel2_msi"}


def test_user_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="datasets.0.max_pr_class; did you mean datasets.0.max_per_class"):
        suite_of(folder, datasets=[{"cards": "salinas_a", "max_pr_class": 3}])
    with pytest.raises(UsageError, match="unknown key sedes; did you mean seeds"):
        suite_of(folder, sedes=3)
    with pytest.raises(UsageError, match="two datasets are called a"):
        suite_of(folder, datasets=[{"cards": "x", "name": "a"}, {"cards": "y", "name": "a"}])
    with pytest.raises(UsageError, match=r"another encoder is called 'a' too; .*NAME=.*model1$"):
        run_benchmark(suite_of(folder), [f"a={folder / 'model0'}", f"a={folder / 'model1'}"], tmp_path / "x")
    with pytest.raises(UsageError, match=r"the name before = is empty; write NAME=.*model0, or .*model0 alone"):
        run_benchmark(suite_of(folder), [f"={folder / 'model0'}"], tmp_path / "x")
    with pytest.raises(UsageError, match="no dataset card"):
        run_benchmark(suite_of(folder, datasets=[{"cards": "salinas_b"}]), [str(folder / "model0")], tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="file is not a folder"):
        run_benchmark(suite_of(folder), [str(folder / "model0")], tmp_path / "file")
    missing = CliRunner().invoke(app, ["benchmark", "nothing.yaml", "--checkpoints", "a", "--out", str(tmp_path / "x")])
    assert missing.exit_code == 2


def test_peers_and_what_was_left_out_stand_in_the_leaderboard(folder: Path, tmp_path: Path) -> None:
    cards = [str(folder / "scenes" / f"{sensor}.yaml") for sensor in ("sentinel2_msi", "landsat8_oli")]
    names = open_dataset(DatasetConfig(cards=tuple(cards)))[0].label_names
    dataset = {"cards": cards, "name": "both", "split": "sensor", "min_groups": 1, "max_per_class": 6,
               "classes": {"one": [names[0]], "rest": list(names[1:])}}  # fmt: skip
    suite = suite_of(folder, datasets=[dataset], protocols=["knn"], shots=["all"], peers=["timm:resnet18@32"])
    board = run_benchmark(suite, [str(folder / "model0")], tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    (peer,) = [r for r in rows if r["part"] == "peers"]
    assert peer["method"] == "timm:resnet18 random @32" and peer["protocol"] == "knn1"
    assert ("model0", peer["method"]) in {(d.a, d.b) for d in board.differences}
    (held,) = [s for s in board.sections if "left out" in s.title]
    assert {"sentinel2_msi (both)", "landsat8_oli (both)"} <= set(held.headings) and "leakage" in held.below[0]
    assert {line[0] for line in held.rows} >= {"model0", "random-init", "majority class"}
    assert all("leakage" in heading for heading in board.sections[0].headings[3:])
    with pytest.raises(SpecfmError, match="unknown peer|nonsense"):
        suite_of(folder, peers=["nonsense"])


def test_scenes_are_chosen_by_several_patterns(folder: Path) -> None:
    cards = tuple(str(folder / "scenes" / f"{sensor}.yaml") for sensor in ("sentinel2_msi", "landsat8_oli"))
    every = [scene.name for scene in open_dataset(DatasetConfig(cards=cards))]
    wanted = (f"{every[0].split('/')[0]}*", every[-1])
    chosen = [scene.name for scene in open_dataset(DatasetConfig(cards=cards, scenes=wanted))]
    assert chosen == [*every[:5], every[-1]]
    with pytest.raises(UsageError, match="no scene of .* matches 'x.'"):
        open_dataset(DatasetConfig(cards=cards, scenes=(wanted[0], "x*")))


def test_cards_with_other_classes_are_put_together(folder: Path) -> None:
    cards = tuple(str(folder / "scenes" / f"{sensor}.yaml") for sensor in ("sentinel2_msi", "landsat8_oli"))
    names = open_dataset(DatasetConfig(cards=cards[:1]))[0].label_names
    joint = DatasetConfig(cards=cards, split="sensor", classes={"one": (names[0],), "rest": names[1:]})
    scenes = open_dataset(joint)
    plain = open_dataset(DatasetConfig(cards=cards[:1]))
    assert {s.label_names for s in scenes} == {("one", "rest")} and len(scenes) == 10
    for before, after in zip(plain, scenes, strict=False):
        np.testing.assert_array_equal(before.labels_HW == 0, after.labels_HW == 0)
        np.testing.assert_array_equal(before.labels_HW > 0, after.labels_HW == 1)
        np.testing.assert_array_equal(before.labels_HW < 0, after.labels_HW < 0)
    with pytest.raises(UsageError, match="no card has a class 'lava'"):
        open_dataset(joint.model_copy(update={"classes": {"hot": ("lava",)}}))


def counts(accuracy: np.ndarray, splits: int, rng: np.random.Generator, per_unit: int = 20) -> np.ndarray:
    """Two-class confusion counts ``[1, S, U, 2, 2]`` of units with their own accuracy."""
    right = rng.binomial(per_unit, accuracy, (splits, len(accuracy)))
    out = np.zeros((1, splits, len(accuracy), 2, 2))
    out[0, ..., 0, 0], out[0, ..., 1, 0] = right // 2, 0
    out[0, ..., 1, 1], out[0, ..., 0, 1] = right - right // 2, per_unit - right
    return out


def test_paired_bootstrap_sees_what_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.3, 0.9, 24)  # units differ much more than the methods do
    a, b = counts(hard + 0.08, 5, rng), counts(hard, 5, rng)
    mean, ci = paired_difference(a, b, "oa")
    assert mean == pytest.approx((a - b)[..., [0, 1], [0, 1]].sum() / a.sum()) and ci.low > 0
    assert ci.low < mean < ci.high
    alone = [bootstrap_scores(x[0])["oa"] for x in (a, b)]
    assert alone[0].low < alone[1].high  # the two intervals overlap
    back, flipped = paired_difference(b, a, "oa")
    assert back == pytest.approx(-mean) and flipped.high < 0
    several, _ = paired_difference(a, np.concatenate([b, a]), "oa")
    assert several == pytest.approx(mean / 2)


def test_paired_bootstrap_of_equal_methods_says_nothing() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        level = rng.uniform(0.4, 0.9, 15)
        _, ci = paired_difference(counts(level, 1, rng), counts(level, 1, rng), "oa", draws=200)
        found.append(ci.low <= 0 <= ci.high)
    assert np.mean(found) > 0.85
    same = counts(np.full(8, 0.7), 2, rng)
    mean, ci = paired_difference(same, same)
    assert mean == 0 and ci.low == ci.high == 0


@pytest.mark.parametrize("name", ["real", "leave_one_sensor_out"])
def test_shipped_suites_are_read(name: str) -> None:
    suite = load_config(f"downstream/{name}.yaml", SuiteConfig)
    assert len(suite.datasets) >= 5


def test_shipped_suites_open_their_data(data_root: Path) -> None:
    for name in ("real", "leave_one_sensor_out"):
        for dataset in load_config(f"downstream/{name}.yaml", SuiteConfig).datasets:
            scenes = open_dataset(dataset)
            assert scenes, dataset.title
