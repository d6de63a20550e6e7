"""A ridge classifier over a whole path of strengths from one eigendecomposition: the quick probe.

Shape suffixes: M training samples, N test samples, D features, K classes, L strengths, E eigenvectors.
Least squares on one-hot targets; the path costs one eigendecomposition of the smaller Gram matrix, so 45 strengths at
6,000 x 384 take a fraction of a second. A monitor, not the reported number: the linear probe is.
"""

from __future__ import annotations

import numpy as np

from downstream.features.standardise import Standardiser
from downstream.protocols.linear import ProbeResult, check_sides
from downstream.protocols.weights import ClassWeights, weighted_accuracy, weights_of_samples
from specfm.errors import SpecfmError

STRENGTHS: tuple[float, ...] = tuple(float(s) for s in np.logspace(-6, 5, 45))  # penalty per sample


class RidgePath:
    """Ridge regression of one-hot classes on standardised features, for any penalty.

    Args:
        x_MD: features; standardised here, on themselves.
        y_M: classes.
        class_weights: how much each class counts (:mod:`.weights`).
    """

    def __init__(self, x_MD: np.ndarray, y_M: np.ndarray, class_weights: ClassWeights = "balanced") -> None:
        self.class_weights: ClassWeights = class_weights
        self.classes_K, index_M = np.unique(y_M, return_inverse=True)
        self._scale = Standardiser(x_MD)
        self._weight_M = weights_of_samples(y_M, class_weights)
        scaled_MD, root_M1 = self._scale(x_MD), np.sqrt(self._weight_M)[:, None]
        target_MK = np.eye(len(self.classes_K))[index_M.reshape(-1)]
        # weighted means are taken out, which is the intercept, and rows count by the roots of their weights
        self._mean_K, self._centre_D = (self._weight_M @ each / len(each) for each in (target_MK, scaled_MD))
        scaled_MD, target_MK = root_M1 * (scaled_MD - self._centre_D), root_M1 * (target_MK - self._mean_K)
        self._count = len(scaled_MD)
        if self._count >= scaled_MD.shape[1]:
            self._value_E, self._vector_DE = np.linalg.eigh(scaled_MD.T @ scaled_MD)
        else:  # fewer samples than features: the Gram matrix of samples has the same non-zero eigenvalues
            value_E, vector_ME = np.linalg.eigh(scaled_MD @ scaled_MD.T)
            keep_E = value_E > 1e-10 * max(value_E[-1], 1e-300)
            self._value_E = value_E[keep_E]
            self._vector_DE = scaled_MD.T @ vector_ME[:, keep_E] / np.sqrt(self._value_E)
        self._value_E = np.maximum(self._value_E, 0)
        self._right_EK = (scaled_MD @ self._vector_DE).T @ target_MK

    def scores(self, x_ND: np.ndarray, strengths: tuple[float, ...]) -> np.ndarray:
        """Regressed one-hot targets ``[L, N, K]`` for every penalty (per training sample)."""
        turned_NE = self._turned(x_ND)
        shrunk = [self._right_EK / (self._value_E + s * self._count)[:, None] for s in strengths]
        return np.stack([turned_NE @ right_EK for right_EK in shrunk]) + self._mean_K

    def _turned(self, x_ND: np.ndarray) -> np.ndarray:
        return (self._scale(x_ND) - self._centre_D) @ self._vector_DE

    def left_out_accuracy(self, x_MD: np.ndarray, y_M: np.ndarray, strengths: tuple[float, ...]) -> np.ndarray:
        """Leave-one-out accuracy ``[L]``, weighted, on the training samples: residual / (1 - leverage), no refit."""
        turned_ME = self._turned(x_MD)
        target_MK = np.eye(len(self.classes_K))[np.searchsorted(self.classes_K, y_M)]
        accuracy_L = []
        for score_MK, s in zip(self.scores(x_MD, strengths), strengths, strict=True):
            spread_M = 1 / self._count + (turned_ME**2 / (self._value_E + s * self._count)).sum(1)
            leverage_M = self._weight_M * spread_M
            left_MK = target_MK - (target_MK - score_MK) / np.maximum(1 - leverage_M, 1e-9)[:, None]
            accuracy_L.append(weighted_accuracy(target_MK.argmax(1), left_MK.argmax(1), self.class_weights))
        return np.array(accuracy_L)


