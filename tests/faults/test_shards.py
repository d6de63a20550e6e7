"""Shards under attack: cut, flipped bits, killed writers, full disk, newer formats, pickles (rows 11-15, 31, 39)."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from pretrain.loader import Loader, LoaderError
from pretrain.sampler import MixtureSampler
from specfm.cli import app
from specfm.errors import SpecfmError
from specfm.shards import ShardReader, ShardSet, verify_shards, write_shards
from specfm.shards.schema import ShardError
from tests.shards.make import ramp_scene, write_shard

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def flip(path: Path, offset: int) -> None:
    """Turn one bit of a file over."""
    with open(path, "r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)[0]
        handle.seek(offset)
        handle.write(bytes([byte ^ 4]))


def script(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )


# -- truncated ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.98, 0.9999])
@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_truncated_shard_is_named_with_both_sizes(tmp_path: Path, share: float, codec: str) -> None:
    path = tmp_path / "a.h5"
    write_shard(path, codec=codec)
    whole = path.stat().st_size
    os.truncate(path, int(whole * share))
    with pytest.raises(ShardError) as caught:
        ShardReader(path)
    assert str(path) in str(caught.value) and str(int(whole * share)) in str(caught.value)
    if int(whole * share) > 64:
        assert f"{whole} expected" in str(caught.value)


def test_file_cut_while_in_use_is_an_error_and_no_bus_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", count=400)
    code = """
import os, sys
from specfm.shards import ShardReader
from specfm.errors import SpecfmError
reader = ShardReader(sys.argv[1]); reader.read([0])
os.truncate(sys.argv[1], 20000)
try:
    reader.read([399])
except SpecfmError as error:
    print(error)
