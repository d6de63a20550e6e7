"""More scenes for a finished folder: what is there is not touched, and readers go on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError, UsageError
from specfm.shards import ShardReader, ShardSet, build, reader, verify_shards, write_shards
from specfm.shards.manifest import read_manifest, write_manifest
from specfm.shards.schema import ShardError
from tests.shards.make import ramp_scene, sensor, write_shard
from tests.shards.test_build import run, scenes


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.h5")}


def more() -> list:
    labels = np.zeros((20, 24), np.int32)
    return [
        ramp_scene(name="x/four", labels_HW=labels, label_names=("n", "s")),
        ramp_scene(channels=8, name="y/five"),
        ramp_scene(channels=5, name="z/six", domain="other"),
    ]


@pytest.mark.parametrize("old_scenes_too", [True, False])
def test_finished_shards_stay_and_readers_go_on(tmp_path: Path, old_scenes_too: bool) -> None:
    out = tmp_path / "out"
    write_shards(scenes(), out, 4, 2)
    before, rows_before = state(out), read_manifest(out)["shards"]
    open_before = ShardSet(out)  # whose files are not opened yet
    given = [*scenes(), *more()] if old_scenes_too else more()
    rows = write_shards(given, out, 4, 2, append=True)
    assert [row["status"] for row in rows] == ["keep"] * 2 * old_scenes_too + ["write"] * 3
    after = state(out)
    assert {name: after[name] for name in before} == before and len(after) == 5
    assert [row for row in read_manifest(out)["shards"] if row["file"] in before] == rows_before
    assert open_before.readers[0].read([5])[0].any() and len(open_before) == 3 * 99
    store = ShardSet(out)
    assert len(store) == 6 * 99 and store.domain_names == ["other", "ramp"] and verify_shards(out).ok
    assert sorted({name for reader in store.readers for name in reader.scene_names}) == sorted(
        scene.name for scene in (*scenes(), *more())
    )
    kept = state(out)
    assert {row["status"] for row in write_shards(given, out, 4, 2, append=True)} == {"keep"} and state(out) == kept


def test_an_interrupted_append_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    for folder in (out, whole):
        write_shards(scenes(), folder, 4, 2)
    write_shards(more(), whole, 4, 2, append=True)
    monkeypatch.setattr("specfm.shards.build.write_manifest", _power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_shards(more(), out, 4, 2, append=True)
    monkeypatch.undo()
    assert len(ShardSet(out)) == 3 * 99  # as it was, for all who come meanwhile
    with pytest.raises(UsageError, match="an --append with other scenes left it"):
        write_shards(more()[:1], out, 4, 2, append=True)
    written = state(out)
    assert {row["status"] for row in write_shards(more(), out, 4, 2, append=True)} == {"keep"}
    assert state(out) == written
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def _power_cut(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_would_be_there_twice_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards(scenes(), out, 4, 2)
    before = state(out)
    changed = ramp_scene(name="x/one", group="elsewhere")
    for given, options, said in (
        ([changed], {}, "'x/one' of domain 'ramp' is in ramp-.* already, made from another group"),
        (more(), {"label": "majority"}, "was cut with label centre, not majority"),
        (more(), {"window": 5}, r"was cut with window \[4, 4\], not \[5, 5\]"),
        (more(), {"overwrite": True}, "give one of the two"),
    ):
        with pytest.raises(UsageError, match=said):
            write_shards(given, out, **{"window": 4, "stride": 2, **options}, append=True)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--append adds scenes"):
        write_shards([*scenes(), *more()], out, 4, 2)
    assert state(out) == before


def test_two_commands_do_not_forget_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write_shards(scenes(), out, 4, 2)
    plan = build.plan_windows

    def other_comes_first(*arguments: object) -> None:
        plan(*arguments)
        monkeypatch.undo()
        write_shards(more()[2:], out, 4, 2, append=True)

    monkeypatch.setattr(build, "plan_windows", other_comes_first)
    with pytest.raises(SpecfmError, match="changed by another command meanwhile; run this one again"):
        write_shards(more()[:1], out, 4, 2, append=True)
    write_shards(more()[:1], out, 4, 2, append=True)
    assert len(ShardSet(out)) == 5 * 99


def test_command(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "bands.csv").write_text(
        "band,centre_nm,fwhm_nm\n" + "".join(f"{i + 1},{500 + 20 * i},10\n" for i in range(6))
    )
    told = ["--window", 5, "--wavelengths", tmp_path / "bands.csv", "--quantity", "dn", "--domain", "d"]
    for number in range(2):
        np.save(tmp_path / "in" / f"c{number}.npy", np.full((12, 12, 6), number + 1, np.int16))
        dry = run("shard", tmp_path / "in", "--out", tmp_path / "out", *told, "--append", "--dry-run")
        assert dry[0] == 0, dry[1]
        code, text = run("shard", tmp_path / "in", "--out", tmp_path / "out", *told, "--append", "--json")
        assert code == 0, text
        assert [row["status"] for row in json.loads(text)["shards"]] == ["keep"] * number + ["write"]
    assert [reader.scene_names for reader in ShardSet(tmp_path / "out").readers] == [("c1",), ("c0",)]


# -- stores of very many shards ------------------------------------------------------------------------------------


def folder_of(tmp_path: Path, count: int = 6) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(count):
        write_shard(folder / f"s{n}.h5", seed=n, domain="ab"[n % 2], holes=n % 2 == 0)
    write_manifest(folder, [f"s{n}.h5" for n in range(count)])
    return folder


def test_a_store_opens_without_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    eager = ShardSet(sorted(folder.glob("*.h5")))
    opened: list[Path] = []
    real = reader.read_index
    monkeypatch.setattr(reader, "read_index", lambda path, name: (opened.append(path), real(path, name))[1])
    store = pickle.loads(pickle.dumps(ShardSet(folder, exclude=["b"], bands="sample:1-3")))
    assert not opened and store.readers[0].blind == 0 and len(store.readers[0].sensor.bands) == 3
    np.testing.assert_array_equal(store.readers[1].read([7])[0], eager.readers[2].read([7])[0][..., :3])
    assert [path.name for path in opened] == ["s2.h5"]
    np.testing.assert_array_equal(store.readers[1].statistics["mean"], eager.readers[2].statistics["mean"][:3])
    full = ShardSet(folder)
    for one, other in zip(full.readers, eager.readers, strict=True):
        for name in ("shape", "dtype", "fingerprint", "domain", "scenes", "scene_names", "label_names", "contents"):
            assert getattr(one, name) == getattr(other, name), name
        assert one.sensor.digest == other.sensor.digest == sensor(7).digest
        np.testing.assert_array_equal(one.crc_N, other.crc_N)
    assert full.fingerprint == eager.fingerprint and full.readers[0].sensor is full.readers[5].sensor
    full.verify_once()
    opened.clear()
    again = ShardSet(folder)
    assert again.verify_once() == 0 and not opened  # known to be good


def test_a_manifest_that_tells_of_another_shard_is_noticed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    manifest = read_manifest(folder)
    for key, value in (("domain", "c"), ("samples", 39), ("scene_names", ["t"]), ("blind", 3)):
        rows = [{**manifest["shards"][0], key: value}, manifest["shards"][1]]
        (folder / "manifest.json").write_text(json.dumps({**manifest, "shards": rows}))
        store = ShardSet(folder)
        with pytest.raises(ShardError, match="differs from what the manifest beside it says"):
            store.readers[0].read([0])
    older = [{k: v for k, v in row.items() if k not in ("scenes", "blind")} for row in manifest["shards"]]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "shards": older, "sensors": 3}))
    assert len(ShardSet(folder)) == 80  # such manifests tell less: files are opened
    bad = {**manifest, "sensors": {key: {"bands": 3} for key in manifest["sensors"]}}
    (folder / "manifest.json").write_text(json.dumps(bad))
    with pytest.raises(ShardError, match="sensor .* is none"):
        ShardSet(folder)


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from specfm.shards import decoded
    from specfm.shards import reader as module
    from specfm.shards.descriptors import Descriptors

    monkeypatch.setattr(module, "_descriptors", Descriptors(3))
    monkeypatch.setattr(decoded, "MOST", 3)
    monkeypatch.setattr(module, "_MASKS_BYTES", 3000)  # of which some shards' are held, and others' read
    held = [write_shard(tmp_path / f"s{n}.h5", seed=n, codec=codec) for n in range(12)]
    readers = [ShardReader(tmp_path / f"s{n}.h5", cache="off") for n in range(12)]

    def check(turn: int) -> None:
        n, ids = turn * 5 % 12, np.array([turn % 40, (turn * 7) % 40])
        x, mask = readers[n].read(ids)
        np.testing.assert_array_equal(x, held[n][0][ids])
        np.testing.assert_array_equal(mask, held[n][1][ids])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(200)))
    assert len(module._descriptors._files) <= 3 and sum(r._decoded.is_open for r in readers) <= 3 + 4
    assert module._masks_held.used <= 3000
    keys = [reader._key for reader in readers]
    del readers[:]
    ShardReader(tmp_path / "s0.h5").read([0])
    assert not set(keys) & set(module._descriptors._files)
