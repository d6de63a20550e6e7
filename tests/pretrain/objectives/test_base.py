"""What an objective is, is what it defines: no flag can say otherwise."""

from __future__ import annotations

import pytest

from pretrain.objectives.band_prediction import BandPrediction
from pretrain.objectives.base import Objective
from pretrain.objectives.contrastive import NtXent


def test_the_parts_of_an_objective_are_those_it_defines() -> None:
    bare = {kind: object.__new__(kind) for kind in (NtXent, BandPrediction)}
    assert (bare[NtXent].couples, bare[NtXent].separates) == (True, False)
    assert (bare[BandPrediction].couples, bare[BandPrediction].separates) == (False, True)


def test_an_objective_without_a_loss_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="Silent defines neither couple nor separate"):
        type("Silent", (Objective,), {})
