"""A ``.npy`` file that grows row by row through plain writes.

Not a memory map: a disk that fills up under one ends the process with SIGBUS, under a write it is an error that can be
told. The rows that are there stay.

Shape suffixes: N rows, D columns, B rows of one write.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

_DTYPE = np.dtype("<f4")


class ArrayFile:
    """``[N, D]`` float32 in an open file; made by :meth:`create` or :meth:`reopen`.

    Args:
        path: the file, which has its full size already.
        start: byte of the first row.
        shape: rows and columns.
    """

    def __init__(self, path: Path, start: int, shape: tuple[int, int]) -> None:
        self.path, self.start, self.shape = path, start, shape
        self._row_bytes = shape[1] * _DTYPE.itemsize
        self._descriptor: int | None = os.open(path, os.O_RDWR)

    @classmethod
    def create(cls, path: Path, shape: tuple[int, int]) -> ArrayFile:
        """A new file (an older one is emptied) whose rows are not written yet."""
        with open(path, "wb") as handle:
            described = {"descr": _DTYPE.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(handle, described)
            start = handle.tell()
            handle.truncate(start + shape[0] * shape[1] * _DTYPE.itemsize)
        return cls(path, start, shape)

    @classmethod
    def reopen(cls, path: Path) -> ArrayFile:
        """A file that was left unfinished.

        Raises:
            ValueError: it is not one of :meth:`create`, or was cut short.
            OSError: it cannot be read.
        """
        with open(path, "rb") as handle:
            if np.lib.format.read_magic(handle) != (1, 0):
                raise ValueError(f"{path} is of another version of the format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
            start, size = handle.tell(), os.fstat(handle.fileno()).st_size
        if len(shape) != 2 or fortran or dtype != _DTYPE or size != start + shape[0] * shape[1] * _DTYPE.itemsize:
            raise ValueError(f"{path} does not hold rows of features")
        return cls(path, start, (shape[0], shape[1]))

    def write(self, ids_B: np.ndarray, values_BD: np.ndarray) -> None:
        """Write rows ``ids_B``; neighbours go in one write.

        Raises:
            OSError: the disk is full, among others.
        """
        rows_BD = np.ascontiguousarray(values_BD, _DTYPE)
        if rows_BD.shape != (len(ids_B), self.shape[1]):
            raise ValueError(f"values {rows_BD.shape} for {len(ids_B)} rows of {self.shape[1]} columns")
        cuts = np.flatnonzero(np.diff(ids_B) != 1) + 1
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ids_B)], strict=True):
            if last > first:
                self._write_at(self.start + int(ids_B[first]) * self._row_bytes, rows_BD[first:last].tobytes())

    def _write_at(self, place: int, data: bytes) -> None:
        assert self._descriptor is not None, "the file is closed"
        view = memoryview(data)
        while view:  # a disk that is nearly full takes a part first
            written = os.pwrite(self._descriptor, view, place)
            place, view = place + written, view[written:]

    def flush(self) -> None:
        """Have everything written so far on disk."""
        assert self._descriptor is not None, "the file is closed"
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; what was not flushed may not be on disk."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
