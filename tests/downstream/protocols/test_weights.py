"""Weights of classes: what they are, what they sum to, which accuracy they give."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from downstream.protocols.options import ProtocolOptions
from downstream.protocols.weights import (
    ClassWeights,
    weighted_accuracy,
    weights_of_classes,
    weights_of_samples,
)
from downstream.results.metrics import confusion_matrix, scores


@pytest.mark.parametrize("how", get_args(ClassWeights))
def test_mean_weight_of_samples_is_one_and_absent_classes_have_none(how: ClassWeights) -> None:
    y = np.repeat([0, 3, 4], [60, 30, 10])
    weight_M = weights_of_samples(y, how)
    assert weight_M.mean() == pytest.approx(1)
    weight_K = weights_of_classes(np.bincount(y), how)
    assert weight_K[1] == weight_K[2] == 0
    np.testing.assert_allclose(weight_K[y], weight_M)


def test_balanced_weighs_inverse_to_number_and_sqrt_to_its_root() -> None:
    counts = np.array([90, 10])
    balanced, root, none = (weights_of_classes(counts, how) for how in ("balanced", "sqrt", "none"))
    np.testing.assert_allclose(balanced, [100 / 180, 100 / 20])
    assert root[1] / root[0] == pytest.approx(3)
    np.testing.assert_allclose(none, 1)


def test_weighted_accuracy_is_aa_balanced_and_oa_unweighted() -> None:
    rng = np.random.default_rng(0)
    true = rng.choice(5, 300, p=[0.5, 0.3, 0.1, 0.08, 0.02])
    said = np.where(rng.random((2, 300)) < 0.6, true, rng.integers(0, 5, (2, 300)))
    for number, aa, oa in zip(
        range(2), weighted_accuracy(true, said, "balanced"), weighted_accuracy(true, said, "none"), strict=True
    ):
        found = scores(confusion_matrix(true, said[number], 5))
        assert aa == pytest.approx(float(found["aa"])) and oa == pytest.approx(float(found["oa"]))


def test_rows_say_where_samples_count_and_not_classes() -> None:
    assert ProtocolOptions().notices == []
    assert ProtocolOptions(class_weights="none").notices == [
        "in every fit on labels samples count alike, not classes (--class-weights none)"
    ]
