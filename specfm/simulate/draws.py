"""Random numbers of simulated windows: a function of (seed, stream, step, number), whatever the batch they are for.

Fields of many numbers are runs of one table, or windows of periodic fields, at places that are so drawn.

Shapes: N samples, J numbers per sample, H W window.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from specfm.counter import uniform
from specfm.simulate.fields import smooth_field

F64 = NDArray[np.float64]
TABLE_SIZE = 1 << 20
FIELD_SIDE = 256
FIELD_SCALES = (0.7, 1.5, 3.0, 6.0, 12.0)  # pixels
TABLES_SEED = 20_000  # of what is always the same


class Draws:
    """Uniform numbers of N samples, drawn one after the other; what is drawn later leaves the earlier as they are.

    Args:
        seed: of the key.
        stream: of the key.
        step: of the key.
        numbers: N of them, repeats allowed.
    """

    def __init__(self, seed: int, stream: int, step: int, numbers: Sequence[int]) -> None:
        self._key = (seed, stream, step, np.array(numbers, np.uint64))
        self._taken = 0

    def uniform(self) -> F64:
        """(N,) in [0, 1)."""
        self._taken += 1
        return uniform(*self._key, self._taken)

    def between(self, low: float, high: float, log: bool = False) -> F64:
        """(N,) in [low, high), evenly or in the logarithm."""
        u_N = self.uniform()
        return low * (high / low) ** u_N if log else low + (high - low) * u_N

    def integer(self, count: int) -> NDArray[np.int64]:
        """(N,) 0 to count - 1."""
        return np.minimum((self.uniform() * count).astype(np.int64), count - 1)

    def normal(self) -> F64:
        """(N,) standard normal."""
        from scipy.special import ndtri

        return np.asarray(ndtri(np.clip(self.uniform(), 1e-12, 1 - 1e-12)))

    def window(self, side: int, scale_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, side, side) of a smooth field of deviation 1 at scale ``FIELD_SCALES[scale]``, at a random place."""
        steps = np.arange(side)
        rows_NH = (self.integer(FIELD_SIDE)[:, None] + steps) % FIELD_SIDE
        cols_NW = (self.integer(FIELD_SIDE)[:, None] + steps) % FIELD_SIDE
        return smooth_fields()[scale_N[:, None, None], rows_NH[:, :, None], cols_NW[:, None]]


@lru_cache(maxsize=1)
def smooth_fields() -> NDArray[np.float32]:
    """(scales, 256, 256) periodic fields, always the same."""
    shape = (FIELD_SIDE, FIELD_SIDE)
    fields = [
        smooth_field(np.random.default_rng([TABLES_SEED, i]), shape, scale) for i, scale in enumerate(FIELD_SCALES)
    ]
    return np.stack(fields).astype(np.float32)


@lru_cache(maxsize=1)
def normal_table() -> NDArray[np.float32]:
    """(2^20,) standard normals, always the same. Noise reads runs of it at keyed places: far cheaper than drawing."""
    return np.random.default_rng(TABLES_SEED).standard_normal(TABLE_SIZE, dtype=np.float32)


def normals(place: float, count: int) -> NDArray[np.float32]:
    """(count,) standard normals from a ``place`` in [0, 1); longer runs than the table start again."""
    table, start = normal_table(), int(place * TABLE_SIZE)
    return (
        table[start : start + count]
        if start + count <= len(table)
        else np.take(table, np.arange(start, start + count), mode="wrap")
    )
