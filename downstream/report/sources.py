"""What the inputs of a report are: runs of pretraining and fine-tuning, result rows, benchmark folders, maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from downstream.results.files import read_rows
from specfm.digests import digest_parts
from specfm.documents import parse_yaml, read_json
from specfm.errors import SpecfmError

RASTERS = (".tif", ".tiff", ".hdr", ".npy")
RESULTS, PICTURE, BOARD = "results.jsonl", "map.png", "leaderboard.json"


@dataclass
class Sources:
    """Everything found in the inputs.

    Attributes:
        curves: metric rows by run, then by training.
        rows: result rows, in the order of the inputs.
        pictures: truth, map and mistakes that ``specfm finetune`` drew, with a caption.
        maps: rasters of classes that ``specfm predict`` or ``specfm change`` wrote.
        facts: digests and versions, as (what, value).
        boards: sections of the leaderboards that ``specfm benchmark`` wrote: title, headings, rows, lines below.
        left_out: what could not be shown and why, as (what, why).
        cards: dataset cards that fine-tuning runs name.
    """

    curves: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[tuple[str, Path]] = field(default_factory=list)
    maps: list[Path] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    boards: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)


def gather(inputs: Iterable[str | Path]) -> Sources:
    """Sort the inputs; an input named twice, directly or by its folder, counts once.

    Raises:
        SpecfmError: a path that does not exist, or that is none of what a report shows.
    """
    found = Sources()
    seen: set[Path] = set()
    for path in map(Path, inputs):
        if not path.exists():
            raise SpecfmError(
                f"{path} does not exist; give a run folder, a results file (.jsonl), a benchmark folder or a map"
            )
        if path.is_dir():
            _folder(path, found, seen)
        elif path.suffix == ".jsonl":
            _results(path, found, seen)
        elif path.suffix.lower() in RASTERS:
            found.maps.append(path)
        else:
            raise SpecfmError(f"{path} is no results file (.jsonl) and no map ({', '.join(RASTERS)})")
    return found


def _folder(path: Path, found: Sources, seen: set[Path]) -> None:
    """A run, or a folder with results somewhere below (a benchmark, a demo)."""
    if (path / "metrics.jsonl").is_file() or (path / "config.yaml").is_file():
        _run(path, found, seen)
        return
    results = sorted(p for p in path.rglob(RESULTS) if p.is_file())
    if not results:
        raise SpecfmError(
            f"{path} has no metrics.jsonl, config.yaml or results.jsonl; give the folder that `specfm pretrain`, "
            "`specfm finetune` or `specfm benchmark` wrote"
        )
    for each in results:
        if (each.parent / "config.yaml").is_file() and each.parent != path:
            _run(each.parent, found, seen)
        else:
            _results(each, found, seen)
            if (each.parent / BOARD).is_file():
                _board(each.parent / BOARD, found)


def _board(path: Path, found: Sources) -> None:
    """The overview and the comparison of a benchmark; its tables of single datasets come from the rows."""
    if any(board["path"] == path.resolve() for board in found.boards):
        return
    try:
        value = read_json(path)
        sections = value["sections"][:1] + (value["sections"][-1:] if value["differences"] else [])
        boards = [
            {
                "path": path.resolve(),
                "title": f"{value['suite']}: {section['title']}",
                "headings": list(section["headings"]),
                "rows": [list(map(str, row)) for row in section["rows"]],
                "below": list(section["below"]),
            }
            for section in sections
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.left_out.append((f"leaderboard of {path.parent.name}", f"{path} cannot be read ({error!r})"))
        return
    found.boards += boards
    found.facts.append((f"{path.resolve().parent.name}/{path.name}", digest_parts([path.read_bytes()])))


def _run(path: Path, found: Sources, seen: set[Path]) -> None:
    from specfm.engine.record import read_metrics

    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    name = path.resolve().name
    name = name if name not in found.curves else str(path)
    trainings = {"": read_metrics(path)}
    trainings |= {p.parent.name: read_metrics(p.parent) for p in sorted((path / "runs").glob("*/metrics.jsonl"))}
    logged = {key or name: rows for key, rows in trainings.items() if rows}
    if logged:
        found.curves[name] = logged
    else:
        found.left_out.append((f"training curves of {name}", "it has logged no step yet"))
    if (path / RESULTS).is_file():
        _results(path / RESULTS, found, seen)
    elif (path / "runs").is_dir():
        found.left_out.append((f"results of {name}", f"it has not ended; continue {path} with --resume"))
    _run_facts(path, name, found)
    config = _config(path)
    if (path / PICTURE).is_file():
        found.pictures.append((f"{name}: truth, map and mistakes on test pixels of the first split", path / PICTURE))
    elif config.get("task"):
        found.left_out.append((f"map of {name}", "the run wrote no map.png"))
    card = (config.get("data") or {}).get("card")
    if isinstance(card, str):
        found.cards.append(card)
    if logged:
        trainings_told = f"{len(logged)} trainings, " if len(logged) > 1 else ""
        last = max(rows[-1].get("step", 0) for rows in logged.values())
        found.facts.append(
            (f"run {name}", f"{trainings_told}{sum(map(len, logged.values()))} logged steps, last {last}")
        )


def _run_facts(path: Path, name: str, found: Sources) -> None:
    from specfm.checkpoint import release_digest

    if (path / "config.yaml").is_file():
        found.facts.append((f"config.yaml of {name}", digest_parts([(path / "config.yaml").read_bytes()])))
    if (path / "model").is_dir():
        try:
            found.facts.append((f"model of {name}", release_digest(path / "model")))
        except (SpecfmError, OSError) as error:
            found.left_out.append((f"digest of the model of {name}", str(error)))


def _config(path: Path) -> dict[str, Any]:
    """The run's configuration; an unreadable one is as good as none, since the page only takes hints from it."""
    try:
        value = parse_yaml((path / "config.yaml").read_text(encoding="utf-8"), path / "config.yaml")
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _results(path: Path, found: Sources, seen: set[Path]) -> None:
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    rows = read_rows(path)
    found.rows += rows
    found.facts.append(
        (f"{path.resolve().parent.name}/{path.name}", f"{digest_parts([path.read_bytes()])}, {len(rows)} rows")
    )
