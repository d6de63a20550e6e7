"""What a report says of result rows: tables of accuracy, robustness, leaderboards, and the digests behind them.

Shape suffixes: K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from downstream.report import figures
from downstream.results import text
from downstream.results.runs import identity
from downstream.tasks.rows import shown_metrics

Row = Mapping[str, Any]
PROBED = (("oa", "OA"), ("aa", "AA"), ("kappa", "kappa"), ("macro_f1", "macro F1"), ("miou", "macro mIoU"))
DETAILS = (("fwiou", "frequency-weighted IoU"), ("ece", "calibration error"))  # a page has room for them


def metrics_of(row: Row) -> tuple[tuple[str, str], ...]:
    """Keys and headings of the metrics of a row's table; the first has its interval beside it."""
    return (shown_metrics(row["task"]) if row.get("task") else PROBED) + DETAILS


def is_own(row: Row) -> bool:
    """True for the encoder that is measured."""
    return bool(row["kind"] == "encoder")


def accuracy(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One group per table: rows that ran on the same splits; of repeated rows the newest counts."""
    plain = [row for row in rows if not row.get("condition") and not row.get("benchmark")]
    return [_group(part) for part in _newest(plain, _table_key, _method_key)]


def robustness(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One group per probe that was tested under several conditions."""
    altered = [row for row in rows if row.get("condition")]
    found = []
    for part in _newest(altered, _probe_key, lambda row: (row["condition"], *_method_key(row))):
        methods = list(dict.fromkeys(identity(r) for r in part if r["kind"] != "majority"))
        lines: dict[str, dict[tuple[str, str, str], Row]] = {}
        for row in part:
            lines.setdefault(row["condition"], {})[identity(row)] = row
        bands = {name: next(iter(cells.values())).get("bands") or [] for name, cells in lines.items()}
        found.append(
            {
                "heading": text.heading({**part[0], "condition": None}),
                "leaky": part[0]["leaky"],
                "methods": [" ".join(method[1:]) for method in methods],
                "lines": [
                    (name, "/".join(map(str, bands[name])), [_with_interval(cells.get(m), "aa") for m in methods])
                    for name, cells in lines.items()
                ],
                "remarks": text.remarks(part),
                "figure": figures.data_uri(figures.conditions_figure(part)),
            }
        )
    return found


def leaderboard(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Methods by tables, best mean rank first, or None where there are not two tables to compare on.

    Rows of a benchmark do not count: its own leaderboard, which knows what is more than chance, is shown instead.
    """
    alone = [row for row in rows if not (row.get("condition") or row.get("suite") or row.get("benchmark"))]
    tables = _newest(alone, _table_key, _method_key)
    if len(tables) < 2:
        return None
    columns: list[tuple[str, bool]] = []
    cells: dict[tuple[str, str, str], dict[int, tuple[int, str]]] = {}
    for number, part in enumerate(tables):
        key, title = metrics_of(part[0])[0]
        shots = f", {part[0]['shots']} shots" if part[0]["shots"] else ""
        columns.append((f"{part[0]['data']} by {part[0]['split']}{shots}: {title}", part[0]["leaky"]))
        ranked = sorted((r for r in part if _mean(r, key) is not None), key=lambda r: -(_mean(r, key) or 0.0))
        for rank, row in enumerate(ranked, 1):
            place = cells.setdefault(identity(row), {})
            seen = "" if row["seen"] in ("-", "unseen") else f", {row['seen']}"
            place[number] = (rank, _with_interval(row, key) + seen)
    counted = {n for n, (_, leaky) in enumerate(columns) if not leaky} or set(range(len(columns)))  # leaky: shown only
    lines = [
        {
            "name": " ".join(method[1:]),
            "rank": sum(rank for n, (rank, _) in places.items() if n in counted) / max(1, len(counted & places.keys())),
            "tables": len(counted & places.keys()),
            "cells": [places.get(i, (0, "-")) for i in range(len(tables))],
        }
        for method, places in cells.items()
    ]
    lines.sort(key=lambda line: (-int(line["tables"] == len(counted)), line["rank"]))  # type: ignore[operator]
    return {"columns": columns, "lines": lines}


def facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Digests, versions and machines behind the rows, each once."""
    found: dict[tuple[str, str], None] = {}
    for row in rows:
        for kind, value in row["digests"].items():
            about = row["data"]
            if kind == "checkpoint":
                if not is_own(row):
                    continue
                about = row["method"]
            elif row.get("condition"):
                about += f", {row['condition']}" if kind == "data" else ", robustness"
            found[(f"{kind} digest of {about}", value)] = None
        found[("versions", ", ".join(f"{k} {v}" for k, v in row["versions"].items()))] = None
        found[("hardware", row["hardware"])] = None
        seeds = f"{row['seeds'][0]} to {row['seeds'][-1]} ({len(row['seeds'])} splits)"
        found[(f"split seeds of {row['data']}", seeds)] = None
    return list(found)


def _newest(
    rows: Sequence[Row], table: Callable[[Row], tuple[Any, ...]], own: Callable[[Row], tuple[Any, ...]]
) -> list[list[Row]]:
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], Row]] = {}
    for row in rows:
        found.setdefault(table(row), {})[own(row)] = row
    return [list(part.values()) for part in found.values()]


