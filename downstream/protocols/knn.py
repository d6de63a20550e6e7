"""Exact k-nearest-neighbour classification on frozen features (Wu et al. 2018, arXiv 1805.01978: weighted vote).

Shape suffixes: M train samples, N test samples, D features, K classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from downstream.features.neighbours import Metric, nearest


def vote(
    neighbour_label_Nk: np.ndarray, similarity_Nk: np.ndarray, classes: int, temperature: float | None = 0.07
) -> np.ndarray:
    """Class with the most weight exp(similarity / temperature); ``None`` = one neighbour, one vote.

    Ties go to the nearest neighbour's class among the tied, not to the smallest class number.
    """
    if temperature is None:
        weight_Nk = np.isfinite(similarity_Nk).astype(np.float64)
    else:
        top_N1 = np.nan_to_num(similarity_Nk[:, :1].astype(np.float64), neginf=0.0)
        weight_Nk = np.exp((similarity_Nk - top_N1) / temperature)
    rank_bonus = 1e-9 / (1 + np.arange(similarity_Nk.shape[1]))
    score_NK = np.zeros((len(neighbour_label_Nk), classes))
    rows = np.arange(len(neighbour_label_Nk))
    for j in range(neighbour_label_Nk.shape[1]):
        score_NK[rows, neighbour_label_Nk[:, j]] += weight_Nk[:, j] * (1 + rank_bonus[j])
    return score_NK.argmax(1)


def knn_predict(
    train_MD: np.ndarray,
    train_y_M: np.ndarray,
    test_ND: np.ndarray,
    ks: Sequence[int] = (1, 5, 20),
    *,
    classes: int | None = None,
    metric: Metric = "cosine",
    temperature: float | None = 0.07,
    train_group_M: np.ndarray | None = None,
    test_group_N: np.ndarray | None = None,
    device: str = "cpu",
) -> dict[int, np.ndarray]:
    """Predicted class of every test sample for each k, from one search. A k above M uses all M samples."""
    train_y_M = np.asarray(train_y_M, np.int64)
    count = int(train_y_M.max()) + 1 if classes is None else classes
    deepest = min(max(ks), len(train_MD))
    index_Nk, similarity_Nk = nearest(
        train_MD, test_ND, deepest, metric=metric, train_group_M=train_group_M, test_group_N=test_group_N, device=device
    )
    label_Nk = train_y_M[index_Nk]
    # distances have the features' unit, so the temperature only makes sense on cosines
    heat = temperature if metric == "cosine" else None
    return {k: vote(label_Nk[:, : min(k, deepest)], similarity_Nk[:, : min(k, deepest)], count, heat) for k in ks}


def knn_accuracy(
    train_MD: np.ndarray, train_y_M: np.ndarray, test_ND: np.ndarray, test_y_N: np.ndarray, k: int = 20, **options: Any
) -> float:
    """Overall accuracy of one k: the quick monitor during pretraining."""
    classes = int(max(np.max(train_y_M), np.max(test_y_N))) + 1
    predicted_N = knn_predict(train_MD, train_y_M, test_ND, (k,), classes=classes, **options)[k]
    return float((predicted_N == np.asarray(test_y_N)).mean())
