"""The record of a run: ``metrics.jsonl``, one flushed line per step; mirrors of it: :mod:`specfm.engine.mirrors`."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any, TextIO

from specfm.documents import parse_json
from specfm.files import atomic_write_text

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
SUPERSEDED = "metrics.superseded.jsonl"


class MetricsLog:
    """Appends rows to ``metrics.jsonl``; a full disk costs lines and one warning, not the run.

    Args:
        folder: Run folder.
        resumed_step: Lines with a later ``step`` are moved to ``metrics.superseded.jsonl`` first: they belong to
            work that is about to be done again.
    """

    def __init__(self, folder: Path, resumed_step: int | None = None) -> None:
        self.path = folder / FILE
        if resumed_step is not None:
            supersede(folder, resumed_step)
        self._warned = False
        self._handle: TextIO | None = None

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; values that are not finite become null."""
        line = json.dumps({key: _plain(value) for key, value in row.items()}) + "\n"
        try:
            if self._handle is None:
                self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (kept open over the run)
            self._handle.write(line)
            self._handle.flush()
        except OSError as error:
            if not self._warned:
                log.warning("cannot write %s (%s); training goes on without its record", self.path, error)
            self._warned = True

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            try:
                self._handle.close()
            except OSError as error:
                log.warning("cannot close %s (%s)", self.path, error)
            self._handle = None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole rows of a run's ``metrics.jsonl`` (a line cut by a kill is left out)."""
    rows = []
    path = folder / FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(parse_json(line, path))
        except ValueError:
            continue
    return rows


def supersede(folder: Path, step: int) -> None:
    """Move rows after ``step`` (and a line cut short) out of ``metrics.jsonl``; a kill in between loses nothing."""
    path = folder / FILE
    if not path.is_file():
        return
    keep: list[str] = []
    moved: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            late = int(parse_json(line, path)["step"]) > step
        except (ValueError, KeyError, TypeError):
            late = True
        (moved if late else keep).append(line)
    if moved:
        with open(folder / SUPERSEDED, "a", encoding="utf-8") as handle:
            handle.write("".join(f"{line}\n" for line in moved))
        atomic_write_text(path, "".join(f"{line}\n" for line in keep))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value
