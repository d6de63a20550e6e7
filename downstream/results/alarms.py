"""Alarms of a table: short sentences on what makes a row doubtful (evaluation.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from downstream.results.runs import Runs, identity
from downstream.splits.samples import Samples
from downstream.splits.split import Split


def add_alarms(rows: list[dict[str, Any]], runs: Sequence[Runs], samples: Samples, splits: Sequence[Split]) -> None:
    """Fill ``row["alarms"]`` (evaluation.md): each is a short sentence."""
    trivial = next((r["oa"]["mean"] for r in rows if r["kind"] == "majority"), None)
    fewest = min(int(np.bincount(samples.y_N[s.test_I])[np.unique(samples.y_N[s.test_I])].min()) for s in splits)
    few_train = not splits[0].options.get("shots") and any(
        np.bincount(samples.y_N[s.fit_I], minlength=max(s.classes) + 1)[list(s.classes)].min() < 5 for s in splits
    )
    for row, run in zip(rows, runs, strict=True):
        alarms = row["alarms"]
        if run.kind == "majority":
            continue
        if row["protocol"] == "linear":
            own = identity(row)[:2]
            knn = [r["oa"]["mean"] for r in rows if identity(r)[:2] == own and r["protocol"].startswith("knn")]
            if knn and row["oa"]["mean"] < max(knn) - 0.03:
                alarms.append("probe > 3 points under kNN")
        if run.constant:
            alarms.append("features are constant")
        if run.unconverged:
            alarms.append(f"{run.unconverged} probes not converged")
        if trivial is not None and row["oa"]["mean"] <= trivial:
            alarms.append("OA not above the majority class")
        if (row["leakage"]["near_duplicate_share"] or 0) > 0.01:
            alarms.append("train-test duplicates")
        if row["leakage"]["overlap_share"] > 0:
            alarms.append("train and test windows overlap")
        if fewest < 5:
            alarms.append("a class with < 5 test samples")
        if few_train:
            alarms.append("a class with < 5 training samples")
        if row["oa"]["units"] < 5:
            alarms.append(f"interval rests on {row['oa']['units']} units")
