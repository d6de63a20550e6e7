"""Scores from confusion matrices, and confidence intervals that resample groups or blocks, never pixels.

Shape suffixes: N samples, K classes, U resampling units (groups or blocks), S runs (split seeds, initialisations),
B bootstrap draws. Confusion matrices have rows = truth, columns = prediction. Any leading dimensions are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("oa", "aa", "kappa", "macro_f1")


def confusion_matrix(true_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> np.ndarray:
    """Counts ``[K, K]``, rows = truth."""
    flat_N = np.asarray(true_N, np.int64) * classes + np.asarray(predicted_N, np.int64)
    return np.bincount(flat_N, minlength=classes * classes).reshape(classes, classes).astype(np.float64)


def unit_confusions(
    true_N: np.ndarray, predicted_N: np.ndarray, unit_N: np.ndarray, classes: int, units: int
) -> np.ndarray:
    """One confusion matrix per resampling unit: ``[U, K, K]``."""
    flat_N = (np.asarray(unit_N, np.int64) * classes + true_N) * classes + predicted_N
    counts = np.bincount(flat_N, minlength=units * classes * classes)
    return counts.reshape(units, classes, classes).astype(np.float64)


def scores(conf_KK: np.ndarray) -> dict[str, np.ndarray]:
    """OA, AA, kappa, macro-F1 of ``[..., K, K]`` confusion matrices; NaN where there is no test sample.

    AA is the mean recall over the classes present in the truth; macro-F1 the mean over the classes present in the truth
    or the prediction (as scikit-learn counts them).
    """
    conf_KK = np.asarray(conf_KK, np.float64)
    total = conf_KK.sum((-2, -1))
    row_K, col_K = conf_KK.sum(-1), conf_KK.sum(-2)
    hit_K = np.diagonal(conf_KK, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        oa = hit_K.sum(-1) / total
        aa = np.where(row_K > 0, hit_K / row_K, 0).sum(-1) / (row_K > 0).sum(-1)
        chance = (row_K * col_K).sum(-1) / total**2
        kappa = np.where(chance < 1, (oa - chance) / (1 - chance), np.where(total > 0, 0.0, np.nan))
        seen_K = (row_K + col_K) > 0
        f1 = np.where(seen_K, 2 * hit_K / (row_K + col_K), 0).sum(-1) / seen_K.sum(-1)
    return {"oa": oa, "aa": aa, "kappa": kappa, "macro_f1": f1}


def per_class(conf_KK: np.ndarray) -> np.ndarray:
    """Recall per class ``[..., K]``, NaN for a class without test samples."""
    row_K = conf_KK.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(row_K > 0, np.diagonal(conf_KK, axis1=-2, axis2=-1) / row_K, np.nan)


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval of the mean over runs and how many units it rests on."""

    low: float
    high: float
    units: int


def _expanded_level(units: int, level: float) -> float:
    """Tail probability that widens a percentile interval for few units (Hesterberg 2015, The American Statistician 69).

    A plain percentile bootstrap over n units is too narrow by sqrt((n-1)/n) and uses normal, not t, quantiles.
    """
    from scipy.stats import norm, t

    tail = (1 - level) / 2
    if units < 2:
        return tail
    return float(norm.cdf(np.sqrt(units / (units - 1)) * t.ppf(tail, units - 1)))


def bootstrap(
    conf_SUKK: np.ndarray, metric: str = "oa", *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Confidence interval of a metric averaged over runs, resampling units with replacement.

    Args:
        conf_SUKK: confusion matrix of every run and unit; a unit absent from a run's test set is all zero. A unit drawn
            twice counts twice in every run it takes part in, so that runs sharing test pixels are not taken for
            independent ones.
        metric: one of ``METRICS``.
        draws: bootstrap draws.
        level: nominal coverage.
        seed: seed of the draws.

    Returns:
        The interval; both ends NaN with fewer than two units, where nothing can be said.
    """
    conf_SUKK = np.asarray(conf_SUKK, np.float64)
    used_U = conf_SUKK.sum((0, 2, 3)) > 0
    conf_SUKK = conf_SUKK[:, used_U]
    units = int(used_U.sum())
    if units < 2:
        return Interval(float("nan"), float("nan"), units)
    rng = np.random.default_rng([seed, 11])
    weight_BU = rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)
    runs, _, classes, _ = conf_SUKK.shape
    value_SB = np.empty((runs, draws))
    tested_SU = conf_SUKK.sum((2, 3)) > 0
    # A run counts as often as its units were drawn, so that single-unit runs (leave one scene out) are resampled too.
    share_SB = (tested_SU / tested_SU.sum(1, keepdims=True)) @ weight_BU.T
    for s in range(runs):
        conf_BKK = (weight_BU @ conf_SUKK[s].reshape(units, -1)).reshape(draws, classes, classes)
        value_SB[s] = scores(conf_BKK)[metric]
    share_SB = np.where(np.isfinite(value_SB), share_SB, 0)
    ok_B = share_SB.sum(0) > 0
    value_B = (np.nan_to_num(value_SB) * share_SB).sum(0)[ok_B] / share_SB.sum(0)[ok_B]
    # Overlapping test sets: the interval rests on the units of one run. Disjoint ones (leave one scene out): on all.
    effective = units if tested_SU.sum(0).max() == 1 else max(int(np.median(tested_SU.sum(1))), 2)
    tail = _expanded_level(effective, level)
    low, high = np.quantile(value_B, [tail, 1 - tail])
    return Interval(float(low), float(high), effective)
