"""Ridge path and torch's logistic regression against scikit-learn; the RBF machine; choice, refit, k-shot."""

from __future__ import annotations

import numpy as np
import pytest

from downstream.features.neighbours import nearest
from downstream.features.standardise import Standardiser
from downstream.protocols.knn import knn_predict
from downstream.protocols.linear import C_GRID, linear_probe
from downstream.protocols.logistic import fit_grid
from downstream.protocols.ridge import STRENGTHS, RidgePath, left_out_classes, ridge_probe
from downstream.protocols.svm import SVM_C, svm_predict
from downstream.protocols.weights import weighted_accuracy, weights_of_samples
from specfm.errors import SpecfmError


def blobs(count: int, gap: float, seed: int, classes: int = 3, width: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    return (gap * np.eye(classes, width)[y] + rng.normal(size=(count, width))).astype(np.float32), y


@pytest.mark.parametrize(("count", "width"), [(300, 12), (25, 80)])
def test_ridge_path_equals_sklearn(count: int, width: int) -> None:
    from sklearn.linear_model import Ridge

    x, y = blobs(count + 50, 1, 0, width=width)
    path = RidgePath(x[:count], y[:count], "none")
    scale = Standardiser(x[:count])
    strengths = (1e-3, 0.1, 10.0)
    for strength, found in zip(strengths, path.scores(x[count:], strengths), strict=True):
        model = Ridge(alpha=strength * count).fit(scale(x[:count]), np.eye(3)[y[:count]])
        np.testing.assert_allclose(found, model.predict(scale(x[count:])), atol=1e-8)


@pytest.mark.parametrize(("count", "width"), [(300, 12), (25, 80)])
def test_balanced_ridge_equals_sklearn_with_weights_also_left_out(count: int, width: int) -> None:
    from sklearn.linear_model import Ridge

    x, y = blobs(count + 50, 1, 12, width=width)
    y = np.where(np.arange(count + 50) % 7 < 5, 0, y)  # the first class is the commonest by far
    path = RidgePath(x[:count], y[:count])
    scale, weight = Standardiser(x[:count]), weights_of_samples(y[:count], "balanced")
    scaled, target, strengths = scale(x[:count]), np.eye(3)[y[:count]], (1e-2, 0.1, 10.0)
    for strength, found in zip(strengths, path.scores(x[count:], strengths), strict=True):
        model = Ridge(alpha=strength * count, solver="cholesky").fit(scaled, target, sample_weight=weight)
        np.testing.assert_allclose(found, model.predict(scale(x[count:])), atol=1e-7)
    for strength, found in zip(strengths, path.left_out_accuracy(x[:count], y[:count], strengths), strict=True):
        said = np.zeros(count, int)
        for i in range(count):
            rest = np.arange(count) != i
            model = Ridge(alpha=strength * count, solver="cholesky")
            model.fit(scaled[rest], target[rest], sample_weight=weight[rest])
            said[i] = model.predict(scaled[i : i + 1]).argmax()
        assert found == pytest.approx(weighted_accuracy(y[:count], said, "balanced"))


def test_svm_counts_classes_alike() -> None:
    rng = np.random.default_rng(13)
    y = (np.arange(1200) % 12 == 0).astype(int)
    x = (rng.normal(size=(1200, 4)) + y[:, None] * np.eye(4)[0]).astype(np.float32)
    recall = {}
    for how in ("balanced", "none"):
        said = svm_predict(x[:400], y[:400], x[400:600], y[400:600], x[600:], class_weights=how)[0]
        recall[how] = float((said[y[600:] == 1] == 1).mean())
    assert recall["none"] < 0.2 < 0.5 < recall["balanced"]


def test_ridge_probe_chooses_on_validation_and_refits() -> None:
    x, y = blobs(700, 1, 1, width=200)
    found = ridge_probe(x[:120], y[:120], x[120:300], y[120:300], x[300:])
    accuracies = dict(found.path)
    assert found.validation_score == max(accuracies.values()) > min(accuracies.values()) and found.C in STRENGTHS
    refit = RidgePath(x[:300], y[:300]).scores(x[300:], (found.C,))[0].argmax(1)
    np.testing.assert_array_equal(found.predicted_N, refit)


def test_ridge_leave_one_out_is_what_refitting_gives() -> None:
    x, y = blobs(40, 1, 2)
    strengths = (0.03, 1.0)
    closed = RidgePath(x, y, "none").left_out_accuracy(x, y, strengths)
    x_scaled, target = Standardiser(x)(x), np.eye(3)[y]
    for strength, found in zip(strengths, closed, strict=True):
        right = 0
        for i in range(40):
            rest = np.arange(40) != i
            a = np.concatenate([x_scaled, np.ones((40, 1))], 1)[rest]
            penalty = strength * 40 * np.diag([1.0] * 10 + [0.0])
            w = np.linalg.solve(a.T @ a + penalty, a.T @ target[rest])
            right += int((np.append(x_scaled[i], 1) @ w).argmax() == y[i])
        assert found == pytest.approx(right / 40)
    few = ridge_probe(x[:15], y[:15], x[:0], y[:0], x[15:])
    assert (few.predicted_N == y[15:]).mean() > 0.4


@pytest.mark.parametrize("width", [6, 40])
def test_torch_grid_equals_sklearn(width: int) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = blobs(400, 1, 3, width=width)
    x = Standardiser(x)(x)
    found = fit_grid(x[:300], y[:300], C_GRID, tol=1e-7)
    assert found.converged_G.all()
    for strength, share_NK in zip(C_GRID, found.probability(x[300:]), strict=True):
        model = LogisticRegression(C=strength, max_iter=10000, tol=1e-8).fit(x[:300], y[:300])
        np.testing.assert_allclose(share_NK, model.predict_proba(x[300:]), atol=1e-3)


def test_torch_grid_of_separable_classes_and_odd_labels() -> None:
    x, y = blobs(300, 20, 4)
    found = fit_grid(Standardiser(x)(x), np.array([4, 9, 7])[y], (1e-4, 1e4))
    assert found.classes_K.tolist() == [4, 7, 9] and found.converged_G.all()
    assert (found.classes_K[found.probability(Standardiser(x)(x))[1].argmax(1)] == np.array([4, 9, 7])[y]).all()
    stopped = fit_grid(Standardiser(x)(x), y, (1e-4, 1e4), max_iter=2)
    assert not stopped.converged_G.all()


def test_torch_road_of_the_probe_gives_sklearns_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA runs, on CPU tensors: the road is chosen by the device's name alone."""
    import downstream.protocols.linear as module

    x, y = blobs(700, 1.5, 5)
    sides = (x[:300], y[:300], x[300:400], y[300:400], x[400:])
    expected = linear_probe(*sides)
    fitted = []

    def on_cpu(*args: object, **options: object) -> object:
        fitted.append(options["device"])
        return fit_grid(*args, **{**options, "device": "cpu"})  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit_grid", on_cpu)
    found = linear_probe(*sides, device="cuda")
    assert fitted == ["cuda", "cuda"] and found.converged
    assert np.allclose([a for _, a in found.path], [a for _, a in expected.path], atol=0.011)
    assert (found.predicted_N == expected.predicted_N).mean() > 0.985
    assert found.confidence_N is not None and expected.confidence_N is not None
    if found.C == expected.C:
        np.testing.assert_allclose(found.confidence_N, expected.confidence_N, atol=5e-3)


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    x, y = blobs(700, 1.5, 6)
    sides = (x[:300], y[:300], x[300:400], y[300:400], x[400:])
    assert (linear_probe(*sides, device="cuda").predicted_N == linear_probe(*sides).predicted_N).mean() > 0.985
    a, b = (knn_predict(x[:400], y[:400], x[400:], device=d) for d in ("cuda", "cpu"))
    assert all((a[k] == b[k]).mean() > 0.995 for k in a)


def test_neighbours_do_not_depend_on_the_chunk() -> None:
    x, _ = blobs(500, 1, 7)
    one, other = (nearest(x[:400], x[400:], 20, chunk=c) for c in (3, 1000))
    np.testing.assert_array_equal(one[0], other[0])


def test_svm_is_chosen_on_validation_and_solves_what_no_line_can() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(600, 2)).astype(np.float32)
    y = (np.linalg.norm(x, axis=1) > 1.2).astype(int)
    predicted, strength, gamma = svm_predict(x[:200], y[:200], x[200:300], y[200:300], x[300:])
    assert (predicted == y[300:]).mean() > 0.93 and strength in SVM_C and gamma in (0.05, 0.5, 5.0)
    line = linear_probe(x[:200], y[:200], x[200:300], y[200:300], x[300:])
    assert (line.predicted_N == y[300:]).mean() < 0.75
    few, _, _ = svm_predict(x[:20], y[:20], x[:0], y[:0], x[300:], most=12)
    assert few.shape == (300,)


