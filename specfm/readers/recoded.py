"""A cube whose file states several values that mean "not measured": they become one. Arrays are ``[h, w, c]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.digests import digest_parts
from specfm.scene import CubeSource, is_nodata


@dataclass(frozen=True)
class RecodedSource:
    """Reads like ``inner``, but ``fills`` and what lies outside ``low`` ... ``high`` is stored as ``marker``.

    Stored type kept. A Scene has one nodata value; files have more.
    """

    inner: CubeSource
    marker: float
    fills: tuple[float, ...] = ()
    low: float = -np.inf
    high: float = np.inf

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inner.dtype

    @property
    def digest(self) -> str:
        """16 hex digits over what is done to the stored numbers."""
        return digest_parts([repr((self.marker, self.fills, self.low, self.high))])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        stored = self.inner.read(rows, cols, bands)
        bad = (stored < self.low) | (stored > self.high)
        for fill in self.fills:
            bad |= is_nodata(stored, fill)
        stored[bad] = np.asarray(self.marker).astype(self.dtype)
        return stored


@dataclass(frozen=True)
class FilledSource:
    """Reads like ``inner`` as floating-point numbers, NaN where a band holds the fill that it has of its own.

    Attributes:
        fills_C: (C,) numbers that stand for "not measured"; NaN = this band has none.
    """

    inner: CubeSource
    fills_C: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.promote_types(self.inner.dtype, np.float32)

    @property
    def digest(self) -> str:
        """16 hex digits over what is done to the stored numbers."""
        inner = [own] if (own := getattr(self.inner, "digest", None)) else []
        return digest_parts([np.asarray(self.fills_C, np.float64), *inner])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        stored = self.inner.read(rows, cols, bands)
        fill_C = self.fills_C if bands is None else self.fills_C[bands]
        values = stored.astype(self.dtype)
        # a fill is compared as the file stores numbers: 0.1 as float32 is not 0.1 as float64
        stored_fill_C = fill_C.astype(stored.dtype) if stored.dtype.kind in "fc" else fill_C
        values[stored == stored_fill_C] = np.nan
        return values


def recode(
    source: CubeSource, nodata: float | None, fills: Sequence[float], valid_range: tuple[float, float] | None
) -> tuple[CubeSource, float | None]:
    """``source`` and its one nodata value, where the file has ``fills`` besides ``nodata`` or a range of valid numbers.

    The marker is the first of these values that the stored type can hold, else one outside the range; a type that
    holds neither has nothing to mark.
    """
    low, high = (-np.inf, np.inf) if valid_range is None else valid_range
    values = [value for value in (nodata, *fills) if value is not None]
    if source.dtype.kind not in "iu":
        marker: float | None = values[0] if values else float("nan")
    else:
        info = np.iinfo(source.dtype)
        outside = [float(edge) for edge in (info.min, info.max) if not low <= edge <= high]
        held = [
            value for value in values if np.isfinite(value) and value.is_integer() and info.min <= value <= info.max
        ]
        marker = next(iter([*held, *outside]), None)
    if marker is None or (valid_range is None and all(value == marker for value in values)):
        return source, nodata
    return RecodedSource(source, marker, tuple(v for v in values if v != marker), low, high), marker
