"""One self-contained HTML page: tables, intervals, leakage marks, alarms, curves, scatters, scenes, digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream import results as result_rows
from downstream.report import figures
from specfm.errors import SpecfmError, UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

MAX_SCENES = 24


@dataclass(frozen=True)
class Embedding:
    """Features to scatter: ``X_ND`` and, per sample, names to colour by (keys such as "class", "domain", "sensor")."""

    X_ND: np.ndarray
    colourings: Mapping[str, Sequence[str]]


def build_report(
    out: str | Path,
    *,
    run: str | Path | Sequence[str | Path] | None = None,
    results: str | Path | Sequence[Mapping[str, Any]] | None = None,
    scenes: Sequence[Scene] = (),
    embeddings: Mapping[str, Embedding] | None = None,
    title: str = "specfm report",
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write ``out``; whatever is not given is left out of the page.

    Args:
        out: the page.
        run: run folder(s) of pretraining, for curves.
        results: a results file, or rows of ``downstream.probe.probe``.
        scenes: scenes to show in false colours, with their labels.
        embeddings: features to scatter, by name.
        title: of the page.
        notes: sentences to put under the title.
        overwrite: replace an existing file.

    Raises:
        UsageError: ``out`` exists, or there is nothing to report.
        SpecfmError: a run without metrics, unreadable results, or matplotlib / jinja2 missing.
    """
    from specfm import __version__
    from specfm.files import atomic_write_text

    out = Path(out)
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another --out or pass --overwrite")
    runs = _runs(run)
    rows = _rows(results)
    if not (runs or rows or scenes or embeddings):
        raise UsageError("nothing to report; give a run folder, a results file, scenes or embeddings")
    try:
        from jinja2 import Environment
    except ImportError as exc:
        raise SpecfmError("a report needs matplotlib and jinja2; install specfm[viz]") from exc
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(
        title=title,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        notes=list(notes),
        groups=[_group(part) for part in _tables(rows)],
        curves=figures.training_curves(runs) if runs else None,
        scatters=[
            {"name": name, "uri": figures.embedding_scatter(e.X_ND, e.colourings)}
            for name, e in (embeddings or {}).items()
        ],
        scenes=[_scene(s) for s in list(scenes)[:MAX_SCENES]],
        scenes_left_out=max(len(scenes) - MAX_SCENES, 0),
        facts=_facts(rows, runs),
    )
    atomic_write_text(out, page)
    return out


def _runs(run: str | Path | Sequence[str | Path] | None) -> dict[str, list[dict[str, Any]]]:
    """Metric rows of each run folder by name."""
    from specfm.engine.metrics import read_metrics

    folders = [] if run is None else [run] if isinstance(run, (str, Path)) else list(run)
    found = {}
    for folder in map(Path, folders):
        rows = read_metrics(folder)
        if not rows:
            raise SpecfmError(f"{folder} has no metrics.jsonl; give the folder that `specfm pretrain` wrote")
        found[folder.resolve().name if folder.resolve().name not in found else str(folder)] = rows
    return found


def _rows(results: str | Path | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    if results is None:
        return []
    if isinstance(results, (str, Path)):
        return result_rows.read_rows(results)
    return [dict(row) for row in results]


def _tables(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows that ran on the same splits; of repeated rows the newest counts."""
    tables: dict[tuple[Any, ...], dict[tuple[Any, ...], dict[str, Any]]] = {}
    for row in rows:
        key = (row["data"], row["split"], row["shots"], row["window"], row["digests"]["data"], row["digests"]["splits"])
        control = row["method"] == "majority class" or row["method"].startswith(("PCA-", "pixel", "mean"))
        own = (row["method"], row["protocol"], None if control else row["digests"]["checkpoint"])
        tables.setdefault(key, {})[own] = row
    return [list(table.values()) for table in tables.values()]


def _is_own(row: Mapping[str, Any]) -> bool:
    """True for the probed encoder, False for a control."""
    controls = ("random-init", "pixel spectrum", "mean spectrum", "majority class")
    return row["method"] not in controls and not row["method"].startswith("PCA-")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _group(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page shows of one table."""
    shown = [
        {
            "method": row["method"],
            "protocol": row["protocol"],
            "oa": result_rows.points(row["oa"]),
            "ci": result_rows.interval(row["oa"]),
            "aa": result_rows.points(row["aa"]),
            "kappa": result_rows.points(row["kappa"]),
            "f1": _number(row["macro_f1"]["mean"]),
            "seen": row["seen"],
            "leak": result_rows.leak_mark(row),
            "alarms": "; ".join(row["alarms"]),
            "own": _is_own(row),
        }
        for row in rows
    ]
    wanted = [row for row in rows if row["protocol"] == "linear"] or [row for row in rows if _is_own(row)]
    columns = [f"{row['method']} {row['protocol']}" for row in wanted]
    names = rows[0]["classes"]
    return {
        "heading": result_rows.heading(rows[0]),
        "leaky": rows[0]["leaky"],
        "rows": shown,
        "remarks": [line for line in result_rows.remarks(rows) if line.startswith("notice")],
        "intervals": figures.interval_figure(rows),
        "class_columns": columns,
        "class_rows": [(name, [_number(row["per_class"].get(name)) for row in wanted]) for name in names],
        "confusions": [
            {"title": title, "uri": figures.confusion_figure(row["confusion"], names, title)}
            for row, title in zip(wanted, columns, strict=True)
        ],
    }


def _scene(scene: Scene) -> dict[str, Any]:
    from matplotlib.colors import to_hex

    grid = scene.sensor.bands
    centres = grid.wavelengths_nm[grid.valid]
    height, width, bands = scene.shape
    labels = figures.label_map(scene)
    present = np.unique(scene.labels_HW[scene.labels_HW >= 0]).tolist() if scene.labels_HW is not None else []
    return {
        "name": scene.name,
        "colour": figures.false_colour(scene),
        "labels": labels,
        "caption": f"{scene.name}: {height} x {width}, {bands} bands, {centres.min():.0f}-{centres.max():.0f} nm",
        "legend": [{"name": scene.label_names[k], "colour": to_hex(figures.colour_of(k))} for k in present],
    }


def _facts(rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Digests, versions and machines behind the numbers, each once."""
    facts: dict[tuple[str, str], None] = {}
    for name, metrics in runs.items():
        facts[(f"run {name}", f"{len(metrics)} logged steps, last {metrics[-1].get('step')}")] = None
    for row in rows:
        for kind, value in row["digests"].items():
            about = f" ({row['data']})" if kind in ("data", "splits") else ""
            if kind == "checkpoint":
                if not _is_own(row):
                    continue
                about = f" ({row['method']})"
            facts[(f"{kind}{about}", value)] = None
        facts[("versions", ", ".join(f"{k} {v}" for k, v in row["versions"].items()))] = None
        facts[("hardware", row["hardware"])] = None
        facts[("seeds", f"{row['seeds'][0]} to {row['seeds'][-1]} ({len(row['seeds'])} splits)")] = None
    return list(facts)
