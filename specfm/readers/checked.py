"""Checked reads from flat binary files: every short count is an error, never a crash or silent zeros.

A memory map of a file that shrinks kills the process (SIGBUS); ``os.pread`` returns a short count that can be checked.
Axes: a flat cube is stored as ``[outer, middle, inner]``; the three letters of ``order`` name them (``HCW`` = BIL).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError

GAP_BYTES = 4096  # lines closer than a page are fetched in one call: the kernel reads whole pages anyway
CALL_BYTES = 16 << 20  # most bytes fetched in one call, so that memory stays near the size of the result
NATIVE_ORDER = {"bsq": "CHW", "bil": "HCW", "bip": "HWC"}


def pread_exact(handle: int, count: int, offset: int, path: Path) -> bytearray:
    """Read exactly ``count`` bytes at ``offset``.

    Raises:
        SpecfmError: the file ends before, with both sizes.
    """
    buffer = bytearray(count)
    view = memoryview(buffer)
    done = 0
    while done < count:
        part = os.pread(handle, count - done, offset + done)
        if not part:
            raise SpecfmError(
                f"{path}: the file ends at byte {os.fstat(handle).st_size} but bytes up to {offset + count} are "
                "needed; it was cut short, copy it again"
            )
        view[done : done + len(part)] = part
        done += len(part)
    return buffer


class FlatSource:
    """A cube in a flat binary file.

    Args:
        path: the data file.
        shape: (H, W, C).
        dtype: stored type, byte order included.
        order: file order of the axes, outermost first: a permutation of ``HWC``.
        offset: bytes before the first value.
        described_by: what states these sizes (for messages).

    Raises:
        SpecfmError: the file is shorter than its description says.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        order: str = "HWC",
        offset: int = 0,
        described_by: str = "its header",
    ):
        self.path, self.shape, self.order, self.offset = path, shape, order, offset
        self.stored = np.dtype(dtype)
        self.dtype = self.stored.newbyteorder("=")
        need = offset + int(np.prod(shape, dtype=object)) * self.stored.itemsize
        have = path.stat().st_size
        if have < need:
            raise SpecfmError(
                f"{path}: the file holds {have} bytes but {described_by} says {need} "
                f"({'x'.join(map(str, shape))} {self.dtype}, offset {offset}); copy it again if it was cut short, "
                f"or correct {described_by}"
            )
        self.surplus = have - need

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        """``[h, w, c]``; touches only the lines asked for (in BIP files a subset of bands still touches its pixels)."""
        index = {
            "H": np.asarray(rows),
            "W": np.asarray(cols),
            "C": np.arange(self.shape[2]) if bands is None else bands,
        }
        outer, middle, inner = (index[axis] for axis in self.order)
        block = self._block(outer, middle, inner)
        return np.ascontiguousarray(block.transpose([self.order.index(axis) for axis in "HWC"]))

    def _block(self, outer: NDArray, middle: NDArray, inner: NDArray) -> NDArray[Any]:
        """Read ``[outer, middle, inner]``. The file is seen as lines of the innermost axis."""
        sizes = dict(zip("HWC", self.shape, strict=True))
        _, per_outer, width = (sizes[axis] for axis in self.order)
        lines = (outer.astype(np.int64)[:, None] * per_outer + middle.astype(np.int64)[None, :]).ravel()
        wanted, back = np.unique(lines, return_inverse=True)
        first, last = int(inner.min()), int(inner.max()) + 1
        item = self.stored.itemsize
        near = np.diff(wanted) * width - (last - first) <= GAP_BYTES // item
        per_call = max(1, CALL_BYTES // (width * item))
        out = np.empty((len(wanted), len(inner)), self.dtype)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            for start, stop in _runs(wanted, near, per_call):
                line0, count = int(wanted[start]), int(wanted[stop - 1] - wanted[start]) + 1
                span = (count - 1) * width + (last - first)
                raw = pread_exact(handle, span * item, self.offset + (line0 * width + first) * item, self.path)
                part = np.ndarray((count, last - first), self.stored, raw, strides=(width * item, item))
                picked = part if stop - start == count else part[wanted[start:stop] - line0]
                out[start:stop] = (
                    picked if len(inner) == last - first and _ascending(inner) else picked[:, inner - first]
                )
        finally:
            os.close(handle)
        if not np.array_equal(back.ravel(), np.arange(len(lines))):
            out = out[back.ravel()]
        return out.reshape(len(outer), len(middle), len(inner))


def _ascending(index: NDArray) -> bool:
    return len(index) < 2 or bool((np.diff(index) == 1).all())


def _runs(wanted: NDArray[np.int64], near: NDArray[np.bool_], per_call: int) -> list[tuple[int, int]]:
    """Split sorted line numbers into runs to fetch in one call: no wide gap inside, at most ``per_call`` lines long."""
    runs: list[tuple[int, int]] = []
    edges = np.concatenate(([0], np.flatnonzero(~near) + 1, [len(wanted)]))
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        start = begin
        while start < end:
            stop = int(np.searchsorted(wanted[start:end], wanted[start] + per_call)) + start
            runs.append((start, stop))
            start = stop
    return runs
