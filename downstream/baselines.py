"""What an encoder must beat, under the very same splits: majority class, raw spectra, PCA, an untrained twin.

Shape suffixes: M training samples, N test samples, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specfm.errors import SpecfmError


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


def random_encoder(size: str, seed: int, **options: Any) -> Any:
    """An untrained encoder with its own seed; the caller's random state is left alone."""
    import torch

    from specfm.models import create_encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_encoder(size, **options).eval()


def random_twin(encoder: Any, seed: int) -> Any:
    """An encoder of the same architecture and options with fresh weights, on the same device."""
    import torch

    from downstream.features import encoder_device
    from specfm.models import create_encoder

    config = dict(getattr(encoder, "config", None) or {})
    if not config:
        raise SpecfmError("this encoder carries no config, so no untrained twin can be built; pass init_seeds=0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = create_encoder(**config)
    return fresh.to(encoder_device(encoder)).eval()
