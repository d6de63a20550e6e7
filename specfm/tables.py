"""Tables that users write: CSV files with a line of column names, read as text."""

from __future__ import annotations

import csv
from pathlib import Path

from specfm.errors import SpecfmError
from specfm.limits import excess


def read_table(path: Path, comments: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file; blanks around the names do not count.

    Args:
        path: the file.
        comments: lines that begin with ``#`` do not count.

    Raises:
        SpecfmError: no such file, or no CSV in UTF-8.
    """
    try:
        if words := excess("table_bytes", path.stat().st_size):
            raise SpecfmError(f"{path} is too large a table; {words}")
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(line for line in handle if not (comments and line.lstrip().startswith("#")))
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            names, rows = list(reader.fieldnames), list(reader)
    except OSError as error:
        raise SpecfmError(f"cannot read the table {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpecfmError(f"{path} is no CSV in UTF-8 (at byte {error.start}); save it as such") from None
    except csv.Error:
        raise SpecfmError(f"{path} is no CSV in UTF-8; save it as such") from None
    return names, rows
