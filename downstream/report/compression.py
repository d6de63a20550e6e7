"""A compression benchmark from its rows: tables for shell, Markdown and page, accuracy against bytes and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downstream.report.figures import colour_of, data_uri, new_figure
from downstream.results import text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

Row = Mapping[str, Any]
HEADINGS = (
    *("pipeline", "OA", "95 % CI", "difference", "AA", "kappa", "weights", "MACs", "kB", "smaller"),
    *(
        "1 window, ms",
        "faster",
        "64 windows, ms",
        "2 threads, ms",
        "pixels/s",
        "CPU s/Mpx",
        "memory, MB",
        "training, s",
    ),
)
TIMES = 7  # headings of what is timed, before the last
BENCHMARK = "compression"  # what rows say they are of
MARKS = "os^Dv"
RAREST = 3  # classes whose recall stands in a table of its own
AXES = {"bytes": "kB (sparse weights where these are smaller)", "latency": "one window, one thread, ms"}


def scenes_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of each scene."""
    return [list(each) for each in text.tables([dict(row) for row in rows])]


def _cost(row: Row) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row["compression"]
    return found


def smaller(row: Row, reference: Row) -> float:
    """How many times fewer bytes than the reference."""
    return float(_cost(reference)["bytes"] / _cost(row)["bytes"])


def faster(row: Row, reference: Row) -> float:
    """How many times less time for one window on one thread than the reference."""
    return float(_cost(reference)["latency_ms"]["1x1"] / _cost(row)["latency_ms"]["1x1"])


def _timed(rows: Sequence[Row]) -> bool:
    """Whether files were timed (``rounds`` above 0)."""
    return all("latency_ms" in _cost(row) for row in rows if "compression" in row)


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """Cells of one scene's table, as :data:`HEADINGS` names them."""
    wanted = next(_cost(row)["reference"] for row in rows if "compression" in row)
    base = next(row for row in rows if row["method"] == wanted)
    found = []
    for row in rows:
        head = [row["method"], text.points(row["oa"]), text.interval(row["oa"])]
        if "compression" not in row:
            found.append([*head, "-", text.points(row["aa"]), text.points(row["kappa"]), *["-"] * (len(HEADINGS) - 6)])
            continue
        cost = _cost(row)
        low, high = cost["oa_difference_ci"]
        between = "" if low is None else f" {100 * low:+.1f} to {100 * high:+.1f}"
        found.append([
            *head, f"{100 * cost['oa_difference']:+.1f}{between}", text.points(row["aa"]), text.points(row["kappa"]),
            _short(cost["numbers"]), _short(cost["macs"]),
            f"{cost['bytes'] / 1e3:.1f}" + ("" if cost["stored"] == "file" else " (sparse)"),
            f"{smaller(row, base):.1f}x", *(_times(row, base) if _timed(rows) else ["-"] * TIMES),
            f"{cost['train_s']:.0f}",
        ])  # fmt: skip
    return found


def _times(row: Row, base: Row) -> list[str]:
    """What is measured on a quiet machine."""
    cost, times = _cost(row), _cost(row)["latency_ms"]
    return [
        f"{times['1x1']:.3f}", f"{faster(row, base):.1f}x", f"{times['64x1']:.2f}", f"{times['64x2']:.2f}",
        _short(cost["pixels_per_s"]), f"{cost['cpu_s_per_mpixel']:.1f}", f"{cost['peak_bytes'] / 1e6:.1f}",
    ]  # fmt: skip


