"""Mean and covariance in pieces."""

from __future__ import annotations

import pytest
import torch

from specfm.errors import SpecfmError
from specfm.reducers.moments import Moments


def test_pieces_give_what_all_values_give() -> None:
    x = torch.randn(101, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1e4
    moments = Moments(5)
    for piece in (x[:1], x[1:1], x[1:60], x[60:]):
        moments.add(piece)
    assert moments.count == 101
    assert torch.allclose(moments.mean_C, x.mean(0))
    assert torch.allclose(moments.covariance_CC, torch.cov(x.T, correction=0))
    assert torch.allclose(moments.sd_C, x.std(0, unbiased=False))


def test_nothing_has_no_mean() -> None:
    with pytest.raises(SpecfmError, match="no valid pixel"):
        _ = Moments(3).mean_C
