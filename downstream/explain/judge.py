"""The linear probe that is explained: fitted as any linear probe, then kept, so that it can be asked again.

Shapes: N samples, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downstream.features.standardise import Standardiser
from downstream.protocols.linear import linear_probe
from downstream.protocols.logistic import fit_grid
from downstream.protocols.options import ProtocolOptions
from downstream.protocols.weights import weights_of_samples
from downstream.splits.split import Split


@dataclass(frozen=True)
class Judge:
    """A fitted probe: logits are ``x @ weight_KD.T + bias_K``, centred over classes, of features as they are."""

    weight_KD: NDArray[np.float64]
    bias_K: NDArray[np.float64]
    classes_K: NDArray[np.int64]

    @classmethod
    def fit(cls, x_ND: NDArray[np.float32], y_N: NDArray[np.int64], split: Split, options: ProtocolOptions) -> Judge:
        """Strength chosen on validation, then fitted on train and validation (``linear_probe``)."""
        sides = x_ND[split.train_I], y_N[split.train_I], x_ND[split.val_I], y_N[split.val_I]
        chosen = linear_probe(
            *sides,
            x_ND[split.test_I[:1]],
            grid=options.grid,
            train_group_M=split.unit_N[split.train_I],
            seed=split.seed,
            class_weights=options.class_weights,
        )
        scale = Standardiser(x_ND[split.fit_I])
        weight_M = weights_of_samples(y_N[split.fit_I], options.class_weights)
        fit = fit_grid(scale(x_ND[split.fit_I]), y_N[split.fit_I], (chosen.C,), weight_M=weight_M)
        weights_KP = fit.weight_GKP[0].cpu().numpy()
        weight_KD = weights_KP[:, :-1] * scale.factor_D
        bias_K = weights_KP[:, -1] - weight_KD @ scale.mean_D
        return cls(weight_KD - weight_KD.mean(0), bias_K - bias_K.mean(), fit.classes_K)

    def logits(self, x_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits of each class, [N, K]; their mean over classes is 0."""
        return np.asarray(x_ND.astype(np.float64) @ self.weight_KD.T + self.bias_K)

    def right_and_margin(
        self, x_ND: NDArray[np.float32], y_N: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Whether each sample is told right (0 or 1), and by how much its class leads the best other one (logits)."""
        logit_NK = self.logits(x_ND)
        place_N = np.searchsorted(self.classes_K, y_N)
        own_N = np.take_along_axis(logit_NK, place_N[:, None], 1)[:, 0]
        others_NK = logit_NK.copy()
        np.put_along_axis(others_NK, place_N[:, None], -np.inf, 1)
        margin_N = own_N - others_NK.max(1)
        return (margin_N > 0).astype(np.float64), margin_N
