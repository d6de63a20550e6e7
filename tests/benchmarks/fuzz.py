"""Damaged and hostile files by the hundred: whatever opens them must open or end in one sentence.

``python -m tests.benchmarks.fuzz --count 300 --seed 0`` makes small files of every kind by code, damages each (bits,
lengths, numbers, words that mean something), opens it in a process of its own with a limit of time and memory, and
counts what came of it. Exit code 1 where anything but "opened" and "refused" is among it. The same seed makes the
same files.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specfm.errors import SpecfmError

SHAPE = (6, 5, 4)
OUTCOMES = ("opened", "refused", "traceback", "hang", "memory", "died")
# what stands for something to one parser or another
WORDS = [
    b"0", b"-1", b"1", b"99999999999", b"1e308", b"nan", b"NaN", b"inf", b"2000-02-30", b"[", b"{", b"}", b"]", b"{}",
    b"[]", b"null", b"true", b"''", b'""', b'"', b"'", b"\xe9", b"\xff\xfe", b"\0", b"\n", b"\t", b":", b",", b"=",
    b"&a", b"*a", b"!!python/object/apply:os.system", b"!!int ''", b"$\\frac{", b'"\\ud800"', b"../../../etc/passwd",
    b"/vsicurl/x", b"**/**/**", b"(a+)+$", b"1-999999999999", b"abc", b"[" * 300, b"{a: " * 300, b"A" * 5000,
    b"9" * 5000, b"<<", b"\x1b[2J",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of file: ``make`` writes a sound one (and what lies beside it) and names the file to damage; ``open_it``
    gets its path and does what a command would do with it first."""

    name: str
    make: Callable[[Path], Path]
    open_it: Callable[[Path], object]


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """A few changes of the kinds that happen, or that somebody makes happen."""
    out = bytearray(data)
    for _ in range(1 + int(rng.integers(0, 3) == 0)):  # many at once meet the first check only
        at = int(rng.integers(0, max(len(out), 1)))
        if rng.random() < 0.5:  # most of what a parser reads stands in front
            at = min(at, int(rng.integers(0, 600)))
        how = int(rng.choice(8, p=(0.2, 0.1, 0.04, 0.1, 0.15, 0.1, 0.25, 0.06)))
        if how == 0:
            out[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif how == 1:
            out[at : at + 4] = rng.bytes(4)
        elif how == 2:
            del out[at:]
        elif how == 3:
            del out[at : at + int(rng.integers(1, 20))]
        elif how in (4, 5):
            word = WORDS[int(rng.integers(0, len(WORDS)))]
            out[at : at + (len(word) if rng.random() < 0.5 else 0)] = word
        elif how == 6:  # the value behind a sign
            signs = [i for i, char in enumerate(out) if char in b"=:"]
            if signs:
                start = signs[int(rng.integers(0, len(signs)))] + 1
                stop = next((i for i in range(start, len(out)) if out[i] in b"\n,}"), len(out))
                out[start:stop] = b" " + WORDS[int(rng.integers(0, len(WORDS)))]
        else:
            piece = bytes(out[at : at + int(rng.integers(1, 60))])
            out[at:at] = piece * int(rng.integers(1, 6))
    return bytes(out)


def _cube() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 4000, SHAPE).astype(np.int16)


def _envi(folder: Path) -> Path:
    from tests.readers import make

    make.envi(folder, _cube(), name="cube.dat", band_names="{one, two, three, four}", bbl="{1, 1, 0, 1}",
              map_info="{UTM, 1, 1, 500000, 4000000, 10, 10, 33, North, WGS-84}",
              data_gain_values="{1, 1, 1, 1}", coordinate_system_string='{GEOGCS["x"]}')  # fmt: skip
    return folder / "cube.hdr"


def _npy(folder: Path) -> Path:
    np.save(folder / "cube.npy", _cube())
    return folder / "cube.npy"


def _npz(folder: Path) -> Path:
    np.savez_compressed(folder / "labels.npz", labels=np.zeros(SHAPE[:2], np.int32))
    return folder / "labels.npz"


def _tiff(folder: Path, silent: bool = False) -> Path:
    import rasterio

    cube = _cube()
    path = folder / "cube.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=SHAPE[0], width=SHAPE[1], count=SHAPE[2], dtype="int16", nodata=-9999
    ) as file:
        file.write(cube.transpose(2, 0, 1))
        for band in range(1, SHAPE[2] + 1):
            file.set_band_description(band, f"band {band}" if silent else f"{400 + band} nm")
        if silent:
            return path
        file.update_tags(wavelength="{450, 550, 650, 750}", wavelength_units="nm")
    return path


