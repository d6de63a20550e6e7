"""Rows as a person reads them on a terminal: tables of probes, few shots, units left out and robustness, and remarks.

The cells serve other tables too: of fine-tuning (``downstream.tasks.rows``), benchmarks and reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downstream.results.runs import identity

if TYPE_CHECKING:
    from rich.table import Table


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def points(cell: Mapping[str, Any] | None) -> str:
    """``.812 ±.031`` of a metric cell."""
    if not cell or cell.get("mean") is None:
        return "-"
    return f"{_short(cell['mean'])} ±{_short(cell['sd'])}"


def interval(cell: Mapping[str, Any] | None) -> str:
    """``.770-.851`` of a metric cell, or "-" where there are too few units."""
    ci = (cell or {}).get("ci")
    return f"{_short(ci[0])}-{_short(ci[1])}" if ci and ci[0] is not None else "-"


def leak_mark(row: Mapping[str, Any]) -> str:
    """One cell that says how leaky the split is: share of overlapping test windows, least distance, near-duplicates."""
    leak = row["leakage"]
    text = f"{100 * leak['overlap_share']:.0f} %"
    if leak["min_distance_px"] is not None:
        text += f", {leak['min_distance_px']:.0f} px"
    if leak["near_duplicate_share"]:
        text += f", dup {100 * leak['near_duplicate_share']:.1f} %"
    return text + (" LEAKY" if row["leaky"] else "")


def seen(row: Mapping[str, Any]) -> str:
    """One cell on what the encoder knows of these scenes: from pretraining, and from being fitted without labels."""
    return f"{row['seen']}, fitted" if row.get("fitted") else str(row["seen"])


def leakage_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """For the title of a table without a column of it: the leakage of its rows, each value once."""
    return "leakage " + "; ".join(dict.fromkeys(map(leak_mark, rows)))


def heading(row: Mapping[str, Any]) -> str:
    """What the rows of one table share, in one line."""
    shots = f", {row['shots']} shots a class" if row.get("shots") else ""
    tested = f", tested on {row['condition']!r}" if row.get("condition") else ""
    sizes, splits = row["samples"], row["runs"]["splits"]
    return (
        f"{row['data']}{tested}: split by {row['split']}{shots}, window {row['window']} px, "
        f"{len(row['classes'])} classes, {splits} splits of {sizes['train']} / {sizes['val']} / {sizes['test']} samples"
    )


def remarks(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Notices and alarms of a table's rows, one sentence each, the rows of one alarm put together."""
    lines: dict[str, list[str]] = {}
    notices: dict[str, None] = {}
    total = 0
    for row in rows:
        total += row["kind"] != "majority"
        notices.update(dict.fromkeys(row["notices"]))
        for alarm in row["alarms"]:
            where = f"{row['method']} {row['protocol']}" + (f" ({row['condition']})" if row.get("condition") else "")
            lines.setdefault(alarm, []).append(where)
    alarms = [f"alarm: {k} ({'all rows' if len(v) == total else ', '.join(v)})" for k, v in lines.items()]
    return [f"notice: {n}" for n in notices] + alarms


def table(rows: list[dict[str, Any]], title: str | None = None, width: int = 80) -> Table:
    """The rows as a rich table; print ``heading`` above it and ``remarks`` below.

    Leakage is the share of test windows that overlap a training window, the least distance in pixels of a test to a
    training pixel, and the share of near-duplicates. Deviations of AA and kappa are shown from 100 columns on.
    """
    from rich import box
    from rich.table import Table

    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "probe", "OA", "95 % CI", "AA", "kappa", "seen", "leakage"):
        folds = name in ("method", "seen", "leakage")
        out.add_column(name, no_wrap=not folds, overflow="fold", min_width=7 if folds else None)
    cell = points if width >= 100 else lambda c: _short(c["mean"])
    for row in rows:
        out.add_row(
            row["method"], row["protocol"], points(row["oa"]), interval(row["oa"]),
            cell(row["aa"]), cell(row["kappa"]), seen(row), leak_mark(row),
        )  # fmt: skip
    return out


