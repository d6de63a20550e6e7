"""Figures of a report as data URIs: nothing is fetched, nothing is written beside the page.

Shape suffixes: N samples, D features, K classes, HW pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from specfm.scene import Scene

MAX_POINTS = 4000  # of a scatter; more are thinned evenly
# Okabe and Ito's colours, which colour-blind readers can tell apart; then matplotlib's twenty
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that no window system is asked for."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise SpecfmError("a report needs matplotlib and jinja2; install specfm[viz]") from exc
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def data_uri(figure: Figure, kind: str = "svg") -> str:
    """``data:image/...;base64,...`` of a figure; vector where it stays small, PNG for many points."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "specfm"}):  # same numbers, same bytes
        figure.savefig(buffer, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else {"Software": None})
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def png_uri(png: bytes) -> str:
    """``data:`` URI of PNG bytes."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def colour_of(index: int) -> Any:
    """Colour of a class or domain by its number."""
    if index < len(COLOURS):
        return COLOURS[index]
    from matplotlib import colormaps

    return colormaps["tab20"](index % 20)


CURVES = (
    ("loss", "loss"),
    ("knn", "kNN accuracy (online)"),
    ("embedding/rank", "feature rank"),
    ("embedding/uniformity", "uniformity"),
    ("lr", "learning rate"),
    ("samples_per_s", "samples / s"),
)


def training_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """Curves over steps of one or several runs, or None without a logged loss."""
    present = [c for c in CURVES if any(row.get(c[0]) is not None for rows in runs.values() for row in rows)]
    if not present:
        return None
    height = -(-len(present) // 2)
    figure = new_figure(8, 2.3 * height)
    for place, (key, title) in enumerate(present, 1):
        axis = figure.add_subplot(height, 2, place)
        for i, (name, rows) in enumerate(runs.items()):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None and "step" in row]
            if points:
                step, value = zip(*points, strict=True)
                axis.plot(step, value, color=colour_of(i), lw=1.2, marker="." if len(step) < 30 else None, label=name)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("step", fontsize=8)
        if len(runs) > 1 and place == 1:
            axis.legend(fontsize=7)
    return data_uri(figure)


def label_map(scene: Scene) -> str | None:
    """Labels of a scene in the colours of its classes (unlabelled transparent), or None."""
    if scene.labels_HW is None:
        return None
    from matplotlib.colors import to_rgba

    from specfm.quicklook import png_bytes

    labels_HW = np.asarray(scene.labels_HW)
    step = max(1, -(-max(labels_HW.shape) // 600))
    labels_HW = labels_HW[::step, ::step]
    palette = np.array([to_rgba(colour_of(k)) for k in range(max(len(scene.label_names), 1))])
    picture = np.zeros((*labels_HW.shape, 4), np.uint8)
    known = labels_HW >= 0
    picture[known] = np.rint(255 * palette[labels_HW[known] % len(palette)]).astype(np.uint8)
    enlarge = max(1, 240 // max(picture.shape[:2]))
    return png_uri(png_bytes(picture.repeat(enlarge, 0).repeat(enlarge, 1)))


def false_colour(scene: Scene) -> str:
    """False colours of a scene."""
    from specfm.quicklook import png_bytes, quicklook

    return png_uri(png_bytes(quicklook(scene)[0]))


def pca_plane(X_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First two principal scores ``[N, 2]`` of standardised features and their shares of the variance ``[2]``."""
    wide = np.asarray(X_ND, np.float64)
    wide = (wide - wide.mean(0)) / np.maximum(wide.std(0), 1e-12)
    u, s, axes = np.linalg.svd(wide, full_matrices=False)
    if len(s) < 2:
        u, s, axes = (np.pad(a, w) for a, w in ((u, ((0, 0), (0, 1))), (s, (0, 1)), (axes, ((0, 1), (0, 0)))))
    sign = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(1)])
    return u[:, :2] * s[:2] * np.where(sign == 0, 1, sign), s[:2] ** 2 / max((s**2).sum(), 1e-12)


def embedding_scatter(X_ND: np.ndarray, colourings: Mapping[str, Sequence[str]]) -> str:
    """PCA scatter of features, one panel per colouring (class, domain, sensor): a name per sample."""
    keep = np.unique(np.linspace(0, len(X_ND) - 1, min(MAX_POINTS, len(X_ND))).astype(int))
    score_N2, share = pca_plane(np.asarray(X_ND)[keep])
    figure = new_figure(4.6 * len(colourings), 4.2)
    for place, (title, names) in enumerate(colourings.items(), 1):
        axis = figure.add_subplot(1, len(colourings), place)
        chosen = np.asarray(names, dtype=str)[keep]
        for i, name in enumerate(sorted(set(chosen.tolist()))):
            mine = chosen == name
            axis.scatter(score_N2[mine, 0], score_N2[mine, 1], s=5, color=colour_of(i), alpha=0.6, lw=0, label=name)
        axis.set_title(f"by {title}", fontsize=9)
        axis.set_xlabel(f"PC 1 ({100 * share[0]:.0f} %)", fontsize=8)
        axis.set_ylabel(f"PC 2 ({100 * share[1]:.0f} %)", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, markerscale=2.5, loc="best")
    return data_uri(figure, "png")


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
        cell = row[metric]
        values = [v for v in cell["values"] if v is not None]
        axis.plot(values, [i] * len(values), ".", color="#555555", ms=3, zorder=2.5)
        if cell["ci"]:
            axis.plot(cell["ci"], [i, i], color="#0072B2", lw=2, zorder=2)
        axis.plot(cell["mean"], i, "o", color="#D55E00", ms=4, zorder=3)
    axis.set_yticks(range(len(rows)), [f"{r['method']} {r['protocol']}" for r in reversed(rows)], fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel({"oa": "overall accuracy", "aa": "average accuracy"}.get(metric, metric), fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    return data_uri(figure)