def _scene(folder: Path) -> Path:
    from specfm import BandGrid, Scene, Sensor
    from specfm.readers.own import save_scene

    sensor = Sensor(BandGrid(400 + 50.0 * np.arange(SHAPE[2])), quantity="radiance", name="lamp")
    labels = (np.arange(SHAPE[0] * SHAPE[1]) % 2).astype(np.int32).reshape(SHAPE[:2])
    scene = Scene.from_array(_cube(), sensor, name="lit", labels_HW=labels, label_names=("a", "b"))
    return save_scene(scene, folder / "scene.h5")


def _hdf(folder: Path) -> Path:
    import h5py

    path = folder / "cube.h5"
    with h5py.File(path, "w") as file:
        cube = file.create_dataset("group/cube", data=_cube(), chunks=(3, 5, 2), compression="gzip")
        cube.attrs["scale_factor"], cube.attrs["_FillValue"] = 0.0001, np.int16(-9999)
        file["group/wavelength"] = 400 + 50.0 * np.arange(SHAPE[2])
        file["group/wavelength"].attrs["units"] = "nm"
    return path


def _mat(folder: Path) -> Path:
    from scipy.io import savemat

    savemat(folder / "cube.mat", {"cube": _cube(), "wavelength": 400 + 50.0 * np.arange(SHAPE[2])})
    return folder / "cube.mat"


def _card(folder: Path) -> Path:
    _envi(folder)
    _npz(folder)
    (folder / "bad.csv").write_text("band\n2\n")
    (folder / "card.yaml").write_text(
        "name: plots\ndomain: lab\nwavelength_trust: high\ntask: classification\nlabel_names: [oak, pine]\n"
        "path: '*.hdr'\nbad_bands: 1-1\nscale: 0.0001\ndate: 2000-05-03\ngroup: '{match}'\ngroup_match: '(c.*)'\n"
        "linear_nm: [400, 700, 4]\nlabels: {path: labels.npz, variable: labels, unlabelled: [9]}\npretreatment: [snv]\n"
    )
    return folder / "card.yaml"


def _shard(folder: Path) -> Path:
    from specfm.readers import read_scene
    from specfm.shards import write_shards

    write_shards([read_scene(_scene(folder))], folder / "shards", window=3, stride=2, workers=1)
    return next((folder / "shards").glob("*.h5"))


def _shards_json(folder: Path) -> Path:
    return _shard(folder).parent / "manifest.json"


def _checkpoint(folder: Path) -> Path:
    from specfm.files import write_manifest

    (folder / "step").mkdir()
    (folder / "step" / "weights").write_bytes(b"12345")
    write_manifest(folder / "step", kind="training checkpoint")
    return folder / "step" / "MANIFEST.json"


def _stac(folder: Path) -> Path:
    path = _tiff(folder, silent=True)
    bands = [{"name": f"b{i}", "eo:center_wavelength": 0.4 + 0.1 * i, "nodata": -9999} for i in range(SHAPE[2])]
    path.with_suffix(".json").write_text(json.dumps({"assets": {"data": {"href": "cube.tif", "bands": bands}}}))
    return path.with_suffix(".json")


def _read(path: Path) -> object:
    from specfm.readers import read_scene

    return _look(read_scene(path, units="nm"))


def _read_named(path: Path) -> object:
    from specfm import BandGrid
    from specfm.readers import read_scene

    return _look(read_scene(path, sensor=BandGrid(400 + 50.0 * np.arange(SHAPE[2]))))


def _look(scene: object) -> object:
    from specfm import Scene

    assert isinstance(scene, Scene)
    rows, cols = slice(0, min(3, scene.shape[0])), slice(0, min(3, scene.shape[1]))
    return scene.values(rows, cols), scene.mask(rows, cols)


def _read_card(path: Path) -> object:
    from specfm.cards import load_card

    return [_look(scene) for scene in load_card(path).scenes(path.parent)]


def _read_shard(path: Path) -> object:
    from specfm.shards import ShardReader

    reader = ShardReader(path)
    try:
        return reader.read(np.array([0, len(reader) - 1]))
    finally:
        reader.close()


def _read_labels(path: Path) -> object:
    from specfm.cards.raster_files import read_raster

    return read_raster(path)


def _read_shards(path: Path) -> object:
    from specfm.shards import ShardSet

    return len(ShardSet(path.parent))


def _verify(path: Path) -> object:
    from specfm.files import verify_manifest

    return verify_manifest(path.parent)


def _read_beside(path: Path) -> object:
    from specfm.readers import read_scene

    return _look(read_scene(path.with_suffix(".tif")))


