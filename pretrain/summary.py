"""What a finished run shows: a table and a loss curve, both from ``metrics.jsonl``."""

from __future__ import annotations

import logging
from pathlib import Path
from statistics import median
from typing import Any

from specfm.engine.record import read_metrics

log = logging.getLogger(__name__)


def last_values(folder: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The newest recorded value of each key (None if it was never recorded)."""
    found: dict[str, Any] = dict.fromkeys(keys)
    for row in read_metrics(folder):
        found |= {key: row[key] for key in keys if row.get(key) is not None}
    return found


def summary_rows(folder: Path) -> list[tuple[str, str]]:
    """Label and text of each line of the closing table."""
    keys = (
        *("step", "loss", "knn", "embedding/rank", "embedding/uniformity", "negatives/excluded"),
        "peak_memory_mb",
    )
    speeds = [row["samples_per_s"] for row in read_metrics(folder) if row.get("samples_per_s") is not None]
    values = last_values(folder, keys)
    shown = {
        "steps": values["step"],
        "final loss": values["loss"],
        "kNN accuracy": values["knn"],
        "feature rank": values["embedding/rank"],
        "uniformity": values["embedding/uniformity"],
        "negatives excluded": values["negatives/excluded"],
        "samples/s (median)": median(speeds) if speeds else None,
        "peak memory, MiB": None if values["peak_memory_mb"] is None else round(values["peak_memory_mb"]),
    }
    rows = [
        (name, f"{value:.4f}" if isinstance(value, float) else str(value))
        for name, value in shown.items()
        if value is not None
    ]
    place = folder / "model"
    rows.append(("model", str(place) if place.is_dir() else f"not released yet; continue {folder} with --resume"))
    return rows


def plot_losses(folder: Path) -> Path | None:
    """Write ``loss.png`` (loss, kNN accuracy, rank of the features over steps); None without matplotlib or rows."""
    rows = [row for row in read_metrics(folder) if row.get("loss") is not None]
    if not rows:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        log.info("no loss curve: matplotlib is not installed (pip install 'specfm[viz]')")
        return None
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True)
    for axis, key, name in zip(
        axes, ("loss", "knn", "embedding/rank"), ("loss", "kNN accuracy", "feature rank"), strict=True
    ):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, marker="." if len(points) < 30 else None, linewidth=1)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    path = folder / "loss.png"
    figure.savefig(path, dpi=120)
    return path
