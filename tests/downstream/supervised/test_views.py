"""Turning tiles: all eight ways of a square, and a window's middle that stays where it is."""

from __future__ import annotations

import numpy as np
import torch

from downstream.supervised.views import TURNS, turn, turned_batch, turns_about_its_middle


def test_all_eight_ways_and_the_first_leaves_it() -> None:
    x = np.arange(9).reshape(3, 3)
    assert len({turn(x, k).tobytes() for k in range(TURNS)}) == TURNS == 8
    np.testing.assert_array_equal(turn(x, 0), x)
    for k in range(TURNS):
        assert turn(x, k)[1, 1] == x[1, 1]


def test_a_batch_is_turned_window_by_window_and_torch_takes_it() -> None:
    """Also windows of one pixel, whose turned axes have a negative stride that NumPy calls contiguous."""
    for side in (1, 3):
        x = np.arange(TURNS * side * side * 4, dtype=np.float32).reshape(TURNS, side, side, 4)
        batch = turned_batch(x, range(TURNS))
        assert batch.shape == x.shape and batch.dtype == torch.float32 and batch.is_contiguous()
        for k in range(TURNS):
            np.testing.assert_array_equal(batch[k].numpy(), turn(x[k], k))
        batch.zero_()
        assert x.any(), "a copy"


def test_the_middle_of_an_even_window_moves() -> None:
    for side in (1, 2, 3, 6, 9):
        marked = np.zeros((side, side), bool)
        marked[side // 2, side // 2] = True
        stays = all(turn(marked, k)[side // 2, side // 2] for k in range(TURNS))
        assert stays == turns_about_its_middle(side)
