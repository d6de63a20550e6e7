"""The probe: perfect on separable features, chance on shuffled labels, test set untouched, strength really searched."""

from __future__ import annotations

import numpy as np
import pytest

from downstream.features.standardise import Standardiser
from downstream.protocols.linear import C_GRID, linear_probe
from downstream.protocols.logistic import fit_grid
from specfm.errors import SpecfmError


def blobs(count: int, gap: float, seed: int, classes: int = 3, width: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    centres = gap * np.eye(classes, width)
    return (centres[y] + rng.normal(size=(count, width))).astype(np.float32), y


def test_separable_features_give_100_percent() -> None:
    x, y = blobs(600, 20, 0)
    found = linear_probe(x[:300], y[:300], x[300:400], y[300:400], x[400:])
    assert (found.predicted_N == y[400:]).all() and found.converged and found.validation_score == 1


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
    assert len(accuracies) == len(C_GRID) and found.validation_score == max(accuracies.values())
    assert min(accuracies.values()) < found.validation_score and found.C < 1


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
        assert (found.predicted_N == y[30:]).mean() > 0.75 and np.isfinite(found.validation_score)
    one = linear_probe(x[:3], y[:3], empty_x, empty_y, x[30:])
    assert np.isnan(one.validation_score) and one.C in C_GRID[3:7]  # nothing to choose by: the middle of the grid


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


def uneven(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that overlap, one in ten samples of the second."""
    rng = np.random.default_rng(seed)
    y = (np.arange(count) % 10 == 0).astype(int)
    return (rng.normal(size=(count, 6)) + 1.2 * y[:, None] * np.eye(6)[0]).astype(np.float32), y


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_balanced_classes_count_alike_and_unweighted_ones_by_their_samples(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import downstream.protocols.linear as module

    monkeypatch.setattr(module, "fit_grid", lambda *a, **words: fit_grid(*a, **{**words, "device": "cpu"}))
    x, y = uneven(2000, 9)
    sides = (x[:600], y[:600], x[600:1000], y[600:1000], x[1000:])
    truth = y[1000:]
    recalls = {}
    for how in ("balanced", "sqrt", "none"):
        said = linear_probe(*sides, class_weights=how, device=device).predicted_N
        recalls[how] = [float((said[truth == c] == c).mean()) for c in (0, 1)]
    assert recalls["none"][1] < 0.15 < recalls["sqrt"][1] < recalls["balanced"][1]
    assert abs(recalls["balanced"][0] - recalls["balanced"][1]) < 0.12  # both on their side of the middle: about .73
    assert np.mean(recalls["balanced"]) > np.mean(recalls["none"]) + 0.12


def test_balanced_is_the_fit_on_every_sample_as_often_as_makes_classes_even() -> None:
    """Ten of one class, once, and one of the other, ten times."""
    from sklearn.linear_model import LogisticRegression

    x, y = uneven(400, 10)
    found = linear_probe(x[:200], y[:200], x[:0], y[:0], x[200:], grid=(0.3,))
    scale = Standardiser(x[:200])
    often = np.repeat(np.arange(200), np.where(y[:200] == 1, 9, 1))
    # C weighs the sum over samples, which are more than before
    model = LogisticRegression(C=0.3 * 200 / len(often), max_iter=5000, tol=1e-8)
    share = model.fit(scale(x[:200])[often], y[:200][often]).predict_proba(scale(x[200:]))
    clear = np.abs(share[:, 1] - 0.5) > 0.01
    np.testing.assert_array_equal(found.predicted_N[clear], share[clear].argmax(1))


def test_strength_is_chosen_by_the_recall_of_classes() -> None:
    x, y = uneven(900, 11)
    found = linear_probe(x[:300], y[:300], x[300:600], y[300:600], x[600:])
    scale = Standardiser(x[:300])
    from sklearn.linear_model import LogisticRegression

    for strength, score in found.path[3:7]:
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-8, class_weight="balanced")
        said = model.fit(scale(x[:300]), y[:300]).predict(scale(x[300:600]))
        aa = np.mean([(said[y[300:600] == c] == c).mean() for c in (0, 1)])
        assert score == pytest.approx(aa, abs=0.02)
