"""What of a white or dark reference is usable: references are measured data, and get every check that a scan gets.

Nodata, values that are not finite, saturated ones and frames that were never filled leave the mean; elements of the
detector that always give one number are dead. Shapes: [lines, W, C] a reference, W columns (or 1), C bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specfm.scene import Scene
from specfm.tiles import STRIP_BYTES

DEAD_CHANCE = 1e-6  # an element is dead where one that works would repeat its number so seldom


@dataclass(frozen=True)
class Reference:
    """Means of a reference over its lines.

    Attributes:
        mean_WC: mean of what is good, NaN where nothing is.
        error_WC: variance of that mean, from how its lines differ.
        saturated_WC: where everything that could be measured is saturated.
        dead_WC: where an element gives one number while its neighbours do not.
        saturated_share: of all values.
    """

    mean_WC: NDArray[np.float64]
    error_WC: NDArray[np.float64]
    saturated_WC: NDArray[np.bool_]
    dead_WC: NDArray[np.bool_]
    saturated_share: float


def read_reference(reference: Scene, saturation: float | None, per_column: bool, light: bool) -> Reference:
    """Read a reference in strips.

    Args:
        reference: raw counts.
        saturation: count from which a value is saturated, None = there is no such limit.
        per_column: keep one row for each column, else one for all.
        light: a white reference, in which a pixel of zeros, and an element of one number, cannot be a measurement. In
            the dark they can; only a whole line of zeros is a frame that was lost.
    """
    _, width, channels = reference.shape
    sums = _Sums.empty(width, channels)
    step = max(1, STRIP_BYTES // (width * channels * 8))
    unlimited = reference.replace(saturation=None)
    limited = reference.replace(saturation=saturation)
    for top in range(0, reference.shape[0], step):
        stored = reference.read(slice(top, min(top + step, reference.shape[0])))
        measured, good = unlimited.good_of(stored), limited.good_of(stored)
        lost = _lost(stored, reference, light)
        sums.add(stored, good & ~lost, measured & ~good, measured & lost)
    dead_WC = sums.dead() if light else np.zeros((width, channels), bool)
    return sums.reference(dead_WC, per_column)


def _lost(stored: NDArray, reference: Scene, light: bool) -> NDArray[np.bool_]:
    """``[lines, W or 1, 1]`` True where all usable bands are zero (asked only of two bands and more)."""
    usable = stored[..., reference.sensor.bands.valid]
    if usable.shape[-1] < 2:
        return np.zeros((*stored.shape[:2], 1), bool)
    zero = ~(usable != 0).any(-1, keepdims=True)
    return zero if light else zero.all(1, keepdims=True)


@dataclass
class _Sums:
    """What is added up line by line: counts, sums and ends of the good values of each element, [W, C]."""

    count: NDArray[np.float64]
    total: NDArray[np.float64]
    square: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    saturated: NDArray[np.float64]
    zeros: NDArray[np.float64]
    whole: bool = True

    @classmethod
    def empty(cls, width: int, channels: int) -> _Sums:
        count, total, square, saturated, zeros = (np.zeros((width, channels)) for _ in range(5))
        low, high = (np.full((width, channels), edge) for edge in (np.inf, -np.inf))
        return cls(count, total, square, low, high, saturated, zeros)

    def add(
        self, stored: NDArray, good: NDArray[np.bool_], saturated: NDArray[np.bool_], zeros: NDArray[np.bool_]
    ) -> None:
        values = np.where(good, stored, 0).astype(np.float64)
        self.count += good.sum(0)
        self.total += values.sum(0)
        self.square += (values**2).sum(0)
        self.low = np.minimum(self.low, np.where(good, values, np.inf).min(0))
        self.high = np.maximum(self.high, np.where(good, values, -np.inf).max(0))
        self.saturated += saturated.sum(0)
        self.zeros += zeros.sum(0)
        self.whole = self.whole and (stored.dtype.kind in "iu" or bool((values == np.rint(values)).all()))

    def variance(self) -> NDArray[np.float64]:
        """Of the values of an element over its lines; 0 where there are not two."""
        mean = _divided(self.total, self.count)
        within = np.maximum(self.square - self.count * mean**2, 0)
        return np.where(self.count > 1, _divided(within, self.count - 1), 0.0)

    def dead(self) -> NDArray[np.bool_]:
        """Elements that repeat one number over all lines, where the noise of their band would not let them."""
        if len(self.count) < 3:
            return np.zeros(self.count.shape, bool)  # no neighbours to compare with
        several = self.count > 1
        noise_WC = np.where(several, np.sqrt(self.variance()), np.nan)
        noise_WC[:, ~several.any(0)] = 0.0
        noise_C = np.nanmedian(noise_WC, axis=0, keepdims=True)
        step = 1.0 if self.whole else 0.0  # counts repeat by chance, numbers with digits behind the point do not
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.minimum(step / (noise_C * np.sqrt(2 * np.pi)), 1.0) ** np.maximum(self.count - 1, 0)
        return np.asarray((noise_C > 0) & (self.low == self.high) & (self.count > 2) & (chance < DEAD_CHANCE))

    def reference(self, dead_WC: NDArray[np.bool_], per_column: bool) -> Reference:
        empty = (self.count == 0) & (self.zeros > 0) & (self.saturated == 0)
        self.count[empty] = self.zeros[empty]  # nothing but zeros was measured: their mean is zero
        share = float(self.saturated.sum() / max(1.0, (self.count + self.saturated).sum()))
        parts = [self.count, self.total, self.square, self.saturated]
        if not per_column:
            parts = [np.where(dead_WC, 0, part).sum(0, keepdims=True) for part in parts]
            dead_WC = np.asarray(dead_WC.all(0, keepdims=True))
        count, total, square, saturated = parts
        mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        spread = np.maximum(square - total * np.nan_to_num(mean), 0)
        error = np.where(count > 1, _divided(_divided(spread, count - 1), count), 0.0)
        return Reference(mean, error, (count == 0) & (saturated > 0), dead_WC, share)


def _divided(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(one, other, out=np.zeros_like(one), where=other > 0)
