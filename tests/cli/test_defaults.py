"""Options that belong together are given together, and a command has the defaults of the function it runs."""

from __future__ import annotations

import inspect
from importlib import import_module

import numpy as np
import pytest

from specfm.cli import COMMANDS
from specfm.readers import read_scene
from specfm.shards.build import write_shards
from specfm.shards.workers import ALONE_BYTES, usual_workers
from tests.shards.make import ramp_scene


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(import_module(COMMANDS[name]).command).parameters)


@pytest.mark.parametrize("name", COMMANDS)
def test_offset_goes_with_scale(name: str) -> None:
    options = parameters(name)
    assert ("scale" in options) == ("offset" in options)


def test_commands_that_open_files_take_every_number_of_the_reader() -> None:
    numbers = {"scale", "offset", "nodata"}
    assert numbers <= inspect.signature(read_scene).parameters.keys()
    opening = [name for name in COMMANDS if "wavelengths" in parameters(name)]
    assert {"inspect", "shard", "embed", "cluster", "search", "predict", "change"} <= set(opening)
    for name in opening:
        assert numbers <= parameters(name).keys(), name


def test_shard_has_the_defaults_of_write_shards() -> None:
    command, function = parameters("shard"), inspect.signature(write_shards).parameters
    same = sorted(set(command) & set(function) - {"out"})
    assert same == [
        "append", "bands", "codec", "dark_objects", "dry_run", "label", "labelled_only", "min_valid",
        "object_threshold", "overwrite", "scheduler", "stride", "whole", "window", "workers",
    ]  # fmt: skip
    assert {name: command[name].default for name in same} == {name: function[name].default for name in same}
    # named otherwise there: scenes, background_HW and progress come of inputs, background_mask and the terminal
    assert set(function) - set(same) == {"scenes", "out", "background_HW", "progress"}


def test_small_cubes_are_read_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    small = ramp_scene()
    assert usual_workers([small, small]) == 1
    rows = ALONE_BYTES // 1000 + 1
    large = small.replace(source=_Only((rows, 1000, small.shape[2])), labels_HW=None, groups_HW=None)
    assert usual_workers([small, large]) == 8


class _Only:
    """A cube that is nothing but its size."""

    dtype = np.dtype(np.int16)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
