"""Continuum removal: a spectrum divided by its upper convex hull (Clark & Roush 1984, doi 10.1029/JB089iB07p06329).

    ratio(lam) = max(x(lam), 0) / hull(lam)

The hull is the lowest concave curve above the spectrum, straight lines between the bands that touch it: there the ratio
is 1, in absorption features below. It spans gaps of the band list, as a continuum does.

Shapes: N spectra, C bands, U distinct wavelengths (rising).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
BLOCK = 4096  # spectra whose hulls are found together: what they need stays in the processor's cache


def remove_continuum(x_NC: NDArray[np.floating], wavelengths_nm: F64) -> F64:
    """The ratio of spectra to their continua, 0..1.

    Args:
        x_NC: finite values. Those below zero, noise about no light, count as zero; where the continuum itself is zero
            the spectrum touches it, and the ratio is 1.
        wavelengths_nm: (C,) in any order; of bands with one centre the hull sees the brightest.
    """
    centres_U, place_C = np.unique(wavelengths_nm, return_inverse=True)
    order_C = np.argsort(place_C, kind="stable")
    first_U = np.searchsorted(place_C[order_C], np.arange(len(centres_U)))
    found_NC = np.empty(x_NC.shape, np.float64)
    for start in range(0, len(x_NC), BLOCK):
        x_nC = np.maximum(np.asarray(x_NC[start : start + BLOCK], np.float64), 0.0)
        brightest_nU = np.maximum.reduceat(x_nC[:, order_C], first_U, axis=1)
        hull_nC = upper_hull(brightest_nU, centres_U)[:, place_C]
        found_NC[start : start + BLOCK] = np.divide(x_nC, hull_nC, out=np.ones_like(x_nC), where=hull_nC > 0)
    return np.minimum(found_NC, 1.0)  # rounding


def upper_hull(y_NU: F64, x_U: F64) -> F64:
    """(N, U) the upper convex hull of each row at all abscissae ``x_U``, which rise strictly.

    Andrew's monotone chain (1979, doi 10.1016/0020-0190(79)90072-3) on all rows at once: from left to right each point
    takes off the chain what lies on or below the line to it.
    """
    count, width = y_NU.shape
    rows = np.arange(count)
    y_flat = np.ascontiguousarray(y_NU.T).ravel()  # point by point: what a step compares lies together
    chain_flat = np.zeros(width * count, np.intp)  # k-th vertex of row i at k * count + i, the first is point 0
    size_N = np.ones(count, np.intp)
    for right in range(1, width):
        open_I = rows
        while len(open_I := open_I[size_N[open_I] >= 2]):
            last_I = (size_N[open_I] - 1) * count + open_I
            top_I, below_I = chain_flat.take(last_I), chain_flat.take(last_I - count)
            y_below = y_flat.take(below_I * count + open_I)
            rise = y_flat.take(top_I * count + open_I) - y_below
            climb = y_flat.take(right * count + open_I) - y_below
            open_I = open_I[rise * (x_U[right] - x_U[below_I]) <= climb * (x_U[top_I] - x_U[below_I])]
            size_N[open_I] -= 1
        chain_flat[size_N * count + rows] = right
        size_N += 1
    place_I, row_I = np.nonzero(np.arange(width)[:, None] < size_N)
    corner_NU = np.zeros((count, width), bool)
    corner_NU[row_I, chain_flat.reshape(width, count)[place_I, row_I]] = True
    at_U = np.arange(width)
    left_NU = np.maximum.accumulate(np.where(corner_NU, at_U, 0), axis=1)
    right_NU = np.minimum.accumulate(np.where(corner_NU, at_U, width - 1)[:, ::-1], axis=1)[:, ::-1]
    span_NU = np.where(right_NU > left_NU, x_U[right_NU] - x_U[left_NU], 1.0)
    share_NU = (x_U - x_U[left_NU]) / span_NU
    low_NU, high_NU = np.take_along_axis(y_NU, left_NU, 1), np.take_along_axis(y_NU, right_NU, 1)
    return low_NU + share_NU * (high_NU - low_NU)
