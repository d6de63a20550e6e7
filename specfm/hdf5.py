"""The one place where HDF5 files are opened for reading: a file opens itself and nothing else.

External links, external storage and virtual datasets of other files are refused, unless ``--linked-files`` allows them
(:mod:`specfm.limits`). :func:`unwritten` tells where a dataset was never written, or where the sources of a virtual one
are missing: HDF5 gives its fill value there, mostly zero, and says nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.limits import excess, refuse_linked, refuse_unpacked

if TYPE_CHECKING:
    import h5py

_REMEMBERED = 4096
_HEAP_BYTES = 4 << 20
_clean: set[tuple[Path, int, int]] = set()  # path, size and time of change of files that open nothing else


def open_hdf5(path: Path, **options: Any) -> h5py.File:
    """Open for reading without a lock (files are not ours to lock, and some file systems have none).

    Raises:
        OSError: not HDF5, cut short or damaged.
        RuntimeError: likewise.
        SpecfmError: it would read other files.
    """
    import h5py

    for locking in (False, None, True):
        try:
            file = h5py.File(path, "r", locking=locking, **options)
        except OSError as error:
            if "file locking" not in str(error):
                raise
            refusal = error  # open elsewhere in this process: HDF5 wants both handles to lock alike
            continue
        try:
            _refuse_links(file, path)
        except BaseException:
            file.close()
            raise
        return file
    raise refusal


def _refuse_endless_heaps(path: Path, size: int) -> None:
    """Refuse a damaged heap of texts, over which HDF5 itself goes round for ever.

    A collection of a global heap is a row of objects, each of which says where the next one begins; one that says
    "here" never ends (HDF5 File Format Specification, III.E). Looked at where writers put them, at both ends of a file.
    """
    with path.open("rb") as handle:
        for start in sorted({0, max(0, (size - _HEAP_BYTES) // 8 * 8)}):
            handle.seek(start)
            block = handle.read(_HEAP_BYTES)
            at = block.find(b"GCOL\x01\0\0\0")
            while at >= 0:
                end = min(at + int.from_bytes(block[at + 8 : at + 16], "little"), len(block))
                place = at + 16
                while place + 16 <= end:
                    index, length = struct.unpack_from("<H6xQ", block, place)
                    step = (16 + -(-length // 8) * 8 if index else length) % (1 << 64)
                    if step < 16:
                        raise OSError(f"its heap of texts is damaged at byte {start + place}")
                    place += step
                at = block.find(b"GCOL\x01\0\0\0", at + 8)


def whole(dataset: h5py.Dataset, path: Path, what: str) -> NDArray[Any]:
    """All of a dataset, refused where it unpacks to far more than its file (:func:`specfm.limits.refuse_unpacked`)."""
    refuse_unpacked(path, int(dataset.size or 0) * dataset.dtype.itemsize, what)
    return np.asarray(dataset[()])


def _refuse_links(file: h5py.File, path: Path) -> None:
    """Look at every link and dataset once per version of a file; what is clean is remembered."""
    import h5py

    status = path.stat()
    version = (path.absolute(), status.st_size, status.st_mtime_ns)
    if version in _clean:
        return

    def visit_link(name: bytes, info: Any) -> str | None:
        plain = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
        return None if info.type in plain else "links to another file (an HDF5 external link)"

    def visit_item(name: bytes) -> str | None:
        item = h5py.h5o.open(file.id, name)
        if not isinstance(item, h5py.h5d.DatasetID):
            return None
        stored = item.get_create_plist()
        if stored.get_external_count():
            return "keeps numbers in another file (HDF5 external storage)"
        if stored.get_layout() == h5py.h5d.VIRTUAL:
            sources = (stored.get_virtual_filename(i) for i in range(stored.get_virtual_count()))
            if any(source != "." for source in sources):
                return "takes numbers from other files (an HDF5 virtual dataset)"
        return None

    _refuse_endless_heaps(path, status.st_size)
    linked = file.id.links.visit(visit_link, info=True) or h5py.h5o.visit(file.id, visit_item)
    if linked:
        refuse_linked(path, linked)
        return
    if len(_clean) >= _REMEMBERED:
        _clean.clear()
    _clean.add(version)


@dataclass(frozen=True, eq=False)
class Unwritten:
    """Which parts of a dataset hold nothing, in blocks of one size (the last of an axis may be cut).

    Attributes:
        block: size of a block along each axis.
        missing: one truth value per block.
    """

    block: tuple[int, ...]
    missing: NDArray[np.bool_]

    def within(self, indices: Sequence[NDArray[np.int64] | range]) -> NDArray[np.bool_]:
        """Truth of every element that these indices of the axes meet at, as ``numpy.ix_`` does."""
        blocks = (np.asarray(index) // side for index, side in zip(indices, self.block, strict=True))
        return np.asarray(self.missing[np.ix_(*blocks)])


def unwritten(dataset: h5py.Dataset, path: Path) -> Unwritten | None:
    """Where a dataset was never written or a virtual source is missing; None where all of it is there.

    Raises:
        SpecfmError: more chunks than are looked at, a chunk that unpacks to far more than the file, or sources of a
            virtual dataset that are not blocks.
    """
    import h5py

    stored = dataset.id.get_create_plist()
    if not dataset.size:
        return None
    if stored.get_layout() == h5py.h5d.VIRTUAL:
        return _missing_sources(dataset, path)
    if dataset.chunks is None:
        kept = stored.get_layout() == h5py.h5d.COMPACT or dataset.id.get_storage_size() or stored.get_external_count()
        return None if kept else Unwritten(dataset.shape, np.ones((1,) * dataset.ndim, bool))
    block = tuple(int(side) for side in dataset.chunks)
    refuse_unpacked(path, int(np.prod(block, dtype=object)) * dataset.dtype.itemsize, f"a chunk of {dataset.name}")
    grid = tuple(-(-size // side) for size, side in zip(dataset.shape, block, strict=True))
    total = int(np.prod(grid, dtype=object))
    if words := excess("chunks", total):
        raise SpecfmError(f"{path}: {dataset.name} has {total} chunks; {words}")
    if dataset.id.get_num_chunks() == total:
        return None
    missing = np.ones(grid, bool)

    def visit(info: Any) -> None:
        missing[tuple(at // side for at, side in zip(info.chunk_offset, block, strict=True))] = False

    dataset.id.chunk_iter(visit)
    return Unwritten(block, missing)


def _missing_sources(dataset: h5py.Dataset, path: Path) -> Unwritten | None:
    """Blocks of a virtual dataset whose source is not there, or that have none."""
    boxes = []
    for source in dataset.virtual_sources():
        first, last = source.vspace.get_select_bounds()
        box = [(int(low), int(high) + 1) for low, high in zip(first, last, strict=True)]
        count = int(np.prod([high - low for low, high in box], dtype=object))
        if "%" in source.file_name + source.dset_name or source.vspace.get_select_npoints() != count:
            raise SpecfmError(
                f"{path}: {dataset.name} is a virtual dataset whose sources are no plain blocks; write it as one "
                "dataset (h5repack)"
            )
        boxes.append((box, _source_is_there(dataset, path, source.file_name, source.dset_name)))
    edges = [{0, size, *(edge for box, _ in boxes for edge in box[axis])} for axis, size in enumerate(dataset.shape)]
    block = tuple(int(np.gcd.reduce(sorted(each))) for each in edges)
    grid = tuple(size // side for size, side in zip(dataset.shape, block, strict=True))
    if words := excess("chunks", int(np.prod(grid, dtype=object))):
        raise SpecfmError(f"{path}: {dataset.name} is put together of too many parts; {words}")
    missing = np.ones(grid, bool)
    for box, there in boxes:
        if there:
            missing[tuple(slice(low // side, high // side) for (low, high), side in zip(box, block, strict=True))] = (
                False
            )
    return Unwritten(block, missing) if missing.any() else None


def _source_is_there(dataset: h5py.Dataset, path: Path, file_name: str, name: str) -> bool:
    import h5py

    try:
        if file_name == ".":
            return isinstance(dataset.file.get(name), h5py.Dataset)
        with h5py.File(path.parent / file_name, "r", locking=False) as other:
            return isinstance(other.get(name), h5py.Dataset)
    except (OSError, RuntimeError, KeyError):
        return False
