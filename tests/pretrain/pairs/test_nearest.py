"""The nearest samples elsewhere: of the same material, of another place, and the same after any interruption."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.loader import Loader
from pretrain.loop import train
from pretrain.pairs import nearest
from pretrain.pairs.config import PairsConfig
from pretrain.pairs.nearest import NearestElsewhere, mine, moments_of, noise_pairs, whitening_of
from pretrain.pairs.pairing import PairedSampler
from pretrain.sampler import MixtureSampler
from specfm.batch import BandTensors
from specfm.engine.distributed import World
from specfm.errors import UsageError
from specfm.models.quadrature import quadrature_weights
from specfm.scene import ArraySource, Scene
from specfm.shards import ShardReader, ShardSet
from specfm.shards.identity import scene_identity
from tests.pretrain.pairs.made import copied, write_plots
from tests.pretrain.runs import debug_config, metrics, weights

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    write_plots(tmp_path / "a.h5")
    write_plots(tmp_path / "b.h5", plots=1, seed=1, domain="other")
    return ShardSet([tmp_path / "a.h5", tmp_path / "b.h5"])


def pairing(shards: ShardSet, folder: Path, **settings: int) -> NearestElsewhere:
    folder.mkdir(exist_ok=True)
    made = NearestElsewhere(PairsConfig(kind="nearest_elsewhere", **settings), shards, 3, 0, ALONE, folder)  # type: ignore[arg-type]
    made.start()
    return made


def test_partners_share_the_material_and_not_the_place(shards: ShardSet, tmp_path: Path) -> None:
    made = pairing(shards, tmp_path / "run", k=5, near=20)
    plots, single = shards.readers
    every = np.arange(len(plots))
    shard_N, partner_N = made.partners(3, 0, every)
    assert (shard_N == 0).all()
    assert (plots.group_N[partner_N] != plots.group_N).all()
    assert (plots.label_N[partner_N] == plots.label_N).mean() > 0.95
    every = np.arange(len(single))
    _, partner_N = made.partners(3, 1, every)
    assert np.abs(single.origin_N2[partner_N] - single.origin_N2).max(1).min() >= 5
    assert (single.label_N[partner_N] == single.label_N).mean() > 0.95


def test_the_search_is_exact_and_its_radius_is_that_of_the_last_near_one(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = shards.readers[0]
    config = PairsConfig(kind="nearest_elsewhere", k=4, near=30)
    monkeypatch.setattr(nearest, "_ROWS", 7)
    found = mine(reader, config, 3)
    x_NE = found.descriptor_NE.double().numpy()
    distance_NN = np.sqrt(((x_NE[:, None] - x_NE[None]) ** 2).sum(-1))
    distance_NN[reader.group_N[:, None] == reader.group_N[None]] = np.inf
    order_NN = np.argsort(distance_NN, axis=1, kind="stable")
    np.testing.assert_allclose(
        np.take_along_axis(distance_NN, found.neighbour_NK.numpy().astype(int), 1),
        np.take_along_axis(distance_NN, order_NN[:, :4], 1), atol=1e-4,
    )  # fmt: skip
    np.testing.assert_allclose(found.radius_N, np.sort(distance_NN, 1)[:, 29], atol=1e-4)


def test_fewer_candidates_are_spread_evenly(shards: ShardSet) -> None:
    found = mine(shards.readers[0], PairsConfig(kind="nearest_elsewhere", k=3, near=5, candidates=50), 3)
    assert len(found.neighbour_NK) == len(shards.readers[0])
    assert set(found.neighbour_NK.unique().tolist()) <= set(nearest.spread(len(shards.readers[0]), 50).tolist())


def test_noise_is_told_from_windows_side_by_side(shards: ShardSet, tmp_path: Path) -> None:
    reader = shards.readers[0]
    pairs_L2 = noise_pairs(reader, 3)
    apart_L2 = np.abs(reader.origin_N2[pairs_L2[:, 0]] - reader.origin_N2[pairs_L2[:, 1]])
    assert (np.sort(apart_L2, 1) == [0, 3]).all()
    assert (reader.scene_id_N[pairs_L2[:, 0]] == reader.scene_id_N[pairs_L2[:, 1]]).all()
    apart_L2 = np.abs(np.diff(reader.origin_N2[noise_pairs(reader, 4)], axis=1))[:, 0]
    assert (apart_L2.max(1) == 6).all()  # the nearest distance above 4 at which windows were cut
    with pytest.raises(UsageError, match=r"b.h5: fewer than 100 .* 30 to 64 .*pairs.kind=views"):
        noise_pairs(shards.readers[1], 30)


def test_both_sides_are_read_whatever_the_ranks(shards: ShardSet, tmp_path: Path) -> None:
    made = pairing(shards, tmp_path / "run", k=5, near=20)
    paired = PairedSampler(MixtureSampler(shards.sizes, shards.domains, 16, 0, divisor=2), made)
    ((_, batch),) = Loader(shards, paired).iterate(4, 5)
    pairs = paired.pair(batch)
    assert len(pairs) == 16 == len(pairs.second)
    first_B, second_B = (side.cat("sample_id_B").numpy() for side in pairs.sides)
    shard_B, local_B = shards.locate(first_B)
    assert (first_B == second_B).all(), "a pair has one id, which its random numbers follow from"
    x_B = [x for part in pairs.second for x in part.x_BHWC.numpy()]
    for x_HWC, shard, local in zip(x_B, shard_B, local_B, strict=True):
        (other,), (partner,) = made.partners(4, shard, np.array([local]))
        np.testing.assert_array_equal(x_HWC, shards.readers[other].read(np.array([partner]))[0][0])
    assert pairs.nearness is not None and made.mined is not None
    partner_B = [
        partner[0] + shards.offsets[shard]
        for shard, local in zip(shard_B, local_B, strict=True)
        for _, partner in [made.partners(4, shard, np.array([local]))]
    ]
    assert torch.equal(pairs.nearness.first_BE, made.mined.descriptor_NE[first_B])
    assert torch.equal(pairs.nearness.second_BE, made.mined.descriptor_NE[partner_B])
    assert torch.equal(pairs.nearness.radius_B, made.mined.radius_N[first_B])
    assert torch.equal(pairs.nearness.space_B, torch.from_numpy(shard_B))
    half = pairs.select(5, 9)
    assert torch.equal(half.second.cat("sample_id_B"), pairs.second.cat("sample_id_B")[5:9])
    assert half.nearness is not None and torch.equal(half.nearness.first_BE, pairs.nearness.first_BE[5:9])
    drawn = []
    for rank in (0, 1):
        ((_, part),) = Loader(shards, paired, rank, 2).iterate(4, 5)
        some = paired.pair(part)
        drawn += zip(some.first.cat("sample_id_B").tolist(), some.second.cat("origin_B2").tolist(), strict=True)
    assert sorted(drawn) == sorted(zip(first_B.tolist(), pairs.second.cat("origin_B2").tolist(), strict=True))


def test_what_has_no_valid_pixel_is_neither_noise_nor_neighbour(shards: ShardSet, tmp_path: Path) -> None:
    whole = shards.readers[0]
    blind_N = np.random.default_rng(0).random(len(whole)) < 0.3
    x_NHWC, mask_NHW = whole.read(np.arange(len(whole)))
    mask_NHW = mask_NHW.copy()
    mask_NHW[blind_N, 1, 1] = False
    config = PairsConfig(kind="nearest_elsewhere", k=5, near=20)
    holed = ShardReader(copied(whole, tmp_path / "holed.h5", x_NHWC, mask_NHW))
    found = mine(holed, config, 1)  # patches of the pixel in the middle
    assert not blind_N[found.neighbour_NK[~blind_N]].any() and (found.neighbour_NK[blind_N] == -1).all()
    assert found.descriptor_NE[blind_N].isnan().all() and (found.radius_N[blind_N] == 0).all()
    assert found.descriptor_NE[~blind_N].isfinite().all() and found.radius_N.isfinite().all()
    noise, holed_noise = (moments_of(reader, 3, 1).noise_DD.trace() for reader in (whole, holed))
    assert holed_noise == pytest.approx(float(noise), rel=0.1)


def test_noise_is_that_of_disjoint_patches(tmp_path: Path) -> None:
    """Patches that overlap share pixels, so their difference would say too little of their noise."""
    reader = ShardReader(write_plots(tmp_path / "wide.h5", stride=1, window=5))
    apart, same = moments_of(reader, 5, 5).noise_DD, moments_of(reader, 1, 5).noise_DD
    torch.testing.assert_close(same, apart)
    assert noise_pairs(reader, 1).shape != noise_pairs(reader, 5).shape


def test_a_list_of_spectra_has_no_neighbours(shards: ShardSet, tmp_path: Path) -> None:
    whole = shards.readers[0]
    told = {"scenes": [{"neighbours": False}, {}, {}]}
    listed = ShardReader(copied(whole, tmp_path / "list.h5", *whole.read(np.arange(len(whole))), recipe=told))
    assert (whole.scene_id_N[noise_pairs(whole, 3)] == 0).any()
    assert (listed.scene_id_N[noise_pairs(listed, 3)] > 0).all()
    scene = Scene(ArraySource(np.ones((4, 1, 12))), whole.sensor, neighbours=False)
    assert scene_identity(scene)["neighbours"] is False
    assert "neighbours" not in scene_identity(scene.replace(neighbours=True))


def test_the_level_is_no_direction_of_descriptors(shards: ShardSet) -> None:
    reader = shards.readers[0]
    matrix_CC = whitening_of(reader, moments_of(reader, 3, 3), 12)
    weights_C = quadrature_weights(BandTensors.from_sensors(reader.sensor))[0]
    assert (matrix_CC @ weights_C).abs().max() < 1e-9 * matrix_CC.abs().max()


def test_shards_of_other_bands_go_together_and_are_not_compared(shards: ShardSet, tmp_path: Path) -> None:
    write_plots(tmp_path / "six.h5", seed=2, domain="six", bands=6)
    both = ShardSet([tmp_path / "a.h5", tmp_path / "six.h5"])
    made = pairing(both, tmp_path / "run", k=5, near=20)
    paired = PairedSampler(MixtureSampler(both.sizes, both.domains, 16, 0), made)
    ((_, batch),) = Loader(both, paired).iterate(0, 1)
    pairs = paired.pair(batch)
    assert pairs.nearness is not None and pairs.nearness.first_BE.shape == (16, 12)
    assert set(pairs.nearness.space_B.tolist()) == {0, 1}


def test_a_run_goes_on_bit_by_bit_and_reads_what_it_mined(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(reader.path) for reader in shards.readers]
    settings = (
        "pairs.kind=nearest_elsewhere", "pairs.near=20", "objective.nt_xent.negatives.within=domain", "views.crop=3",
        "data.global_batch=16", "steps=4", "checkpoint.every=2",
    )  # fmt: skip
    whole = train(debug_config(tmp_path / "whole", files, *settings))
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for folder in (cut / "model", *(cut / "checkpoints").glob("*4")):
        shutil.rmtree(folder)
    monkeypatch.setattr(nearest, "mine", lambda *_: pytest.fail("mined again"))
    train(debug_config(cut, files, *settings), resume=True)
    assert weights(whole) == weights(cut)
    assert [row["loss"] for row in metrics(whole)] == [row["loss"] for row in metrics(cut)]
