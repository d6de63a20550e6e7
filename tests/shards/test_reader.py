"""Every layout gives the same samples; readers survive threads, pickling and fork."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from specfm.errors import UsageError
from specfm.shards import ShardReader, ShardSet
from specfm.shards.reader import _descriptors
from specfm.shards.schema import CODECS
from tests.shards.make import write_shard


def relayout(source: Path, target: Path, **options: object) -> None:
    """Copy a shard, storing its patches in another layout (chunks of some other tool)."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for name in old:
            if name != "patches":
                old.copy(name, new)
        new.create_dataset("patches", data=old["patches"][...], **options)
        for name, value in old.attrs.items():
            new.attrs[name] = value


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("cache", ["auto", "off"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_reads_what_was_written(tmp_path: Path, codec: str, cache: str, dtype: str) -> None:
    x, mask = write_shard(tmp_path / "a.h5", codec=codec, dtype=dtype)
    reader = ShardReader(tmp_path / "a.h5", cache=cache)
    ids = np.array([5, 39, 0, 1, 2, 5, 17])
    got, got_mask = reader.read(ids)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, x[ids])
    np.testing.assert_array_equal(got_mask, mask[ids])
    np.testing.assert_array_equal(reader.label_N, np.arange(40) % 2)
    np.testing.assert_array_equal(reader.origin_N2[7], [7, 14])
    assert (reader.domain, reader.window, reader.label_names) == ("a", (5, 5), ("p", "q"))


def test_fills_the_buffers_given(tmp_path: Path) -> None:
    x, mask = write_shard(tmp_path / "a.h5")
    out, out_mask = np.zeros((3, 5, 5, 7), "int16"), np.zeros((3, 5, 5), bool)
    got, got_mask = ShardReader(tmp_path / "a.h5").read([9, 3, 30], out, out_mask)
    assert got is out and got_mask is out_mask
    np.testing.assert_array_equal(out, x[[9, 3, 30]])
    np.testing.assert_array_equal(out_mask, mask[[9, 3, 30]])


@pytest.mark.parametrize("options", [{"chunks": True}, {"chunks": (8, 5, 5, 7), "compression": "gzip"}])
@pytest.mark.parametrize("cache", ["auto", "off"])
def test_odd_layouts_are_read_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: str, options: dict[str, object]
) -> None:
    x, mask = write_shard(tmp_path / "a.h5", count=64)
    relayout(tmp_path / "a.h5", tmp_path / "b.h5", **options)
    reader = ShardReader(tmp_path / "b.h5", cache=cache)
    with caplog.at_level(logging.WARNING):
        for ids in ([1, 2], [63, 5]):
            got, got_mask = reader.read(ids)
            np.testing.assert_array_equal(got, x[ids])
            np.testing.assert_array_equal(got_mask, mask[ids])
    assert sum("slow layout" in record.getMessage() for record in caplog.records) == 1


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    x, _ = write_shard(tmp_path / "a.h5")
    relayout(tmp_path / "a.h5", tmp_path / "b.h5", dtype=">i2")
    got, _ = ShardReader(tmp_path / "b.h5").read([4, 8])
    np.testing.assert_array_equal(got, x[[4, 8]])


def test_copy_is_made_once_and_again_when_it_was_changed(tmp_path: Path, cache_folder: Path) -> None:
    x, _ = write_shard(tmp_path / "a.h5", codec="gzip")
    ShardReader(tmp_path / "a.h5").read([0])
    (copy,) = (cache_folder / "shards").iterdir()
    first = copy.stat().st_mtime_ns
    ShardReader(tmp_path / "a.h5").read([0])
    assert copy.stat().st_mtime_ns == first
    damaged = bytearray(copy.read_bytes())
    damaged[5000] ^= 1
    copy.write_bytes(damaged)
    np.testing.assert_array_equal(ShardReader(tmp_path / "a.h5").read(np.arange(40))[0], x)
    copy.write_bytes(damaged[:-1])
    np.testing.assert_array_equal(ShardReader(tmp_path / "a.h5").read(np.arange(40))[0], x)


def test_copies_can_be_turned_off_by_the_environment(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECFM_SHARD_CACHE", "off")
    x, _ = write_shard(tmp_path / "a.h5", codec="lz4")
    np.testing.assert_array_equal(ShardReader(tmp_path / "a.h5").read([8])[0], x[[8]])
    assert not (cache_folder / "shards").exists()


def test_no_copy_where_it_does_not_fit(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    x, _ = write_shard(tmp_path / "a.h5", codec="gzip")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 100, 100))
    np.testing.assert_array_equal(ShardReader(tmp_path / "a.h5").read([8])[0], x[[8]])
    assert "100 bytes free" in caplog.text
    assert not list((cache_folder / "shards").iterdir())


