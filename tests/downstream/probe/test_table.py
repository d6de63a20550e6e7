"""The whole probe: known outcomes on known scenes, every control on the same splits, alarms, repeatable rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downstream.probe.options import ProbeOptions
from downstream.probe.run import default_window, probe
from downstream.results import files as results
from downstream.results import text
from downstream.results.seen import seen_mark
from downstream.splits.samples import collect_samples
from downstream.splits.split import make_split, save_split
from specfm.errors import SpecfmError, UsageError
from specfm.shards.identity import scene_content
from tests.downstream.toy_scenes import SENSOR, ToyEncoder, field, plots

QUICK = ProbeOptions(seeds=2, init_seeds=1, window=9, max_per_class=15, draws=200, grid=(1e-2, 1.0, 1e2))


def run(encoder: Any = None, scenes: Any = None, options: ProbeOptions = QUICK, **more: Any) -> list[dict[str, Any]]:
    encoder = encoder or ToyEncoder()
    return probe(encoder, scenes or plots(), options, make_random=lambda i: ToyEncoder(100 + i), **more).rows


def row_of(rows: list[dict[str, Any]], method: str, protocol: str) -> dict[str, Any]:
    return next(r for r in rows if r["method"] == method and r["protocol"] == protocol)


ROWS = run()


def test_every_control_is_in_the_table() -> None:
    found = {(r["method"], r["protocol"]) for r in ROWS}
    for method in ("encoder", "random-init"):
        assert {(method, p) for p in ("knn1", "knn5", "knn20", "linear")} <= found
    assert {("pixel spectrum", "linear"), ("mean spectrum", "linear"), ("majority class", "-")} <= found
    assert {("PCA-30 pixel", "knn5"), ("PCA-30 mean", "knn20"), ("pixel spectrum", "svm")} <= found
    assert {("pixel spectrum", p) for p in ("knn1", "knn5", "knn20")} <= found
    assert {("MNF-30 pixel", p) for p in ("knn1", "knn5", "knn20", "linear")} <= found


def test_linearly_separable_features_give_100_percent() -> None:
    rows = run(scenes=plots(noise=0.0), options=replace(QUICK, pooling="centre", window=3))
    assert row_of(rows, "pixel spectrum", "linear")["oa"]["mean"] == 1.0
    pure = run(scenes=plots(noise=0.001, count=9), options=replace(QUICK, window=3))
    assert row_of(pure, "pixel spectrum", "linear")["kappa"]["mean"] == 1.0


def test_shuffled_labels_give_chance_within_the_interval() -> None:
    rng = np.random.default_rng(0)
    scenes = []
    for scene in plots(20):
        scenes.append(scene.replace(labels_HW=rng.integers(0, 3, scene.shape[:2]).astype(np.int32)))
    rows = run(scenes=scenes, options=replace(QUICK, seeds=3))
    for method, protocol in (("encoder", "linear"), ("encoder", "knn20"), ("pixel spectrum", "linear")):
        cell = row_of(rows, method, protocol)["aa"]
        assert cell["ci"][0] <= 1 / 3 <= cell["ci"][1]


def test_rows_say_what_they_rest_on() -> None:
    for row in ROWS:
        json.dumps(row, allow_nan=False)
        assert row["leakage"]["overlap_share"] == 0 and not row["leaky"]
        assert row["oa"]["ci"] is None or row["oa"]["ci"][0] <= row["oa"]["mean"] <= row["oa"]["ci"][1]
        assert len(row["oa"]["values"]) == row["runs"]["splits"] * row["runs"]["initialisations"]
        assert sum(map(sum, row["confusion"])) == sum(map(sum, ROWS[0]["confusion"]))
        assert set(row["digests"]) == {"data", "splits", "config", "checkpoint"}
        assert 0 <= row["fwiou"]["mean"] <= 1 and row["miou"]["mean"] <= row["macro_f1"]["mean"]
        assert ("ece" in row) == (row["protocol"] == "linear") and len(row["gamma"]) == 2 * (row["protocol"] == "svm")
    assert row_of(ROWS, "encoder", "linear")["C"] and set(row_of(ROWS, "encoder", "linear")["per_class"]) == {
        "oak", "pine", "soil"
    }  # fmt: skip


def test_same_numbers_again_and_digests_follow_the_inputs() -> None:
    again = run()
    assert [results.comparable(r) for r in again] == [results.comparable(r) for r in ROWS]
    other = run(encoder=ToyEncoder(5), scenes=plots(seed=1))
    assert other[0]["digests"]["data"] != ROWS[0]["digests"]["data"]
    assert run(options=replace(QUICK, seeds=1))[0]["digests"]["splits"] != ROWS[0]["digests"]["splits"]


def test_more_initialisations_are_more_runs() -> None:
    rows = run(options=replace(QUICK, init_seeds=2, protocols=("knn",)))
    assert row_of(rows, "random-init", "knn5")["runs"] == {"splits": 2, "initialisations": 2}


def test_collapsed_features_and_leaks_raise_alarms() -> None:
    rows = run(encoder=ToyEncoder(collapse=True))
    assert any("constant" in a for a in row_of(rows, "encoder", "knn20")["alarms"])
    leaky = run(scenes=[field()], options=replace(QUICK, split="random_pixels", max_per_class=60))
    assert leaky[0]["leaky"] and "train and test windows overlap" in leaky[0]["alarms"]
    assert "LEAKY" in text.leak_mark(leaky[0])


def test_one_run_gives_a_table_for_every_number_of_labels() -> None:
    rows = run(options=replace(QUICK, shots=(2, 4), protocols=("knn", "linear", "ridge"), min_groups=2))
    tables = text.tables(rows)
    assert [t[0]["shots"] for t in tables] == [2, 4] and len(tables[0]) == len(tables[1])
    assert [t[0]["samples"]["train"] for t in tables] == [6, 12]
    assert {r["protocol"] for r in rows if r["method"] == "encoder"} == {"knn1", "knn5", "knn20", "linear", "ridge"}
    alone = run(options=replace(QUICK, shots=4, protocols=("knn", "linear", "ridge"), min_groups=2))
    assert [r["oa"] for r in alone] == [r["oa"] for r in tables[1]]
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(text.shots_table(rows))
    shown = console.export_text()
    assert "2 labels" in shown and "4 labels" in shown and shown.count("±") == len(rows)


def test_leave_one_sensor_out_has_scores_of_each_sensor() -> None:
    from specfm.bands import BandGrid
    from specfm.simulate import resample_scene

    other = SENSOR.replace(bands=BandGrid(np.linspace(470, 880, 8)), name="other")
    scenes = plots(9)
    rows = run(
        scenes=[*scenes, *(resample_scene(s, other) for s in scenes)],
        options=replace(QUICK, split="sensor", protocols=("knn",)),
    )
    assert rows[0]["split"] == "sensor" and set(rows[0]["held_out"]) == {"toy", "other"}
    values = rows[0]["oa"]["values"]
    assert len(values) == 4 and rows[0]["held_out"]["other"]["oa"] == pytest.approx(np.mean(values[:2]), abs=1e-5)
    spectrum = row_of(rows, "pixel spectrum", "svm")
    assert min(v["oa"] for v in spectrum["held_out"].values()) > 0.8  # resampled to one grid, hardly any noise
    assert any("resampled" in n for n in spectrum["notices"])
    assert text.held_out_table(rows) is not None and text.held_out_table(ROWS) is None


def test_a_cache_changes_no_number(tmp_path: Path) -> None:
    from downstream.features.bank import Bank

    for hits in (0, 2):
        cache = Bank(tmp_path)
        rows = run(bank=cache)
        assert cache.hits == hits and [results.comparable(r) for r in rows] == [results.comparable(r) for r in ROWS]


def test_tiny_training_classes_raise_an_alarm() -> None:
    rows = run(scenes=plots(5), options=replace(QUICK, max_per_class=1, min_samples=2, protocols=("knn",)))
    assert any("< 5 training samples" in a for r in rows for a in r["alarms"])


def test_seen_and_unseen() -> None:
    scenes = plots(2)
    assert seen_mark({}, scenes) == "unknown"
    assert seen_mark({"pretraining": {"scenes": ["plot_1"], "sensors": []}}, scenes) == "scene seen"
    assert seen_mark({"pretraining": {"scenes": ["x"], "sensors": ["toy"]}}, scenes) == "sensor seen"
    assert seen_mark({"pretraining": {"scenes": ["x"], "sensors": ["EnMAP"]}}, scenes) == "unseen"
    # the same pixels by another name are seen all the same
    renamed = {"pretraining": {"scenes": ["x"], "sensors": [], "contents": [scene_content(scenes[1])]}}
    assert seen_mark(renamed, scenes) == "scene seen"
    assert seen_mark(renamed, plots(2, seed=7)) == "unseen"
    encoder = ToyEncoder()
    encoder.card = {"pretraining": {"scenes": ["x"], "sensors": ["EnMAP"], "window": 12}}  # type: ignore[attr-defined]
    rows = run(encoder=encoder)
    assert row_of(rows, "encoder", "linear")["seen"] == "unseen"
    assert row_of(rows, "random-init", "linear")["seen"] == "-"
    assert default_window(encoder) == 12 and default_window(ToyEncoder()) == 9


def test_split_files_give_the_numbers_of_their_splits(tmp_path: Path) -> None:
    samples = collect_samples(plots(), 9, max_per_class=15)
    names = []
    for seed in range(2):
        names.append(str(tmp_path / f"{seed}.json"))
        save_split(make_split(samples, "group", seed), names[-1])
    rows = run(options=replace(QUICK, split_files=tuple(names)))
    assert [r["oa"] for r in rows] == [r["oa"] for r in ROWS]


def test_results_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    results.append_rows(path, ROWS[:2])
    results.append_rows(path, ROWS[2:])
    assert results.read_rows(path) == ROWS
    with path.open("a") as handle:
        handle.write('{"half": ')
    with pytest.raises(SpecfmError, match=f"line {len(ROWS) + 1} is not JSON"):
        results.read_rows(path)
    results.append_rows(path, ROWS[:1])  # the line that was cut short takes no other with it
    assert [json.loads(line) for line in path.read_text().splitlines()[-1:]] == ROWS[:1]
    for key, value in (("data", None), ("confusion", "x"), ("oa", None)):
        (tmp_path / "odd.jsonl").write_text(json.dumps({**ROWS[0], key: value}) + "\n")
        with pytest.raises(SpecfmError, match=f"line 1 has no proper {key}; remove that line"):
            results.read_rows(tmp_path / "odd.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(SpecfmError, match="line 1 is not JSON"):
        results.read_rows(tmp_path / "bytes.jsonl")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(SpecfmError, match="line 1 is not a specfm-result-1 row"):
        results.read_rows(tmp_path / "other.jsonl")
    with pytest.raises(SpecfmError, match="does not exist"):
        results.read_rows(tmp_path / "none.jsonl")


def test_table_shows_every_row_in_80_columns() -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(text.table(ROWS))
    shown = console.export_text()
    assert "…" not in shown and shown.count("linear") == sum(row["protocol"] == "linear" for row in ROWS)
    assert "2 splits" in text.heading(ROWS[0]) and "window 9 px" in text.heading(ROWS[0])
    assert "±" in shown and shown.count("±") == len(ROWS)


def test_alarms_of_several_rows_are_one_remark() -> None:
    rows = [{**r, "alarms": ["x"] if i < 2 else [], "notices": ["n"]} for i, r in enumerate(ROWS)]
    assert text.remarks(rows) == ["notice: n", "alarm: x (encoder knn1, encoder knn5)"]


def test_bad_options_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown protocol 'svm'"):
        run(options=replace(QUICK, protocols=("svm",)))
    with pytest.raises(UsageError, match="--seeds"):
        run(options=replace(QUICK, seeds=0))
    with pytest.raises(UsageError, match="--shots"):
        run(options=replace(QUICK, shots=(5, 0)))
    with pytest.raises(UsageError, match="unknown peer 'dove'"):
        run(options=replace(QUICK, peers=("dove",)))
    with pytest.raises(UsageError, match="no protocol"):
        run(options=replace(QUICK, protocols=()))
    with pytest.raises(UsageError, match="k of kNN"):
        run(options=replace(QUICK, ks=()))
