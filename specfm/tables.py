"""Tables that users write: CSV files with a line of column names, read as text."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from specfm.errors import SpecfmError
from specfm.limits import excess

SEPARATORS = ",;\t"  # spreadsheets write the second one where decimals have a comma


def read_table(
    path: Path, wanted: Iterable[str] = (), comments: bool = False
) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file; blanks around names and values do not count.

    What separates columns is what the line of their names has most of: commas, semicolons or tabs.

    Args:
        path: the file.
        wanted: columns that are asked for; one whose name differs in capitals alone gets the name asked for.
        comments: lines that begin with ``#`` do not count.

    Raises:
        SpecfmError: no such file, or no CSV in UTF-8.
    """
    try:
        if words := excess("table_bytes", path.stat().st_size):
            raise SpecfmError(f"{path} is too large a table; {words}")
        with path.open(newline="", encoding="utf-8-sig") as handle:
            lines = [line for line in handle if not (comments and line.lstrip().startswith("#"))]
        first = lines[0] if lines else ""
        reader = csv.DictReader(lines, delimiter=max(SEPARATORS, key=first.count))
        names = _as_wanted([name.strip() for name in reader.fieldnames or []], wanted)
        reader.fieldnames = names
        rows = [{name: _stripped(value) for name, value in row.items()} for row in reader]
    except OSError as error:
        raise SpecfmError(f"cannot read the table {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpecfmError(f"{path} is no CSV in UTF-8 (at byte {error.start}); save it as such") from None
    except csv.Error:
        raise SpecfmError(f"{path} is no CSV in UTF-8; save it as such") from None
    return names, rows


def number(text: str) -> float:
    """A number with a decimal point or a decimal comma.

    Raises:
        ValueError: it is none.

    Example:
        >>> number("348,13")
        348.13
    """
    return float(text.replace(",", "."))


def _as_wanted(names: list[str], wanted: Iterable[str]) -> list[str]:
    near = {name.casefold(): name for name in wanted if name not in names}
    plain = [name.casefold() for name in names]
    return [near.get(low, name) if plain.count(low) == 1 else name for name, low in zip(names, plain, strict=True)]


def _stripped(value: str | list[str] | None) -> str:
    """A value of a row; fields beyond the last column come as a list, and columns that a short row lacks as None."""
    return value.strip() if isinstance(value, str) else ""
