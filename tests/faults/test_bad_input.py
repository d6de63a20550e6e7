"""Bad input by the command line: exit code 1 or 2, one sentence with the remedy, and a disk that stays as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm import BandGrid, Scene, Sensor, create_encoder
from specfm.checkpoint import save
from specfm.cli import app
from specfm.readers.own import save_scene
from tests.readers import make

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE = (12, 13, 6)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace where everything is right: cubes, shards, a model, features, and a run's folder."""
    place = tmp_path_factory.mktemp("sound")
    cubes = place / "cubes"
    cubes.mkdir()
    x = np.random.default_rng(0).integers(1, 4000, SHAPE).astype(np.int16)
    make.envi(cubes, x, name="good.dat")
    make.envi(cubes, x, name="silent.dat", wavelength=None, wavelength_units=None)
    make.envi(cubes, x, name="unit.dat", wavelength="{0.40, 0.45, 0.50, 0.55, 0.60, 0.65}")
    make.envi(cubes, x, name="short.dat")
    os.truncate(cubes / "short.dat", 1000)
    sensor = Sensor(BandGrid(400 + 20.0 * np.arange(SHAPE[2])), quantity="radiance", name="lamp")
    labels = (np.arange(SHAPE[0] * SHAPE[1]) % 2).astype(np.int32).reshape(SHAPE[:2])
    save_scene(Scene.from_array(x, sensor, name="lit", labels_HW=labels, label_names=("a", "b")), place / "labelled.h5")
    card = "name: lit\ndomain: lit\nwavelength_trust: high\npath: labelled.h5\n"
    (place / "card.yaml").write_text(card)
    save(create_encoder("nano", patch_size=3, dim=48, depth=2, heads=3), place / "model", {})
    for arguments in (
        ("shard", "cubes/good.hdr", "--out", "shards", "--window", "4", "--stride", "3"),
        ("embed", "model", "cubes/good.hdr", "--out", "features.npy"),
        ("pretrain", "pretrain/debug.yaml", "data.shards=shards", "out=run", "steps=1", "data.global_batch=4"),
    ):
        code, _, err = call(place, *arguments)
        assert code == 0, err
    return place


@pytest.fixture
def place(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to damage, as the working directory; nothing remembered of earlier checks."""
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(sound, tmp_path / "place"))


def call(place: Path, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command run in ``place``, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        done = CliRunner().invoke(app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), "a traceback instead of a sentence"
    return done.exit_code, done.stdout, done.stderr


def process(place: Path, *arguments: str) -> tuple[int, str, str]:
    """The same in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "specfm", *arguments],
        cwd=place, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def disk(place: Path) -> dict[str, bytes | None]:
    """Every folder (None) and the bytes of every file."""
    return {str(p.relative_to(place)): p.read_bytes() if p.is_file() else None for p in sorted(place.rglob("*"))}


def refused(
    place: Path, code: int, words: tuple[str, ...], *arguments: str, run: Callable[..., tuple[int, str, str]] = call
) -> None:
    """The command exits with ``code``, says one sentence holding all ``words``, and leaves the disk as it was."""
    before = disk(place)
    exit_code, _, err = run(place, *arguments)
    assert exit_code == code, err
    assert err.count("\n") == 1 and err.startswith(("error: ", "bad: ")) and "Traceback" not in err, err
    for word in words:
        assert word in err, f"{word!r} is not in {err!r}"
    after = disk(place)
    assert sorted(after) == sorted(before), f"{sorted(set(after) ^ set(before))} came or went"
    assert after == before, "old files changed"


# -- cubes ----------------------------------------------------------------------------------------------------------

