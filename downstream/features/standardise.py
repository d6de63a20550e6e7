"""The one standardiser: every feature to mean 0 and deviation 1, by samples that may be looked at.

Shape suffixes: M samples that it is fitted on, D features.
Features differ in scale by orders of magnitude, and embeddings share a large common part and a few loud dimensions:
without this, distances, angles and linear models see little else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

FLOOR = 1e-6  # a deviation below this share of the mean is rounding of float32, not variation


class Standardiser:
    """Zero mean and unit deviation per feature, over the samples it is fitted on; constant features become zero.

    Args:
        fit_MD: training samples only, or whatever else may be looked at; all finite.

    Attributes:
        mean_D: float64; what is subtracted.
        factor_D: float64; what is then multiplied by.
    """

    def __init__(self, fit_MD: np.ndarray) -> None:
        wide = np.asarray(fit_MD, np.float64)
        self.mean_D = wide.mean(0)
        sd_D = wide.std(0)
        varies_D = sd_D > FLOOR * np.maximum(np.abs(self.mean_D), 1e-12)
        self.factor_D = np.where(varies_D, 1 / np.where(varies_D, sd_D, 1), 0.0)

    def __call__(self, x: np.ndarray, dtype: DTypeLike = np.float64) -> np.ndarray:
        """Standardised copy ``[..., D]``, computed in ``dtype``; NaN stays NaN."""
        centred = np.asarray(x, dtype) - self.mean_D.astype(dtype)
        return np.asarray(centred * self.factor_D.astype(dtype))
