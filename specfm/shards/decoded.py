"""Samples that have to be decoded (compressed, in automatic chunks): through HDF5, one thread at a time.

Shapes: N samples of the shard, B samples asked for, H W window, C bands.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.hdf5 import open_hdf5
from specfm.shards.schema import ShardError

MOST = 64  # files that a process has open in HDF5
_CACHE_BYTES = 1 << 27  # of decoded chunks, a file
_open: OrderedDict[int, weakref.ref[DecodedFile]] = OrderedDict()  # the longest open first
_keys = itertools.count()


class DecodedFile:
    """A shard's file in HDF5, opened at the first read and again after it was closed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._key = next(_keys)
        self._file: Any = None

    @property
    def is_open(self) -> bool:
        """Whether it counts among :data:`MOST`."""
        return self._file is not None

    def fetch(
        self, at_hand: AbstractContextManager[Path], codec: str, ids_B: NDArray[np.int64], x_BHWC: NDArray[Any],
        mask_BHW: NDArray[np.bool_], keep: bool,
    ) -> None:  # fmt: skip
        """Fill windows and masks, in file order so that samples of one chunk share its decoding.

        Args:
            at_hand: gives the path; the file stays on this machine within it.
            codec: of the shard.
            ids_B: samples.
            x_BHWC: filled.
            mask_BHW: filled.
            keep: leave the file open for the next read.
        """
        with self.lock, at_hand as path:
            if self._file is None:
                register_filters(codec)
                self._file = open_hdf5(path, rdcc_nbytes=_CACHE_BYTES)
                _open[self._key] = weakref.ref(self)
                _close_oldest(self)
            patches, masks = self._file["patches"], self._file.get("mask")
            for row in np.argsort(ids_B, kind="stable"):
                x_BHWC[row] = patches[int(ids_B[row])]
                mask_BHW[row] = True if masks is None else masks[int(ids_B[row])].astype(bool)
            if not keep:
                self._close()

    def close(self) -> None:
        """Close it, once nobody reads from it."""
        with self.lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        _open.pop(self._key, None)

    def after_fork(self) -> None:
        """In a forked child: the parent's file and lock are not its own."""
        _open.clear()
        self._file, self.lock = None, threading.Lock()


def _close_oldest(but: DecodedFile) -> None:
    """Close what has been open longest where too many are; none that is read from."""
    for key, known in list(_open.items())[: max(0, len(_open) - MOST)]:
        file = known()
        if file is None:
            _open.pop(key, None)
        elif file is not but and file.lock.acquire(blocking=False):
            try:
                file._close()
            finally:
                file.lock.release()


def register_filters(codec: str) -> None:
    """Make the hdf5plugin codecs known to HDF5 (needed for reading as for writing).

    Raises:
        ShardError: the codec needs a package that is not installed.
    """
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        if codec in ("blosc-zstd", "lz4"):
            raise ShardError(
                f"codec {codec} needs hdf5plugin; install specfm with it or build shards with --codec none"
            ) from None
