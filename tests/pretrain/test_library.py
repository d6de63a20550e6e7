"""Which spectra a pretrained encoder is released with."""

from __future__ import annotations

import numpy as np

import specfm
from pretrain.library import AT_MOST, FEWEST_BANDS, collect_library, redrawn
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
    assert 0.1 < found.spectra_LC[0].mean() < 1, "physical values, not stored ones"
    again = collect_library(ShardSet(shards))
    assert again is not None and again.digest == found.digest
    assert collect_library(ShardSet(shards[1:])) is None


def test_drawn_spectra_have_the_statistics_of_the_measured_ones_and_are_none_of_them() -> None:
    rng = np.random.default_rng(0)
    lam = np.linspace(0, 1, 60)
    shapes = np.stack([np.ones(60), 0.3 * np.sin(7 * lam), 0.1 * np.cos(11 * lam)])
    height = np.c_[np.ones(500), rng.normal(size=(500, 2))]
    measured_MC = rng.uniform(0.5, 2, (500, 1)) * (height @ shapes) + 2.0
    weights_C = np.full(60, 1 / 60)
    drawn_LC = redrawn(measured_MC, weights_C, 2000)
    assert drawn_LC.shape == (2000, 60) and (drawn_LC >= 0).all()

    def level_free(x_NC: np.ndarray) -> np.ndarray:
        return x_NC / x_NC.mean(1, keepdims=True)

    a, b = level_free(measured_MC), level_free(drawn_LC.astype(float))
    assert np.abs(a.mean(0) - b.mean(0)).max() < 0.02
    assert np.abs(np.cov(a.T) - np.cov(b.T)).max() < 0.25 * np.abs(np.cov(a.T)).max()
    assert abs(drawn_LC.mean() / measured_MC.mean() - 1) < 0.05
    nearest = np.abs(b[:200, None] - a[None]).max(2).min(1)
    assert (nearest > 1e-6).all()


def test_a_run_releases_its_library_and_hands_it_on(tmp_path) -> None:
    one = str(make_shard(tmp_path / "one.h5", "one", FEWEST_BANDS, 96, 1))
    two = str(make_shard(tmp_path / "two.h5", "two", FEWEST_BANDS + 4, 96, 2))
    first = train(debug_config(tmp_path / "first", [one], "steps=1"))
    second = train(debug_config(tmp_path / "second", [two], "steps=1", f"init_from={first}"))
    a, b = specfm.load(first).library, specfm.load(second, align=True).library
    assert a is not None and b is not None
    assert [s.name for s in a.sensors] == ["one"] and [s.name for s in b.sensors] == ["two", "one"]
    assert np.array_equal(a.spectra_LC[0], b.spectra_LC[1])
