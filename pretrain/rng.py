"""Every random number of pretraining that is a function of a key: the same on CPU and CUDA, in any batch, on any rank,
in any order, and after any interruption.

For the sampler, in numpy: a hash of integers and keyed permutations, which are Feistel networks with cycle walking
(Black and Rogaway 2002). For views and objectives, in torch on the device of the samples: splitmix64 (Steele, Lea,
Flood 2014), chained over the parts of the key, in wrapping int64 arithmetic.

Shapes: B samples, J numbers per sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specfm.counter import MASK64, mix64

__all__ = ["NOISE_SIZE", "SHARED", "Keys", "mix64", "normal_table", "permute", "splitmix64"]

SHARED = -1  # in place of the view number: what all views of a sample have in common
NOISE_SIZE = 1 << 20
_ROUNDS = 4
_U64 = np.uint64


def permute(index: NDArray[np.int64], size: int, key: int | NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a keyed random permutation of 0 ... size-1 sends ``index``; O(1) memory, vectorised.

    Args:
        index: values in [0, size).
        size: length of the permutation.
        key: 64-bit key, one or one per value of ``index``.
    """
    rows = math.isqrt(max(size - 1, 0)) + 1  # values are cells of a table barely larger than the permutation
    columns = -(-size // rows)
    keys = np.asarray(key, _U64)
    value = index.astype(np.int64)
    pending = np.ones(index.shape, bool)
    while pending.any():  # the network permutes the cells; walk on until the value falls inside [0, size)
        row, column = np.divmod(value[pending], columns)
        mine = keys if keys.ndim == 0 else keys[pending]
        for turn in range(_ROUNDS):
            if turn % 2:
                column = (column + _scramble(mine, turn, row)) % columns
            else:
                row = (row + _scramble(mine, turn, column)) % rows
        value[pending] = row * columns + column
        pending = value >= size
    return value


def _scramble(key: NDArray[np.uint64], turn: int, value: NDArray[np.int64]) -> NDArray[np.int64]:
    """The network's round function: 32 bits of a hash of key, round and the other half (two multiply-shift steps)."""
    with np.errstate(over="ignore"):
        word = key + _U64((turn + 1) * 0x9E3779B97F4A7C15 & MASK64) + value.astype(_U64) * _U64(0xD6E8FEB86659FD93)
        word = (word ^ (word >> _U64(32))) * _U64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> _U64(29))) * _U64(0x94D049BB133111EB)
    return (word >> _U64(32)).astype(np.int64)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_STEP, _MIX1, _MIX2 = _signed(0x9E3779B97F4A7C15), _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """One output of the generator at state ``x`` (int64, any shape)."""
    x = x + _STEP
    x = (x ^ _shifted(x, 30)) * _MIX1
    x = (x ^ _shifted(x, 27)) * _MIX2
    return x ^ _shifted(x, 31)


@dataclass(frozen=True)
class Keys:
    """One key per sample, from which any number of named random numbers follow."""

    key_B: Tensor

    @classmethod
    def of(cls, sample_id_B: Tensor, seed: int, step: int, view: int) -> Keys:
        """Keys of samples in one view (or :data:`SHARED` by all views) at one step."""
        key_B = splitmix64(sample_id_B.to(torch.int64))
        for part in (seed, step, view):
            key_B = splitmix64(key_B ^ _signed(part * 0x2545F4914F6CDD1D + 0x632BE59BD9B4E019))
        return cls(key_B)

    def bits(self, name: str) -> Tensor:
        """(B,) int64 with 64 random bits."""
        return splitmix64(self.key_B ^ _word(name))

    def uniform(self, name: str, count: int | None = None) -> Tensor:
        """(B,) or (B, J) float64 in [0, 1); number j does not depend on ``count``."""
        bits = self.bits(name)
        if count is not None:
            index_J = torch.arange(count, device=bits.device)
            bits = splitmix64(bits[:, None] ^ splitmix64(index_J)[None])
        return _shifted(bits, 11).to(torch.float64) * 2.0**-53

    def between(self, name: str, low: float, high: float) -> Tensor:
        """(B,) float64 in [low, high)."""
        return low + (high - low) * self.uniform(name)

    def integer(self, name: str, count_B: Tensor) -> Tensor:
        """(B,) int64 in 0 .. count - 1 (0 where the count is 0)."""
        return (self.uniform(name) * count_B).long().minimum((count_B - 1).clamp_min(0))


@lru_cache(maxsize=256)
def _word(name: str) -> int:
    """A name as 64 bits (FNV-1a)."""
    word = 0xCBF29CE484222325
    for byte in name.encode():
        word = ((word ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    return _signed(word)


@lru_cache(maxsize=8)
def normal_table(seed: int, device: torch.device) -> Tensor:
    """(2^20,) standard normals. Noise reads runs of it from keyed offsets: far cheaper than hashing every pixel."""
    generator = torch.Generator().manual_seed(seed & ((1 << 63) - 1))
    return torch.randn(NOISE_SIZE, generator=generator).to(device)
