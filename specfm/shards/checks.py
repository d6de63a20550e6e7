"""CRCs of samples, and what stands in for those that fail.

Shapes: N samples of the shard, B of them at once, H W window, C bands.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.shards.extents import aligned_empty

_BYTES = 1 << 23  # of windows, read and checked at once by a thread
Fetch = Callable[[NDArray[np.int64], NDArray[Any], NDArray[np.bool_]], None]


def failing(
    fetch: Fetch, crc_N: NDArray[np.unsignedinteger[Any]], stored: tuple[int, int, int], dtype: np.dtype[Any],
    masked: bool, threads: int | None = None,
) -> list[int]:  # fmt: skip
    """Read every sample and compare its CRC (of the window, then of its mask).

    Args:
        fetch: fills windows and masks of ids, as they lie in the file.
        crc_N: as written with the samples.
        stored: (H, W, C) of a sample in the file.
        dtype: of its values.
        masked: the file has masks; else every pixel is valid.
        threads: default one a core, at most eight.

    Returns:
        Ids whose CRC differs or that cannot be decoded, in order.
    """
    step = max(1, _BYTES // max(1, int(np.prod(stored)) * dtype.itemsize))

    def check(start: int) -> list[int]:
        ids_B = np.arange(start, min(start + step, len(crc_N)), dtype=np.int64)
        try:
            return _differing(fetch, ids_B, crc_N, stored, dtype, masked)
        except OSError:  # a compressed chunk that no longer decodes
            return [bad for i in ids_B for bad in _alone(fetch, i, crc_N, stored, dtype, masked)]

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        return sorted(bad for found in pool.map(check, range(0, len(crc_N), step)) for bad in found)


def _differing(
    fetch: Fetch, ids_B: NDArray[np.int64], crc_N: NDArray[Any], stored: tuple[int, int, int], dtype: np.dtype[Any],
    masked: bool,
) -> list[int]:  # fmt: skip
    window = stored[:2]
    x_BHWC, mask_BHW = aligned_empty((len(ids_B), *stored), dtype), np.ones((len(ids_B), *window), bool)
    fetch(ids_B, x_BHWC, mask_BHW)
    ones = bytes([1]) * (window[0] * window[1])
    return [
        int(i)
        for i, sample, mask in zip(ids_B, x_BHWC, mask_BHW.view(np.uint8), strict=True)
        if zlib.crc32(mask.tobytes() if masked else ones, zlib.crc32(sample)) != crc_N[i]
    ]


def _alone(fetch: Fetch, i: np.int64, *of: Any) -> list[int]:
    try:
        return _differing(fetch, np.array([i]), *of)
    except OSError:
        return [int(i)]


def substitutes(bad: Sequence[int], count: int) -> NDArray[np.int64]:
    """Which sample is read in place of each of ``count``: of a bad one the next good one, cyclic, so the same on every
    rank and machine."""
    stand_in_N = np.arange(count, dtype=np.int64)
    good = np.setdiff1d(stand_in_N, bad)
    for i in bad:
        stand_in_N[i] = good[np.searchsorted(good, i) % len(good)]
    return stand_in_N
