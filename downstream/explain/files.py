"""Explanations and comparisons as folders: CSV tables, a picture, the facts as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.files import atomic_write_bytes, atomic_write_text, staged_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_folder(
    out: Path | str, tables: Mapping[str, Sequence[Mapping[str, Any]]], figures: Mapping[str, Figure], facts: Any
) -> None:
    """Write ``NAME.csv`` of every table that has a row, ``NAME.png`` of every figure and ``facts.json``; all or
    nothing.

    Raises:
        UsageError: ``out`` exists.
    """
    with staged_folder(Path(out)) as folder:
        for name, rows in tables.items():
            if rows:
                atomic_write_text(folder / f"{name}.csv", csv_text(rows))
        for name, figure in figures.items():
            body = io.BytesIO()
            figure.savefig(body, format="png", dpi=130, metadata={"Software": None})
            atomic_write_bytes(folder / f"{name}.png", body.getvalue())
        atomic_write_text(folder / "facts.json", json.dumps(facts, indent=1))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the names of the first one's columns; numbers to six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row.values()])
    return text.getvalue()
