"""Random numbers that are a function of a key and of nothing else: no stream, no state, no order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MASK64 = 0xFFFFFFFFFFFFFFFF
_U64 = np.uint64


def mix64(*values: int | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit hash of integers (splitmix64's finaliser, chained); arrays broadcast. The same on every platform."""
    state = np.zeros((), _U64)
    with np.errstate(over="ignore"):
        for value in values:
            word = value if isinstance(value, np.ndarray) else np.asarray(value & MASK64, _U64)
            state = (state ^ word.astype(_U64)) + _U64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> _U64(27))) * _U64(0x94D049BB133111EB)
            state = state ^ (state >> _U64(31))
    return np.asarray(state)


def uniform(*values: int | NDArray[np.uint64]) -> NDArray[np.float64]:
    """The same as a number in [0, 1), of 53 bits."""
    return (mix64(*values) >> _U64(11)).astype(np.float64) * 2.0**-53