@pytest.mark.parametrize("probe", [linear_probe, ridge_probe, svm_predict])
def test_one_class_or_lost_values_are_refused(probe: object) -> None:
    x, y = blobs(40, 3, 9)
    with pytest.raises(SpecfmError, match="two classes"):
        probe(x[:20], np.zeros(20, int), x[20:30], y[20:30], x[30:])  # type: ignore[operator]
    x[25] = np.inf
    with pytest.raises(SpecfmError, match="NaN"):
        probe(x[:20], y[:20], x[20:30], y[20:30], x[30:])  # type: ignore[operator]


@pytest.mark.parametrize("width", [6, 60])
def test_leaving_sets_out_in_closed_form_equals_refitting_without_them(width: int) -> None:
    from sklearn.linear_model import Ridge

    x, y = blobs(40, 1.0, seed=5, classes=4, width=width)
    rng = np.random.default_rng(6)
    block = np.arange(40) // 5
    teaches = (block[:, None] != block[None]) & ((y[:, None] == y[None]) | (rng.random((40, 40)) > 0.3))
    teaches[7] = False  # none may teach it
    teaches[9] = np.arange(40) != 9
    said = left_out_classes(x, y, teaches, penalty=0.2)
    scaled, target = Standardiser(x)(x), np.eye(4)[y]
    for i in range(40):
        if i == 7:
            assert said[i] == 0
            continue
        refit = Ridge(alpha=0.2 * 40).fit(scaled[teaches[i]], target[teaches[i]])
        assert said[i] == refit.predict(scaled[i : i + 1]).argmax()
    assert 0.3 < (said == y).mean() < 1
