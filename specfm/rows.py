"""Rows of results as a table: what a DataFrame is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specfm.errors import UsageError

if TYPE_CHECKING:
    from pandas import DataFrame


class Rows:
    """A result with ``rows``, a dict each."""

    def to_dataframe(self) -> DataFrame:
        """The rows as a pandas DataFrame; what a row nests becomes columns with a point (``oa.mean``).

        Raises:
            UsageError: pandas is not installed.
        """
        return dataframe(self.rows)  # type: ignore[attr-defined]


def dataframe(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Rows as a pandas DataFrame, flat (:func:`flat`).

    Raises:
        UsageError: pandas is not installed.
    """
    return _pandas().DataFrame([flat(row) for row in rows])


def from_columns(columns: Mapping[str, Any]) -> DataFrame:
    """Arrays of one length as a pandas DataFrame.

    Raises:
        UsageError: pandas is not installed.
    """
    return _pandas().DataFrame(columns)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise UsageError("a DataFrame needs pandas; install it (pip install pandas), or go on with .rows") from None
    return pandas


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without rows in it; lists stay.

    Example:
        >>> flat({"method": "a", "oa": {"mean": 0.5, "interval": [0.4, 0.6]}})
        {'method': 'a', 'oa.mean': 0.5, 'oa.interval': [0.4, 0.6]}
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in flat(value).items()}
        else:
            found[name] = value
    return found
