"""The one standardiser: by what it was fitted on alone, constants silenced, the same in a model as outside of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from downstream.features.standardise import Standardiser
from downstream.supervised.heads import Standardise


def test_it_uses_what_it_is_fitted_on_and_silences_constants() -> None:
    train = np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 4.0]])
    scale = Standardiser(train)
    np.testing.assert_allclose(scale(train), [[-1, 0, -1], [1, 0, 1]])
    np.testing.assert_allclose(scale(np.array([[2.0, 99.0, 3.0]])), [[0, 0, 0]])


@pytest.mark.parametrize("level", [0.0, 0.1, -30.0, 1e8])
def test_rounding_of_a_constant_is_no_variation(level: float) -> None:
    """A dead feature differs from sample to sample by the rounding of float32; a live one by a thousandth counts."""
    rng = np.random.default_rng(0)
    dead = np.float32(level) * (1 + rng.normal(0, 1e-7, (200, 1)))
    live = level * (1 + rng.normal(0, 1e-3, (200, 1))) if level else rng.normal(0, 1e-9, (200, 1))
    found = Standardiser(np.concatenate([dead, live], 1))(np.concatenate([dead, live], 1))
    assert not found[:, 0].any() and found[:, 1].std() == pytest.approx(1)


def test_what_is_missing_stays_missing_and_any_leading_axes_do() -> None:
    x = np.random.default_rng(0).normal(5, 2, (6, 4, 3)).astype(np.float32)
    scale = Standardiser(x.reshape(-1, 3))
    x[2, 1, 0] = np.nan
    wide, narrow = scale(x), scale(x, np.float32)
    assert wide.dtype == np.float64 and narrow.dtype == np.float32
    assert np.argwhere(np.isnan(narrow)).tolist() == [[2, 1, 0]]
    np.testing.assert_allclose(narrow, wide, atol=1e-6)


def test_a_model_standardises_as_what_it_took_over() -> None:
    x = np.random.default_rng(0).normal(5, 2, (50, 3)).astype(np.float32)
    module, scale = Standardise(2, 3), Standardiser(x)
    assert torch.equal(module(torch.from_numpy(x), 1), torch.from_numpy(x))  # nothing yet
    module.take(1, scale)
    np.testing.assert_allclose(module(torch.from_numpy(x), 1), scale(x), atol=1e-6)
    assert torch.equal(module(torch.from_numpy(x), 0), torch.from_numpy(x))
    assert set(module.state_dict()) == {"mean_LD", "factor_LD"}  # as in every task model saved so far
