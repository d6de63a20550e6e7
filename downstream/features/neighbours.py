"""Exact nearest neighbours in memory-bounded chunks.

Shape suffixes: M train samples, N test samples, D features, k neighbours.
"""

from __future__ import annotations

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