def _table_key(row: Row) -> tuple[Any, ...]:
    told = (row["data"], row["split"], row["shots"], row["window"], row.get("task"))
    return (*told, row["digests"]["data"], row["digests"]["splits"])


def _probe_key(row: Row) -> tuple[Any, ...]:
    """The table without the data digest, which differs from condition to condition."""
    return (row["data"], row["split"], row["shots"], row["window"], row["digests"]["splits"])


def _method_key(row: Row) -> tuple[Any, ...]:
    """Controls that do not depend on the encoder are one row, whichever encoder they stand beside."""
    return (*identity(row), None if row["kind"] in ("baseline", "majority") else row["digests"]["checkpoint"])


def _group(rows: list[Row]) -> dict[str, Any]:
    """What the page shows of one table."""
    shown = metrics_of(rows[0])
    first = shown[0][0]
    if rows[0].get("task"):
        wanted = [r for r in rows if r["kind"] != "majority"]
    else:
        linear = [r for r in rows if r["protocol"] == "linear"]
        own = [r for r in rows if is_own(r)]
        shown_own = [r for r in own if r in linear] or own  # whatever protocols ran, the encoder is there
        wanted = [r for r in rows if r in linear or r in shown_own] or rows
    columns = [f"{row['method']} {row['protocol']}" for row in wanted]
    names = rows[0]["classes"]
    left = list(dict.fromkeys(name for row in rows for name in row.get("held_out") or {}))
    return {
        "heading": text.heading(rows[0]) + (f", {rows[0]['task']}" if rows[0].get("task") else ""),
        "leaky": rows[0]["leaky"],
        "metrics": [heading for _, heading in shown],
        "rows": [
            {
                "method": row["method"],
                "protocol": row["protocol"],
                "values": [text.points(row.get(key)) for key, _ in shown],
                "ci": text.interval(row.get(first)),
                "seen": row["seen"],
                "leak": text.leak_mark(row),
                "leaky": row["leaky"],
                "alarms": "; ".join(row["alarms"]),
                "own": is_own(row),
            }
            for row in rows
        ],
        "remarks": text.remarks(rows),
        "intervals": figures.interval_figure(rows, first),
        "class_columns": columns,
        "class_rows": [(name, [_number(row["per_class"].get(name)) for row in wanted]) for name in names],
        "left_columns": left,
        "left_rows": [
            (f"{r['method']} {r['protocol']}", [_number((r["held_out"].get(n) or {}).get("aa")) for n in left])
            for r in rows
            if r.get("held_out")
        ],
        "confusions": [
            {"title": title, "uri": figures.confusion_figure(row["confusion"], names, title)}
            for row, title in zip(wanted, columns, strict=True)
        ],
    }


def _mean(row: Row, key: str) -> float | None:
    return (row.get(key) or {}).get("mean")


def _with_interval(row: Row | None, key: str) -> str:
    if row is None or _mean(row, key) is None:
        return "-"
    interval = text.interval(row[key])
    return text.points(row[key]) + (f" [{interval}]" if interval != "-" else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
