"""Windowed reads from HDF5 datasets of any axis order, and one way to open a file. Axes: H rows, W columns, C bands."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.hdf5 import Unwritten, open_hdf5, unwritten, whole

if TYPE_CHECKING:
    import h5py

log = logging.getLogger(__name__)

# filters that hdf5plugin brings, by their registered number
_FILTERS = {307: "bzip2", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32017: "sz",
            32018: "fcidecomp", 32024: "sz3", 32026: "blosc2", 32028: "sperr"}  # fmt: skip


@contextmanager
def open_hdf(path: Path) -> Iterator[h5py.File]:
    """Open for reading, without a lock (the file is not ours to lock); for use in a ``with`` statement.

    Raises:
        SpecfmError: it reads other files, is not HDF5, cut short (HDF5 itself checks the length), damaged inside
            (whatever HDF5 raises while the block reads the file is turned into one sentence), or compressed with a
            filter that is not there.
    """
    try:
        with open_hdf5(path) as file:
            try:
                yield file
            except (OSError, RuntimeError) as error:
                lacking = _lacking_filter(file)
                if lacking is None:
                    raise
                raise SpecfmError(f"{path}: {lacking}") from error
    except SpecfmError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise SpecfmError(
            f"{path}: not a readable HDF5 file ({path.stat().st_size} bytes; {reason}); it was cut short or damaged, "
            "copy it again"
        ) from error


def numbers(dataset: h5py.Dataset, window: Any = ()) -> NDArray[Any]:
    """Read a dataset or a ``window`` of it, native byte order; the codecs of hdf5plugin are known where it is there."""
    if any(not there for _, _, there in _filters(dataset)):
        with suppress(ImportError):
            import hdf5plugin  # noqa: F401
    path = Path(dataset.file.filename)
    values = whole(dataset, path, dataset.name) if window == () else np.asarray(dataset[window])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _filters(dataset: h5py.Dataset) -> list[tuple[int, str, bool]]:
    """Number and name of each filter of a dataset, and whether this HDF5 has it."""
    import h5py

    stated = dataset.id.get_create_plist()
    found = []
    for position in range(stated.get_nfilters()):
        code, _, _, name = stated.get_filter(position)
        label = _FILTERS.get(code) or name.decode("utf-8", "replace").split(";")[0].strip() or "unnamed"
        found.append((code, label, bool(h5py.h5z.filter_avail(code))))
    return found


def _lacking_filter(file: h5py.File) -> str | None:
    """What to say where a dataset of the file needs a filter that this HDF5 lacks."""
    import h5py

    def visit(name: str, item: Any) -> str | None:
        for code, label, there in _filters(item) if isinstance(item, h5py.Dataset) else []:
            if not there:
                advice = "install the package hdf5plugin (pip install hdf5plugin) or " if code in _FILTERS else ""
                return (
                    f"{name} is compressed with the filter {label} ({code}), which this HDF5 lacks; {advice}repack the "
                    "file where it can be read (h5repack -f GZIP=4 IN OUT)"
                )
        return None

    try:
        said = file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError):
        return None  # the file is damaged as well
    return None if said is None else str(said)


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
        part = numbers(dataset, tuple(window[axis] for axis in order))
        out[:, :, start:stop] = part.transpose([order.index(axis) for axis in "HWC"])
    back = back.ravel()
    return out if np.array_equal(back, np.arange(len(wanted))) else out[:, :, back]


class HdfSource:
    """A dataset as a cube ``[H, W, C]``; the file is opened for each read, so the source can cross processes.

    Where the dataset was never written (chunks left out, virtual sources that are missing) it reads as NaN, so integers
    are then read as floating-point numbers.

    ``view``: the type the stored integers are meant to have, of the same size (netCDF's ``_Unsigned``); None = theirs.
    """

    def __init__(self, path: Path, dataset: str, order: str = "HWC", view: np.dtype[Any] | None = None):
        self.path, self.dataset, self.order, self.view = path, dataset, order, view
        with open_hdf(path) as file:
            item = file[dataset]
            if len(order) != getattr(item, "ndim", 0):
                raise SpecfmError(f"{path}: {dataset} is no array of three axes")
            sizes = dict(zip(order, item.shape, strict=True))
            self.shape = (sizes["H"], sizes["W"], sizes["C"])
            self.unwritten = unwritten(item, path)
            self.dtype = view or item.dtype.newbyteorder("=")
        if self.unwritten is not None:
            share = float(self.unwritten.missing.mean())
            log.warning("%s: %.3g %% of %s was never written; it counts as nodata", path, 100 * share, dataset)
            self.dtype = np.promote_types(self.dtype, np.float32)

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        with open_hdf(self.path) as file:
            stored = read_axes(file[self.dataset], self.order, rows, cols, bands)
        stored = stored if self.view is None else stored.view(self.view)
        return stored if self.unwritten is None else blanked(stored, self.unwritten, self.order, rows, cols, bands)


def blanked(
    stored: NDArray[Any], missing: Unwritten, order: str, rows: range, cols: range, bands: NDArray[np.int64] | None
) -> NDArray[Any]:
    """A window ``[h, w, c]`` as floating-point numbers, NaN where a dataset whose axes are ``order`` holds nothing."""
    values = stored.astype(np.promote_types(stored.dtype, np.float32))
    index = {"H": rows, "W": cols, "C": range(stored.shape[2]) if bands is None else bands}
    blank = missing.within([np.asarray(index[axis]) for axis in order])
    values[blank.transpose([order.index(axis) for axis in "HWC"])] = np.nan
    return values
