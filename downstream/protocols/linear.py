"""A linear probe that has converged: standardise, multinomial logistic regression by L-BFGS, strength by validation.

Shape suffixes: M training samples, N test samples, D features.
On identical features an unconverged or badly regularised probe can lose 19 points, so the strength is always searched,
the solver runs to convergence (and says when it did not), and the test set is used once, after the refit.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from downstream.features.standardise import Standardiser
from downstream.protocols.logistic import fit_grid
from downstream.protocols.options import C_GRID
from downstream.protocols.weights import ClassWeights, weighted_accuracy, weights_of_samples
from specfm.errors import SpecfmError

log = logging.getLogger(__name__)


def span(x_MD: np.ndarray) -> np.ndarray | None:
    """Orthonormal axes ``[D, M]`` of the span of fewer samples than features, else None.

    With an L2 penalty the weights lie in that span, so a few-shot probe can be fitted in M dimensions: same model.
    """
    if len(x_MD) >= x_MD.shape[1]:
        return None
    return np.linalg.svd(x_MD, full_matrices=False)[2].T


@dataclass(frozen=True)
class ProbeResult:
    """Prediction for the test set and how the probe was chosen."""

    predicted_N: np.ndarray
    C: float
    validation_score: float
    converged: bool
    path: tuple[tuple[float, float], ...]  # (C, score on validation) tried
    confidence_N: np.ndarray | None = None  # probability of the predicted class


def check_sides(train_y_M: np.ndarray, *features: np.ndarray) -> None:
    """Refuse a training side of one class and features that are not finite."""
    if len(np.unique(train_y_M)) < 2:
        raise SpecfmError("a probe needs at least two classes in the training side; choose another split")
    for part in features:
        if not np.isfinite(part).all():
            raise SpecfmError("features hold NaN or inf; check the masks of the scene")


def on_cuda(device: str) -> bool:
    """scikit-learn's solver is the faster one on a CPU, so torch's is used on CUDA only."""
    return str(device).startswith("cuda")


def _model(max_iter: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="lbfgs", max_iter=max_iter, tol=1e-4, warm_start=True)


def _fit(model: Any, x_MD: np.ndarray, y_M: np.ndarray, class_weights: ClassWeights) -> bool:
    """Fit; True if the solver converged."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x_MD, y_M, sample_weight=weights_of_samples(y_M, class_weights))
    return not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _scaled(fit_MD: np.ndarray, other_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides standardised by the first, and within its span where that has fewer dimensions."""
    scale = Standardiser(fit_MD)
    x_MD, x_ND = scale(fit_MD), scale(other_ND)
    axes_DM = span(x_MD)
    return (x_MD, x_ND) if axes_DM is None else (x_MD @ axes_DM, x_ND @ axes_DM)


def _path_scores(
    train_MD: np.ndarray,
    train_y_M: np.ndarray,
    val_ND: np.ndarray,
    val_y_N: np.ndarray,
    grid: tuple[float, ...],
    max_iter: int,
    device: str,
    class_weights: ClassWeights,
) -> np.ndarray:
    """Weighted accuracy on validation along the grid from strong to weak, each start warm from the last."""
    x_MD, x_ND = _scaled(train_MD, val_ND)
    if on_cuda(device):
        weight_M = weights_of_samples(train_y_M, class_weights)
        fit = fit_grid(x_MD, train_y_M, grid, weight_M=weight_M, max_iter=max_iter, device=device)
        return weighted_accuracy(val_y_N, fit.classes_K[fit.probability(x_ND).argmax(2)], class_weights)
    model = _model(max_iter)
    accuracy = np.empty(len(grid))
    for i, strength in enumerate(grid):
        model.C = strength
        _fit(model, x_MD, train_y_M, class_weights)
        accuracy[i] = weighted_accuracy(val_y_N, model.predict(x_ND), class_weights)
    return accuracy


def _folds(y_M: np.ndarray, group_M: np.ndarray | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cross-validation inside a small training set: by group where every class has several, else stratified."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    index_M = np.arange(len(y_M))
    if group_M is not None:
        groups = min(len(np.unique(group_M[y_M == c])) for c in np.unique(y_M))
        if groups >= 2:
            splitter = StratifiedGroupKFold(min(5, groups), shuffle=True, random_state=seed)
            folds = list(splitter.split(index_M, y_M, group_M))
            classes = len(np.unique(y_M))
            if all(len(np.unique(y_M[a])) == classes and len(b) for a, b in folds):
                return folds
    least = int(np.unique(y_M, return_counts=True)[1].min())
    if least < 2:
        return []
    return list(StratifiedKFold(min(5, least), shuffle=True, random_state=seed).split(index_M, y_M))


def linear_probe(
    train_MD: np.ndarray,
    train_y_M: np.ndarray,
    val_ND: np.ndarray,
    val_y_N: np.ndarray,
    test_ND: np.ndarray,
    *,
    grid: tuple[float, ...] = C_GRID,
    max_iter: int = 3000,
    train_group_M: np.ndarray | None = None,
    seed: int = 0,
    device: str = "cpu",
    class_weights: ClassWeights = "balanced",
) -> ProbeResult:
    """Choose C on validation, refit on train + validation, predict the test set once.

    Args:
        train_MD: training features.
        train_y_M: training classes.
        val_ND: validation features; empty = choose C by cross-validation inside train (k-shot).
        val_y_N: validation classes.
        test_ND: test features (their classes are not handed over at all).
        grid: inverse regularisation strengths, rising.
        max_iter: iterations of L-BFGS; a refit that stops there is reported as not converged.
        train_group_M: groups for that cross-validation.
        seed: seed of its folds.
        device: "cpu" fits by scikit-learn, a CUDA device by ``protocols.logistic``, all strengths at once.
        class_weights: how much each class counts, in the fit and in the choice of C (:mod:`.weights`).

    Raises:
        SpecfmError: fewer than two classes, or non-finite features.
    """
    train_y_M = np.asarray(train_y_M)
    check_sides(train_y_M, train_MD, val_ND, test_ND)
    if len(val_y_N):
        accuracy = _path_scores(train_MD, train_y_M, val_ND, np.asarray(val_y_N), grid, max_iter, device, class_weights)
        fit_X, fit_y = np.concatenate([train_MD, val_ND]), np.concatenate([train_y_M, val_y_N])
    else:
        folds = _folds(train_y_M, train_group_M, seed)
        if folds:
            parts = [
                _path_scores(
                    train_MD[a], train_y_M[a], train_MD[b], train_y_M[b], grid, max_iter, device, class_weights
                )
                for a, b in folds
            ]
            accuracy = np.average(parts, axis=0, weights=[len(b) for _, b in folds])
        else:  # one shot: nothing to validate on, take the middle of the grid
            accuracy = np.full(len(grid), np.nan)
        fit_X, fit_y = train_MD, train_y_M
    known = np.isfinite(accuracy).all()
    best = int(np.argmax(accuracy)) if known else len(grid) // 2  # the first maximum = the stronger regularisation
    fit_scaled, test_scaled = _scaled(fit_X, test_ND)
    if on_cuda(device):
        weight_M = weights_of_samples(fit_y, class_weights)
        fit = fit_grid(fit_scaled, fit_y, (grid[best],), weight_M=weight_M, max_iter=max_iter, device=device)
        converged, classes_K, share_NK = bool(fit.converged_G[0]), fit.classes_K, fit.probability(test_scaled)[0]
    else:
        model = _model(max_iter)
        model.C = grid[best]
        converged = _fit(model, fit_scaled, fit_y, class_weights)
        classes_K, share_NK = model.classes_, model.predict_proba(test_scaled)
    if not converged:
        log.warning("linear probe (C = %g) did not converge in %d iterations", grid[best], max_iter)
    path = tuple((c, float(a)) for c, a in zip(grid, accuracy, strict=True)) if known else ()
    validation_score = float(accuracy[best]) if known else float("nan")
    return ProbeResult(
        classes_K[share_NK.argmax(1)], grid[best], validation_score, converged, path, share_NK.max(1).astype(np.float32)
    )
