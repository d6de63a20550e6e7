"""Arithmetic of memory: what is divided, what is shared, how many samples fit."""

from __future__ import annotations

import dataclasses

import pytest
from torch import nn

from pretrain.planning.memory import Load, Model, checkpointed, largest_micro_batch, needed, total
from pretrain.planning.trial import Cost, Part

MODEL = Model(held=1000, trained=800, held_blocks=600, trained_blocks=400, largest_block=100, depth=4)
PARTS = [Part("a", 6, 10, 9, 1, 100), Part("b", 2, 20, 9, 1, 200)]
KEPT = [Cost(50, 1000), Cost(70, 3000)]
LOAD = Load(PARTS, KEPT, 640, None)


def test_every_process_holds_all_unless_blocks_are_divided() -> None:
    whole, divided = needed(MODEL, LOAD, 4, False), needed(MODEL, LOAD, 4, True)
    assert (whole["weights"], whole["gradients"], whole["moments"]) == (4000, 3200, 6400)
    assert divided["gradients"] == 4 * (400 + 100) and divided["moments"] == 2 * divided["gradients"]
    assert divided["weights"] == 4 * (400 + 150) + 8 * 100  # and two blocks at a time
    assert needed(MODEL, LOAD, 1, True) == needed(MODEL, LOAD, 1, False)  # one process has nothing to divide by


def test_windows_rows_and_activations_of_a_whole_share() -> None:
    found = needed(MODEL, LOAD, 2, False)
    assert found["windows"] == 2 * (6 * 100 + 2 * 200) and found["rows"] == 3 * 640
    views = [4 * 2 * 9 * 10, 4 * 2 * 9 * 20]
    assert found["activations"] == pytest.approx(70 + 6 * (1100 + views[0]) + 2 * (3300 + views[1]))


def test_a_micro_batch_is_counted_with_the_samples_that_need_most() -> None:
    three = dataclasses.replace(LOAD, micro_batch=3)
    found = needed(MODEL, three, 2, False)["activations"]
    assert found == pytest.approx(70 + 2 * (3300 + 1440) + 1 * (1100 + 720))
    more = dataclasses.replace(LOAD, micro_batch=99)  # a share has no more than 8
    assert needed(MODEL, more, 2, False) == needed(MODEL, LOAD, 2, False)


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    for most in range(1, 8):
        exactly = total(needed(MODEL, dataclasses.replace(LOAD, micro_batch=most), 2, False))
        assert largest_micro_batch(MODEL, LOAD, 2, False, exactly + 1) == most
    assert largest_micro_batch(MODEL, LOAD, 2, False, 1e12) == 8
    assert largest_micro_batch(MODEL, LOAD, 2, False, 14000) == 0


def test_checkpointing_brings_one_block_back_at_a_time() -> None:
    found = checkpointed([Cost(100, 1000)], [Cost(60, 200)], depth=4)
    assert found == [Cost(70, 400)]


def test_what_is_counted_of_a_model() -> None:
    blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    encoder = nn.ModuleDict({"blocks": blocks, "stem": nn.Linear(2, 3).requires_grad_(False)})
    modules, teacher = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(3, 1)}), nn.Linear(5, 1)
    found = Model.of(modules, [teacher])
    counts = {"held": 24 + 9 + 4 + 6, "trained": 24 + 4, "held_blocks": 24, "trained_blocks": 24}
    assert found == Model(**counts, largest_block=12, depth=2)


def test_a_cost_goes_through_what_was_measured() -> None:
    assert Cost.through(4, 50.0, 8, 70.0) == Cost(30.0, 5.0) and Cost(30.0, 5.0).of(8) == 70
    assert Cost.through(4, 50.0, 8, 40.0) == Cost(50.0, 0.0)  # noise
    assert Cost.through(3, 30.0, 3, 30.0) == Cost(0.0, 10.0)
