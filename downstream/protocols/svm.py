"""Support vector machine with an RBF kernel on raw spectra, the classic of the field.

Shape suffixes: M training samples, N test samples, D features.
"""

from __future__ import annotations

import numpy as np

from downstream.protocols.weights import ClassWeights, weighted_accuracy, weights_of_samples

SVM_C: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0)
SVM_GAMMA: tuple[float, ...] = (0.1, 1.0, 10.0)  # in units of 1 / features
SVM_SAMPLES = 2000  # an RBF machine costs the square of its training samples


def svm_predict(
    train_MD: np.ndarray,
    train_y_M: np.ndarray,
    val_ND: np.ndarray,
    val_y_N: np.ndarray,
    test_ND: np.ndarray,
    *,
    most: int = SVM_SAMPLES,
    seed: int = 0,
    class_weights: ClassWeights = "balanced",
) -> tuple[np.ndarray, float, float]:
    """Support vector machine with an RBF kernel, the classic of spectral classification (Melgani & Bruzzone 2004).

    Standardised on train; C and gamma chosen on validation, or by stratified folds in train where there is none; refit
    on train + validation; the test set predicted once. Above ``most`` samples each side is thinned, class by class.
    Classes count by ``class_weights``, in the fit and in the choice.

    Returns:
        (predicted, C, gamma).
    """
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import SVC

    from downstream.features.standardise import Standardiser
    from downstream.protocols.linear import check_sides

    check_sides(train_y_M, train_MD, val_ND, test_ND)
    rng = np.random.default_rng([seed, 13])

    def thin(y: np.ndarray) -> np.ndarray:
        if len(y) <= most:
            return np.arange(len(y))
        share = most / len(y)
        parts = [rng.permutation(np.flatnonzero(y == c)) for c in np.unique(y)]
        return np.sort(np.concatenate([p[: max(1, round(share * len(p)))] for p in parts]))

    def score(fit: tuple[np.ndarray, np.ndarray], held: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        scale = Standardiser(fit[0])
        x, other = scale(fit[0]), scale(held[0])
        grid = [(c, g / x.shape[1]) for c in SVM_C for g in SVM_GAMMA]
        weight = weights_of_samples(fit[1], class_weights)
        said = [SVC(C=c, gamma=g).fit(x, fit[1], weight).predict(other) for c, g in grid]
        return weighted_accuracy(held[1], np.stack(said), class_weights)

    train_y_M, val_y_N = np.asarray(train_y_M), np.asarray(val_y_N)
    kept, kept_val = thin(train_y_M), thin(val_y_N)
    x, y = train_MD[kept], train_y_M[kept]
    accuracy = np.zeros(len(SVM_C) * len(SVM_GAMMA))
    if len(val_y_N):
        accuracy = score((x, y), (val_ND[kept_val], val_y_N[kept_val]))
        x, y = np.concatenate([x, val_ND[kept_val]]), np.concatenate([y, val_y_N[kept_val]])
    else:
        least = int(np.unique(y, return_counts=True)[1].min())
        if least >= 2:
            folds = StratifiedKFold(min(5, least), shuffle=True, random_state=seed).split(x, y)
            accuracy = np.mean([score((x[a], y[a]), (x[b], y[b])) for a, b in folds], axis=0)
    best = int(accuracy.argmax())
    c, gamma = SVM_C[best // len(SVM_GAMMA)], SVM_GAMMA[best % len(SVM_GAMMA)] / x.shape[1]
    scale = Standardiser(x)
    fitted = SVC(C=c, gamma=gamma).fit(scale(x), y, weights_of_samples(y, class_weights))
    return fitted.predict(scale(test_ND)), c, gamma