KINDS = (
    Kind("ENVI header", _envi, _read), Kind("npy", _npy, _read_named), Kind("npz", _npz, _read_labels),
    Kind("GeoTIFF", _tiff, _read), Kind("own scene", _scene, _read), Kind("HDF5", _hdf, _read),
    Kind("MATLAB", _mat, _read), Kind("card (YAML)", _card, _read_card), Kind("shard", _shard, _read_shard),
    Kind("manifest of shards (JSON)", _shards_json, _read_shards),
    Kind("manifest of a checkpoint (JSON)", _checkpoint, _verify), Kind("STAC (JSON)", _stac, _read_beside),
)  # fmt: skip


def attempt(open_it: Callable[[Path], object], path: Path, seconds: float, megabytes: int) -> tuple[str, str]:
    """What came of opening a file in a process of its own: one of :data:`OUTCOMES`, and the message or traceback."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        outcome, said = "opened", ""
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)
            open_it(path)
        except SpecfmError as error:
            outcome, said = "refused", str(error)
        except MemoryError:
            outcome, said = "memory", traceback.format_exc()
        except BaseException:
            outcome, said = "traceback", traceback.format_exc()
        finally:
            os.write(writable, f"{outcome}\n{said}".encode(errors="backslashreplace")[-60_000:])
            os._exit(0)
    os.close(writable)
    end, parts = time.monotonic() + seconds, []
    while (left := end - time.monotonic()) > 0 and select.select([readable], [], [], left)[0]:
        part = os.read(readable, 1 << 16)
        if not part:
            break
        parts.append(part)
    else:
        os.kill(child, signal.SIGKILL)
        parts = [b"hang\n"]
    os.close(readable)
    _, status = os.waitpid(child, 0)
    outcome, _, said = b"".join(parts).decode(errors="replace").partition("\n")
    return (outcome, said) if outcome in OUTCOMES else ("died", f"signal {status & 0x7F}\n{said}")


def run(
    count: int,
    seed: int,
    seconds: float = 10.0,
    megabytes: int = 1500,
    show: bool = False,
    tell: Callable[[str], None] = print,
) -> dict[str, Counter[str]]:
    """Damage and open ``count`` files, spread over the kinds; what came of each kind. Odd ones are told with their
    seed."""
    import h5py  # noqa: F401
    import rasterio  # noqa: F401
    import scipy.io  # noqa: F401
    import yaml  # noqa: F401

    import specfm.calibration
    import specfm.cards.opening
    import specfm.readers.geotiff
    import specfm.readers.hdf
    import specfm.readers.matlab
    import specfm.shards.build  # noqa: F401  (once here, not in every process)

    found = {kind.name: Counter[str]() for kind in KINDS}
    with tempfile.TemporaryDirectory() as place:
        os.environ["SPECFM_CACHE"] = str(Path(place) / "cache")
        sound = {}
        for number, kind in enumerate(KINDS):
            folder = Path(place) / "sound" / str(number)
            folder.mkdir(parents=True)
            sound[kind.name] = kind.make(folder).relative_to(folder)
            outcome, said = attempt(kind.open_it, folder / sound[kind.name], seconds, megabytes)
            if outcome != "opened":
                raise RuntimeError(f"the sound {kind.name} is {outcome}: {said}")
        for turn in range(count):
            number = turn % len(KINDS)
            kind = KINDS[number]
            folder = Path(place) / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(Path(place) / "sound" / str(number), folder)
            path = folder / sound[kind.name]
            path.write_bytes(damage(path.read_bytes(), np.random.default_rng([seed, turn])))
            outcome, said = attempt(kind.open_it, path, seconds, megabytes)
            found[kind.name][outcome] += 1
            if outcome not in ("opened", "refused"):
                tell(f"--- {kind.name}, seed {seed}, file {turn}: {outcome}\n{said}")
            elif show and said:
                tell(f"{kind.name}: {said}")
            if outcome == "refused" and "\n" in said.strip():
                found[kind.name]["several lines"] += 1
                tell(f"--- {kind.name}, seed {seed}, file {turn}: several lines\n{said}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Open damaged files of every kind and count what comes of it.")
    parser.add_argument("--count", type=int, default=300, help="files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0, help="after which a file counts as a hang")
    parser.add_argument("--show", action="store_true", help="print every refusal")
    parser.add_argument("--megabytes", type=int, default=1500, help="address space beyond what is loaded")
    options = parser.parse_args()
    found = run(options.count, options.seed, options.seconds, options.megabytes, options.show)
    columns = [*OUTCOMES, "several lines"]
    print(f"{'kind':34}" + "".join(f"{name:>14}" for name in columns))
    for name, counts in found.items():
        print(f"{name:34}" + "".join(f"{counts[column]:14d}" for column in columns))
    total = sum(found.values(), Counter[str]())
    print(f"{'all':34}" + "".join(f"{total[column]:14d}" for column in columns))
    sys.exit(any(total[name] for name in columns[2:]))


if __name__ == "__main__":
    main()
