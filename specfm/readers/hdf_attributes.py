"""Attributes of HDF5 items in any spelling, type and length, as text or as numbers; else one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.readers.axes import fold

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True)
class Said:
    """One attribute: where it stands, its name as written, its values as text; ``kind`` is its type (iufSO...)."""

    item: h5py.HLObject
    name: str
    words: tuple[str, ...]
    kind: str

    def refusal(self, problem: str) -> SpecfmError:
        shown = ", ".join(self.words[:4]) + (f", ... ({len(self.words)} values)" if len(self.words) > 4 else "")
        return SpecfmError(
            f"{self.item.file.filename}: {self.item.name} says {self.name} = {shown}; {problem}, mend the attribute"
        )

    def numbers(self) -> NDArray[np.float64]:
        """(n,) numbers.

        Raises:
            SpecfmError: it holds something else.
        """
        try:
            return np.array([float(word) for word in self.words])
        except ValueError:
            raise self.refusal("a number is needed") from None

    def listed(self) -> NDArray[np.float64] | None:
        """(n,) numbers, also where one text holds them all (``{450, 530}``); None where it holds something else."""
        words = [word for text in self.words for word in re.split(r"[\s,;{}\[\]]+", text) if word]
        try:
            return np.array([float(word) for word in words])
        except ValueError:
            return None

    def one(self) -> str:
        """The only value, as text (NaN equals NaN here).

        Raises:
            SpecfmError: several different values.
        """
        if len(set(self.words)) > 1:
            raise self.refusal("one value is needed")
        return self.words[0]

    def one_number(self) -> float:
        """The only value, as a number."""
        self.one()
        return float(self.numbers()[0])


def all_said(item: h5py.HLObject, mapping: Any = None) -> Iterator[Said]:
    """Every attribute of an item that holds a value (``mapping``: what to take instead of its attributes)."""
    import h5py

    source = item.attrs if mapping is None else mapping
    for name in source:
        try:
            raw = source[name]
        except (TypeError, OSError, RuntimeError, ValueError):
            continue  # a type that h5py does not know
        if isinstance(raw, h5py.Empty):
            continue
        values = np.asarray(raw)
        words = tuple(_word(value) for value in values.ravel())
        if words and words != ("",):
            yield Said(item, str(name), words, values.dtype.kind)


def settings(cube: h5py.Dataset) -> dict[str, str]:
    """What stands around a cube as text: attributes of the cube and of the groups that hold it, and single numbers or
    words that lie beside it in those groups with their units (``exposure``, ``exposure units``); the nearest wins."""
    import h5py

    found: dict[str, str] = {}

    def take(stated: Iterator[Said], prefix: str = "") -> None:
        for said in stated:
            found.setdefault(prefix + said.name, ", ".join(said.words))

    place: h5py.HLObject = cube
    while True:
        take(all_said(place))
        if isinstance(place, h5py.Group):
            for key, item in place.items():
                if isinstance(item, h5py.Dataset) and item.size == 1 and stored_kind(item) in "iufSO":
                    take(all_said(place, {key: item[()]}))
                    take((said for said in all_said(item) if said.name == "units"), f"{key} ")
        if place.name == "/":
            return found
        place = place.parent


def stored_kind(dataset: h5py.Dataset) -> str:
    """NumPy's letter for the type of a dataset (``i``, ``u``, ``f``, ``S``, ``O`` ...), ``?`` where NumPy has none."""
    try:
        return str(dataset.dtype.kind)
    except TypeError:  # a time or a bit field, say
        return "?"


def attribute(item: h5py.HLObject, *names: str) -> str | None:
    """The first attribute of these names (any spelling), as text.

    Raises:
        SpecfmError: it holds several different values.
    """
    said = _first(list(all_said(item)), tuple(fold(name) for name in names))
    return None if said is None else said.one() or None


def single(item: h5py.HLObject, *names: str) -> float | None:
    """The first attribute of these names (any spelling), as one number.

    Raises:
        SpecfmError: it holds several different values, or no number.
    """
    said = _first(list(all_said(item)), tuple(fold(name) for name in names))
    return None if said is None else said.one_number()


def _word(value: Any) -> str:
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else str(value).strip()


def _first(said: list[Said], names: tuple[str, ...]) -> Said | None:
    return next((each for name in names for each in said if fold(each.name) == name), None)
