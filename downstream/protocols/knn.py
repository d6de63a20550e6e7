"""Exact k-nearest-neighbour classification on frozen features (Wu et al. 2018, arXiv 1805.01978: weighted vote).

Shape suffixes: M train samples, N test samples, D features, K classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from specfm.errors import SpecfmError

Metric = Literal["cosine", "euclidean"]


def nearest(
    train_MD: np.ndarray,
    test_ND: np.ndarray,
    k: int,
    *,
    metric: Metric = "cosine",
    train_group_M: np.ndarray | None = None,
    test_group_N: np.ndarray | None = None,
    chunk: int = 2048,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest training samples of every test sample, exactly, in chunks of the similarity matrix.

    Args:
        train_MD: features to search.
        test_ND: queries.
        k: neighbours; at most M.
        metric: cosine (rows L2-normalised first) or Euclidean distance.
        train_group_M: with ``test_group_N``, neighbours of the query's own group are excluded (sample ids exclude the
            sample itself, window or specimen ids its neighbourhood).
        test_group_N: group of every query.
        chunk: queries per block.
        device: torch device of the search.

    Returns:
        (index [N, k], similarity [N, k]) by falling similarity (cosine, or minus the squared distance); where fewer
        than k candidates are left the similarity is -inf.
    """
    import torch

    if k < 1 or k > len(train_MD):
        raise SpecfmError(f"k = {k} neighbours asked of {len(train_MD)} training samples")
    if (train_group_M is None) != (test_group_N is None):
        raise ValueError("give both train_group_M and test_group_N, or neither")
    train = torch.from_numpy(np.ascontiguousarray(train_MD, np.float32)).to(device)
    test = torch.from_numpy(np.ascontiguousarray(test_ND, np.float32)).to(device)
    if metric == "cosine":
        train = torch.nn.functional.normalize(train, dim=1)
        test = torch.nn.functional.normalize(test, dim=1)
    else:  # centring keeps |a|^2 - 2ab + |b|^2 from cancelling
        centre = train.mean(0)
        train, test = train - centre, test - centre
    square_M = (train * train).sum(1)
    group_M: Any = None
    if train_group_M is not None:
        group_M = torch.from_numpy(np.asarray(train_group_M, np.int64)).to(device)
    index_Nk = np.empty((len(test), k), np.int64)
    similarity_Nk = np.empty((len(test), k), np.float32)
    for start in range(0, len(test), chunk):
        query = test[start : start + chunk]
        sim = query @ train.T
        if metric == "euclidean":
            sim = 2 * sim - square_M - (query * query).sum(1, keepdim=True)
        if group_M is not None and test_group_N is not None:
            own = torch.from_numpy(np.asarray(test_group_N[start : start + chunk], np.int64)).to(device)
            sim = sim.masked_fill(own[:, None] == group_M[None], float("-inf"))
        value, index = sim.topk(k, dim=1)
        index_Nk[start : start + chunk] = index.cpu().numpy()
        similarity_Nk[start : start + chunk] = value.cpu().numpy()
    return index_Nk, similarity_Nk


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