def test_threads_share_a_reader(tmp_path: Path) -> None:
    x, _ = write_shard(tmp_path / "a.h5", count=200)
    reader = ShardReader(tmp_path / "a.h5")
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, 200, 16) for _ in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for ids, (got, _) in zip(draws, pool.map(reader.read, draws), strict=True):
            np.testing.assert_array_equal(got, x[ids])


def test_ids_out_of_range_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5")
    with pytest.raises(UsageError, match="0 to 39"):
        ShardReader(tmp_path / "a.h5").read([40])
    with pytest.raises(UsageError, match="0 to 39"):
        ShardReader(tmp_path / "a.h5").read([-1])


def _child(reader: ShardReader, inherited: list[int]) -> tuple[int, list[int]]:
    still_open = [fd for fd in inherited if os.path.exists(f"/proc/self/fd/{fd}") and _is_shard(fd)]
    return int(reader.read([3])[0].sum()), still_open


def _is_shard(descriptor: int) -> bool:
    return os.readlink(f"/proc/self/fd/{descriptor}").endswith(".h5")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_reader_goes_to_other_processes_without_its_descriptor(tmp_path: Path, method: str) -> None:
    x, _ = write_shard(tmp_path / "a.h5")
    reader = ShardReader(tmp_path / "a.h5")
    reader.read([0])
    with _descriptors.lend(reader._key, reader.path) as descriptor:
        pass
    with multiprocessing.get_context(method).Pool(1) as pool:
        total, inherited = pool.apply(_child, (reader, [descriptor]))
    assert total == int(x[3].sum())
    assert inherited == []
    assert int(reader.read([3])[0].sum()) == total  # the parent goes on undisturbed


def test_pickle_holds_no_open_file(tmp_path: Path) -> None:
    x, _ = write_shard(tmp_path / "a.h5", codec="gzip")
    reader = ShardReader(tmp_path / "a.h5", cache="off")
    reader.read([0])
    again = pickle.loads(pickle.dumps(reader))
    assert again._key != reader._key and not again._decoded.is_open
    np.testing.assert_array_equal(again.read([4])[0], x[[4]])


def test_opens_while_another_process_holds_a_lock(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", codec="gzip")
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+', locking=True); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "a.h5")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(OSError), h5py.File(tmp_path / "a.h5", "r", locking=True):
            pass  # the lock is real
        ShardReader(tmp_path / "a.h5", cache="off").read([0])
    finally:
        holder.communicate("\n")


def test_opens_while_this_process_has_it_open_with_locks(tmp_path: Path) -> None:
    x, _ = write_shard(tmp_path / "a.h5", codec="gzip")
    with h5py.File(tmp_path / "a.h5", "r", locking=True):
        np.testing.assert_array_equal(ShardReader(tmp_path / "a.h5", cache="off").read([4])[0], x[[4]])


def test_set_numbers_samples_and_scenes_through(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", count=10, domain="b")
    write_shard(tmp_path / "b.h5", count=6, domain="a")
    both = ShardSet([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert (both.sizes, both.domains, both.domain_names) == ([10, 6], ["b", "a"], ["a", "b"])
    fields = both.describe(1, np.array([0, 5]))
    assert fields["sample_id_B"].tolist() == [10, 15]
    assert fields["scene_id_B"].tolist() == [1, 1]
    assert fields["domain_B"].tolist() == [0, 0]
    shard, local = both.locate([0, 9, 10, 15])
    assert shard.tolist() == [0, 0, 1, 1] and local.tolist() == [0, 9, 0, 5]


def test_set_keeps_and_leaves_out_domains(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        write_shard(tmp_path / f"{name}.h5", count=6, domain=name, seed=seed)
    files = [tmp_path / f"{name}.h5" for name in "abc"]
    assert ShardSet(files, exclude=["b"]).domains == ["a", "c"]
    assert ShardSet(files, include=["b"]).domains == ["b"]
    with pytest.raises(UsageError, match="no domain d .*a, b, c"):
        ShardSet(files, exclude=["d"])
    with pytest.raises(UsageError, match="no domain is left"):
        ShardSet(files, exclude=["a", "b", "c"])


def test_set_refuses_the_same_samples_twice(tmp_path: Path) -> None:
    """Also as a copy under another name."""
    write_shard(tmp_path / "a.h5")
    write_shard(tmp_path / "b.h5", codec="gzip")
    with pytest.raises(UsageError, match=r"a\.h5 and .*b\.h5 hold the same samples"):
        ShardSet([tmp_path / "a.h5", tmp_path / "b.h5"])


def test_fingerprint_follows_content(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5")
    write_shard(tmp_path / "b.h5", codec="gzip")
    write_shard(tmp_path / "c.h5", seed=1)
    a, b, c = (ShardReader(tmp_path / f"{name}.h5").fingerprint for name in "abc")
    assert a == b != c
