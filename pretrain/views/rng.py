"""Random numbers that are a function of their key: same on CPU and CUDA, in any batch, on any rank, in any order.

Shapes: B samples, J numbers per sample.
Source: splitmix64 (Steele, Lea, Flood 2014), chained over the parts of the key, in wrapping int64 arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SHARED = -1  # in place of the view number: what all views of a sample have in common
NOISE_SIZE = 1 << 20


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
