"""What the trained rows train: an encoder with a linear head on its pooled features; its best state by validation.

Shape suffixes: M training windows, N windows, B batch, HW window pixels, C bands, D pooled features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from downstream.protocols.windows import Windows, classify

HEAD_ITERATIONS = 500  # of the probe that the head starts from, which need not converge


class Best:
    """The weights with the best validation accuracy so far.

    Args:
        patience: steps without a better one before training has gone stale.
    """

    def __init__(self, patience: int):
        self.patience, self.accuracy = patience, float("nan")
        self._step, self._state = 0, dict[str, Tensor]()

    def look(self, model: Classifier, val: Sequence[Windows], step: int) -> None:
        """Measure ``model`` and keep it if it is better."""
        right = np.concatenate([classify(model, part)[0] == part.y_N for part in val])
        if not self._state or right.mean() > self.accuracy:
            self._state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            self.accuracy, self._step = float(right.mean()), step

    def stale(self, step: int) -> bool:
        """True if the best is long ago."""
        return bool(self._state) and step - self._step >= self.patience

    def restore(self, model: Classifier) -> None:
        """Take up the best weights, if any were kept."""
        if self._state:
            model.load_state_dict(self._state)
