"""Where each sample lies in the file, and reading it from there without HDF5.

A contiguous data set, or one stored in unfiltered chunks of exactly one sample, is a table of file offsets;
``preadv`` fills a caller's buffer from it without the HDF5 lock, a copy or a map (a map of a truncated file kills the
process with SIGBUS; a short read can be told). Everything else (filters, h5py's automatic chunks, foreign byte order)
is *slow* and says why.

Shapes: N samples, H W window, C bands.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.shards.schema import ShardError

if TYPE_CHECKING:
    import h5py

# Of samples in a file and of the buffers that take them: the kernel copies by cache lines, and a source and a target
# that lie differently on them cost half as much again (measured: 46 against 32 us for 0.4 MB).
ALIGNMENT = 64


@dataclass(frozen=True)
class Extents:
    """File offsets of the samples of one data set.

    Attributes:
        offsets_N: int64 byte offset of every sample; None where the layout has no such table.
        nbytes: bytes of one sample.
        reason: why there is no table ("" if there is one).
    """

    offsets_N: NDArray[np.int64] | None
    nbytes: int
    reason: str = ""

    @property
    def end(self) -> int:
        """First byte after the last sample."""
        return 0 if self.offsets_N is None or not len(self.offsets_N) else int(self.offsets_N.max()) + self.nbytes


def find_extents(dataset: h5py.Dataset) -> Extents:
    """The extents of an open data set of shape [N, ...]."""
    count, sample = dataset.shape[0], tuple(dataset.shape[1:])
    nbytes = int(np.prod(sample)) * dataset.dtype.itemsize
    if not dataset.dtype.isnative:
        return Extents(None, nbytes, "foreign byte order")
    if dataset.external or dataset.is_virtual or dataset.file.userblock_size:
        return Extents(None, nbytes, "external, virtual or shifted storage")
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        if start is None:
            return Extents(None, nbytes, "compact storage")
        return Extents(start + nbytes * np.arange(count, dtype=np.int64), nbytes)
    filters = dataset.id.get_create_plist().get_nfilters()
    if filters:
        return Extents(None, nbytes, f"compressed chunks {dataset.chunks}")
    if tuple(dataset.chunks) != (1, *sample):
        return Extents(None, nbytes, f"chunks {dataset.chunks} that are not one sample")
    offsets = np.full(count, -1, np.int64)

    def visit(info: Any) -> None:
        if info.size == nbytes:
            offsets[info.chunk_offset[0]] = info.byte_offset

    dataset.id.chunk_iter(visit)
    if (offsets < 0).any():
        return Extents(None, nbytes, "chunks that were never written")
    return Extents(offsets, nbytes)


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """``np.empty`` that begins on a cache line (NumPy's large arrays lie 16 bytes after one)."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return raw[first : first + nbytes].view(dtype).reshape(shape)


def gather(descriptor: int, offsets: NDArray[np.int64], nbytes: int, out: NDArray[Any], path: Path) -> None:
    """Read samples at ``offsets`` into the rows of ``out``; neighbours in the file become one call.

    Args:
        descriptor: open file descriptor; its position is neither used nor moved, so threads may share it.
        offsets: byte offsets, one per row of ``out``.
        nbytes: bytes of one sample.
        out: C-contiguous array of ``len(offsets) * nbytes`` bytes.
        path: for messages.

    Raises:
        ShardError: the file ends before the sample does.
    """
    if not out.flags.c_contiguous or out.nbytes != len(offsets) * nbytes:
        raise ValueError(f"buffer of {out.nbytes} bytes for {len(offsets)} samples of {nbytes}")
    if not len(offsets):
        return
    view = memoryview(out.reshape(-1).view(np.uint8))
    breaks = np.flatnonzero(np.diff(offsets) != nbytes) + 1
    starts = [0, *breaks.tolist()]
    positions = offsets[starts].tolist()
    preadv = os.preadv
    for first, last, position in zip(starts, [*starts[1:], len(offsets)], positions, strict=True):
        low, high = first * nbytes, last * nbytes
        got = preadv(descriptor, [view[low:high]], position)
        while got < high - low:  # large reads may come in pieces; nothing at all means the file has ended
            more = preadv(descriptor, [view[low + got : high]], position + got)
            if more <= 0:
                size = os.fstat(descriptor).st_size
                raise ShardError(
                    f"{path} is truncated: {size} bytes on disk, {position + high - low} needed; it was cut in use"
                )
            got += more