def tables(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows put together that share a heading, in the order they come."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(heading(row), []).append(row)
    return list(found.values())


def shots_table(rows: list[dict[str, Any]], metric: str = "aa") -> Table:
    """One line per method and protocol, one column per number of labels: the few-shot table."""
    from rich import box
    from rich.table import Table

    shots = sorted({row["shots"] or 0 for row in rows})
    title = f"{metric.upper()} by labels a class, {leakage_of(rows)}"
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "probe", *(f"{n} labels" if n else "all labels" for n in shots)):
        out.add_column(name, overflow="fold")
    cells: dict[tuple[str, str, str], dict[int, str]] = {}
    for row in rows:
        cells.setdefault(identity(row), {})[row["shots"] or 0] = points(row[metric])
    for (_, method, protocol), by_shots in cells.items():
        out.add_row(method, protocol, *(by_shots.get(n, "-") for n in shots))
    return out


def columns_table(rows: Sequence[Mapping[str, Any]], rules: Mapping[str, str], metric: str = "oa") -> Table:
    """One line per method and protocol, one column per data and rule of the split; ``rules`` says how to call these."""
    from rich import box
    from rich.table import Table

    columns = list(dict.fromkeys((row["data"], row["split"]) for row in rows))
    out = Table(title=metric.upper(), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "probe", *(f"{data}, {rules.get(rule, rule)}" for data, rule in columns)):
        out.add_column(name, overflow="fold")
    cells: dict[tuple[str, str, str], dict[tuple[str, str], str]] = {}
    for row in rows:
        cells.setdefault(identity(row), {})[row["data"], row["split"]] = points(row[metric])
    for (_, method, protocol), by_column in cells.items():
        out.add_row(method, protocol, *(by_column.get(column, "-") for column in columns))
    return out


def held_out_table(rows: list[dict[str, Any]], metric: str = "aa") -> Table | None:
    """One column per scene or sensor that was left out, or None under other rules; at most eight columns."""
    from rich import box
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row.get("held_out", {})))
    if not names or len(names) > 8:
        return None
    title = f"{metric.upper()} by {rows[0]['split']} left out, {leakage_of(rows)}"
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "probe", *names):
        out.add_column(name, overflow="fold")
    for row in rows:
        cells = (row["held_out"].get(name) for name in names)
        out.add_row(row["method"], row["protocol"], *(_short(cell[metric]) if cell else "-" for cell in cells))
    return out


def robustness_tables(
    rows: Sequence[Mapping[str, Any]],
    metric: str = "aa",
    width: int = 80,
    *,
    of: str = "probes trained on spectra as measured",
    condition: str = "tested on",
) -> list[Table]:
    """One line per condition, one column per method and protocol, as many columns to a table as ``width`` holds.

    Intervals are shown where all columns fit into one table with them, else deviations alone. ``of`` and ``condition``
    say what was probed, and what the conditions are.
    """
    from rich import box
    from rich.table import Table

    columns = list(dict.fromkeys(identity(r) for r in rows if r["kind"] != "majority"))
    room = width - 24  # beside the names of the conditions and the numbers of bands
    show, wide = points, 11  # not below a word's length: names of methods fold
    if 23 * len(columns) <= room:
        show, wide = (lambda cell: f"{points(cell)} [{interval(cell)}]"), 23
    marks = {identity(r): f" ({seen(r)})" for r in rows if seen(r) != "-"}
    lines: dict[str, dict[tuple[str, str, str], Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(row["condition"], {})[identity(row)] = row
    fit = max(1, room // wide)
    found = []
    for start in range(0, len(columns), fit):
        title = f"{metric.upper()} of {of}, {leakage_of(rows)}"
        out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        chosen = columns[start : start + fit]
        for heading in (condition, "bands", *(f"{each[1]}{marks.get(each, '')} {each[2]}" for each in chosen)):
            out.add_column(heading, overflow="fold")
        for name, by_method in lines.items():
            first = next(iter(by_method.values()))
            cells = (show(by_method[c][metric]) if c in by_method else "-" for c in chosen)
            out.add_row(name, "/".join(map(str, first["bands"])), *cells)
        found.append(out)
    return found
