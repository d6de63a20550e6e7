"""Exact kNN equals scikit-learn's brute force; votes, exclusions and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from downstream.features.neighbours import nearest
from downstream.protocols.knn import knn_accuracy, knn_predict, vote
from specfm.errors import SpecfmError

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.normal(size=(400, 24)) + 1, RNG.normal(size=(130, 24)) + 1
LABELS = RNG.integers(0, 5, 400)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("chunk", [7, 2048])
def test_neighbours_equal_brute_force(metric: str, chunk: int) -> None:
    from sklearn.neighbors import NearestNeighbors

    reference = NearestNeighbors(n_neighbors=9, algorithm="brute", metric=metric).fit(TRAIN)
    distance, expected = reference.kneighbors(TEST)
    index, similarity = nearest(TRAIN, TEST, 9, metric=metric, chunk=chunk)  # type: ignore[arg-type]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(similarity, 1 - distance if metric == "cosine" else -(distance**2), atol=2e-4)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_unweighted_vote_equals_sklearn_where_there_is_no_tie(k: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(TRAIN, LABELS)
    share = np.sort(model.predict_proba(TEST), 1)
    clear = share[:, -1] > share[:, -2]
    found = knn_predict(TRAIN, LABELS, TEST, (k,), temperature=None)[k]
    np.testing.assert_array_equal(found[clear], model.predict(TEST)[clear])
    assert clear.sum() > 50


def test_weighted_vote_follows_its_formula() -> None:
    index, similarity = nearest(TRAIN, TEST, 20)
    weight = np.exp(similarity / 0.07)
    score = np.stack([(weight * (LABELS[index] == c)).sum(1) for c in range(5)], 1)
    np.testing.assert_array_equal(knn_predict(TRAIN, LABELS, TEST, (20,))[20], score.argmax(1))


def test_ties_go_to_the_nearest() -> None:
    labels = np.array([[2, 1, 1, 2], [0, 2, 2, 0]])
    assert vote(labels, np.ones((2, 4), np.float32), 3, None).tolist() == [2, 0]


def test_own_group_is_excluded() -> None:
    ids = np.arange(400)
    alone, _ = nearest(TRAIN, TRAIN, 1, train_group_M=ids, test_group_N=ids)
    self_index, _ = nearest(TRAIN, TRAIN, 2)
    assert (alone[:, 0] != ids).all() and (self_index[:, 0] == ids).all()
    np.testing.assert_array_equal(alone[:, 0], self_index[:, 1])
    groups = ids // 40
    index, similarity = nearest(TRAIN, TRAIN, 5, train_group_M=groups, test_group_N=groups)
    assert (groups[index] != groups[:, None]).all() and np.isfinite(similarity).all()


def test_excluded_neighbours_have_no_vote() -> None:
    train = np.eye(3)
    found = knn_predict(
        train, np.array([0, 0, 1]), train[:1], (3,), train_group_M=np.array([7, 7, 8]), test_group_N=np.array([7])
    )
    assert found[3].tolist() == [1]


def test_k_above_the_training_set_uses_all_of_it_and_nonsense_is_refused() -> None:
    assert knn_predict(TRAIN[:4], LABELS[:4], TEST, (20,))[20].shape == (130,)
    with pytest.raises(SpecfmError, match="k = 5"):
        nearest(TRAIN[:4], TEST, 5)
    with pytest.raises(ValueError, match="both"):
        nearest(TRAIN, TEST, 1, train_group_M=np.zeros(400))


def test_accuracy_on_itself_is_one() -> None:
    assert knn_accuracy(TRAIN, LABELS, TRAIN, LABELS, k=1) == 1.0
