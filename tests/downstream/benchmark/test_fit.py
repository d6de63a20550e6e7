"""Suites whose encoders are fitted without labels: rows say so, twins are made apart where they are fitted apart."""

from __future__ import annotations

from pathlib import Path

import pytest

import specfm
from downstream.benchmark.run import _entries, plan_cells, run_benchmark
from downstream.results.files import read_rows
from specfm.errors import SpecfmError
from tests.downstream.benchmark.test_run import folder, suite_of

__all__ = ["folder"]  # a fixture


def test_rows_say_what_was_fitted_and_numbers_differ(folder: Path, tmp_path: Path) -> None:
    found = {}
    for fit in (False, True, "scene"):
        one = suite_of(folder, fit=fit, shots=["all"], protocols=["knn"])
        suite = one.model_copy(update={"datasets": one.datasets[:1]})
        run_benchmark(suite, [str(folder / "model0")], tmp_path / str(fit))
        found[fit] = {row["kind"]: row for row in read_rows(tmp_path / str(fit) / "results.jsonl")}
    assert {fit: rows["encoder"]["fitted"] for fit, rows in found.items()} == {
        False: None, True: "scenes", "scene": "each scene",
    }  # fmt: skip
    assert found[True]["twin"]["fitted"] == "scenes" and found[True]["baseline"]["fitted"] is None


def test_encoders_of_one_architecture_share_twins_unless_these_are_fitted_otherwise(
    folder: Path, tmp_path: Path
) -> None:
    for name, power in (("a", 0.25), ("b", 0.5)):
        encoder = specfm.load(folder / "model0")
        specfm.save(encoder, tmp_path / name, {"whiten": {"per": "scene", "power": power}})
    for fit, twins in ((False, 1), (True, 2)):
        suite = suite_of(folder, fit=fit)
        plans = plan_cells(suite, _entries(suite, [str(tmp_path / "a"), str(tmp_path / "b")], "cpu"))
        assert sum(plan.part == "random-init" for plan in plans) == twins * len(suite.datasets)


def test_another_word_is_refused(folder: Path) -> None:
    with pytest.raises(SpecfmError, match="fit"):
        suite_of(folder, fit="sometimes")
