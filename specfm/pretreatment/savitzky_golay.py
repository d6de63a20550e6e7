"""Savitzky-Golay smoothing and derivatives on band lists as they are, with gaps and uneven spacing.

Savitzky & Golay 1964 (doi 10.1021/ac60214a047): the value, or derivative, at a band of the polynomial fitted by least
squares to the bands around it. Near the ends of a segment the outermost whole window serves, evaluated off its centre.
On even spacing this is ``scipy.signal.savgol_filter(mode="interp")`` (a test holds it to that); sensors' band lists are
not even, so the polynomial is fitted to the true wavelengths, and no window reaches over a gap.

Shapes: C bands, n bands of a segment, w bands of a window, d + 1 coefficients.
"""

from __future__ import annotations

from itertools import pairwise
from math import factorial

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
GAP = 2.5  # a step so many times the median of those around it parts two segments
AROUND = 7  # steps in that median
SPARSE = 0.1  # a step of more than this share of the wavelength is a gap: bands far apart are no curve


def segments(wavelengths_nm: F64) -> list[slice]:
    """Runs of bands without a gap in a rising list.

    A gap is a step of more than ``GAP`` times the median of the ``AROUND`` steps about it, or of a tenth of the
    wavelength. One missing band is none; two detectors of other spacing side by side have none either.
    """
    from scipy.ndimage import median_filter

    step_nm = np.diff(wavelengths_nm)
    usual_nm = median_filter(step_nm, AROUND, mode="nearest") if len(step_nm) else step_nm
    most_nm = np.minimum(GAP * usual_nm, SPARSE * wavelengths_nm[1:])
    cuts = [0, *(np.flatnonzero(step_nm > most_nm) + 1).tolist(), len(wavelengths_nm)]
    return [slice(low, high) for low, high in pairwise(cuts)]


def filter_matrix(
    wavelengths_nm: F64, derivative: int, window: float, in_nm: bool, degree: int
) -> tuple[F64, NDArray[np.bool_]]:
    """The filter of a band list as a matrix: ``filtered = spectrum @ matrix``.

    Args:
        wavelengths_nm: (C,) in any order.
        derivative: 0 smooths; 1 and 2 give derivatives per nm and per nm^2.
        window: width in bands, or with ``in_nm`` in nm, from which each segment makes the nearest odd number of its
            own bands. At least ``degree`` + 1 bands, at most the segment.
        in_nm: whether ``window`` is in nm.
        degree: of the polynomial.

    Returns:
        matrix_CC, and which bands have a value: those of segments with more than ``degree`` distinct bands a window.
    """
    count = len(wavelengths_nm)
    order_C = np.argsort(wavelengths_nm, kind="stable")
    sorted_nm = wavelengths_nm[order_C]
    matrix_CC, usable_C = np.zeros((count, count)), np.zeros(count, bool)
    for part in segments(sorted_nm):
        centre_n = sorted_nm[part]
        number = len(centre_n)
        width = window
        if in_nm and number > 1:
            width = window / max(float(np.median(np.diff(centre_n))), 1e-9)
        odd = 2 * int(min(max(width, degree + 1), count) // 2) + 1
        odd = min(odd, number - 1 + number % 2)
        if odd <= degree:
            continue
        first_n = np.clip(np.arange(number) - odd // 2, 0, number - odd)
        member_nw = first_n[:, None] + np.arange(odd)
        offset_nw = centre_n[member_nw] - centre_n[:, None]
        scale_n = np.abs(offset_nw).max(1) + 1e-12
        power_nwd = (offset_nw / scale_n[:, None])[..., None] ** np.arange(degree + 1)
        weight_nw = np.linalg.pinv(power_nwd)[:, derivative] * factorial(derivative) / scale_n[:, None] ** derivative
        known_n = (np.diff(centre_n[member_nw], axis=1) > 0).sum(1) >= degree
        band_n = order_C[part]
        matrix_CC[band_n[member_nw], band_n[:, None]] = weight_nw * known_n[:, None]
        usable_C[band_n] = known_n
    return matrix_CC, usable_C
