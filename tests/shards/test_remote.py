"""Shards in object stores: every byte is that of the manifest, however often the connection is cut."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError, UsageError
from specfm.shards import ShardSet, remote, verify_shards
from specfm.shards.manifest import write_manifest
from specfm.shards.schema import ShardError
from tests.shards.make import write_shard
from tests.shards.server import Server
from tests.shards.test_build import run

fsspec = pytest.importorskip("fsspec", reason="needs specfm[remote]")
COUNT = 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for n in range(COUNT):
        write_shard(folder / f"s{n}.h5", count=200, seed=n, codec="gzip" if n == 3 else "none")
    write_manifest(folder, [f"s{n}.h5" for n in range(COUNT)])
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    monkeypatch.setattr(remote, "BLOCK", 1 << 14)
    return folder


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    store = fsspec.filesystem("memory")
    for path in folder.iterdir():
        store.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


@pytest.fixture(params=[True, False], ids=["parts", "whole"])
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    pytest.importorskip("aiohttp", reason="needs specfm[remote]")
    with Server(folder, 3, request.param) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


def cached(cache_folder: Path) -> list[Path]:
    return sorted(p for p in (cache_folder / "remote").glob("*") if not p.name.endswith(".lock"))


def same(store: ShardSet, folder: Path) -> None:
    local = ShardSet(folder)
    assert store.fingerprint == local.fingerprint and store.verify_once() == 0
    for one, other in zip(store.readers, local.readers, strict=True):
        for a, b in zip(one.read([7, 199, 7]), other.read([7, 199, 7]), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(one.label_N, other.label_N)


def test_opening_fetches_no_shard_and_reading_those_that_are_read(
    folder: Path, memory: str, cache_folder: Path
) -> None:
    store = ShardSet(memory)
    assert not cached(cache_folder) and len(store) == 200 * COUNT and store.verify_once() == 0
    store.readers[1].read([3])
    assert [path.name[33:] for path in cached(cache_folder)] == ["s1.h5"]
    same(store, folder)
    fsspec.filesystem("memory").rm("/bucket/s1.h5")
    same(ShardSet([f"{memory}/"]), folder)  # nothing is fetched twice


def test_a_cut_connection_goes_on(folder: Path, server: Server, cache_folder: Path) -> None:
    same(ShardSet(server.address), folder)
    assert server.cuts == 0 and len(cached(cache_folder)) == COUNT
    for path in cached(cache_folder):
        assert path.read_bytes() == (folder / path.name[33:]).read_bytes()
    if server.parts:  # what came before a cut of a block is asked for again, and no more
        assert server.given < 1.5 * sum(path.stat().st_size for path in folder.glob("*.h5"))


def test_half_files_and_other_bytes_are_never_used(folder: Path, memory: str, cache_folder: Path) -> None:
    store, content = fsspec.filesystem("memory"), (folder / "s0.h5").read_bytes()
    reader = ShardSet(memory).readers[0]
    for wrong in (content[:-100], content + b"x", content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
        store.pipe("/bucket/s0.h5", wrong)
        with pytest.raises(SpecfmError, match="s0.h5 (is not what its manifest says|cannot be read)"):
            reader.read([0])
        assert not cached(cache_folder)
    store.pipe("/bucket/s0.h5", content)
    reader.read([0])
    (left,) = cached(cache_folder)
    left.write_bytes(content[:999])  # a disk that lost the end of a file
    assert reader.read([150])[0].any() and left.read_bytes() == content


def test_the_cache_is_bounded_and_what_is_read_stays(
    folder: Path, memory: str, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.h5")}
    bound = int(2.5 * sizes["s0.h5"])
    monkeypatch.setenv(remote.LIMIT, str(bound / 1e9))
    monkeypatch.setattr(remote, "FULL_S", 0.2)
    store = ShardSet(memory)
    (cache_folder / "remote").mkdir(parents=True)
    (cache_folder / "remote" / ".tmp-s9.h5-dead").write_bytes(b"left by a killed process" * 1000)
    for turn in (0, 1, 0, 2, 1, 0, 3, 2):
        store.readers[turn].read([turn])
        held = cached(cache_folder)
        assert sum(path.stat().st_size for path in held) <= bound
        assert store.readers[turn].path in held
    with store.readers[0]._fetched(), store.readers[1]._fetched():
        with pytest.raises(SpecfmError, match="full of shards that are being read; raise SPECFM_REMOTE_CACHE_GB"):
            store.readers[2].read([0])
    store.readers[2].read([0])
    monkeypatch.setenv(remote.LIMIT, "1e-6")
    with pytest.raises(UsageError, match="has a shard of .* more than SPECFM_REMOTE_CACHE_GB"):
        ShardSet(memory)
    monkeypatch.setenv(remote.LIMIT, "much")
    with pytest.raises(UsageError, match="number of gigabytes"):
        ShardSet(memory)


def _read_all(address: str) -> int:
    return sum(int(reader.read([5])[0].sum()) for reader in ShardSet(address).readers)


@pytest.mark.slow
def test_ranks_share_a_download(folder: Path, cache_folder: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs specfm[remote]")
    with Server(folder, 0, True) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            sums = set(pool.map(_read_all, [served.address] * 4, chunksize=1))
        served.shutdown()
        assert len(sums) == 1
        assert served.given <= 1.05 * sum(path.stat().st_size for path in folder.glob("*.h5"))


def test_verify(folder: Path, memory: str, cache_folder: Path) -> None:
    report = verify_shards(memory)
    assert report.ok and (report.files, report.samples) == (COUNT, 200 * COUNT) and not cached(cache_folder)
    store, content = fsspec.filesystem("memory"), (folder / "s1.h5").read_bytes()
    store.pipe("/bucket/s1.h5", content[:-1] + b"?")
    store.rm("/bucket/s2.h5")
    code, text = run("verify", memory)
    assert code == 1 and "s1.h5 is not what its manifest says" in text and "s2.h5 is not there" in text


def test_a_loader_fetches_what_it_draws(folder: Path, memory: str) -> None:
    from pretrain.loader import Loader
    from pretrain.sampler import MixtureSampler

    found = []
    for place in (memory, folder):
        shards = ShardSet(place, exclude=())
        sampler = MixtureSampler(shards.sizes, shards.domains, 8, seed=0)
        found.append([batch.parts[0].x_BHWC.clone() for _, batch in Loader(shards, sampler).iterate(0, 4)])
    assert all(bool((one == other).all()) for one, other in zip(*found, strict=True))


def test_bad_addresses_are_one_sentence(folder: Path, memory: str) -> None:
    with pytest.raises(ShardError, match="memory://elsewhere/manifest.json is not there"):
        ShardSet("memory://elsewhere")
    with pytest.raises(UsageError, match=r"nosuch://x/manifest.json cannot be read here.*specfm\[remote\]"):
        ShardSet("nosuch://x")
    with pytest.raises(UsageError, match="addresses within addresses"):
        ShardSet("simplecache::memory://bucket")
