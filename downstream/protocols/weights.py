"""How much each class counts where something is fitted on labels, and where its strength or its end is chosen by them.

The number of a probe's tables is AA, the mean recall of the classes. A fit that counts samples minds the commonest
class: of four species, one with 55 % of the samples, the same features have AA .60 so, and .74 where classes count
alike (NEON's OSBS, by a linear probe).

Shape suffixes: M samples, K classes.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from specfm.errors import UsageError

ClassWeights = Literal["balanced", "sqrt", "none"]


def check_class_weights(how: str, name: str) -> None:
    """Refuse a word that is none of ``ClassWeights``.

    Raises:
        UsageError: it is not.
    """
    if how not in get_args(ClassWeights):
        raise UsageError(f"{name} {how!r}: choose one of {', '.join(get_args(ClassWeights))}")


def weights_of_classes(counts_K: np.ndarray, how: ClassWeights) -> np.ndarray:
    """Weight ``[K]`` of a sample of each class, mean 1 over all samples; 0 for a class without any.

    Args:
        counts_K: samples of each class.
        how: "balanced" (inverse to the number of samples, so that classes count alike), "sqrt" (inverse to its root) or
            "none" (samples count alike).
    """
    counts_K = np.asarray(counts_K, np.float64)
    power = {"balanced": 1.0, "sqrt": 0.5, "none": 0.0}[how]
    weight_K = np.where(counts_K > 0, np.maximum(counts_K, 1.0) ** -power, 0.0)
    return weight_K * (counts_K.sum() / max(float(weight_K @ counts_K), 1e-300))


def weights_of_samples(y_M: np.ndarray, how: ClassWeights) -> np.ndarray:
    """Weight ``[M]`` of each sample, mean 1 (:func:`weights_of_classes`)."""
    counts_K, place_M = np.unique(y_M, return_inverse=True, return_counts=True)[1:][::-1]
    return weights_of_classes(counts_K, how)[place_M.reshape(-1)]


def weighted_accuracy(true_M: np.ndarray, predicted_M: np.ndarray, how: ClassWeights) -> np.ndarray:
    """Share that is right, each sample by its weight: AA where classes are balanced, OA where nothing is weighted.

    Args:
        true_M: classes.
        predicted_M: what was said of them; any leading dimensions, which stay.
        how: see :func:`weights_of_classes`.
    """
    right_M = np.asarray(predicted_M) == np.asarray(true_M)
    return np.round((right_M * weights_of_samples(true_M, how)).mean(-1), 12)  # ties stay ties
