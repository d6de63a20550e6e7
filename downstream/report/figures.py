"""Figures of a report as data URIs: nothing is fetched, nothing is written beside the page.

Shape suffixes: K classes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.results.runs import identity
from specfm.errors import SpecfmError
from specfm.rasters.figure import plain_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


METRICS = {
    "oa": "overall accuracy",
    "aa": "average accuracy (mean recall)",
    "miou": "mean IoU over classes",
    "f1_changed": "F1 of changed",
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that no window system is asked for."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as exc:
        raise SpecfmError("a report needs matplotlib and jinja2; install specfm[viz]") from exc
    figure = plain_figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def data_uri(figure: Figure, kind: str = "svg") -> str:
    """``data:image/...;base64,...`` of a figure; vector where it stays small, PNG for many points."""
    import matplotlib

    buffer = io.BytesIO()
    # Same numbers, same bytes; letters stay letters, as outlines they were four fifths of a page of many tables.
    with matplotlib.rc_context({"svg.hashsalt": "specfm", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else {"Software": None})
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def png_uri(png: bytes) -> str:
    """``data:`` URI of PNG bytes."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def colour_of(index: int) -> str:
    """Colour of a class, domain or method by its number: the palette of predicted maps, as ``#rrggbb``."""
    from specfm.rasters.class_map import palette

    return "#{:02x}{:02x}{:02x}".format(*palette(index + 1)[index])


def confusion_figure(conf_KK: Sequence[Sequence[int]], names: Sequence[str], title: str) -> str:
    """A confusion matrix in shares of each true class (rows), counts written where there are few classes."""
    counts = np.asarray(conf_KK, np.float64)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = min(2.2 + 0.34 * len(names), 8)
    figure = new_figure(size, size)
    axis = figure.add_subplot()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("predicted", fontsize=8)
    axis.set_ylabel("true", fontsize=8)
    axis.set_title(title, fontsize=9)
    if len(names) <= 12:
        for i in range(len(names)):
            for j in range(len(names)):
                if counts[i, j]:
                    shade = "white" if share[i, j] > 0.6 else "black"
                    text = f"{100 * share[i, j]:.0f}"
                    axis.text(j, i, text, ha="center", va="center", fontsize=6, color=shade)
    return data_uri(figure)


def interval_figure(rows: Sequence[Mapping[str, Any]], metric: str = "oa") -> str:
    """Every method's mean with its 95 % interval (line) and single runs (dots)."""
    figure = new_figure(7, 0.8 + 0.24 * len(rows))
    axis = figure.add_subplot()
    for i, row in enumerate(reversed(rows)):
        cell = row.get(metric)
        if not cell or cell["mean"] is None:
            continue
        values = [v for v in cell["values"] if v is not None]
        axis.plot(values, [i] * len(values), ".", color="#555555", ms=3, zorder=2.5)
        if cell["ci"]:
            axis.plot(cell["ci"], [i, i], color="#0072B2", lw=2, zorder=2)
        axis.plot(cell["mean"], i, "o", color="#D55E00", ms=4, zorder=3)
    axis.set_yticks(range(len(rows)), [f"{r['method']} {r['protocol']}" for r in reversed(rows)], fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel(METRICS.get(metric, metric), fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    return data_uri(figure)


def conditions_figure(rows: Sequence[Mapping[str, Any]], metric: str = "aa") -> Figure:
    """Conditions down, the metric across with its 95 % interval, one colour per method and protocol; dotted: chance."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    methods = list(dict.fromkeys(identity(r) for r in rows if r["kind"] != "majority"))
    figure = new_figure(7.5, 1.3 + (0.2 + 0.1 * len(methods)) * len(conditions))
    axis = figure.add_subplot()
    for i, method in enumerate(methods):
        shift = 0.6 * ((i + 0.5) / len(methods) - 0.5)
        for row in rows:
            cell = row.get(metric)
            if identity(row) != method or not cell or cell["mean"] is None:
                continue
            place = conditions.index(row["condition"]) + shift
            if cell["ci"] and cell["ci"][0] is not None:
                axis.plot(cell["ci"], [place, place], color=colour_of(i), lw=1.6, alpha=0.6)
            axis.plot(cell["mean"], place, "o", color=colour_of(i), ms=4)
        axis.plot([], [], "o-", color=colour_of(i), ms=4, label=" ".join(method[1:]))
    axis.axvline(1 / max(len(rows[0]["classes"]), 1), color="0.6", lw=1, ls=":")
    axis.set_yticks(range(len(conditions)), conditions, fontsize=7)
    axis.set_ylim(len(conditions) - 0.45, -0.55)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel(f"{METRICS.get(metric, metric)} (dotted: chance)", fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=7, ncols=min(3, max(len(methods), 1)), frameon=False)
    return figure


def save_plot(rows: Sequence[Mapping[str, Any]], path: str | Path, metric: str = "aa", overwrite: bool = False) -> None:
    """Write :func:`conditions_figure` under a title that says what was probed, as a PNG file.

    Raises:
        UsageError: ``path`` exists.
        SpecfmError: matplotlib is missing.
    """
    from specfm.files import atomic_write_bytes, refuse_existing

    refuse_existing(Path(path), overwrite, "--plot")
    figure = conditions_figure(rows, metric)
    leaky = " (LEAKY)" if rows[0]["leaky"] else ""
    title = f"{rows[0]['data']}: trained on spectra as measured, split by {rows[0]['split']}{leaky}"
    figure.axes[0].set_title(title, loc="left", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())
