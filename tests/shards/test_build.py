"""From scenes and files to a folder of shards: grouping, resuming, refusing, the commands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pretrain.loader import Loader
from pretrain.sampler import MixtureSampler
from specfm.cards.loose_files import folder_files
from specfm.cards.opening import open_scenes
from specfm.cli import app
from specfm.errors import SpecfmError, UsageError
from specfm.readers.own import save_scene
from specfm.scene import Scene
from specfm.shards import ShardReader, ShardSet, write_shards
from specfm.shards.identity import scene_identity
from specfm.shards.workers import Workers
from tests.readers.make import envi
from tests.shards.make import ramp_scene, sensor


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output if result.exit_code else result.stdout


def test_lists_of_spectra_are_sharded_one_by_one_unless_asked_otherwise(tmp_path: Path) -> None:
    listed, field = ramp_scene(30, 1).replace(neighbours=False), ramp_scene(40, 40)
    assert write_shards([listed], tmp_path, window=None, dry_run=True)[0]["samples"] == 30
    assert write_shards([listed], tmp_path, window=None, stride=4, dry_run=True)[0]["samples"] == 9  # and the last
    assert write_shards([field], tmp_path, window=None, dry_run=True)[0]["samples"] == 4
    with pytest.raises(SpecfmError, match="a list of spectra.*--window 1"):
        write_shards([listed], tmp_path, window=(9, 1), dry_run=True)


@pytest.fixture
def cubes(tmp_path: Path) -> list[Path]:
    """Two cubes of one sensor and one of another, as .npy with wavelength lists."""
    folder = tmp_path / "cubes"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, channels in (("one", 6), ("two", 6), ("three", 9)):
        np.save(folder / f"{name}.npy", rng.integers(1, 5000, (21, 17, channels)).astype("int16"))
    for channels in (6, 9):
        rows = [f"{i + 1},{500 + 20 * i},10" for i in range(channels)]
        (tmp_path / f"bands{channels}.csv").write_text("band,centre_nm,fwhm_nm\n" + "\n".join(rows) + "\n")
    return [folder / f"{name}.npy" for name in ("one", "two", "three")]


def scenes() -> list[Scene]:
    labels = (np.arange(20 * 24).reshape(20, 24) // 240).astype(np.int32)
    return [
        ramp_scene(name="x/one", labels_HW=labels, label_names=("n", "s")),
        ramp_scene(name="x/two", labels_HW=labels, label_names=("n", "s"), group="both"),
        ramp_scene(channels=8, name="y/three"),
    ]


def test_one_shard_per_sensor_with_everything_in_it(tmp_path: Path) -> None:
    rows = write_shards(scenes(), tmp_path / "out", window=4, stride=2)
    assert [(row["bands"], row["scenes"], row["status"]) for row in rows] == [(6, 2, "write"), (8, 1, "write")]
    store = ShardSet(tmp_path / "out")
    assert len(store) == sum(row["samples"] for row in rows) == 3 * 9 * 11
    by_band = {reader.shape[3]: reader for reader in store.readers}
    reader = by_band[6]
    assert reader.scene_names == ("x/one", "x/two") and reader.label_names == ("n", "s")
    assert sorted(reader.group_names.values()) == ["both", "x/one"]
    for i in (0, 50, 99, 197):
        scene = scenes()[reader.scene_id_N[i]]
        row, col = reader.origin_N2[i]
        np.testing.assert_array_equal(reader.read([i])[0][0], scene.read(slice(row, row + 4), slice(col, col + 4)))
        assert reader.label_N[i] == scene.labels_HW[row + 2, col + 2]
    assert reader.sensor == sensor(6) or reader.sensor.digest == sensor(6).digest


def test_workers_change_no_byte(tmp_path: Path, cubes: list[Path]) -> None:
    reader = {"wavelengths": tmp_path / "bands6.csv", "quantity": "dn"}
    names = [str(path) for path in cubes[:2]]
    for workers, out in ((1, "alone"), (2, "pair")):
        write_shards(open_scenes(names, reader), tmp_path / out, window=5, stride=2, workers=workers)
    for path in (tmp_path / "alone").iterdir():
        assert path.read_bytes() == (tmp_path / "pair" / path.name).read_bytes(), path.name


def _die(scene: Scene) -> None:
    os._exit(9)


def test_killed_reading_process_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specfm.shards.workers.TRIES", 1)  # retries are tested in test_cluster.py
    with Workers(2) as pool, pytest.raises(SpecfmError, match="fewer --workers"):
        list(pool.map(_die, [(ramp_scene(),)]))


def test_finished_folder_is_kept_and_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards(scenes(), out, window=4, stride=2)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    rows = write_shards(scenes(), out, window=4, stride=2)
    assert [row["status"] for row in rows] == ["keep", "keep"]
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UsageError, match="--overwrite"):
        write_shards(scenes(), out, window=5, stride=2)
    with pytest.raises(UsageError, match="--overwrite"):
        write_shards(scenes()[:1], out, window=4, stride=2)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    write_shards(scenes()[2:], out, window=5, stride=2, overwrite=True)
    assert len(ShardSet(out).readers) == 1 and len(list(out.glob("*.h5"))) == 1


def test_interrupted_folder_is_continued(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    write_shards(scenes(), whole, window=4, stride=2)
    write_shards(scenes(), out, window=4, stride=2)
    first, second = sorted(out.glob("*.h5"))
    second.unlink()
    (out / "manifest.json").unlink()
    (out / ".tmp-x.h5-0000").write_bytes(b"left by a killed process")
    kept = first.stat().st_mtime_ns
    with pytest.raises(SpecfmError, match="did not finish"):
        ShardSet(out)
    write_shards(scenes(), out, window=4, stride=2)
    assert first.stat().st_mtime_ns == kept
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_changed_input_is_noticed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards([ramp_scene()], out, window=4)
    cube = ramp_scene().read()
    cube[0, 0, 0] += 1
    with pytest.raises(UsageError, match="other inputs"):
        write_shards([Scene.from_array(cube, sensor(6), name="ramp", domain="ramp")], out, window=4)


def test_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"holds thesis\.tex"):
        write_shards(scenes(), tmp_path, window=4)


def test_scenes_without_windows_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = write_shards([ramp_scene(), ramp_scene(3, 3, name="tiny")], tmp_path / "out", window=4)
    assert rows[0]["skipped"] == {"tiny": "3x3 pixels are smaller than the window"}
    assert "tiny" in caplog.text
    with pytest.raises(SpecfmError, match="no window is kept"):
        write_shards([ramp_scene(3, 3)], tmp_path / "none", window=4)
    assert not (tmp_path / "none").exists()


def test_dry_run_writes_nothing_and_tells_what_would_be(tmp_path: Path) -> None:
    planned = write_shards(scenes(), tmp_path / "out", window=4, stride=2, dry_run=True)
    assert not (tmp_path / "out").exists()
    written = write_shards(scenes(), tmp_path / "out", window=4, stride=2)
    assert planned == written


def test_wide_window_and_codec(tmp_path: Path) -> None:
    write_shards([ramp_scene()], tmp_path / "out", window=(4, 7), stride=3, codec="lz4")
    (reader,) = ShardSet(tmp_path / "out").readers
    assert reader.window == (4, 7) and reader.codec == "lz4"


def test_folder_lists_cubes_once(tmp_path: Path) -> None:
    for name in (
        "a.hdr",
        "a.img",
        "b.bil",
        "b.bil.hdr",
        "c.hdr",
        "c",
        "d.tif",
        "d.tif.aux.xml",
        "notes.txt",
        "e.mat",
        "w.csv",
    ):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in folder_files(tmp_path)] == ["a.hdr", "b.bil.hdr", "c.hdr", "d.tif", "e.mat"]


def test_commands_from_files_to_verified_folder(tmp_path: Path, cubes: list[Path]) -> None:
    common = ["--window", 6, "--stride", 3, "--workers", 1, "--quantity", "dn", "--domain", "field"]
    bands = ["--wavelengths", tmp_path / "bands6.csv"]
    code, text = run("shard", cubes[0], cubes[1], "--out", tmp_path / "out", *common, *bands, "--dry-run")
    assert code == 0 and "would be written" in text and not (tmp_path / "out").exists()
    code, text = run("shard", cubes[0], cubes[1], "--out", tmp_path / "out", *common, *bands, "--json")
    assert code == 0, text
    assert json.loads(text)["shards"][0]["samples"] == 2 * 6 * 5
    code, text = run("verify", tmp_path / "out")
    assert code == 0 and "1 files, 60 samples" in text
    assert ShardReader(next((tmp_path / "out").glob("*.h5"))).domain == "field"
    code, text = run("shard", cubes[0], "--out", tmp_path / "out", *common, *bands)
    assert code == 2 and "--overwrite" in text


def test_command_calibrates(tmp_path: Path, cubes: list[Path]) -> None:
    scan = np.load(cubes[0])
    np.save(tmp_path / "white.npy", np.full((4, 17, 6), 5100, "int16"))
    np.save(tmp_path / "dark.npy", np.full((4, 17, 6), 100, "int16"))
    options: list[Any] = ["--window", 6, "--workers", 1, "--wavelengths", tmp_path / "bands6.csv", "--quantity", "dn"]
    references = ["--white", tmp_path / "white.npy", "--dark", tmp_path / "dark.npy"]
    code, text = run("shard", cubes[0], "--out", tmp_path / "out", *options, *references)
    assert code == 0, text
    (reader,) = ShardSet(tmp_path / "out").readers
    assert (reader.dtype, reader.sensor.quantity, reader.sensor.scale) == ("int16", "surface_reflectance", 1e-4)
    expected = np.rint((scan[:6, :6].astype(float) - 100) / 5000 / 1e-4)  # below zero too
    np.testing.assert_allclose(reader.read([0])[0][0], expected, atol=1)
    code, text = run("shard", cubes[0], "--out", tmp_path / "other", *options, *references[:2])
    assert code == 2 and "both --white and --dark" in text


def test_folder_of_scans_is_one_domain_and_its_references_are_no_scans(tmp_path: Path) -> None:
    folder = tmp_path / "coffee"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, low, high in (("one", 200, 4000), ("two", 200, 4000), ("white", 5000, 5001), ("dark", 100, 101)):
        envi(folder, rng.integers(low, high, (12, 9, 7)).astype("u2"), "bil", name=f"{name}.raw")
    found = list(open_scenes([str(folder)], {"white": folder / "white.hdr", "dark": folder / "dark.raw"}))
    assert [(s.name, s.domain, s.dtype.name) for s in found] == [
        ("one", "coffee-7", "int16"),
        ("two", "coffee-7", "int16"),
    ]
    assert [row["scenes"] for row in write_shards(found, tmp_path / "out", window=4)] == [2]


def test_three_formats_and_band_counts_meet_in_one_batch(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    sixty, two_hundred, many = (rng.integers(1, 9000, (20, 22, c)).astype("i2") for c in (60, 200, 425))
    envi(folder, sixty, "bil", name="a.dat")
    save_scene(Scene.from_array(two_hundred, sensor(200), name="b"), folder / "b.h5")
    profile = {"driver": "GTiff", "height": 20, "width": 22, "count": 425, "dtype": "int16"}
    with rasterio.open(folder / "c.tif", "w", **profile) as raster:
        raster.write(many.transpose(2, 0, 1))
        for band in range(425):
            raster.update_tags(band + 1, wavelength=str(400 + 5 * band), wavelength_units="nm")
    code, text = run("shard", folder, "--out", tmp_path / "out", "--window", 9, "--stride", 5, "--workers", 1)
    assert code == 0, text
    shards = ShardSet(tmp_path / "out")
    sampler = MixtureSampler(shards.sizes, shards.domains, 12, seed=0, domain_weights=dict.fromkeys(shards.domains, 1))
    ((_, batch),) = Loader(shards, sampler).iterate(0, 1)
    assert sorted(part.x_BHWC.shape for part in batch.parts) == [(4, 9, 9, 60), (4, 9, 9, 200), (4, 9, 9, 425)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere/cube.npy"], 1, "no such file"),
        (["no_such_card"], 2, "no dataset card"),
        (["neon_osbs", "--sensor", "emit"], 2, "is a card"),
        (["{cube}"], 1, "wavelengths"),
        (["{cube}", "--codec", "zip"], 2, "unknown codec"),
        (["{cube}", "--label", "mode"], 2, "centre or majority"),
        (["{cube}", "--object-threshold", "high"], 2, "a number or otsu"),
    ],
)
def test_bad_use_is_one_sentence_and_writes_nothing(
    tmp_path: Path, cubes: list[Path], arguments: list[str], code: int, message: str
) -> None:
    filled = [argument.replace("{cube}", str(cubes[0])) for argument in arguments]
    found, text = run("shard", *filled, "--out", tmp_path / "out", "--workers", 1)
    assert found == code and message in text and "Traceback" not in text
    assert text.strip().count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_real_cards(tmp_path: Path, data_root: Path) -> None:
    rows = write_shards(open_scenes(["corn_kernel", "neon_osbs"]), tmp_path / "out", window=9, stride=9)
    lab, neon = (next(row for row in rows if row["domain"] == name) for name in ("lab", "neon"))
    assert (lab["bands"], lab["dtype"]) == (580, "int16") and (neon["bands"], neon["scenes"]) == (369, 39)
    store = ShardSet(tmp_path / "out")
    reader = store.readers[store.domains.index("lab")]
    x, mask = reader.read(np.arange(len(reader)))
    level = np.median(x[mask][:, reader.sensor.bands.valid]) * reader.sensor.scale
    assert reader.sensor.quantity == "surface_reflectance" and 0.02 < level < 1.2
    neon_reader = store.readers[store.domains.index("neon")]
    assert len(neon_reader.group_names) == 39 and len(set(neon_reader.instance_id_N.tolist())) > 39


def test_what_a_user_says_of_stored_numbers_is_part_of_the_identity(tmp_path: Path) -> None:
    """Where a file has gains per band, a nodata value and a scale are applied on reading and stand in no field."""
    path = envi(
        tmp_path, np.ones((4, 4, 3), np.int16), data_gain_values="{0.1, 0.2, 0.3}", data_offset_values="{1, 2, 3}"
    )
    told: list[dict[str, float]] = [{}, {"nodata": -9999}, {"scale": 0.5}, {"offset": 2.0}]
    identities = [str(scene_identity(next(open_scenes([str(path)], options)))) for options in told]
    assert len(set(identities)) == 4
