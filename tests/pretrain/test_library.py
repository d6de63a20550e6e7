"""Which spectra a pretrained encoder is released with."""

from __future__ import annotations

import numpy as np

import specfm
from pretrain.library import AT_MOST, FEWEST_BANDS, collect_library
from pretrain.loop import train
from specfm.shards import ShardSet
from tests.pretrain.runs import debug_config, make_shard


def test_spectra_come_from_sensors_that_see_much_and_say_what_they_are(tmp_path) -> None:
    shards = [
        str(make_shard(tmp_path / "wide.h5", "wide", FEWEST_BANDS + 10, 96, 1)),
        str(make_shard(tmp_path / "few.h5", "few", FEWEST_BANDS - 10, 60, 2)),
    ]
    found = collect_library(ShardSet(shards))
    assert found is not None and [sensor.name for sensor in found.sensors] == ["wide"]
    assert found.sensors[0].scale == 1.0 and 10 < len(found) <= AT_MOST
    values = found.spectra_LC[0]
    assert values.min() > 0.05 and values.max() < 1.2, "physical values, not stored ones"
    again = collect_library(ShardSet(shards))
    assert again is not None and again.digest == found.digest
    assert collect_library(ShardSet(shards[1:])) is None


def test_a_run_releases_its_library_and_hands_it_on(tmp_path) -> None:
    one = str(make_shard(tmp_path / "one.h5", "one", FEWEST_BANDS, 96, 1))
    two = str(make_shard(tmp_path / "two.h5", "two", FEWEST_BANDS + 4, 96, 2))
    first = train(debug_config(tmp_path / "first", [one], "steps=1"))
    second = train(debug_config(tmp_path / "second", [two], "steps=1", f"init_from={first}"))
    a, b = specfm.load(first).library, specfm.load(second, align=True).library
    assert a is not None and b is not None
    assert [s.name for s in a.sensors] == ["one"] and [s.name for s in b.sensors] == ["two", "one"]
    assert np.array_equal(a.spectra_LC[0], b.spectra_LC[1])
