"""The probe: perfect on separable features, chance on shuffled labels, test set untouched, strength really searched."""

from __future__ import annotations

import numpy as np
import pytest

from downstream.features.standardise import Standardiser
from downstream.protocols.linear import C_GRID, linear_probe
from specfm.errors import SpecfmError


def blobs(count: int, gap: float, seed: int, classes: int = 3, width: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    centres = gap * np.eye(classes, width)
    return (centres[y] + rng.normal(size=(count, width))).astype(np.float32), y


def test_separable_features_give_100_percent() -> None:
    x, y = blobs(600, 20, 0)
    found = linear_probe(x[:300], y[:300], x[300:400], y[300:400], x[400:])
    assert (found.predicted_N == y[400:]).all() and found.converged and found.validation_oa == 1


def test_shuffled_labels_give_chance() -> None:
    x, y = blobs(3000, 20, 1)
    y = np.random.default_rng(2).permutation(y)
    found = linear_probe(x[:1500], y[:1500], x[1500:2000], y[1500:2000], x[2000:])
    accuracy = (found.predicted_N == y[2000:]).mean()
    assert abs(accuracy - 1 / 3) < 3 * np.sqrt(2 / 9 / 1000)


def test_strength_matters_and_is_chosen_on_validation() -> None:
    """Many useless features and few samples: the weakest regularisation is not the best one."""
    rng = np.random.default_rng(3)
    x, y = blobs(340, 1.5, 3, classes=2)
    x = np.concatenate([x, rng.normal(size=(340, 200)).astype(np.float32)], 1)
    found = linear_probe(x[:60], y[:60], x[60:140], y[60:140], x[140:])
    accuracies = dict(found.path)
    assert len(accuracies) == len(C_GRID) and found.validation_oa == max(accuracies.values())
    assert min(accuracies.values()) < found.validation_oa and found.C < 1


def test_refit_equals_sklearn_on_train_and_validation() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = blobs(400, 2, 4)
    found = linear_probe(x[:200], y[:200], x[200:300], y[200:300], x[300:])
    scale = Standardiser(x[:300])
    model = LogisticRegression(C=found.C, max_iter=5000).fit(scale(x[:300]), y[:300])
    np.testing.assert_array_equal(found.predicted_N, model.predict(scale(x[300:])))


def test_few_shots_choose_by_cross_validation_inside() -> None:
    x, y = blobs(330, 3, 5)
    empty_x, empty_y = x[:0], y[:0]
    groups = np.arange(30) // 3
    for group in (None, groups):
        found = linear_probe(x[:30], y[:30], empty_x, empty_y, x[30:], train_group_M=group)
        assert (found.predicted_N == y[30:]).mean() > 0.75 and np.isfinite(found.validation_oa)
    one = linear_probe(x[:3], y[:3], empty_x, empty_y, x[30:])
    assert np.isnan(one.validation_oa) and one.C in C_GRID[3:7]  # nothing to choose by: the middle of the grid


def test_fitting_in_the_span_of_few_samples_is_the_same_model() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = blobs(330, 2, 8, width=80)
    found = linear_probe(x[:30], y[:30], x[:0], y[:0], x[30:], grid=(0.5,))
    scale = Standardiser(x[:30])
    model = LogisticRegression(C=0.5, max_iter=5000, tol=1e-6).fit(scale(x[:30]), y[:30])
    margin = np.sort(model.predict_proba(scale(x[30:])), 1)
    clear = margin[:, -1] - margin[:, -2] > 0.02  # beyond what the solver's tolerance can move
    np.testing.assert_array_equal(found.predicted_N[clear], model.predict(scale(x[30:]))[clear])
    assert clear.mean() > 0.8


def test_an_unconverged_probe_says_so() -> None:
    x, y = blobs(400, 1, 6)
    assert not linear_probe(x[:200], y[:200], x[200:300], y[200:300], x[300:], max_iter=2, grid=(1e4,)).converged


def test_bad_input_is_refused() -> None:
    x, y = blobs(40, 3, 7)
    with pytest.raises(SpecfmError, match="two classes"):
        linear_probe(x[:20], np.zeros(20, int), x[20:30], y[20:30], x[30:])
    x[25] = np.nan
    with pytest.raises(SpecfmError, match="NaN"):
        linear_probe(x[:20], y[:20], x[20:30], y[20:30], x[30:])
