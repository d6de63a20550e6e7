"""Statistics of a sample of stored numbers, band by band: range, level, clipping, stripes, fill that nobody declared.

Shapes: r sampled rows, W columns, C bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_BANDS = 16  # bands looked at together, so that float copies stay small
STRIPE_MIN = 16  # columns (rows) needed to speak of stripes
STRIPE_LIKENESS = 0.6  # least correlation of the column pattern between the upper and the lower half
STRIPE_SIGMA = 5.0  # ... and how far it must lie beyond chance (about 1 / sqrt(columns))
STRIPE_SHARE = 0.003  # ... and its size relative to the band's level
FILLS = (-9999.0, -32768.0, 65535.0, 32767.0, -999.0, -3.4028234663852886e38, -1.23e34, -1e34, 9.969209968386869e36)


@dataclass(frozen=True)
class BandStatistics:
    """Per band, over sampled pixels whose value is finite and not nodata. NaN where there is none; stored units.

    ``at_high``: share of pixels at the highest value. ``next``: the highest value below it, ``at_next`` its share.
    """

    count_C: NDArray[np.int64]
    low_C: NDArray[np.float64]
    high_C: NDArray[np.float64]
    mean_C: NDArray[np.float64]
    at_high_C: NDArray[np.float64]
    next_C: NDArray[np.float64]
    at_next_C: NDArray[np.float64]
    negative_C: NDArray[np.float64]
    column_stripes_C: NDArray[np.bool_]
    row_stripes_C: NDArray[np.bool_]


def sample_rows(shape: tuple[int, int, int], itemsize: int, sample_bytes: int) -> range:
    """Evenly spaced rows of at most ``sample_bytes`` together (at least one)."""
    height, width, count = shape
    fits = max(1, sample_bytes // max(1, width * count * itemsize))
    return range(0, height, max(1, -(-height // fits)))


def undeclared_fills(
    stored: NDArray[Any], good: NDArray[np.bool_], usable: NDArray[np.bool_]
) -> dict[float, NDArray[np.bool_]]:
    """Usual fill value -> pixels ``[r, W]`` that hold it in every usable band though nothing marks them invalid.

    Asked only of two bands and more: one band may well measure 65535.
    """
    bands, found = np.flatnonzero(usable), {}
    if len(bands) < 2 or stored.dtype.kind not in "iuf":
        return {}
    for value in FILLS:
        limits = np.iinfo(stored.dtype) if stored.dtype.kind in "iu" else np.finfo(stored.dtype)
        if not float(limits.min) <= value <= float(limits.max):
            continue
        fill = np.asarray(value).astype(stored.dtype)
        where = np.nonzero((stored[:, :, bands[0]] == fill) & good[:, :, bands[0]])
        if not len(where[0]):
            continue
        filled = (stored[where][:, bands] == fill).all(axis=1)
        if filled.any():
            found[value] = np.zeros(stored.shape[:2], bool)
            found[value][where[0][filled], where[1][filled]] = True
    return found


def band_statistics(
    stored: NDArray[Any], good: NDArray[np.bool_], zero: float = 0.0, every_row: bool = True
) -> BandStatistics:
    """Statistics of a sample ``[r, W, C]``.

    Args:
        stored: the numbers.
        good: where they are valid.
        zero: values below count as negative.
        every_row: its rows are neighbours (row stripes need that).
    """
    parts = []
    for start in range(0, stored.shape[2], CHUNK_BANDS):
        values = stored[:, :, start : start + CHUNK_BANDS]
        values = np.abs(values) if values.dtype.kind == "c" else values
        parts.append(_chunk(values.astype(np.float64), good[:, :, start : start + CHUNK_BANDS], zero, every_row))
    return BandStatistics(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _chunk(
    values: NDArray[np.float64], good: NDArray[np.bool_], zero: float, every_row: bool
) -> tuple[NDArray[Any], ...]:
    pixels = (0, 1)
    count = good.sum(pixels)
    some = np.maximum(count, 1)
    values = np.where(good, values, 0.0)
    empty = count == 0
    low = np.where(empty, np.nan, np.where(good, values, np.inf).min(pixels, initial=np.inf))
    high = np.where(empty, np.nan, np.where(good, values, -np.inf).max(pixels, initial=-np.inf))
    mean = np.where(empty, np.nan, values.sum(pixels) / some)
    top = good & (values == high)
    at_high = top.sum(pixels) / some
    below = np.where(good & ~top, values, -np.inf).max(pixels, initial=-np.inf)
    at_below = (good & (values == below)).sum(pixels) / some
    negative = (good & (values < zero)).sum(pixels) / some
    columns = _stripes(values, good, mean)
    rows = _stripes(values.swapaxes(0, 1), good.swapaxes(0, 1), mean) if every_row else np.zeros(len(count), bool)
    return count, low, high, mean, at_high, below, at_below, negative, columns, rows


def _stripes(values: NDArray[np.float64], good: NDArray[np.bool_], mean: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Bands whose columns carry a fine pattern that is the same in the upper and the lower half of the image.

    A scene's own texture differs between the halves; a detector's does not. Second differences leave slow trends out.
    """
    rows, width, count = values.shape
    if rows < STRIPE_MIN or width < STRIPE_MIN:
        return np.zeros(count, bool)
    halves = []
    for half in (slice(None, rows // 2), slice(rows // 2, None)):
        weight = good[half].sum(0)
        profile = values[half].sum(0) / np.maximum(weight, 1)
        some = weight > 0  # a column without a value is a gap, no stripe
        halves.append(np.where(some[:-2] & some[1:-1] & some[2:], np.diff(profile, n=2, axis=0), 0.0))
    first, second = (half - half.mean(0) for half in halves)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((first**2).mean(0) * (second**2).mean(0))
        likeness = (first * second).mean(0) / spread
        size = np.sqrt(spread / 6.0) / np.abs(mean)  # a second difference of white noise has 6 times its variance
    return np.nan_to_num(likeness, nan=0.0) * (size > STRIPE_SHARE) > max(
        STRIPE_LIKENESS, STRIPE_SIGMA / np.sqrt(width)
    )
