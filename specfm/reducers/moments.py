"""Mean and covariance of values that come in pieces: one pass, memory of one matrix.

Shapes: n values of a piece, C bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specfm.errors import SpecfmError


class Moments:
    """Mean and covariance of rows of C numbers, added piece by piece (Chan, Golub, LeVeque 1983), in float64.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._mean_C = torch.zeros(width, dtype=torch.float64)
        self._scatter_CC = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x_nC: Tensor) -> None:
        """Take in rows; all finite."""
        x_nC = x_nC.detach().to("cpu", torch.float64)
        if not len(x_nC):
            return
        total = self.count + len(x_nC)
        mean_C = x_nC.mean(0)
        centred_nC, away_C = x_nC - mean_C, mean_C - self._mean_C
        self._scatter_CC += centred_nC.T @ centred_nC
        self._scatter_CC += torch.outer(away_C, away_C) * (self.count * len(x_nC) / total)
        self._mean_C += away_C * (len(x_nC) / total)
        self.count = total

    @property
    def mean_C(self) -> Tensor:
        """Mean, float64.

        Raises:
            SpecfmError: nothing was added.
        """
        self._require()
        return self._mean_C.clone()

    @property
    def covariance_CC(self) -> Tensor:
        """Covariance, float64 (divided by the number of rows)."""
        self._require()
        return self._scatter_CC / self.count

    @property
    def sd_C(self) -> Tensor:
        """Standard deviations, float64."""
        return self.covariance_CC.diagonal().sqrt()

    def _require(self) -> None:
        if not self.count:
            raise SpecfmError("no valid pixel in the training data; look at the masks of the scenes")
