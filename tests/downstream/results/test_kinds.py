"""Rows are told apart by what they are: an encoder may be called as any control is and keeps its row everywhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from rich.console import Console

import specfm
from downstream.benchmark.leaderboard import leaderboard
from downstream.benchmark.run import run_benchmark
from downstream.benchmark.suite import SuiteConfig
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.report.build import build_report
from downstream.report.tables import accuracy, robustness
from downstream.report.tables import facts as report_facts
from downstream.results import text
from downstream.results.files import append_rows, read_rows
from downstream.results.runs import Kind, identity
from downstream.tasks.config import FinetuneConfig
from downstream.tasks.finetune import finetune
from specfm.config import build_config
from specfm.simulate import MATERIALS, write_simulation
from tests.downstream.tasks.toys import config, field_card, pair_card
from tests.downstream.toy_scenes import ToyEncoder, plots

QUICK = ProbeOptions(seeds=2, init_seeds=1, window=9, max_per_class=15, draws=50, ks=(1,), grid=(1.0,))
TAKEN = ("random-init", "majority class", "pixel spectrum", "MNF-30 pixel", "from-scratch")


def rows_called(name: str) -> list[dict[str, Any]]:
    return probe(ToyEncoder(), plots(), QUICK, name=name, make_random=lambda i: ToyEncoder(100 + i)).rows


def shown(*tables: Any) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables:
        console.print(table)
    return console.export_text()


def facts(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its name and what differs from run to run."""
    return {k: v for k, v in row.items() if k not in ("method", "time", "wall_s")}


@pytest.mark.parametrize("name", TAKEN)
def test_the_name_of_an_encoder_changes_nothing_but_the_name(name: str) -> None:
    """Alarms, remarks, seen marks, notices: nothing that is worked out reads a name."""
    plain, taken = rows_called("mine"), rows_called(name)
    assert [facts(row) for row in plain] == [facts(row) for row in taken]
    assert [row["method"] for row in taken] == [name if r["kind"] == "encoder" else r["method"] for r in plain]
    assert len({identity(row) for row in taken}) == len(taken)
    assert (
        set(Counter(row["kind"] for row in taken)) == {"encoder", "twin", "baseline", "majority"} <= set(get_args(Kind))
    )


@pytest.mark.parametrize("name", TAKEN)
def test_every_table_of_the_terminal_has_a_line_for_each_row(name: str) -> None:
    rows = rows_called(name)
    assert shown(text.table(rows)).count("±") >= len(rows)
    few = [{**row, "shots": shots} for row in rows for shots in (2, 4)]
    assert shown(text.shots_table(few)).count("±") == 2 * len(rows)
    altered = [{**row, "condition": c, "bands": [4]} for c in ("as measured", "SNR 20") for row in rows]
    tested = len(rows) - 1  # the majority class has no column
    assert shown(*text.robustness_tables(altered, width=500)).count("±") == 2 * tested


@pytest.mark.parametrize("name", TAKEN)
def test_the_report_keeps_the_row_of_the_encoder(name: str, tmp_path: Path) -> None:
    rows = rows_called(name)
    (group,) = accuracy(rows)
    assert len(group["rows"]) == len(rows) and [r["own"] for r in group["rows"]].count(True) == 2
    altered = [{**row, "condition": c, "bands": [4]} for c in ("as measured", "SNR 20") for row in rows]
    (tested,) = robustness(altered)
    assert len(tested["methods"]) == len(rows) - 1 and all("-" not in cells for _, _, cells in tested["lines"])
    append_rows(tmp_path / "r.jsonl", rows)
    assert [identity(row) for row in read_rows(tmp_path / "r.jsonl")] == [identity(row) for row in rows]
    build_report(tmp_path / "r.html", [], rows=rows)
    assert len(re.findall('<tr class="own">', (tmp_path / "r.html").read_text())) == 2


