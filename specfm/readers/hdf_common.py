"""Windowed reads from HDF5 datasets of any axis order, and one way to open a file. Axes: H rows, W columns, C bands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError

if TYPE_CHECKING:
    import h5py

MOST_WORDS = 4096  # of one attribute


@contextmanager
def open_hdf(path: Path) -> Iterator[h5py.File]:
    """Open for reading, without a lock (the file is not ours to lock); for use in a ``with`` statement.

    Raises:
        SpecfmError: not HDF5, cut short (HDF5 itself checks the length), or damaged inside (whatever HDF5 raises while
            the block reads the file is turned into one sentence).
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SpecfmError(
            f"{path}: not a readable HDF5 file ({path.stat().st_size} bytes; {reason}); it was cut short or damaged, "
            "copy it again"
        ) from error


def read_axes(
    dataset: h5py.Dataset, order: str, rows: range, cols: range, bands: NDArray[np.int64] | None
) -> NDArray[Any]:
    """Read ``[h, w, c]`` from a dataset whose axes are ``order`` (a permutation of HWC), touching only what is asked.

    Scattered bands are read as runs of neighbours: HDF5 is slow on index lists.
    """
    sizes = dict(zip(order, dataset.shape, strict=True))
    every = np.arange(sizes["C"]) if bands is None else bands
    wanted, back = np.unique(every, return_inverse=True)
    out = np.empty((len(rows), len(cols), len(wanted)), dataset.dtype.newbyteorder("="))
    edges = np.flatnonzero(np.diff(wanted) != 1) + 1
    for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(wanted)], strict=True):
        window = {
            "H": slice(rows.start, rows.stop, rows.step),
            "W": slice(cols.start, cols.stop, cols.step),
            "C": slice(int(wanted[start]), int(wanted[stop - 1]) + 1),
        }
        part = dataset[tuple(window[axis] for axis in order)]
        out[:, :, start:stop] = part.transpose([order.index(axis) for axis in "HWC"])
    back = back.ravel()
    return out if np.array_equal(back, np.arange(len(wanted))) else out[:, :, back]


class HdfSource:
    """A dataset as a cube ``[H, W, C]``; the file is opened for each read, so the source can cross processes."""

    def __init__(self, path: Path, dataset: str, order: str = "HWC"):
        self.path, self.dataset, self.order = path, dataset, order
        with open_hdf(path) as file:
            item = file[dataset]
            sizes = dict(zip(order, item.shape, strict=True))
            self.shape = (sizes["H"], sizes["W"], sizes["C"])
            self.dtype = item.dtype.newbyteorder("=")

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        with open_hdf(self.path) as file:
            return read_axes(file[self.dataset], self.order, rows, cols, bands)


def attribute(item: h5py.Dataset, *names: str) -> str | None:
    """The first attribute of these names, as text.

    Raises:
        SpecfmError: it holds several different values.
    """
    words = _words(item, names)
    if len(set(words)) > 1:
        raise _refusal(item, names, words, "one value is needed")
    return words[0] or None if words else None


def single(item: h5py.Dataset, *names: str) -> float | None:
    """The first attribute of these names, as one number.

    Raises:
        SpecfmError: it holds several different values, or no number.
    """
    words = attribute(item, *names)
    return None if words is None else float(_numbers(item, names, [words])[0])


def per_band(item: h5py.Dataset, count: int, *names: str) -> NDArray[np.float64] | None:
    """The first attribute of these names, as (1,) or, where every band has its own, (count,) numbers.

    Raises:
        SpecfmError: it holds another number of values, or something else than numbers.
    """
    words = _words(item, names)
    if len(words) not in (0, 1, count):
        raise _refusal(item, names, words, f"one value, or one for each of {count} bands, is needed")
    return _numbers(item, names, words) if words else None


def _words(item: h5py.Dataset, names: tuple[str, ...]) -> list[str]:
    """All values of the first attribute that the item has."""
    values = next((np.asarray(item.attrs[name]).ravel() for name in names if name in item.attrs), np.empty(0))
    return [_word(value) for value in values]


def _word(value: Any) -> str:
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else str(value).strip()


def _numbers(item: h5py.Dataset, names: tuple[str, ...], words: list[str]) -> NDArray[np.float64]:
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        raise _refusal(item, names, words, "a number is needed") from None


def _refusal(item: h5py.Dataset, names: tuple[str, ...], words: list[str], problem: str) -> SpecfmError:
    said = ", ".join(words[:4]) + (f", ... ({len(words)} values)" if len(words) > 4 else "")
    name = next(name for name in names if name in item.attrs)
    return SpecfmError(f"{item.file.filename}: {item.name} says {name} = {said}; {problem}, mend the attribute")


def text(item: h5py.Dataset) -> str | None:
    """A scalar or one-element string dataset as text."""
    value = np.asarray(item[()]).ravel()
    if not value.size:
        return None
    return value[0].decode("utf-8", "replace") if isinstance(value[0], bytes) else str(value[0])


def settings(cube: h5py.Dataset) -> dict[str, str]:
    """What stands around a cube as text: attributes of the cube and of the groups that hold it, and single numbers or
    words that lie beside it in those groups with their units (``exposure``, ``exposure units``); the nearest wins."""
    import h5py

    found: dict[str, str] = {}

    def take(key: str, value: Any) -> None:
        words = [_word(each) for each in np.asarray(value).ravel()[:MOST_WORDS]]
        found.setdefault(key, ", ".join(words))

    place: h5py.HLObject = cube
    while True:
        for key in place.attrs:
            take(key, place.attrs[key])
        if isinstance(place, h5py.Group):
            for key, item in place.items():
                if isinstance(item, h5py.Dataset) and item.size == 1 and item.dtype.kind in "iufSO":
                    take(key, item[()])
                    if "units" in item.attrs:
                        take(f"{key} units", item.attrs["units"])
        if place.name == "/":
            return found
        place = place.parent
