"""Batches are the same bits for any number of threads, any prefetch and any number of ranks."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.loader import Loader, LoaderError
from pretrain.sampler import MixtureSampler
from specfm.errors import UsageError
from specfm.shards import ShardReader, ShardSet
from tests.shards.make import write_shard


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "cache"))
    write_shard(tmp_path / "a.h5", count=60, channels=7, dtype="int16", domain="a")
    write_shard(tmp_path / "b.h5", count=50, channels=11, dtype="uint16", domain="b", seed=1)
    write_shard(tmp_path / "c.h5", count=40, channels=5, dtype="float32", domain="c", seed=2, codec="gzip")
    return ShardSet([tmp_path / f"{name}.h5" for name in "abc"])


def sampler_of(shards: ShardSet) -> MixtureSampler:
    return MixtureSampler(shards.sizes, shards.domains, global_batch=24, seed=5, divisor=4)


def record(loader: Loader, steps: int = 12) -> list[list[tuple[bytes, bytes, list[int]]]]:
    found = []
    for step, batch in loader.iterate(3, 3 + steps):
        assert step == 3 + len(found)
        rows = [(p.x_BHWC.numpy().tobytes(), p.mask_BHW.numpy().tobytes(), p.sample_id_B.tolist()) for p in batch.parts]
        found.append(rows)
    return found


def test_batches_hold_the_samples_that_the_sampler_names(shards: ShardSet) -> None:
    sampler = sampler_of(shards)
    for step, batch in Loader(shards, sampler).iterate(0, 4):
        for part, (shard, ids) in zip(batch.parts, sampler.batch(step), strict=True):
            x, mask = shards.readers[shard].read(ids)
            assert (
                part.x_BHWC.dtype
                == {"int16": torch.int16, "uint16": torch.uint16, "float32": torch.float32}[x.dtype.name]
            )
            np.testing.assert_array_equal(part.x_BHWC.numpy(), x)
            np.testing.assert_array_equal(part.mask_BHW.numpy(), mask)
            np.testing.assert_array_equal(part.sample_id_B, ids + shards.offsets[shard])
            np.testing.assert_array_equal(part.instance_id_B, ids // 2)
            np.testing.assert_array_equal(part.label_B, ids % 2)
            np.testing.assert_array_equal(part.origin_B2, np.stack([ids, ids * 2], 1))
            assert (part.domain_B == shard).all()
            assert len(part.bands) == 1 and part.bands.channels == x.shape[3]
        assert len(batch) == 24


def test_uint16_becomes_float_exactly() -> None:
    stored = torch.from_numpy(np.array([0, 1, 32768, 65535], np.uint16))
    assert stored.to(torch.float32).tolist() == [0, 1, 32768, 65535]


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 0), (1, 0), (1, 3), (4, 1), (3, 5)])
def test_threads_and_prefetch_change_nothing(shards: ShardSet, threads: int, prefetch: int) -> None:
    expected = record(Loader(shards, sampler_of(shards), threads=2, prefetch=2))
    assert record(Loader(shards, sampler_of(shards), threads=threads, prefetch=prefetch)) == expected


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_out_the_global_batch(shards: ShardSet, world: int) -> None:
    whole = record(Loader(shards, sampler_of(shards)))
    ranks = [record(Loader(shards, sampler_of(shards), rank, world)) for rank in range(world)]
    for step, parts in enumerate(whole):
        for number, (values, masks, ids) in enumerate(parts):
            pieces = [rank[step][number] for rank in ranks]
            assert b"".join(piece[0] for piece in pieces) == values
            assert b"".join(piece[1] for piece in pieces) == masks
            assert [i for piece in pieces for i in piece[2]] == ids


def test_a_batch_stays_valid_until_the_one_after_next_is_asked_for(shards: ShardSet) -> None:
    held, copies = [], []
    for _, batch in Loader(shards, sampler_of(shards), threads=2, prefetch=2, keep=1).iterate(0, 12):
        if held:
            for part, copy in zip(held[-1].parts, copies[-1], strict=True):
                assert torch.equal(part.x_BHWC, copy)
        held.append(batch)
        copies.append([part.x_BHWC.clone() for part in batch.parts])


def test_buffers_are_used_again(shards: ShardSet) -> None:
    sampler = sampler_of(shards)
    places = [b.parts[0].x_BHWC.data_ptr() for _, b in Loader(shards, sampler, prefetch=1, keep=0).iterate(0, 30)]
    assert len(set(places)) == 3


@pytest.mark.parametrize("threads", [0, 2])
def test_failed_read_surfaces_with_id_and_file(shards: ShardSet, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    sampler = sampler_of(shards)
    loader = Loader(shards, sampler, threads=threads, prefetch=2)
    bad = int(sampler.batch(3)[1][1][0])
    original = ShardReader.read

    def read(self: ShardReader, ids: np.ndarray, *buffers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.domain == "b" and bad in ids and self.path.name == "b.h5" and list(ids) == list(sampler.batch(3)[1][1]):
            raise OSError("input/output error")
        return original(self, ids, *buffers)

    monkeypatch.setattr(ShardReader, "read", read)
    reached = -1
    with pytest.raises(LoaderError, match=rf"samples {bad + 60} .*b\.h5: input/output error"):
        for step, _ in loader.iterate(0, 10):
            reached = step
    assert reached <= 2
    assert not [t for t in threading.enumerate() if t.name.startswith("specfm-read")]


def test_stopping_early_leaves_no_threads(shards: ShardSet) -> None:
    for step, _ in Loader(shards, sampler_of(shards), threads=3).iterate(0, 100):
        if step == 2:
            break
    assert not [t for t in threading.enumerate() if t.name.startswith("specfm-read")]


def test_waiting_for_data_is_told(shards: ShardSet) -> None:
    loader = Loader(shards, sampler_of(shards), threads=1)
    for _ in loader.iterate(0, 5):
        assert loader.data_wait > 0
    assert loader.data_wait_total >= loader.data_wait


def test_what_does_not_fit_is_refused(shards: ShardSet) -> None:
    with pytest.raises(UsageError, match="does not split over 5 ranks"):
        Loader(shards, sampler_of(shards), 0, 5)
    with pytest.raises(UsageError, match="rank 2 of 2"):
        Loader(shards, sampler_of(shards), 2, 2)


@pytest.mark.gpu
def test_cuda_batches_are_pinned_copies(shards: ShardSet) -> None:
    expected = record(Loader(shards, sampler_of(shards)))
    loader = Loader(shards, sampler_of(shards), device="cuda")
    for step, batch in loader.iterate(3, 15):
        for part, (values, _, _) in zip(batch.parts, expected[step - 3], strict=True):
            assert part.x_BHWC.is_cuda
            assert part.x_BHWC.to(torch.float32).isfinite().all()
            assert part.x_BHWC.cpu().numpy().tobytes() == values
