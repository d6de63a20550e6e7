"""Table and curves of ``tests.benchmarks.curriculum``, from its rows alone.

Shapes: S seeds, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

WITHIN = 0.005  # a curriculum has reached the full schedule's accuracy at half a point below it
RARE = 3  # classes
LEAKY = "random_pixels"
SPECTRA = "pixel spectra"  # rows of classics, which have no schedule
COLUMNS = (
    "backbone", "arm", "steps", "OA %", "AA %", "kappa", "OA - full", "recall of rare", "time s", "full / time",
    "to full's OA s", "full / that",
)  # fmt: skip

Row = dict[str, Any]


def write_report(rows: Sequence[Row], folder: Path) -> None:
    """``table.md`` and ``curves.png``."""
    (folder / "table.md").write_text(table(rows), encoding="utf-8")
    plot(rows, folder / "curves.png")


def table(rows: Sequence[Row]) -> str:
    """One table a card and split, in Markdown."""
    lines: list[str] = []
    for (card, split), part in _grouped(rows, "card", "split"):
        mark = " (leaky: test windows overlap training windows)" if split == LEAKY else ""
        rare = _rarest(part[0]["support"])
        lines += [f"## {card}, split by {split}{mark}", ""]
        for (asked,), runs in _grouped([row for row in part if row["backbone"] != SPECTRA], "asked"):
            who = ", ".join(dict.fromkeys(row["backbone"] for row in runs))
            lines += [f"{who}: {', '.join(f'{key} {value}' for key, value in asked.items())}", ""]
        lines += [
            f"Mean and deviation over seeds. Rare: the {len(rare)} classes with fewest test samples "
            f"({', '.join(rare)}), mean recall. To full's OA: the first point of the curve at most {100 * WITHIN:g} "
            "points below the full schedule's last one of the same seed; (n/m) runs reached it.", "",
        ]  # fmt: skip
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        for (backbone, asked, arm), runs in _grouped(part, "backbone", "asked", "arm"):
            mine = [row for row in part if row["backbone"] == backbone and row["asked"] == asked]
            whole = [row for row in mine if row["arm"] == "full"]
            lines.append("| " + " | ".join(cells(backbone, arm, runs, whole, rare)) + " |")
        lines.append("")
    return "\n".join(lines)


def cells(backbone: str, arm: str, runs: Sequence[Row], whole: Sequence[Row], rare: Sequence[str]) -> list[str]:
    """A line of the table; ``whole``: the full schedule's runs."""
    of_seed = {row["seed"]: row for row in whole}
    pairs = [(row, of_seed[row["seed"]]) for row in runs if row["seed"] in of_seed]
    if not pairs:
        told = [_mean([100 * row[key] for row in runs], 1) for key in ("oa", "aa")]
        told += [_mean([row["kappa"] for row in runs], 3), "-", _recall(runs, rare)]
        return [backbone, arm, "-", *told, _mean([row["train_s"] for row in runs], 1), "-", "-", "-"]
    reached = [(reach(row, full), full["train_s"]) for row, full in pairs]
    there = [(s, full) for s, full in reached if s is not None]
    to_full = (
        f"{np.mean([s for s, _ in there]):.1f} ({len(there)}/{len(reached)})" if there else f"never (0/{len(reached)})"
    )
    return [
        backbone, arm, f"{np.mean([row['steps'] for row in runs]):.0f}",
        *(_mean([100 * row[key] for row in runs], 1) for key in ("oa", "aa")), _mean([row["kappa"] for row in runs], 3),
        _mean([100 * (row["oa"] - full["oa"]) for row, full in pairs], 2, signed=True),
        _recall(runs, rare), _mean([row["train_s"] for row in runs], 1),
        f"{np.mean([full['train_s'] / row['train_s'] for row, full in pairs]):.1f}",
        to_full, f"{np.mean([full / s for s, full in there]):.1f}" if there else "-",
    ]  # fmt: skip


def _recall(runs: Sequence[Row], rare: Sequence[str]) -> str:
    """Mean over the rare classes that a seed's test side has; seeds draw their sides, so they may differ."""
    return _mean([100 * np.mean([row["recall"][name] for name in rare if row["support"].get(name)]) for row in runs], 1)


def reach(row: Row, full: Row) -> float | None:
    """Seconds of training until the curve is at the full schedule's last accuracy, nearly; None: never.

    Both are of the same test samples, those of the curves.
    """
    wanted = full["curve"][-1]["oa"] - WITHIN
    return next((point["s"] for point in row["curve"] if point["oa"] >= wanted), None)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracy of test samples against seconds of training: a panel a card and split, a colour a backbone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if "curve" in row]
    panels = _grouped(rows, "card", "split")
    figure = Figure(figsize=(6 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    colours = {name: f"C{i}" for i, name in enumerate(sorted({row["backbone"] for row in rows}))}
    for axis, ((card, split), part) in zip(axes, panels, strict=True):
        for (backbone, arm, _), runs in _grouped(part, "backbone", "arm", "asked"):
            style = "-" if arm == "full" else "--" if arm.startswith("curriculum") else ":"
            s_P = np.mean([[point["s"] for point in row["curve"]] for row in runs], 0) if _alike(runs) else None
            if s_P is None:
                continue
            oa_P = np.mean([[point["oa"] for point in row["curve"]] for row in runs], 0)
            axis.plot(s_P, 100 * oa_P, style, color=colours[backbone], lw=1.2)
            axis.plot(s_P[-1], 100 * oa_P[-1], "o", color=colours[backbone], ms=4)
        for backbone, colour in colours.items():
            axis.plot([], [], "-", color=colour, label=backbone)
        for style, name in (("-", "full"), ("--", "curriculum"), (":", "full, cut to its time")):
            axis.plot([], [], style, color="grey", label=name)
        axis.set_xscale("log")
        axis.set_xlabel("training, s")
        axis.set_ylabel("OA of test samples, %")
        axis.set_title(f"{card}, {split}{' (leaky)' if split == LEAKY else ''}", fontsize=9)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def _alike(runs: Sequence[Row]) -> bool:
    return len({len(row["curve"]) for row in runs}) == 1


def _grouped(rows: Sequence[Row], *keys: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Rows by the values of keys, in the order in which these first appear."""
    first: dict[str, int] = {}
    names = {id(row): str([row[key] for key in keys]) for row in rows}
    for row in rows:
        first.setdefault(names[id(row)], len(first))
    ordered = sorted(rows, key=lambda row: first[names[id(row)]])
    found = [list(part) for _, part in groupby(ordered, key=lambda row: names[id(row)])]
    return [(tuple(part[0][key] for key in keys), part) for part in found]


def _rarest(support: dict[str, int]) -> list[str]:
    present = [name for name in support if support[name]]
    return sorted(present, key=lambda name: (support[name], name))[:RARE]


def _mean(values: Sequence[float], digits: int, signed: bool = False) -> str:
    sign = "+" if signed else ""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.{digits}f}{deviation}"