def rare_lines(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: recall of the rarest classes under each pipeline."""
    first = rows[0]
    counts = {name: sum(line) for name, line in zip(first["classes"], first["confusion"], strict=True)}
    rarest = sorted((name for name in counts if counts[name]), key=lambda name: counts[name])[:RAREST]
    headings = ["pipeline", *(f"{name} ({counts[name]})" for name in rarest)]
    recall = [[row["per_class"].get(name) for name in rarest] for row in rows]
    cells = [["-" if value is None else f"{value:.3f}" for value in each] for each in recall]
    return headings, [[row["method"], *each] for row, each in zip(rows, cells, strict=True)]


def rich_tables(rows: Sequence[Row]) -> list[tuple[Table, list[str]]]:
    """A table for each scene, and the remarks below it."""
    from rich import box
    from rich.table import Table

    found = []
    for part in scenes_of(rows):
        for title, (headings, body), below in (
            (text.heading(part[0]), (list(HEADINGS), lines(part)), text.remarks(part)),
            ("recall of the rarest classes (test samples over all splits)", rare_lines(part), []),
        ):
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for heading in headings:
                table.add_column(heading, overflow="fold")
            for line in body:
                table.add_row(*line)
            found.append((table, below))
    return found


def markdown(name: str, rows: Sequence[Row]) -> str:
    """All tables as Markdown, under the name of the benchmark."""
    out = [f"# {name}", ""]
    for part in scenes_of(rows):
        out += [f"## {text.heading(part[0])}", ""]
        if part[0]["leaky"]:
            out += ["**Leaky split**: neighbouring pixels stand on both sides; beside published tables only.", ""]
        for headings, body in ((list(HEADINGS), lines(part)), rare_lines(part)):
            out += ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
            out += ["| " + " | ".join(line) + " |" for line in body] + [""]
        out += [f"* {line}" for line in text.remarks(part)] + [""]
    wanted = next(_cost(row)["reference"] for row in rows if "compression" in row)
    out += [f"Reference: {wanted}. Measured on {rows[0]['hardware']}, ONNX Runtime, one thread unless said."]
    return "\n".join(out) + "\n"


def best(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (cost, accuracy) no other beats in both."""
    return [
        i
        for i, (cost, score) in enumerate(points)
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
    ]


def pareto(rows: Sequence[Row]) -> Figure:
    """Accuracy of one scene's rows against bytes and, if taken, time; pipelines that none beats are joined."""
    shown = [row for row in rows if "compression" in row]
    axes = list(AXES) if _timed(rows) else ["bytes"]
    figure = new_figure(11, 5.2)
    for place, axis_name in enumerate(axes):
        axis = figure.add_subplot(1, len(axes), place + 1)
        cost = [_cost(r)["bytes"] / 1e3 if axis_name == "bytes" else _cost(r)["latency_ms"]["1x1"] for r in shown]
        points = [(x, float(row["oa"]["mean"])) for x, row in zip(cost, shown, strict=True)]
        front = sorted(points[i] for i in best(points))
        axis.plot(*zip(*front, strict=True), color="0.5", lw=1, zorder=0)
        for i, ((x, y), row) in enumerate(zip(points, shown, strict=True)):
            if row["oa"]["ci"]:
                axis.plot([x, x], row["oa"]["ci"], color=colour_of(i), lw=1, alpha=0.3)
            axis.plot(
                x, y, MARKS[i // 8 % len(MARKS)], color=colour_of(i), ms=5, label=None if place else row["method"]
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")  # figures of a page have no mathematical text
        axis.xaxis.set_minor_formatter("")
        axis.set_xlabel(AXES[axis_name], fontsize=8)
        axis.set_ylabel("overall accuracy", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.suptitle(text.heading(rows[0]), fontsize=9)
    figure.legend(loc="outside lower center", fontsize=6, ncols=5, frameon=False)
    return figure


def sections(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What a page shows: a group for each scene."""
    found = []
    for part in scenes_of([row for row in rows if row.get("benchmark") == BENCHMARK]):
        rare_headings, rare = rare_lines(part)
        found.append({
            "heading": text.heading(part[0]), "leaky": part[0]["leaky"], "headings": HEADINGS, "lines": lines(part),
            "rare_headings": rare_headings, "rare": rare, "remarks": text.remarks(part),
            "figure": data_uri(pareto(part)),
        })  # fmt: skip
    return found
