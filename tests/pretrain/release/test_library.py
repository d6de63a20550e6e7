"""Which spectra a pretrained encoder is released with."""

from __future__ import annotations

import numpy as np
import pytest

import specfm
from pretrain.loop import train
from pretrain.release import library as module
from pretrain.release.library import PER_SHARD, collect_library
from specfm.library import FEWEST_BANDS, redrawn
from specfm.sensors import QUANTITIES
from specfm.shards import ShardSet
from tests.pretrain.runs import debug_config, make_shard


def test_spectra_come_from_sensors_that_see_much_and_say_what_they_are(tmp_path) -> None:
    shards = [
        str(make_shard(tmp_path / "wide.h5", "wide", FEWEST_BANDS + 10, 96, 1)),
        str(make_shard(tmp_path / "few.h5", "few", FEWEST_BANDS - 10, 60, 2)),
    ]
    found = collect_library(ShardSet(shards))
    assert found is not None and len(found) == PER_SHARD and found.low_nm == 420.0 and found.high_nm == 2400.0
    assert set(found.quantity_L.tolist()) == {QUANTITIES.index("surface_reflectance")}
    assert 0.1 < found.spectra_LS.mean() < 1, "physical values, not stored ones"
    again = collect_library(ShardSet(shards))
    assert again is not None and again.digest == found.digest
    assert collect_library(ShardSet(shards[1:])) is None


@pytest.mark.parametrize(
    ("ranges", "count", "kept"),
    [
        ([(400, 2500), (400, 5000)], (96, 1), (400.0, 2500.0)),  # the widest holds one window: it cannot be drawn anew
        ([(350, 1100), (900, 1700)], (96, 96), (900.0, 1700.0)),  # another part of the spectrum is left out
        ([(400, 1000), (1000, 1600)], (96, 96), (400.0, 1000.0)),
        ([(755, 775)], (96,), None),
        ([(400, 30000)], (96,), None),
    ],
)
def test_odd_stores_give_what_they_can(tmp_path, ranges, count, kept) -> None:
    paths = []
    for i, ((low, high), number) in enumerate(zip(ranges, count, strict=True)):
        paths.append(str(make_shard(tmp_path / f"{i}.h5", f"d{i}", 60, number, i, low=low, high=high)))
    found = collect_library(ShardSet(paths))
    assert (None if found is None else (found.low_nm, found.high_nm)) == kept


def test_what_is_read_of_a_large_store_is_bounded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_SHARDS", 2)
    monkeypatch.setattr(module, "MEASURED_IN_ALL", 40)
    paths = [str(make_shard(tmp_path / f"{i}.h5", f"d{i}", 60, 96, i)) for i in range(4)]
    store, asked = ShardSet(paths), []
    for reader in store.readers:
        monkeypatch.setattr(reader, "read", lambda ids, read=reader.read: (asked.append(len(ids)), read(ids))[1])
    found = collect_library(store)
    assert found is not None and len(found) == 2 * PER_SHARD
    assert asked == [96, 20, 20], "one shard to begin with, then a share of two"


def test_drawn_spectra_have_the_statistics_of_the_measured_ones_and_are_none_of_them() -> None:
    rng = np.random.default_rng(0)
    lam = np.linspace(0, 1, 60)
    shapes = np.stack([np.ones(60), 0.3 * np.sin(7 * lam), 0.1 * np.cos(11 * lam)])
    height = np.c_[np.ones(500), rng.normal(size=(500, 2))]
    measured_MC = rng.uniform(0.5, 2, (500, 1)) * (height @ shapes) + 2.0
    weights_C = np.full(60, 1 / 60)
    drawn_LC = redrawn(measured_MC, weights_C, 2000)
    assert drawn_LC is not None and drawn_LC.shape == (2000, 60)

    def level_free(x_NC: np.ndarray) -> np.ndarray:
        return x_NC / x_NC.mean(1, keepdims=True)

    a, b = level_free(measured_MC), level_free(drawn_LC.astype(float))
    assert np.abs(a.mean(0) - b.mean(0)).max() < 0.02
    assert np.abs(np.cov(a.T) - np.cov(b.T)).max() < 0.25 * np.abs(np.cov(a.T)).max()
    assert abs(drawn_LC.mean() / measured_MC.mean() - 1) < 0.05
    nearest = np.abs(b[:200, None] - a[None]).max(2).min(1)
    assert (nearest > 1e-6).all()


def test_few_or_like_spectra_are_not_drawn_and_draws_are_not_negative() -> None:
    rng = np.random.default_rng(0)
    weights_C = np.full(30, 1 / 30)
    assert redrawn(rng.uniform(0.2, 1, (5, 30)), weights_C, 10) is None
    assert redrawn(np.tile(rng.uniform(0.2, 1, 30), (50, 1)), weights_C, 10) is None
    dark = redrawn(rng.exponential(0.1, (50, 30)), weights_C, 500)
    assert dark is not None and dark.min() == 0


def test_a_run_releases_its_library_and_hands_it_on(tmp_path) -> None:
    one = str(make_shard(tmp_path / "one.h5", "one", FEWEST_BANDS, 96, 1))
    two = str(make_shard(tmp_path / "two.h5", "two", FEWEST_BANDS + 4, 96, 2))
    first = train(debug_config(tmp_path / "first", [one], "steps=1"))
    second = train(debug_config(tmp_path / "second", [two], "steps=1", f"init_from={first}"))
    a, b = specfm.load(first).library, specfm.load(second, align=True).library
    assert a is not None and b is not None and len(b) == 2 * len(a)
    assert np.allclose(a.spectra_LS, b.spectra_LS[len(a) :])