def left_out_classes(x_ND: np.ndarray, y_N: np.ndarray, teaches_NN: np.ndarray, penalty: float = 0.1) -> np.ndarray:
    """For every sample the class that a ridge regression says which was taught by those that may teach it.

    Exact and without a refit: leaving out a set E moves its predictions to ``y_E - (I - H_EE)^-1 (y_E - H_E y)``, H the
    matrix that takes targets to predictions. Samples with one set to leave out share one small system.

    Args:
        x_ND: features; standardised here, all together (no label is looked at for that).
        y_N: classes, integers from 0.
        teaches_NN: [i, j] = sample j may teach sample i; False on the diagonal. A sample that none may teach gets class
            0.
        penalty: per sample.
    """
    scaled_ND = Standardiser(x_ND)(x_ND)
    count = len(scaled_ND)
    gram_NN = scaled_ND @ scaled_ND.T
    # features are centred, so the intercept is a part of its own: the mean
    hat_NN = np.linalg.solve(gram_NN + penalty * count * np.eye(count), gram_NN) + 1 / count
    target_NK = np.eye(int(y_N.max()) + 1)[y_N]
    residual_NK = target_NK - hat_NN @ target_NK
    said_N = np.zeros(count, np.int64)
    sets, set_N = np.unique(teaches_NN, axis=0, return_inverse=True)
    for number, taught_N in enumerate(sets):
        if taught_N.any():
            out = np.nonzero(~taught_N)[0]
            moved = np.linalg.solve(np.eye(len(out)) - hat_NN[np.ix_(out, out)], residual_NK[out])
            score_NK = target_NK[out] - moved
            mine = set_N.reshape(-1)[out] == number
            said_N[out[mine]] = score_NK[mine].argmax(1)
    return said_N


def ridge_probe(
    train_MD: np.ndarray, train_y_M: np.ndarray, val_ND: np.ndarray, val_y_N: np.ndarray, test_ND: np.ndarray,
    *, strengths: tuple[float, ...] = STRENGTHS, class_weights: ClassWeights = "balanced",
) -> ProbeResult:  # fmt: skip
    """Choose the penalty on validation, refit on train + validation, predict the test set once.

    Without validation samples (k-shot) the penalty is the one with the least leave-one-out error, which ridge gives in
    closed form.

    Raises:
        SpecfmError: fewer than two classes, non-finite features, or an empty path.
    """
    if not strengths:
        raise SpecfmError("a ridge path needs at least one strength")
    check_sides(train_y_M, train_MD, val_ND, test_ND)
    train_y_M = np.asarray(train_y_M)
    if len(val_y_N):
        path = RidgePath(train_MD, train_y_M, class_weights)
        said_LN = path.classes_K[path.scores(val_ND, strengths).argmax(2)]
        accuracy_L = weighted_accuracy(np.asarray(val_y_N), said_LN, class_weights)
        fit = RidgePath(np.concatenate([train_MD, val_ND]), np.concatenate([train_y_M, val_y_N]), class_weights)
    else:
        fit = RidgePath(train_MD, train_y_M, class_weights)
        accuracy_L = fit.left_out_accuracy(train_MD, train_y_M, strengths)
    best = len(accuracy_L) - 1 - int(np.argmax(accuracy_L[::-1]))  # of equals the stronger penalty
    score_NK = fit.scores(test_ND, strengths[best : best + 1])[0]
    tried = tuple((s, float(a)) for s, a in zip(strengths, accuracy_L, strict=True))
    return ProbeResult(fit.classes_K[score_NK.argmax(1)], strengths[best], float(accuracy_L[best]), True, tried)
