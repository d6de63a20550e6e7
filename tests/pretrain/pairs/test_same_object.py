"""The same object in another scene, also of another sensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pretrain.curriculum import BatchCurriculum
from pretrain.loader import Loader
from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import PairedSampler
from pretrain.pairs.same_object import SameObject
from pretrain.sampler import MixtureSampler
from pretrain.views.config import ViewConfig
from pretrain.views.view import make_view
from specfm.engine.curriculum import CurriculumConfig
from specfm.errors import UsageError
from specfm.shards import ShardSet
from tests.pretrain.pairs.made import write_plots
from tests.pretrain.runs import make_shard


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "cache"))
    write_plots(tmp_path / "a.h5", plots=3, groups=["moth 1", "moth 1", "moth 2"])
    write_plots(tmp_path / "b.h5", plots=2, seed=1, domain="other", groups=["moth 2", "moth 3"])
    return ShardSet([tmp_path / "a.h5", tmp_path / "b.h5"])


def pairing(shards: ShardSet, same_place: bool = False) -> SameObject:
    return SameObject(PairsConfig(kind="same_object", same_place=same_place), shards, 0)


def names(shards: ShardSet, shard: int, local: int) -> tuple[str, str]:
    reader = shards.readers[shard]
    return reader.group_names[int(reader.group_N[local])], reader.scene_names[int(reader.scene_id_N[local])]


@pytest.mark.parametrize("same_place", [False, True])
def test_partners_are_of_the_object_and_of_another_scene(shards: ShardSet, same_place: bool) -> None:
    made, crossed = pairing(shards, same_place), 0
    for shard, reader in enumerate(shards.readers):
        ids = np.arange(len(reader))
        shard_B, partner_B = made.partners(5, shard, ids)
        for local, other, partner in zip(ids, shard_B, partner_B, strict=True):
            (mine, scene), (theirs, elsewhere) = names(shards, shard, local), names(shards, other, partner)
            assert mine == theirs
            assert (scene != elsewhere) == (mine != "moth 3")  # which was seen once, so it is paired with itself
            crossed += other != shard
            if mine == "moth 3":
                assert (other, partner) == (shard, local)
            elif same_place:
                there = shards.readers[other].origin_N2[partner]
                np.testing.assert_array_equal(there, reader.origin_N2[local])
    assert crossed == 2 * 144  # all of moth 2, which another sensor saw
    assert made.share == pytest.approx(4 / 5)
    again = made.partners(5, 0, np.arange(10))
    np.testing.assert_array_equal(again, [part[:10] for part in made.partners(5, 0, np.arange(144))])
    assert not np.array_equal(again, made.partners(6, 0, np.arange(10))) or same_place


def test_parts_are_cut_by_the_shard_of_the_partner(shards: ShardSet) -> None:
    paired = PairedSampler(MixtureSampler(shards.sizes, shards.domains, 64, 0), pairing(shards))
    parts = paired.batch(2)
    half = len(parts) // 2
    assert len(parts) == 2 * half > 4
    assert [len(ids) for _, ids in parts[:half]] == [len(ids) for _, ids in parts[half:]]
    assert {(a, b) for (a, _), (b, _) in zip(parts[:half], parts[half:], strict=True)} == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    }
    drawn = [(shard, local) for shard, ids in parts[:half] for local in ids.tolist()]
    asked = [(shard, local) for shard, ids in paired.sampler.batch(2) for local in ids.tolist()]
    assert sorted(drawn) == sorted(asked)


def test_objects_seen_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "cache"))
    shards = ShardSet([write_plots(tmp_path / "a.h5")])
    with pytest.raises(UsageError, match=r"no group of the shards is in two scenes; .*key group of their card"):
        pairing(shards)


def test_crops_of_one_place_are_of_one_place_in_both_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "cache"))
    shards = ShardSet([write_plots(tmp_path / "a.h5", plots=2, groups=["field", "field"], window=12)])
    paired = PairedSampler(MixtureSampler(shards.sizes, shards.domains, 24, 0), pairing(shards, same_place=True))
    ((_, batch),) = Loader(shards, paired).iterate(0, 1)
    pairs = paired.pair(batch)
    assert (pairs.first.cat("scene_id_B") != pairs.second.cat("scene_id_B")).all()
    stages = CurriculumConfig.model_validate({"stages": 2, "start_size": 0.5, "cost": "formula"})
    small = BatchCurriculum(stages, 10, 0, 3).change(pairs, stages.listed()[0], 1)
    assert small.first.parts[0].x_BHWC.shape[1] == 6
    one_B2, two_B2 = (side.cat("origin_B2") for side in small.sides)
    assert (one_B2 == two_B2).all() and not (one_B2 == pairs.first.cat("origin_B2")).all()
    views = ViewConfig(crop=6, min_overlap=0.25, dihedral=False)
    one_B2, two_B2 = (make_view(side, views, 0, 0, n).cat("origin_B2") for n, side in enumerate(pairs.sides))
    assert (6 - (one_B2 - two_B2).abs()).prod(1).min() >= 0.25 * 36


def test_groups_without_names_are_objects_of_their_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "cache"))
    files = [make_shard(tmp_path / f"{name}.h5", name, 5, 24, 0) for name in "ab"]
    with pytest.raises(UsageError, match=r"no group of the shards is in two scenes"):
        pairing(ShardSet(files))