"""
    done = script(code, tmp_path / "a.h5")
    assert done.returncode == 0, done.stderr
    assert "is truncated: 20000 bytes on disk" in done.stdout


def test_loader_names_the_file_that_was_cut(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", count=400)
    shards = ShardSet([tmp_path / "a.h5"])
    loader = Loader(shards, MixtureSampler(shards.sizes, shards.domains, 64, seed=0))
    with pytest.raises(LoaderError, match=r"a\.h5"):
        for step, _ in loader.iterate(0, 20):
            if step == 1:
                os.truncate(tmp_path / "a.h5", 5000)


# -- flipped bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["none", "chunks", "gzip", "blosc-zstd"])
def test_flipped_sample_is_quarantined_and_replaced(
    tmp_path: Path, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.h5"
    x, _ = write_shard(path, codec=codec)
    with h5py.File(path) as file:
        patches = file["patches"]
        nbytes = x[0].nbytes
        offset = patches.id.get_offset() + 7 * nbytes if codec == "none" else patches.id.get_chunk_info(7).byte_offset
    flip(path, offset + 60)
    reader = ShardReader(path)
    with caplog.at_level(logging.WARNING):
        got, _ = reader.read([6, 7, 8])
    assert reader.bad == (7,)
    assert "1 of 40 samples fail their CRC" in caplog.text and "ids 7" in caplog.text
    np.testing.assert_array_equal(got, x[[6, 8, 8]])
    assert ShardReader(path).resolve([7]).tolist() == [8]  # remembered, and the same substitute for every reader


def test_flipped_mask_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_shard(path)
    with h5py.File(path) as file:
        offset = file["mask"].id.get_offset() + 39 * 25 + 3
    flip(path, offset)
    reader = ShardReader(path)
    assert reader.verify_once() == (39,)
    assert reader.resolve([39, 38]).tolist() == [0, 38]  # the last one is followed by the first


@pytest.mark.parametrize("codec", ("none", "gzip"))
def test_processes_that_start_together_check_a_shard_once(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_shard(path, codec=codec)
    code = """if True:
        import sys, time
        from specfm.shards import ShardReader, cache
        from pathlib import Path
        def counted(function):
            def call(*a, **k):
                with open(sys.argv[2], "a") as file:
                    file.write("x")
                time.sleep(0.5)
                return function(*a, **k)
            return call
        ShardReader.check_crcs = counted(ShardReader.check_crcs)
        cache._transcode = counted(cache._transcode)
        Path(sys.argv[3]).touch()
        while len(list(Path(sys.argv[3]).parent.glob("ready-*"))) < 3:
            time.sleep(0.01)
        assert ShardReader(sys.argv[1]).verify_once() == ()
    """
    where = [(str(path), str(tmp_path / "count"), str(tmp_path / f"ready-{i}")) for i in range(3)]
    started = [subprocess.Popen([sys.executable, "-c", code, *files], cwd=REPOSITORY) for files in where]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "x"


def test_a_process_forked_during_a_check_does_not_hold_others_up(tmp_path: Path) -> None:
    code = """if True:
        import os, sys, time
        from pathlib import Path
        from specfm.shards.cache import one_at_a_time
        with one_at_a_time(Path("a.h5"), "0" * 64):
            if not (child := os.fork()):
                time.sleep(60)
                os._exit(0)
        with one_at_a_time(Path("a.h5"), "0" * 64):
            os.kill(child, 9)
    """
    environment = {**os.environ, "SPECFM_CACHE": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, timeout=30).returncode == 0


def test_batches_carry_the_substitute_with_its_own_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_shard(path)
    with h5py.File(path) as file:
        flip(path, file["patches"].id.get_offset() + 7 * 350)
    shards = ShardSet([path])
    sampler = MixtureSampler(shards.sizes, shards.domains, 8, seed=0)
    seen = []
    for step, batch in Loader(shards, sampler).iterate(0, 5):
        ((_, ids),) = sampler.batch(step)
        expected = np.where(ids == 7, 8, ids)
        np.testing.assert_array_equal(batch.cat("sample_id_B"), expected)
        np.testing.assert_array_equal(batch.cat("label_B"), expected % 2)
        seen += ids.tolist()
    assert 7 in seen


def test_more_than_one_in_a_thousand_stops(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_shard(path)
    with h5py.File(path) as file:
        start = file["patches"].id.get_offset()
    for sample in (3, 20):
        flip(path, start + sample * 350)
    with pytest.raises(ShardError, match=r"2 of 40 samples fail their CRC \(3, 20\)"):
        ShardReader(path).read([0])


def test_index_and_description_are_covered_too(tmp_path: Path) -> None:
    for name in ("index/label", "index/crc", "json"):
        path = tmp_path / f"{name.replace('/', '-')}.h5"
        write_shard(path)
        with h5py.File(path) as file:
            offset = file[name].id.get_offset()
        flip(path, offset + 1)
        with pytest.raises(ShardError, match="fingerprint|description|cannot be read"):
            ShardReader(path)


def test_check_is_made_once_and_again_when_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    write_shard(path)
    calls = []
    original = ShardReader.check_crcs
    monkeypatch.setattr(ShardReader, "check_crcs", lambda self: calls.append(1) or original(self))
    for _ in range(3):
        ShardReader(path).read([0])
    assert len(calls) == 1
    os.utime(path, ns=(1, 1))
    ShardReader(path).read([0])
    assert len(calls) == 2


def test_verify_names_every_bad_file_and_sample(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards(
        [ramp_scene(name="x/a"), ramp_scene(channels=8, name="y/b"), ramp_scene(channels=9, name="z/c")], out, 4
    )
    files = {ShardReader(path).shape[3]: path for path in out.glob("*.h5")}
    assert verify_shards(out).ok
    with h5py.File(files[6]) as file:
        start, size = file["patches"].id.get_offset(), file["patches"][0].nbytes
    flip(files[6], start + 4 * size)
    flip(files[6], start + 30 * size)
    os.truncate(files[8], 3000)
    flip(files[9], files[9].stat().st_size - 5)
    report = verify_shards(out)
    assert report.bad_samples[files[6].name] == [4, 30]
    for path in files.values():
        assert any(path.name in problem for problem in report.problems)
    result = CliRunner().invoke(app, ["verify", str(out)])
    assert result.exit_code == 1
    assert "ids 4, 30" in result.output and "3000 bytes" in result.output
    files[9].unlink()
    assert any("is missing" in problem for problem in verify_shards(out).problems)


def test_every_single_byte_of_a_folder_is_covered_by_verify(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards([ramp_scene(8, 8, 2)], out, 4)
    (path,) = out.glob("*.h5")
    whole = path.read_bytes()
    for offset in range(0, len(whole), max(1, len(whole) // 40)):
        flip(path, offset)
        assert not verify_shards(out).ok, offset
        path.write_bytes(whole)


# -- writers that die -----------------------------------------------------------------------------------------------

BUILD = """
import os, signal, sys
from specfm.shards import ShardWriter, write_shards
from tests.shards.make import ramp_scene
import specfm.shards.windows as windows
windows.STRIP_BYTES = 4000
point, out = sys.argv[1:3]
calls = 0
def dying(name):
    original = getattr(ShardWriter, name)
    def method(self, *a, **k):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *a, **k)
    setattr(ShardWriter, name, method)
