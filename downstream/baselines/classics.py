"""The most frequent class and principal components, fitted on the training side of a split alone.

Minimum noise fraction is in ``downstream.baselines.mnf``, the rows of all baselines in ``downstream.baselines.run``.

Shape suffixes: M training samples, N test samples, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from downstream.results.runs import Runs
from downstream.splits.samples import Samples
from downstream.splits.split import Split


def majority_predict(train_y_M: np.ndarray, count: int) -> np.ndarray:
    """The most frequent training class, ``count`` times."""
    return np.full(count, int(np.bincount(np.asarray(train_y_M, np.int64)).argmax()), dtype=np.int64)


def pca_features(
    train_MD: np.ndarray, other_ND: np.ndarray, components: int = 30, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of train and other samples on the first components, fitted on the training samples only."""
    from sklearn.decomposition import PCA

    keep = min(components, train_MD.shape[1], len(train_MD))
    pca = PCA(keep, svd_solver="full" if min(train_MD.shape) < 500 else "randomized", random_state=seed)
    train = pca.fit_transform(np.asarray(train_MD, np.float64))
    return train.astype(np.float32), pca.transform(np.asarray(other_ND, np.float64)).astype(np.float32)


def majority(samples: Samples, splits: Sequence[Split]) -> Runs:
    """The trivial baseline."""
    runs = Runs("majority", "majority class", "-")
    for split in splits:
        runs.record(samples, split, majority_predict(samples.y_N[split.fit_I], len(split.test_I)))
    return runs