def test_a_folder_random_init_keeps_its_rows_in_a_benchmark(tmp_path: Path) -> None:
    write_simulation(tmp_path / "scenes", ["sentinel2_msi"], scenes=5, size=(15, 15), materials=list(MATERIALS)[:3])
    for seed, name in enumerate(("mine", "random-init")):
        torch.manual_seed(seed)
        made = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3)
        specfm.save(made, tmp_path / name, {"pretraining": {"scenes": [], "sensors": [], "domains": []}})
    card = {"cards": str(tmp_path / "scenes" / "sentinel2_msi.yaml"), "name": "toys", "max_per_class": 6}
    told: dict[str, Any] = {
        "name": "t", "seeds": 2, "ks": [1], "init_seeds": 1, "window": 3, "draws": 50, "protocols": ["knn"],
        "datasets": [{**card, "split": "group", "min_groups": 2}],
    }  # fmt: skip
    suite = build_config(told, SuiteConfig, "test")
    board = run_benchmark(suite, [str(tmp_path / "mine"), str(tmp_path / "random-init")], tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    of = Counter((row["kind"], row["method"]) for row in rows if row["protocol"] == "knn1")
    assert of["encoder", "mine"] == of["encoder", "random-init"] == 1 and of["twin", "random-init (mine)"] == 1
    overview = [line[0] for line in board.sections[0].rows]
    assert overview.count("random-init") == 1 and "random-init (mine)" in overview
    against = {(d.a, d.b) for d in board.differences}
    assert {("mine", "random-init"), ("random-init", "random-init (mine)")} <= against


def test_two_rows_of_one_name_are_two_lines_of_a_leaderboard(tmp_path: Path) -> None:
    """Whatever the names: the overview of a leaderboard is by what a row is."""
    from downstream.benchmark.cells import Cell, CellPlan

    suite = build_config(
        {"name": "t", "datasets": [{"cards": "toys"}], "metric": "oa", "draws": 50}, SuiteConfig, "test"
    )
    told = {"suite": "t", "part": "encoder", "note": "", "architecture": "a"}
    by_kind = {row["kind"]: row for row in rows_called("same") if row["protocol"] == "knn1"}
    rows = [{**row, **told, "method": "same"} for row in by_kind.values()]
    plan = CellPlan(suite, suite.datasets[0], "encoder", "same", None, "-", "-", "-", 9)
    board = leaderboard(suite, [(plan, Cell(rows, [np.ones((1, 2, 3, 3, 3))] * len(rows)))])
    assert [line[0] for line in board.sections[0].rows] == ["same"] * 3


def test_fine_tuning_a_folder_random_init_beside_its_control(tmp_path: Path) -> None:
    torch.manual_seed(0)
    specfm.save(specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3), tmp_path / "random-init")
    done: FinetuneConfig = config(
        tmp_path / "run", field_card(tmp_path / "data"), "segmentation", init=str(tmp_path / "random-init"),
        mode="frozen", controls=["frozen"], steps=2, split={"seeds": 2}, checkpoint={"every": 2}, model={},
    )  # fmt: skip
    rows = read_rows(finetune(done) / "results.jsonl")
    of = Counter((row["kind"], row["method"]) for row in rows)
    assert of["encoder", "random-init"] == of["twin", "random-init"] == 1
    runs = {row["kind"]: row["runs"]["splits"] for row in rows if row["method"] == "random-init"}
    assert runs["encoder"] == runs["twin"] == done.split.seeds


@pytest.mark.parametrize("init", ["random", "mine"])
def test_the_distance_of_features_is_a_row_of_the_encoder_whose_features_they_are(tmp_path: Path, init: str) -> None:
    torch.manual_seed(0)
    record = {"scenes": [], "sensors": [], "domains": ["toy"]}
    specfm.save(specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3), tmp_path / "mine", record)
    told: dict[str, Any] = {} if init == "random" else {"init": str(tmp_path / init), "model": {}}
    done = config(
        tmp_path / "run", pair_card(tmp_path / "data"), "change", mode="frozen", controls=["simple"], steps=2,
        checkpoint={"every": 2}, **told,
    )  # fmt: skip
    rows = read_rows(finetune(done) / "results.jsonl")
    spectral = [r for r in rows if r["protocol"] == "threshold"]
    assert [(r["kind"], r["method"]) for r in spectral] == [
        ("baseline", "spectral angle"), ("baseline", "spectral difference")
    ]  # fmt: skip
    (own,) = (r for r in rows if r["protocol"] == "feature distance")
    assert (own["kind"], own["method"], own["seen"]) == (
        ("twin", "random-init", "-") if init == "random" else ("encoder", "mine", "domain seen")
    )
    named = {what for what, _ in report_facts(rows) if what.startswith("checkpoint digest")}
    assert named == (set() if init == "random" else {"checkpoint digest of mine"})


def test_rows_written_before_they_said_what_they_are_are_refused(tmp_path: Path) -> None:
    old = [{k: v for k, v in row.items() if k != "kind"} for row in rows_called("mine")]
    append_rows(tmp_path / "old.jsonl", old)
    with pytest.raises(specfm.SpecfmError, match="line 1 has no proper kind"):
        read_rows(tmp_path / "old.jsonl")
