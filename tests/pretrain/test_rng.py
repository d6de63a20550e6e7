"""Random numbers that follow from a key."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.rng import Keys, mix64, permute, splitmix64


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000, 4097])
def test_permute_is_a_permutation(size: int) -> None:
    for key in (0, 1, 2**63 + 5):
        assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_permute_shuffles_differently_for_every_key() -> None:
    first, second = (permute(np.arange(1000), 1000, key) for key in (1, 2))
    assert (first == second).mean() < 0.02
    assert abs(np.corrcoef(np.arange(1000), first)[0, 1]) < 0.15


def test_mix64_is_the_same_everywhere() -> None:
    assert int(mix64(1, 2, 3)) == 15020427595393229491


def test_permute_is_the_same_everywhere() -> None:
    assert permute(np.arange(5), 1000, 42).tolist() == [570, 919, 730, 910, 936]


def test_splitmix64_gives_the_published_numbers() -> None:
    state = torch.tensor([1234567, 1234567 + int(np.int64(np.uint64(0x9E3779B97F4A7C15)))])
    found = [int(v) % 2**64 for v in splitmix64(state)]
    assert found == [6457827717110365317, 3203168211198807973]


def test_uniforms_are_uniform_and_independent_of_their_count() -> None:
    keys = Keys.of(torch.arange(2000), seed=1, step=2, view=0)
    many = keys.uniform("a", 50)
    assert many.min() >= 0 and many.max() < 1
    assert abs(many.mean() - 0.5) < 0.005 and abs(many.var() - 1 / 12) < 0.001
    assert torch.equal(many[:, :7], keys.uniform("a", 7))
    streams = torch.stack(
        [many[:, 0], many[:, 1], keys.uniform("b"), Keys.of(torch.arange(2000), 1, 2, 1).uniform("b")]
    )
    assert (torch.corrcoef(streams) - torch.eye(4)).abs().max() < 0.08
