"""The closing table and the curves of a run, from its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.summary import plot_losses, summary_rows, watched_scores


def record(folder: Path, **last: Any) -> Path:
    rows: list[dict[str, Any]] = [{"step": s, "loss": 5.0 - s, "samples_per_s": 10.0 * s} for s in (1, 2, 3)]
    rows[-1] |= last
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_score_stands_beside_what_it_is_held_against(tmp_path: Path) -> None:
    watched = {"knn": 0.71, "linear": 0.8, "majority": 0.4, "untrained/knn": 0.66, "untrained/linear": 0.75}
    shown = dict(summary_rows(record(tmp_path, **watched)))
    assert shown["kNN accuracy"] == "0.7100 (untrained 0.6600, majority 0.4000)"
    assert shown["linear accuracy"] == "0.8000 (untrained 0.7500, majority 0.4000)"
    assert watched_scores(tmp_path) == watched  # in the model's card too
    assert shown["final loss"] == "2.0000" and shown["samples/s (median)"] == "20.0000"


def test_a_run_that_was_not_watched_has_no_scores(tmp_path: Path) -> None:
    assert not {"kNN accuracy", "linear accuracy"} & {name for name, _ in summary_rows(record(tmp_path))}


def test_what_processes_wait_for_each_other_is_told_with_whom_they_wait_for(tmp_path: Path) -> None:
    assert "waiting for processes" not in dict(summary_rows(record(tmp_path)))
    rows = [{"step": s, "seconds": 2.0, "peer_wait_s": 0.5, "slowest_rank": s % 3} for s in (1, 2, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert dict(summary_rows(tmp_path))["waiting for processes"] == "25% of a step, most often for rank 1"
    for row in rows:
        del row["slowest_rank"]  # processes that make their own updates
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert dict(summary_rows(tmp_path))["waiting for processes"] == "25% of a step"


def test_curves_are_drawn_with_and_without_scores(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bare = plot_losses(record(tmp_path))
    assert bare is not None
    size = bare.stat().st_size
    watched = {"knn": 0.71, "linear": 0.8, "majority": 0.4, "init_from/knn": 0.66, "embedding/rank": 3.0}
    full = plot_losses(record(tmp_path, **watched))
    assert full is not None and full.stat().st_size != size
