"""Pictures against wavelength: signatures, importance by occlusion and by gradients; accuracy against bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.explain.occlusion import Rows
from downstream.explain.run import RAW, Explanation
from downstream.report.figures import colour_of, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def explanation_figure(found: Explanation) -> Figure:
    """Three panels over one wavelength axis (two without gradients)."""
    figure = new_figure(8.5, 9.0 if found.gradients else 6.5)
    axes: Any = figure.subplots(3 if found.gradients else 2, 1, sharex=True)
    _signatures(axes[0], found)
    _occlusion(axes[1], found.occlusion)
    if found.gradients:
        _gradients(axes[2], found.gradients)
    axes[-1].set_xlabel("wavelength, nm", fontsize=8)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    told = ", ".join(f"{name} {100 * value:.0f} %" for name, value in found.facts["accuracy"].items())
    axes[0].set_title(f"{found.facts['data']}: linear probes, {told} (chance {100 * found.facts['chance']:.0f} %)",
                      fontsize=9, loc="left")  # fmt: skip
    return figure


def _signatures(axis: Axes, found: Explanation) -> None:
    nm = np.array([row["wavelength_nm"] for row in found.signatures])
    order = np.argsort(nm, kind="stable")
    for number, name in enumerate(found.classes):
        mean, deviation = (np.array([row[f"{name} {what}"] for row in found.signatures]) for what in ("mean", "sd"))
        colour = colour_of(number)
        axis.plot(nm[order], mean[order], color=colour, lw=1.2, label=name)
        axis.fill_between(
            nm[order], (mean - deviation)[order], (mean + deviation)[order], color=colour, alpha=0.1, lw=0
        )
    axis.set_ylabel("class mean, sd", fontsize=8)
    if len(found.classes) <= 20:
        axis.legend(fontsize=6, ncols=2)


def _occlusion(axis: Axes, rows: Rows) -> None:
    widths = sorted({row["width_nm"] for row in rows})
    for features in dict.fromkeys(row["features"] for row in rows):
        for number, width in enumerate(widths):
            mine = [row for row in rows if row["features"] == features and row["width_nm"] == width]
            nm = [(row["low_nm"] + row["high_nm"]) / 2 for row in mine]
            style: dict[str, Any] = {"color": f"C{number}", "ls": ":" if features == RAW else "-", "lw": 1.3}
            axis.plot(nm, [100 * row["accuracy_lost"] for row in mine], label=f"{features}, {width:g} nm", **style)
            if features != RAW:
                low, high = ([100 * row[f"accuracy_lost_{end}"] for row in mine] for end in ("low", "high"))
                axis.fill_between(nm, low, high, color=f"C{number}", alpha=0.12, lw=0)
    axis.axhline(0, color="0.5", lw=0.8)
    axis.set_ylabel("accuracy lost without\nthe range, points", fontsize=8)
    axis.legend(fontsize=6, ncols=2)


def _gradients(axis: Axes, rows: Rows) -> None:
    nm = np.array([row["wavelength_nm"] for row in rows])
    order = np.argsort(nm, kind="stable")
    axis.plot(nm[order], np.array([row["mean_size"] for row in rows])[order], color="k", lw=1.3, label="mean size")
    classes = [name for name in rows[0] if name not in ("band", "wavelength_nm", "mean_size", "share", "mean")]
    for number, name in enumerate(classes):
        values = np.array([row[name] for row in rows])
        axis.plot(nm[order], values[order], color=colour_of(number), lw=0.7, alpha=0.8)
    axis.axhline(0, color="0.5", lw=0.8)
    axis.set_ylabel("integrated gradients,\nlogit of the true class", fontsize=8)
    axis.legend(fontsize=6)


def comparison_figure(rows: Rows, metric: str = "aa") -> Figure:
    """Left: the metric against the number of evenly spread bands; right: every choice, as of ``conditions_figure``."""
    methods = list(dict.fromkeys(_method(row) for row in rows if row["kind"] != "majority"))
    choices = list(dict.fromkeys(row["condition"] for row in rows))
    figure = new_figure(11, 3.0 + 0.22 * len(choices))
    left, right = figure.subplots(1, 2)
    for number, method in enumerate(methods):
        mine = [row for row in rows if _method(row) == method and row[metric]["mean"] is not None]
        even = sorted(
            (r for r in mine if r["condition"].split(":")[0] in ("all", "uniform")), key=lambda r: r["bands"][0]
        )
        left.plot([r["bands"][0] for r in even], [r[metric]["mean"] for r in even], "o-", ms=3, color=colour_of(number))
        shift = 0.6 * ((number + 0.5) / len(methods) - 0.5)
        for row in mine:
            place = choices.index(row["condition"]) + shift
            if row[metric]["ci"]:
                right.plot(row[metric]["ci"], [place, place], color=colour_of(number), lw=1.4, alpha=0.6)
            right.plot(row[metric]["mean"], place, "o", ms=3.5, color=colour_of(number))
        right.plot([], [], "o-", ms=3, color=colour_of(number), label=" ".join(method))
    counts = {row["condition"]: row["bands"][0] for row in rows}
    right.set_yticks(range(len(choices)), [f"{each} ({counts[each]})" for each in choices], fontsize=7)
    right.set_ylim(len(choices) - 0.45, -0.55)
    left.set_xscale("log")
    left.set_xlabel("bands, evenly spread", fontsize=8)
    left.set_ylabel("average accuracy (mean recall)", fontsize=8)
    right.set_xlabel("average accuracy (mean recall)", fontsize=8)
    for axis in (left, right):
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{rows[0]['data']}, split by {rows[0]['split']}", fontsize=9)
    figure.legend(loc="outside lower center", fontsize=7, ncols=min(4, max(len(methods), 1)), frameon=False)
    return figure


def _method(row: dict[str, Any]) -> tuple[str, str]:
    """(method, protocol); components of any number count as one method."""
    name = "PCA" + row["method"][row["method"].index(" ") :] if row["method"].startswith("PCA-") else row["method"]
    return name, row["protocol"]