if point != "none":
    dying(point)
write_shards([ramp_scene(40, 24, name="x/a"), ramp_scene(40, 24, channels=8, name="y/b")], out, 4, 2)
"""


@pytest.mark.parametrize(("point", "call"), [("add", 1), ("add", 9), ("close", 1), ("close", 2)])
def test_killed_writer_leaves_nothing_under_a_final_name_and_the_rerun_equals_a_clean_run(
    tmp_path: Path, point: str, call: int
) -> None:
    clean, out = tmp_path / "clean", tmp_path / "out"
    assert script(BUILD, "none", clean, 0).returncode == 0
    done = script(BUILD, point, out, call)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = list(out.glob("*.h5"))
    assert len(finished) == (1 if (point, call) == ("close", 2) else 0)
    assert not (out / "manifest.json").exists()
    with pytest.raises(SpecfmError, match="did not finish"):
        ShardSet(out)
    again = script(BUILD, "none", out, 0)
    assert again.returncode == 0, again.stderr
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in clean.iterdir()}


def test_full_disk_while_building_leaves_no_file(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))
from specfm.shards import write_shards
from tests.shards.make import ramp_scene
write_shards([ramp_scene(60, 60)], sys.argv[1], 4, 2)
"""
    done = script(code, tmp_path / "out")
    assert done.returncode != 0 and done.returncode > 0, done.returncode
    assert "too large" in done.stderr or "Errno 27" in done.stderr or "errno = 27" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == []


def test_two_builders_in_one_folder_are_refused(tmp_path: Path) -> None:
    from specfm.locks import RunLock

    out = tmp_path / "out"
    with RunLock(out, ".shard.lock"), pytest.raises(SpecfmError, match="held by pid"):
        write_shards([ramp_scene()], out, 4)
    assert list(out.iterdir()) == []


# -- hostile and foreign files --------------------------------------------------------------------------------------


def test_future_format_is_told_with_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_shard(path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 3
        file.attrs["written_by"] = "specfm 9.1"
    with pytest.raises(ShardError, match=r"written by specfm 9\.1, format 3 > 1"):
        ShardReader(path)


def test_unfinished_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_shard(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]
    with pytest.raises(ShardError, match="incomplete"):
        ShardReader(path)


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["opaque", "bytes", "sensor"])
def test_pickled_attributes_are_refused_and_never_run(tmp_path: Path, kind: str) -> None:
    path, trap = tmp_path / "a.h5", tmp_path / "trap"
    write_shard(path)
    payload = pickle.dumps(_Touch(str(trap)))
    with h5py.File(path, "r+") as file:
        if kind == "opaque":
            file.attrs["sensor"] = np.void(payload)
        elif kind == "bytes":
            file.attrs["domain"] = np.frombuffer(payload, np.uint8).view(f"V{len(payload)}")[0]
        else:
            del file["json"]
            file["json"] = np.frombuffer(payload, np.uint8)
    with pytest.raises(ShardError, match="refusing it|damaged"):
        ShardReader(path)
    assert not trap.exists()


def test_other_hdf5_files_are_told_apart(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.arange(5)
    with pytest.raises(ShardError, match="is not a specfm shard"):
        ShardReader(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("hello" * 100)
    with pytest.raises(ShardError, match="is not an HDF5 file"):
        ShardReader(tmp_path / "text.h5")


@pytest.mark.parametrize("name", ["../a.h5", "/etc/passwd", ".hidden.h5"])
def test_manifest_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    write_shards([ramp_scene()], out, 4)
    (file,) = out.glob("*.h5")
    text = (out / "manifest.json").read_text().replace(file.name, name)
    (out / "manifest.json").write_text(text)
    with pytest.raises(SpecfmError, match="not a plain file name"):
        ShardSet(out)


def test_changed_store_has_another_fingerprint(tmp_path: Path) -> None:
    write_shards([ramp_scene()], tmp_path / "one", 4)
    write_shards([ramp_scene()], tmp_path / "same", 4)
    write_shards([ramp_scene(21)], tmp_path / "grown", 4)
    one, same, grown = (ShardSet(tmp_path / name).fingerprint for name in ("one", "same", "grown"))
    assert one == same != grown
