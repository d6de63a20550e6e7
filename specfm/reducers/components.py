"""Reducers without wavelengths: components fitted to training pixels, for networks with a stem of fixed channels.

Only training pixels may be shown to them. Principal components need the mean and covariance alone, whatever the number
of pixels; the others are fitted to a bounded sample. Components of :class:`Principal` are nested (the first k of k + 1
are those of k), so a stem that grows keeps its function; independent components and factors are fitted anew for each k,
and a stem that changes over to them keeps its function only as far as the new ones span the old.

Shapes: C bands, c usable bands, K components, n pixels.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import numpy as np

from specfm.bands import F64, BandGrid
from specfm.errors import UsageError
from specfm.reducers.base import Reducer, Reduction
from specfm.reducers.moments import Moments

MOST_PIXELS = 20_000  # that independent components and factors are fitted to


class Components(Reducer):
    """Components of standardised bands of one sensor.

    Args:
        bands: the grid that the pixels were of; its usable bands are the c columns.
    """

    physical = False

    def __init__(self, bands: BandGrid) -> None:
        super().__init__()
        self.bands = bands

    def plan(self, bands: BandGrid, k: int) -> Reduction:
        if bands != self.bands:
            raise UsageError(
                "components belong to the sensor that they were fitted to; use merge where there are others"
            )
        matrix_KC = np.zeros((k, len(bands)))
        matrix_KC[:, bands.valid] = self._rows(k)
        return Reduction(matrix_KC, None)

    @abstractmethod
    def _rows(self, k: int) -> F64:
        """The first ``k`` components as weights of the usable bands."""


class Principal(Components):
    """Principal components of standardised bands, each divided by its deviation.

    Their variances fall over six decades. Left so, or divided by their fourth roots, a stem sees the first few only and
    learns slower: networks were 3 to 15 points behind (configs/downstream/RESULTS_CURRICULUM.md).

    Args:
        bands: of the sensor.
        moments: of training pixels, any scale (the correlation matrix is used).
    """

    def __init__(self, bands: BandGrid, moments: Moments) -> None:
        super().__init__(bands)
        covariance, sd = moments.covariance_CC.numpy(), moments.sd_C.numpy()
        scale = np.where(sd > 0, 1 / np.where(sd > 0, sd, 1), 0)
        values, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
        values, vectors = values[::-1], vectors[:, ::-1].T
        signs = np.sign(
            vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)]
        )  # eigenvectors have no sign of theirs
        values = np.maximum(values, values[0] * 1e-12)
        self.rows_cc: F64 = vectors * (signs / np.sqrt(values))[:, None]

    def _rows(self, k: int) -> F64:
        return self.rows_cc[:k]


class Fitted(Components):
    """Components of a linear scikit-learn transformer, fitted anew for each k: ``ica`` or ``factors``.

    Args:
        bands: of the sensor.
        kind: FastICA or FactorAnalysis.
        pixels_nc: standardised training pixels; a sample of them is taken.
        seed: of sample and fit.
    """

    def __init__(self, bands: BandGrid, kind: str, pixels_nc: F64, seed: int = 0) -> None:
        super().__init__(bands)
        rng = np.random.default_rng([seed, 31])
        few = rng.choice(len(pixels_nc), min(len(pixels_nc), MOST_PIXELS), replace=False)
        self.kind, self.seed, self.pixels_nc = kind, seed, np.asarray(pixels_nc, np.float64)[np.sort(few)]

    def _rows(self, k: int) -> F64:
        from sklearn.exceptions import ConvergenceWarning

        fitted = _transformer(self.kind, k, self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # components that are nearly independent serve as well
            fitted.fit(self.pixels_nc)
        width = self.pixels_nc.shape[1]
        origin_K = fitted.transform(np.zeros((1, width)))[0]
        return np.asarray(fitted.transform(np.eye(width)) - origin_K, np.float64).T


def _transformer(kind: str, k: int, seed: int) -> Any:
    from sklearn.decomposition import FactorAnalysis, FastICA

    if kind == "ica":
        return FastICA(k, whiten="unit-variance", random_state=seed, max_iter=200)
    return FactorAnalysis(k, random_state=seed, max_iter=200)
