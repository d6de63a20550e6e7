"""Scores equal scikit-learn's; intervals cover the truth at their nominal rate when pixels come in clusters."""

from __future__ import annotations

import numpy as np
import pytest

from downstream.results.metrics import (
    bootstrap,
    bootstrap_calibration,
    calibration_error,
    calibration_sums,
    change_scores,
    confusion_matrix,
    per_class,
    scores,
    unit_confusions,
)


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_sklearn(seed: int) -> None:
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, 200)
    predicted = np.where(rng.random(200) < 0.6, true, rng.integers(0, 5, 200))
    found = scores(confusion_matrix(true, predicted, 6))  # class 4 is only predicted, class 5 never occurs
    assert found["oa"] == pytest.approx(metrics.accuracy_score(true, predicted))
    recalls = [(predicted[true == c] == c).mean() for c in range(4)]
    assert found["aa"] == pytest.approx(np.mean(recalls))
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(true, predicted))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(true, predicted, average="macro"))
    np.testing.assert_allclose(per_class(confusion_matrix(true, predicted, 6))[:4], recalls)
    iou = metrics.jaccard_score(true, predicted, average=None, labels=range(5), zero_division=0)
    assert found["miou"] == pytest.approx(iou.mean())
    assert found["fwiou"] == pytest.approx((iou[:4] * np.bincount(true, minlength=4)).sum() / 200)


def test_one_class_right_and_empty() -> None:
    assert scores(np.diag([5.0, 0.0]))["kappa"] == 0 and scores(np.diag([5.0, 0.0]))["oa"] == 1
    assert np.isnan(scores(np.zeros((2, 2)))["oa"])


def test_change_scores_are_of_the_changed_class() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(1)
    true = (rng.random(500) < 0.1).astype(int)
    predicted = np.where(rng.random(500) < 0.8, true, 1 - true)
    found = change_scores(confusion_matrix(true, predicted, 2))
    assert found["f1_changed"] == pytest.approx(metrics.f1_score(true, predicted))
    assert found["iou_changed"] == pytest.approx(metrics.jaccard_score(true, predicted))
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(true, predicted))
    assert found["oa"] == pytest.approx((true == predicted).mean())


def test_calibration_error_of_known_confidences() -> None:
    rng = np.random.default_rng(2)
    unit = rng.integers(0, 20, 40000)
    confidence = rng.uniform(0.3, 1.0, 40000)
    honest = rng.random(40000) < confidence
    sums = calibration_sums(honest, confidence, unit, 20)
    assert sums.shape == (20, 15, 3) and sums[..., 0].sum() == 40000
    assert calibration_error(sums.sum(0)) < 0.02
    boastful = calibration_sums(rng.random(40000) < confidence - 0.2, confidence, unit, 20)
    assert calibration_error(boastful.sum(0)) == pytest.approx(0.2, abs=0.01)
    ci = bootstrap_calibration(boastful[None], draws=200)
    assert ci.low < 0.2 < ci.high and ci.high - ci.low < 0.05 and ci.units == 20
    one_bin = calibration_sums(np.array([1, 0]), np.array([1.0, 1.0]), np.array([0, 0]), 1)
    assert calibration_error(one_bin.sum(0)) == pytest.approx(0.5)


def test_unit_confusions_add_up() -> None:
    rng = np.random.default_rng(0)
    true, predicted, unit = rng.integers(0, 3, (3, 500))
    parts = unit_confusions(true, predicted, unit, 3, 4)
    assert parts.shape == (4, 3, 3) and parts[3].sum() == 0
    np.testing.assert_array_equal(parts.sum(0), confusion_matrix(true, predicted, 3))
    np.testing.assert_array_equal(parts[1], confusion_matrix(true[unit == 1], predicted[unit == 1], 3))


def clustered_run(rng: np.random.Generator, units: int, truth: float, spread: float, pixels: int) -> np.ndarray:
    """One run: each unit has its own accuracy around the truth, so its pixels are far from independent."""
    rate = np.clip(rng.normal(truth, spread, units), 0, 1)
    right = rng.binomial(pixels, rate)
    conf = np.zeros((1, units, 2, 2))
    conf[0, :, 0, 0], conf[0, :, 0, 1] = right, pixels - right
    return conf


@pytest.mark.parametrize("units", [5, 10, 30])
def test_interval_covers_clustered_truth(units: int) -> None:
    rng = np.random.default_rng(units)
    trials, hit, naive = 300, 0, 0
    for _ in range(trials):
        conf = clustered_run(rng, units, 0.7, 0.1, 100)
        ci = bootstrap(conf, "oa", draws=400)
        hit += ci.low <= 0.7 <= ci.high
        share = conf[0, :, 0, 0].sum() / (units * 100)
        half = 1.96 * np.sqrt(share * (1 - share) / (units * 100))
        naive += abs(share - 0.7) <= half
    assert 0.90 <= hit / trials <= 0.995  # nominal 0.95; binomial spread of 300 trials is 0.013
    assert naive / trials < 0.75  # what resampling pixels would have claimed


def test_interval_is_repeatable_and_silent_on_one_unit() -> None:
    conf = clustered_run(np.random.default_rng(0), 8, 0.7, 0.1, 50)
    assert bootstrap(conf) == bootstrap(conf)
    one = bootstrap(conf[:, :1])
    assert np.isnan(one.low) and one.units == 1


def test_disjoint_folds_count_together() -> None:
    """Leave one scene out: every run tests one unit, and the interval rests on all of them."""
    rng = np.random.default_rng(4)
    trials, hit = 200, 0
    for _ in range(trials):
        flat = clustered_run(rng, 10, 0.7, 0.1, 100)[0]
        folds = np.zeros((10, 10, 2, 2))
        folds[np.arange(10), np.arange(10)] = flat
        ci = bootstrap(folds, "oa", draws=300)
        assert ci.units == 10
        hit += ci.low <= 0.7 <= ci.high
    assert 0.89 <= hit / trials <= 0.99


def test_runs_that_share_units_are_not_independent() -> None:
    """Ten copies of one run say no more than the run itself."""
    conf = clustered_run(np.random.default_rng(3), 12, 0.7, 0.1, 50)
    once, often = bootstrap(conf), bootstrap(np.repeat(conf, 10, 0))
    assert (once.low, once.high) == pytest.approx((often.low, often.high)) and once.units == often.units
