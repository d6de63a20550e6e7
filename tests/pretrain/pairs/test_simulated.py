"""Simulated pairs as a share of batches: the same for any ranks and threads, ids of their own, trained with shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain import setup
from pretrain.config import PretrainConfig
from pretrain.loop import train
from pretrain.objectives.config import NegativesConfig
from pretrain.objectives.negatives import build_rule
from pretrain.pairs.pairing import Nearness, Pairs, joined
from pretrain.pairs.simulated import SimulatedPairs
from pretrain.views.config import ViewConfig
from pretrain.views.view import make_view
from specfm.batch import Batch
from specfm.checkpoint import load
from specfm.engine.distributed import World
from specfm.errors import UsageError
from specfm.shards import ShardSet
from tests.pretrain.runs import debug_config, make_shards, metrics, run, weights

FEW = (
    "data.simulated.sensors=[sentinel2_msi, casi_1500]",
    "data.simulated.drawn_sensors=2",
    "data.simulated.slots=2",
    "data.simulated.share=0.5",
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def shards(paths: list[str]) -> ShardSet:
    return ShardSet(paths)


@pytest.fixture
def config(tmp_path: Path, paths: list[str]) -> PretrainConfig:
    return debug_config(tmp_path / "run", paths, *FEW)


def made(config: PretrainConfig, shards: ShardSet, **options: int) -> SimulatedPairs:
    data = config.data
    assert data.simulated is not None
    return SimulatedPairs(data.simulated, config.seed, data.simulated_batch, data.part_divisor, shards, **options)


def same(one: Batch, other: Batch) -> None:
    assert len(one.parts) == len(other.parts)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.x_BHWC, b.x_BHWC) and torch.equal(a.sample_id_B, b.sample_id_B)
        assert torch.equal(a.bands.wavelengths_nm_GC, b.bands.wavelengths_nm_GC)


def test_threads_and_order_do_not_matter(config: PretrainConfig, shards: ShardSet) -> None:
    plain = list(made(config, shards, threads=0).iterate(0, 4))
    ahead = list(made(config, shards, threads=3, prefetch=2).iterate(0, 4))
    later = list(made(config, shards, threads=1, prefetch=1).iterate(2, 4))
    for one, other in [*zip(plain, ahead, strict=True), *zip(plain[2:], later, strict=True)]:
        same(one.first, other.first)
        same(one.second, other.second)


def test_ranks_share_a_step(config: PretrainConfig, shards: ShardSet) -> None:
    (whole,) = made(config, shards, threads=0).iterate(3, 4)
    halves = [next(made(config, shards, threads=0, rank=rank, world=2).iterate(3, 4)) for rank in (0, 1)]
    for side in (0, 1):
        for number, part in enumerate(whole.sides[side]):
            pieces = [half.sides[side].parts[number] for half in halves]
            assert torch.equal(torch.cat([piece.x_BHWC for piece in pieces]), part.x_BHWC)
            assert torch.equal(torch.cat([piece.sample_id_B for piece in pieces]), part.sample_id_B)


def test_a_step_has_its_share_and_ids_of_its_own(config: PretrainConfig, shards: ShardSet) -> None:
    drawn = sum(len(ids) for _, ids in setup.make_sampler(config, shards).batch(0))
    simulated = made(config, shards, threads=0)
    assert drawn + simulated.count == config.data.global_batch and drawn == simulated.count
    one, two = simulated.iterate(0, 2)
    assert len(one) == simulated.count and len(one.first.parts) == 2
    for pairs in (one, two):
        for a, b in zip(pairs.first, pairs.second, strict=True):
            assert torch.equal(a.sample_id_B, b.sample_id_B) and torch.equal(a.domain_B, b.domain_B)
            assert a.domain_B.unique().numel() == 1 and a.domain_B.min() >= len(shards.domain_names)
            assert a.bands.quantity_G.item() == b.bands.quantity_G.item() >= 0
            assert a.x_BHWC.isfinite().all() and not a.x_BHWC[..., ~a.bands.valid_GC[0]].any()
    ids = torch.cat([one.first.cat("sample_id_B"), two.first.cat("sample_id_B")])
    assert ids.unique().numel() == len(ids) and ids.min() >= len(shards)
    assert one.first.cat("instance_id_B").max() < -1 and one.first.cat("scene_id_B").min() >= shards.scene_offsets[-1]


def test_views_of_a_pair_overlap_on_the_same_ground(config: PretrainConfig, shards: ShardSet) -> None:
    (pairs,) = made(config, shards, threads=0).iterate(0, 1)
    views = [make_view(side, ViewConfig(crop=6, dihedral=False), 0, 0, n) for n, side in enumerate(pairs.sides)]
    moved = (views[0].cat("origin_B2") - views[1].cat("origin_B2")).abs().amax(-1)
    assert moved.max() <= 3 and all(part.x_BHWC.isfinite().all() for view in views for part in view)


def test_negatives_stay_within_a_pair_of_sensors(config: PretrainConfig, shards: ShardSet) -> None:
    (pairs,) = made(config, shards, threads=0).iterate(0, 1)
    rule = build_rule(pairs, NegativesConfig(within="domain", spectral=False), gather=False)
    assert rule is not None
    every = slice(0, len(pairs))
    weight_NN = rule.pair(every, every)[0]
    domain_N = pairs.first.cat("domain_B")
    expected_NN = (domain_N[:, None] == domain_N).float()
    assert torch.equal(weight_NN, expected_NN), "all of the slot, since no two are of one surface"


def test_joined_samples_are_near_to_none(config: PretrainConfig, shards: ShardSet) -> None:
    one, two = made(config, shards, threads=0).iterate(0, 2)
    size = len(one)
    radius, space = torch.full((size,), 5.0), torch.zeros(size, dtype=torch.int64)
    close = Nearness(torch.zeros(size, 3), torch.zeros(size, 3), radius, space)
    both = joined(Pairs(one.first, one.second, close), two)
    assert len(both) == 2 * size and len(both.second) == 2 * size and both.nearness is not None
    rule = build_rule(both, NegativesConfig(spectral=False, max_share=1.0), gather=False)
    assert rule is not None
    weight_NN = rule.pair(slice(0, 2 * size), slice(0, 2 * size))[0]
    assert weight_NN[size:].all() and weight_NN[:, size:].all()
    assert weight_NN[:size, :size].sum() == size, "those of the shards are all near, but for themselves"


def test_parts_that_ranks_cannot_share_evenly_are_refused(config: PretrainConfig, shards: ShardSet) -> None:
    assert config.data.simulated is not None
    with pytest.raises(UsageError, match="a part of 6 samples does not split over 4 processes; set data.divisor"):
        SimulatedPairs(config.data.simulated, 0, 12, 2, shards, 0, 4)


def test_training_mixes_shards_and_simulation(tmp_path: Path, paths: list[str]) -> None:
    table, again = (
        metrics(train(debug_config(tmp_path / str(threads), paths, *FEW, "steps=3", f"data.threads={threads}")))
        for threads in (1, 0)
    )
    assert len(table) == 3 and np.isfinite([row["loss"] for row in table]).all()
    assert [row["loss"] for row in again] == [row["loss"] for row in table]
    assert load(tmp_path / "1" / "model").card["simulated_sensors"] == ["casi_1500", "sentinel2_msi"]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_the_same_samples(tmp_path: Path, paths: list[str]) -> None:
    options = (*FEW, "steps=5", "checkpoint.every=2")
    whole = train(debug_config(tmp_path / "whole", paths, *options))
    codes, text = run(tmp_path / "killed", paths, *options, "checkpoint.beside=false", faults="step.loss:kill@step=4")
    assert codes != [0], text
    train(debug_config(tmp_path / "killed", paths, *options), resume=True)
    assert weights(tmp_path / "killed") == weights(whole)


@pytest.mark.slow
def test_two_ranks_compute_what_one_does(tmp_path: Path, paths: list[str]) -> None:
    losses = []
    for world in (1, 2):
        codes, text = run(tmp_path / str(world), paths, *FEW, "steps=2", world=world)
        assert codes == [0] * world, text
        losses.append([row["loss"] for row in metrics(tmp_path / str(world))])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_what_does_not_fit_is_refused(tmp_path: Path, paths: list[str], shards: ShardSet) -> None:
    def asked(*overrides: str) -> PretrainConfig:
        return debug_config(tmp_path / "run", paths, *FEW, *overrides)

    with pytest.raises(UsageError, match="has no room for a part from shards and a simulated one of 16"):
        asked("data.global_batch=16", "data.divisor=16")
    with pytest.raises(UsageError, match="share"):
        asked("data.simulated.share=1.5")
    with pytest.raises(UsageError, match="unknown sensor"):
        setup.make_simulated(asked("data.simulated.sensors=[emitt]"), shards, World(0, 1, torch.device("cpu")))
