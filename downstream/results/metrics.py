"""Scores from confusion matrices, and confidence intervals that resample groups or blocks, never pixels.

Shape suffixes: N samples, K classes, U resampling units (groups or blocks), S runs (split seeds, initialisations),
B bootstrap draws, I confidence bins, X sums that add up over units. Confusion matrices have rows = truth, columns =
prediction. Any leading dimensions are allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

METRICS = ("oa", "aa", "kappa", "macro_f1", "miou", "fwiou")
BINS = 15  # of confidence, for the calibration error


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
    """OA, AA, kappa, macro-F1, mIoU, FWIoU of ``[..., K, K]`` confusion matrices; NaN where there is no test sample.

    AA is the mean recall over the classes present in the truth; macro-F1 and mIoU (macro) are means over the classes
    present in the truth or the prediction (as scikit-learn counts them); FWIoU weights the IoU by the truth's share.
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
        iou_K = np.where(seen_K, hit_K / (row_K + col_K - hit_K), 0)
        miou = iou_K.sum(-1) / seen_K.sum(-1)
        fwiou = (iou_K * row_K).sum(-1) / total
    return {"oa": oa, "aa": aa, "kappa": kappa, "macro_f1": f1, "miou": miou, "fwiou": fwiou}


def change_scores(conf_22: np.ndarray) -> dict[str, np.ndarray]:
    """F1 and IoU of class 1 (*changed*) with kappa and OA, of ``[..., 2, 2]`` confusion matrices; NaN if undefined."""
    conf_22 = np.asarray(conf_22, np.float64)
    hit, wrong = conf_22[..., 1, 1], conf_22[..., 0, 1] + conf_22[..., 1, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        f1, iou = 2 * hit / (2 * hit + wrong), hit / (hit + wrong)
    both = scores(conf_22)
    return {"f1_changed": f1, "iou_changed": iou, "kappa": both["kappa"], "oa": both["oa"]}


def calibration_sums(
    right_N: np.ndarray, confidence_N: np.ndarray, unit_N: np.ndarray, units: int, bins: int = BINS
) -> np.ndarray:
    """Per unit and confidence bin: samples, summed confidence, right answers. ``[U, I, 3]``."""
    bin_N = np.clip((np.asarray(confidence_N) * bins).astype(np.int64), 0, bins - 1)
    flat_N = np.asarray(unit_N, np.int64) * bins + bin_N
    parts = [np.bincount(flat_N, weights, units * bins) for weights in (None, confidence_N, np.asarray(right_N, float))]
    return np.stack(parts, -1).reshape(units, bins, 3)


def calibration_error(sums_I3: np.ndarray) -> np.ndarray:
    """Expected calibration error (ECE; Guo et al. 2017, arXiv 1706.04599) of ``[..., I, 3]`` sums."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(sums_I3[..., 2] - sums_I3[..., 1]).sum(-1) / sums_I3[..., 0].sum(-1)


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
    """Confidence interval of one of ``METRICS`` averaged over runs; see ``bootstrap_sums``."""
    return bootstrap_scores(conf_SUKK, draws=draws, level=level, seed=seed)[metric]


def bootstrap_scores(conf_SUKK: np.ndarray, **options: float) -> dict[str, Interval]:
    """Intervals of all ``METRICS`` from the confusion matrices of every run and unit; see ``bootstrap_sums``."""
    conf_SUKK = np.asarray(conf_SUKK, np.float64)
    runs, units, classes, _ = conf_SUKK.shape
    flat_SUX = conf_SUKK.reshape(runs, units, -1)
    return bootstrap_sums(flat_SUX, lambda sums_BX: scores(sums_BX.reshape(-1, classes, classes)), **options)  # type: ignore[arg-type]


def bootstrap_calibration(sums_SUI3: np.ndarray, **options: float) -> Interval:
    """Interval of the calibration error; see ``bootstrap_sums``."""
    runs, units, bins, _ = sums_SUI3.shape
    return bootstrap_sums(
        sums_SUI3.reshape(runs, units, -1),
        lambda sums_BX: {"ece": calibration_error(sums_BX.reshape(-1, bins, 3))},
        **options,  # type: ignore[arg-type]
    )["ece"]


def bootstrap_sums(
    sums_SUX: np.ndarray,
    value: Callable[[np.ndarray], dict[str, np.ndarray]],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Confidence intervals of metrics averaged over runs, resampling units with replacement.

    Args:
        sums_SUX: sums of every run and unit (counts of a confusion matrix, say); a unit absent from a run's test set is
            all zero. A unit drawn twice counts twice in every run it takes part in, so that runs sharing test pixels
            are not taken for independent ones.
        value: metrics ``[B]`` by name from sums ``[B, X]`` over the drawn units.
        draws: bootstrap draws.
        level: nominal coverage.
        seed: seed of the draws.

    Returns:
        An interval by name; both ends NaN with fewer than two units, where nothing can be said.
    """
    sums_SUX = np.asarray(sums_SUX, np.float64)
    tested_SU = sums_SUX.sum(2) > 0
    used_U = tested_SU.any(0)
    sums_SUX, tested_SU = sums_SUX[:, used_U], tested_SU[:, used_U]
    units = int(used_U.sum())
    if units < 2:
        return dict.fromkeys(value(sums_SUX.sum(1)), Interval(float("nan"), float("nan"), units))
    rng = np.random.default_rng([seed, 11])
    weight_BU = rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)
    # A run counts as often as its units were drawn, so that single-unit runs (leave one scene out) are resampled too.
    share_SB = (tested_SU / tested_SU.sum(1, keepdims=True)) @ weight_BU.T
    drawn = [value(weight_BU @ sums_UX) for sums_UX in sums_SUX]
    # Overlapping test sets: the interval rests on the units of one run. Disjoint ones (leave one scene out): on all.
    effective = units if tested_SU.sum(0).max() == 1 else max(int(np.median(tested_SU.sum(1))), 2)
    tail = _expanded_level(effective, level)
    found = {}
    for name in drawn[0]:
        value_SB = np.stack([one[name] for one in drawn])
        counted_SB = np.where(np.isfinite(value_SB), share_SB, 0)
        ok_B = counted_SB.sum(0) > 0
        value_B = (np.nan_to_num(value_SB) * counted_SB).sum(0)[ok_B] / counted_SB.sum(0)[ok_B]
        low, high = np.quantile(value_B, [tail, 1 - tail]) if ok_B.any() else (np.nan, np.nan)
        found[name] = Interval(float(low), float(high), effective)
    return found
