"""What a finished run shows: a table and a loss curve, both from ``metrics.jsonl``."""

from __future__ import annotations

import logging
from pathlib import Path
from statistics import median, mode
from typing import Any

from specfm.engine.record import read_metrics

log = logging.getLogger(__name__)
_BEFORE = ("untrained", "init_from")  # what the encoder was before its first step
_WATCHED = ("knn", "linear", "majority", *(f"{name}/{key}" for name in _BEFORE for key in ("knn", "linear")))


def last_values(folder: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The newest recorded value of each key (None if it was never recorded)."""
    found: dict[str, Any] = dict.fromkeys(keys)
    for row in read_metrics(folder):
        found |= {key: row[key] for key in keys if row.get(key) is not None}
    return found


def watched_scores(folder: Path) -> dict[str, float]:
    """The last accuracies of the monitor, and what they are to be held against: the encoder before its first step and
    the majority class. Empty without labels."""
    return {key: round(value, 4) for key, value in last_values(folder, _WATCHED).items() if value is not None}


def summary_rows(folder: Path) -> list[tuple[str, str]]:
    """Label and text of each line of the closing table."""
    keys = (
        *("step", "loss", "embedding/rank", "embedding/uniformity", "negatives/excluded"),
        *_WATCHED, "peak_memory_mb",
    )  # fmt: skip
    rows = read_metrics(folder)
    speeds = [row["samples_per_s"] for row in rows if row.get("samples_per_s") is not None]
    values = last_values(folder, keys)
    shown = {
        "steps": values["step"],
        "final loss": values["loss"],
        "kNN accuracy": _beside(values, "knn"),
        "linear accuracy": _beside(values, "linear"),
        "feature rank": values["embedding/rank"],
        "uniformity": values["embedding/uniformity"],
        "negatives excluded": values["negatives/excluded"],
        "samples/s (median)": median(speeds) if speeds else None,
        "waiting for processes": _waiting(rows),
        "peak memory, MiB": None if values["peak_memory_mb"] is None else round(values["peak_memory_mb"]),
    }
    table = [
        (name, f"{value:.4f}" if isinstance(value, float) else str(value))
        for name, value in shown.items()
        if value is not None
    ]
    place = folder / "model"
    table.append(("model", str(place) if place.is_dir() else f"not released yet; continue {folder} with --resume"))
    return table


def _waiting(rows: list[dict[str, Any]]) -> str | None:
    """What of a usual step is waiting in collectives (:mod:`specfm.engine.waits`), and for whom."""
    told = [row for row in rows if row.get("peer_wait_s") is not None]
    if not told:
        return None
    share = median(row["peer_wait_s"] / row["seconds"] for row in told)
    ranks = [row["slowest_rank"] for row in told if row.get("slowest_rank") is not None]
    return f"{share:.0%} of a step" + (f", most often for rank {mode(ranks)}" if ranks else "")


def _beside(values: dict[str, Any], key: str) -> str | None:
    """A score with what it is to be held against: ``0.71 (untrained 0.66, majority 0.40)``."""
    if values[key] is None:
        return None
    others = {name: values[f"{name}/{key}"] for name in _BEFORE} | {"majority": values["majority"]}
    known = ", ".join(f"{name} {value:.4f}" for name, value in others.items() if value is not None)
    return f"{values[key]:.4f}" + (f" ({known})" if known else "")


def plot_losses(folder: Path) -> Path | None:
    """Write ``loss.png`` (loss, accuracies, rank of the features over steps); None without matplotlib or rows.

    Dotted: what the encoder scored before its first step; grey: the majority class.
    """
    rows = [row for row in read_metrics(folder) if row.get("loss") is not None]
    if not rows:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        log.info("no loss curve: matplotlib is not installed (pip install 'specfm[viz]')")
        return None
    panels = {"loss": ("loss",), "accuracy": ("knn", "linear"), "feature rank": ("embedding/rank",)}
    held = {key for row in rows for key, value in row.items() if value is not None}
    panels = {name: keys for name, keys in panels.items() if held.intersection(keys)}
    figure = Figure(figsize=(7, 0.6 + 1.8 * len(panels)))
    # margins by hand: the layout engine draws everything twice
    figure.subplots_adjust(left=0.12, right=0.98, top=0.97, bottom=0.5 / (0.6 + 1.8 * len(panels)), hspace=0.12)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, keys) in zip(axes, panels.items(), strict=True):
        for number, key in enumerate(keys):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "." if len(points) < 30 else None
                axis.plot(steps, values, f"C{number}", marker=marker, linewidth=1, label=key)
                before = [rows[-1][f"{each}/{key}"] for each in _BEFORE if rows[-1].get(f"{each}/{key}") is not None]
                for value in before:
                    axis.axhline(value, color=f"C{number}", linestyle=":", linewidth=1)
        if name == "accuracy" and rows[-1].get("majority") is not None:
            axis.axhline(rows[-1]["majority"], color="0.6", linewidth=1, label="majority")
        if axis.has_data() and len(keys) > 1:
            axis.legend(fontsize=7)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    path = folder / "loss.png"
    figure.savefig(path, dpi=120)
    return path
