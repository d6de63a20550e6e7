"""`specfm inspect` on files, folders and cards; refusals are one sentence with the right exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from specfm import BandGrid, Scene, Sensor
from specfm.cli import app
from specfm.readers.own import save_scene
from tests.readers import make

ONE_LINE_ERROR = "error: "


def run(*arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command, in this process."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def cube_file(tmp_path: Path) -> Path:
    cube = np.random.default_rng(0).integers(1, 4000, (12, 10, 8)).astype(np.uint16)
    cube[:, :, 3] = 7
    sensor = Sensor(BandGrid(430.0 + 40 * np.arange(8)), quantity="surface_reflectance", scale=1e-4, name="made")
    return save_scene(Scene.from_array(cube, sensor, name="plot"), tmp_path / "plot.h5")


def test_text(cube_file: Path) -> None:
    code, out, _ = run(cube_file)
    assert code == 0
    assert (
        "12 rows x 10 columns x 8 bands (numbered from 1), uint16" in out
        and "430.0-710.0 nm, 8 of 8 bands usable" in out
    )
    assert "the same value everywhere in band 4" in out


def test_json_and_quicklook(cube_file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "look.png"
    code, out, _ = run(cube_file, "--json", "--quicklook", picture)
    data = json.loads(out)
    assert code == 0 and data["scene"]["shape"] == [12, 10, 8] and data["sensor"]["name"] == "made"
    assert [finding["kind"] for finding in data["findings"]] == ["constant"]
    assert data["quicklook"]["bands"] == [5, 3, 0]
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    code, out, err = run(cube_file, "--quicklook", picture)
    assert code == 2 and "--overwrite" in err and err.startswith(ONE_LINE_ERROR) and out == ""
    assert run(cube_file, "--quicklook", picture, "--overwrite")[0] == 0


def test_a_silent_file_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 4, 5), np.float32))
    code, _, err = run(tmp_path / "a.npy")
    assert code == 1 and err.count("\n") == 1 and "--sensor NAME or --wavelengths file.csv" in err
    bands = tmp_path / "b.csv"
    bands.write_text("band,centre_nm\n" + "".join(f"{i},{500 + i}\n" for i in range(5)))
    code, out, _ = run(tmp_path / "a.npy", "--wavelengths", bands, "--quantity", "radiance", "--scale", 0.5, "--json")
    data = json.loads(out)
    assert code == 0 and data["sensor"]["quantity"] == "radiance" and data["sensor"]["scale"] == 0.5
    assert data["notes"] == [f"{tmp_path / 'a.npy'} is silent about wavelengths; taken from {bands}"]
    _, out, err = run(tmp_path / "a.npy", "--wavelengths", bands)
    assert "  note        " in out and "taken from" in out and err == ""
    code, out, _ = run(tmp_path / "a.npy", "--wavelengths", bands, "--nodata", 1, "--json")
    assert json.loads(out)["masks"]["valid_pixels"] == 0.0


def test_units_layout_variable_and_sensor(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "m.mat", {"Y": np.ones((6, 20)), "Z": np.ones((6, 20)), "wl": np.linspace(0.4, 0.9, 6)})
    options = ("--variable", "Z", "--layout", "bands_by_pixels:4x5", "--units", "um", "--json")
    code, out, _ = run(tmp_path / "m.mat", *options)
    data = json.loads(out)
    assert code == 0 and data["scene"]["shape"] == [4, 5, 6] and data["coverage"]["high_nm"] == pytest.approx(900)
    code, _, err = run(tmp_path / "m.mat", "--variable", "Z", "--layout", "spectra", "--sensor", "no-such")
    assert code == 2 and "no-such" in err


def test_folder(cube_file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "silent.npy", np.ones((3, 4, 5)))
    code, out, err = run(tmp_path, "--json", "--quicklook", tmp_path / "looks")
    assert code == 0 and [entry["scene"]["name"] for entry in json.loads(out)] == ["plot"]
    assert "not read: " in err and "silent.npy" in err and (tmp_path / "looks" / "plot.png").is_file()
    cube_file.unlink()
    code, _, err = run(tmp_path)
    assert code == 1 and "silent.npy" in err
    (tmp_path / "silent.npy").unlink()
    assert "no cube files in this folder" in run(tmp_path)[2]


def test_a_folder_holds_what_every_command_finds_in_it(tmp_path: Path) -> None:
    """A data file under any name beside its header, and no file that only lies beside a cube."""
    make.envi(tmp_path, make.cube(), name="b.bil")
    np.save(tmp_path / "plain.npy", make.cube())
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "c.cube").write_bytes((tmp_path / "b.bil").read_bytes())
    (tmp_path / "c.cube.hdr").write_text((tmp_path / "b.hdr").read_text())
    scene = Scene.from_array(make.cube(), BandGrid(make.centres(6)), "d")
    save_scene(scene, tmp_path / "d.h5").rename(tmp_path / "d.nc4")
    code, out, err = run(tmp_path, "--json")
    assert code == 0 and sorted(entry["scene"]["name"] for entry in json.loads(out)) == ["b", "c", "d"]
    assert err.count("not read: ") == 1 and "plain.npy" in err


def test_card(data_root: Path) -> None:
    code, out, _ = run("jasper_ridge", "--json")
    data = json.loads(out)
    assert code == 0 and data[0]["scene"]["dtype"] == "uint16" and "water" in data[0]["scene"]["labels"]
    code, _, err = run("jasper_ridge", "--units", "nm")
    assert code == 2 and "--units" in err


def test_unknown_card_and_missing_file() -> None:
    code, _, err = run("jasper_rigde")
    assert code == 2 and "jasper_ridge" in err
    code, _, err = run("nothing.hdr")
    assert code == 1 and err == "error: nothing.hdr: no such file\n"


ENVI = "ENVI\nsamples = 4\nlines = 3\nbands = 2\ndata type = 2\ninterleave = bsq\n"


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        (ENVI, 48, "no wavelengths in this file; supply them with --sensor NAME or --wavelengths file.csv"),
        (ENVI + "wavelength = {0.4, 0.5}\nwavelength units = nm\n", 48, "x.hdr"),
        (ENVI + "wavelength = {400, 500}\nwavelength units = um\n", 48, "x.hdr"),
        (ENVI + "wavelength = {400, 500}\nwavelength units = nm\n", 47, "holds 47 bytes but x.hdr says 48"),
        (ENVI.replace("bands = 2\n", ""), 48, "lacks bands"),
        ("hello", 48, "not an ENVI header"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_1(tmp_path: Path, header: str, size: int, words: str) -> None:
    """What can be said of the cube all the same goes to standard output."""
    (tmp_path / "x.hdr").write_text(header)
    (tmp_path / "x").write_bytes(bytes(size))
    picture = tmp_path / "look.png"
    code, out, err = run(tmp_path / "x.hdr", "--quicklook", picture)
    assert code == 1 and err.startswith(ONE_LINE_ERROR) and err.count("\n") == 1 and words in err
    assert out == "" or "cube        3 rows x 4 columns x 2 bands (numbered from 1), int16" in out
    assert not picture.exists()


def test_a_cube_without_wavelengths_is_described_and_its_card_begun(tmp_path: Path) -> None:
    from specfm.cards import load_card

    (tmp_path / "x.hdr").write_text(ENVI)
    (tmp_path / "x").write_bytes(np.arange(24, dtype="<i2").tobytes())
    card = tmp_path / "mine.yaml"
    code, out, err = run(tmp_path / "x.hdr", "--scale", "0.5", "--card", card)
    assert code == 1 and "no wavelengths in this file" in err
    for said in (
        "3 rows x 4 columns x 2 bands (numbered from 1), int16",
        "0 to 23",
        "none stated; looked for in",
        "x.hdr",
    ):
        assert said in out, said
    code, out, _ = run(tmp_path / "x.hdr", "--json")
    facts = json.loads(out)
    assert code == 1 and facts["shape"] == [3, 4, 2] and "no wavelengths" in facts["refused"]
    text = card.read_text()
    card.write_text(text.replace("# linear_nm: [400, 1000, 224] ", "linear_nm: [500, 600, 2] "))
    scene = next(load_card(card).scenes())
    assert scene.sensor.scale == 0.5 and scene.sensor.bands.wavelengths_nm.tolist() == [500, 600]
    code, _, err = run(tmp_path / "x.hdr", "--card", card)
    assert code == 2 and "exists" in err and "linear_nm: [500" in card.read_text()


def test_a_card_begun_of_a_file_that_says_all_reads_it_as_it_is(tmp_path: Path) -> None:
    from specfm.cards import load_card

    sensor = Sensor(BandGrid(400 + 5.0 * np.arange(30)), "radiance", name="My camera/2")
    save_scene(Scene.from_array(np.ones((5, 4, 30), np.float32), sensor), tmp_path / "b c.h5")
    card = tmp_path / "cards" / "mine.yaml"
    card.parent.mkdir()
    code, _, err = run(tmp_path / "b c.h5", "--card", card)
    assert code == 0 and "begun" in err
    scene = next(load_card(card).scenes())
    assert scene.shape == (5, 4, 30) and scene.sensor == sensor and scene.domain == "my_camera_2"
    code, _, err = run(tmp_path, "--card", tmp_path / "other.yaml")
    assert code == 2 and "begins a card for one file" in err


def test_a_picture_of_the_one_scene_of_a_card_or_folder_is_a_file(cube_file: Path, tmp_path: Path) -> None:
    card, picture = tmp_path / "mine.yaml", tmp_path / "look.png"
    card.write_text(f"name: mine\ndomain: lab\npath: {cube_file.name}\n")
    code, out, _ = run(card, "--quicklook", picture)
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG") and str(picture) in out
    folder = tmp_path / "cubes"
    folder.mkdir()
    for name in ("a.h5", "b.h5"):
        (folder / name).write_bytes(cube_file.read_bytes())
    code, _, err = run(folder, "--quicklook", tmp_path / "other.png")
    assert code == 2 and "is one picture" in err and "holds 2 scenes; name a folder" in err
    assert run(folder, "--quicklook", tmp_path / "looks")[0] == 0
    assert len(list((tmp_path / "looks").glob("*.png"))) == 2


def test_what_specfm_wrote_itself_is_recognised(tmp_path: Path) -> None:
    from specfm.shards import write_shards

    cube = np.random.default_rng(0).random((12, 12, 30)).astype(np.float32)
    of = Scene.from_array(cube, Sensor(BandGrid(400 + 5.0 * np.arange(30)), name="camera"), domain="lab")
    write_shards([of], tmp_path / "shards", window=6)
    for path, kind in ((tmp_path / "shards", "shards"), (next((tmp_path / "shards").glob("*.h5")), "a shard")):
        code, out, _ = run(path)
        assert code == 0 and f": {kind}\n" in out and "windows of 6 x 6, 30 bands (400-545 nm)" in out
    code, out, _ = run("real_nano")
    assert code == 0 and "real_nano: an encoder" in out and "size nano" in out
    results = tmp_path / "results.jsonl"
    results.write_text('{"method": "m", "protocol": "knn1"}\n')
    code, _, err = run(results)
    assert code == 1 and "line 1 is not" in err  # named as what it is, and what is wrong with it
    code, out, _ = run(tmp_path / "shards", "--json")
    assert json.loads(out)["samples"] > 0


@pytest.mark.parametrize("as_json", [False, True])
def test_three_formats_in_one_folder(tmp_path: Path, as_json: bool) -> None:
    """60, 200 and 425 bands as ENVI, specfm HDF5 and MATLAB."""
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    (tmp_path / "a.hdr").write_text(
        ENVI.replace("bands = 2", "bands = 60")
        + f"wavelength units = nm\nwavelength = {{{', '.join(str(400 + 10 * i) for i in range(60))}}}\n"
    )
    (tmp_path / "a").write_bytes(rng.integers(1, 99, 4 * 3 * 60).astype("<i2").tobytes())
    cube = rng.random((5, 4, 200)).astype(np.float32)
    save_scene(Scene.from_array(cube, Sensor(BandGrid(400 + 5.0 * np.arange(200)))), tmp_path / "b.h5")
    savemat(tmp_path / "c.mat", {"cube": rng.random((6, 5, 425)), "wavelength": 380 + 5.0 * np.arange(425)})
    code, out, err = run(tmp_path, "--units", "nm", *(["--json"] if as_json else []))
    assert code == 0 and err == ""
    if as_json:
        assert [entry["coverage"]["bands"] for entry in json.loads(out)] == [60, 200, 425]
    else:
        assert out.count(" bands usable") == 3
