"""Training curves of pretraining and fine-tuning runs, from their ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from downstream.report.figures import colour_of, data_uri, new_figure

CURVES = (
    ("loss", "loss"),
    ("knn", "kNN accuracy (online)"),
    ("linear", "linear accuracy (online)"),
    ("train_oa", "accuracy on training tiles"),
    ("val/score", "score on validation"),
    ("embedding/rank", "feature rank"),
    ("embedding/uniformity", "uniformity"),
    ("grad_norm", "gradient norm"),
    ("lr", "learning rate"),
    ("samples_per_s", "samples / s"),
    ("peer_wait_s", "waiting for processes, s"),
)
MAX_STEPS = 600  # drawn per curve; longer ones are averaged in equal pieces


def training_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """Curves over steps, one panel per quantity, or None where none of them was logged.

    Args:
        runs: metric rows by name. Names that differ only in a trailing ``-NUMBER`` (the trainings of one method on
            several splits) share a colour and a line in the legend.
    """
    present = [c for c in CURVES if any(row.get(c[0]) is not None for rows in runs.values() for row in rows)]
    if not present:
        return None
    kinds = list(dict.fromkeys(map(_kind, runs))) if len({_kind(name) for name in runs}) < len(runs) else list(runs)
    shared = len(kinds) < len(runs)
    height = -(-len(present) // 2)
    figure = new_figure(8, 2.3 * height)
    for place, (key, title) in enumerate(present, 1):
        axis = figure.add_subplot(height, 2, place)
        named: set[str] = set()
        for name, rows in runs.items():
            kind = _kind(name) if shared else name
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None and "step" in row]
            if points:
                steps, values = _thinned(points)
                axis.plot(
                    steps, values, color=colour_of(kinds.index(kind)), lw=1.1, alpha=0.75 if shared else 1,
                    marker="." if len(steps) < 30 else None, label=None if kind in named else kind,
                )  # fmt: skip
                named.add(kind)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("step", fontsize=8)
        if len(kinds) > 1 and place == 1:
            axis.legend(fontsize=7)
    return data_uri(figure)


def _kind(name: str) -> str:
    head, dash, tail = name.rpartition("-")
    return head if dash and tail.isdigit() else name


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most ``MAX_STEPS`` points: means of equal pieces, so that a long run stays a small page."""
    size = -(-len(points) // MAX_STEPS)
    pieces = [points[i : i + size] for i in range(0, len(points), size)]
    return [p[-1][0] for p in pieces], [sum(v for _, v in p) / len(p) for p in pieces]