CUBES = {
    "without wavelengths": ("silent.hdr", ("silent.hdr", "no wavelengths", "--sensor NAME or --wavelengths file.csv")),
    "micrometres declared nm": ("unit.hdr", ("unit.hdr", "0.4-0.65 nm", "look like micrometres", "--units um")),
    "cut short": ("short.hdr", ("short.dat", "holds 1000 bytes", "short.hdr says 1872", "copy it again")),
}
READERS = {
    "inspect": lambda cube: ("inspect", cube, "--quicklook", "new.png"),
    "shard": lambda cube: ("shard", cube, "--out", "new", "--window", "4"),
    "shard beside a good one": lambda cube: ("shard", "cubes/good.hdr", cube, "--out", "new", "--window", "4"),
    "embed": lambda cube: ("embed", "model", cube, "--out", "new.npy", "--pca-png", "new.png"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", CUBES)
def test_a_cube_that_cannot_be_read(place: Path, damage: str, reader: str) -> None:
    name, words = CUBES[damage]
    refused(place, 1, words, *READERS[reader](f"cubes/{name}"))


def test_the_remedies_work(place: Path) -> None:
    """What the sentences advise lets the same command through."""
    assert call(place, "inspect", "cubes/unit.hdr", "--units", "um")[0] == 0
    make.bands_csv(place, SHAPE[2])
    assert call(place, "inspect", "cubes/silent.hdr", "--wavelengths", "bands.csv")[0] == 0
    shutil.copy(place / "cubes" / "good.dat", place / "cubes" / "short.dat")
    assert call(place, "inspect", "cubes/short.hdr")[0] == 0
    assert call(place, "inspect", "card.yaml")[0] == 0, "the card of the other tests has a fault of its own"


def test_in_a_process_of_its_own(place: Path) -> None:
    name, words = CUBES["without wavelengths"]
    refused(place, 1, words, "shard", f"cubes/{name}", "--out", "new", run=process)
    words = ("unknown key stepz", "did you mean steps?")
    refused(place, 2, words, "pretrain", "pretrain/debug.yaml", "data.shards=shards", "out=new", "stepz=1", run=process)


# -- configurations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pretrain", "mine.yaml"), ("mine.yaml", "unknown key optim.lrr", "did you mean optim.lr?")),
        (("pretrain", "pretrain/debug.yaml", "data.shards=shards", "out=new", "model.sice=tiny"), ("sice", "size?")),
        (("demo", "--out", "new", "sead=3"), ("unknown key sead", "did you mean seed?")),
        (("shard", "wrong.yaml", "--out", "new"), ("wrong.yaml", "domian", "did you mean domain?")),
    ],
)
def test_an_unknown_key_is_offered_its_neighbour(place: Path, arguments: tuple[str, ...], words: tuple) -> None:
    (place / "mine.yaml").write_text("out: new\nsteps: 1\ndata: {shards: [shards]}\noptim: {lrr: 1}\n")
    (place / "wrong.yaml").write_text((place / "card.yaml").read_text().replace("domain", "domian"))
    refused(place, 2, words, *arguments)


# -- shards and checkpoints -----------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def the_shard(place: Path) -> Path:
    (path,) = (place / "shards").glob("*.h5")
    return path


def test_a_truncated_shard(place: Path) -> None:
    shard = the_shard(place)
    whole = shard.stat().st_size
    os.truncate(shard, whole // 2)
    words = (f"shards/{shard.name}", f"{whole // 2} bytes", f"manifest says {whole}", "build it again")
    refused(place, 1, words, "verify", "shards")
    refused(place, 1, words, "pretrain", "pretrain/debug.yaml", "data.shards=shards", "out=new")


@pytest.mark.parametrize("where", ["a sample", "the start", "the end"])
def test_verify_names_a_shard_with_a_flipped_byte(place: Path, where: str) -> None:
    from specfm.shards import ShardReader

    shard = the_shard(place)
    reader = ShardReader(shard)
    stored = reader.read([0])[0].tobytes()
    reader.close()
    at = {"a sample": shard.read_bytes().index(stored) + 9, "the start": 3, "the end": shard.stat().st_size - 2}[where]
    flip(shard, at)
    words = (f"shards/{shard.name}", "again", *(("ids 0",) if where == "a sample" else ()))
    refused(place, 1, words, "verify", "shards")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_checkpoint_with_a_flipped_byte_is_not_used(place: Path, file: str) -> None:
    flip(place / "model" / file, (place / "model" / file).stat().st_size // 2)
    words = (f"model/{file}", "sha256", "copy it again")
    refused(place, 1, words, "embed", "model", "cubes/good.hdr", "--out", "new.npy")
    refused(place, 1, words, "probe", "model", "--data", "card.yaml", "--out", "new.jsonl", "--save-splits", "new")
    resumed = ("pretrain", "pretrain/debug.yaml", "data.shards=shards", "out=new", "init_from=model", "steps=1")
    refused(place, 1, words, *resumed)


# -- output that exists ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("shard", "cubes/good.hdr", "--out", "shards", "--window", "5"),
            (".h5 exists", "another --out", "--overwrite"),
        ),
        (("shard", "cubes/good.hdr", "--out", "cubes", "--window", "5"), ("cubes", "--out")),
        (("pretrain", "pretrain/debug.yaml", "data.shards=shards", "out=run"), ("run exists", "out=...", "--resume")),
        (("embed", "model", "cubes/good.hdr", "--out", "features.npy"), ("features.npy exists", "--overwrite")),
        (("demo", "--out", "."), ("shards exists", "another --out", "--overwrite")),
        (("demo", "--out", "run"), ("run exists", "another --out", "--overwrite")),
        (("demo", "--out", "features.npy"), ("features.npy exists", "another --out")),
        (("inspect", "cubes/good.hdr", "--quicklook", "features.npy"), ("features.npy exists", "--overwrite")),
        (("probe", "model", "--data", "card.yaml", "--save-splits", "run"), ("run exists", "--save-splits")),
        (("simulate", "--out", "cubes"), ("cubes", "--out")),
    ],
)
def test_output_that_exists_is_kept(place: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(place, 2, words, *arguments)
