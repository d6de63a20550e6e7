"""Files and cards that mean harm: each attack ends in one sentence, soon and small; the option named there works."""

from __future__ import annotations

import ast
import json
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import specfm
from specfm import BandGrid, SpecfmError, create_encoder
from specfm.cards import load_card
from specfm.cards.raster_files import read_raster
from specfm.cli import app
from specfm.files import write_manifest
from specfm.readers import read_scene
from tests.readers import make

rasterio = pytest.importorskip("rasterio")
REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE = (6, 5, 4)
GRID = BandGrid(400 + 50.0 * np.arange(SHAPE[2]))


def tiff(path: Path, **tags: str) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=SHAPE[0], width=SHAPE[1], count=SHAPE[2], dtype="int16",
        photometric="MINISBLACK",
    ) as file:  # fmt: skip
        file.write(np.ones((SHAPE[2], *SHAPE[:2]), np.int16))
        file.update_tags(**tags)
    return path


def vrt(path: Path, source: Path) -> Path:
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{i}"><SimpleSource><SourceFilename>{source}</SourceFilename>'
        f"<SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
        for i in range(1, SHAPE[2] + 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="{SHAPE[1]}" rasterYSize="{SHAPE[0]}">{bands}</VRTDataset>')
    return path


# -- a data file opens itself and nothing else ---------------------------------------------------------------------


def test_a_vrt_behind_a_tif_is_refused_as_labels_and_as_a_cube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiff(tmp_path / "other.tif")
    hidden = vrt(tmp_path / "cube.tif", other)
    with pytest.raises(SpecfmError, match=r"cube.tif.*not a readable raster.*--linked-files"):
        read_raster(hidden)
    with pytest.raises(SpecfmError, match="neither ENVI"):
        read_scene(hidden, sensor=GRID)
    monkeypatch.setenv("SPECFM_LINKED_FILES", "1")
    assert read_raster(hidden).array.shape == SHAPE


def test_a_name_that_gdal_takes_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GDAL reads ok.tif where a file is called GTIFF_DIR:1:ok.tif."""
    monkeypatch.chdir(tmp_path)
    tiff(Path("ok.tif"), wavelength="1, 2, 3, 4")
    tiff(Path("GTIFF_DIR:1:ok.tif"))
    with pytest.raises(SpecfmError, match="no wavelengths in this file"):
        read_scene("GTIFF_DIR:1:ok.tif")


@pytest.mark.parametrize("text", ["/vsicurl/http://127.0.0.1:9/x.tif", "/vsizip/a.zip/x.tif"])
def test_virtual_file_systems_are_no_files(text: str) -> None:
    with pytest.raises(SpecfmError, match="no such file|/vsi"):
        read_scene(text)


def test_a_coordinate_system_that_is_a_path_is_not_read(tmp_path: Path) -> None:
    from specfm.crs import parse_crs
    from specfm.rasters.writers import open_raster

    secret = tmp_path / "secret.txt"
    secret.write_text(parse_crs("EPSG:32633").to_wkt())  # type: ignore[union-attr]
    header = make.envi(tmp_path, make.cube(SHAPE), coordinate_system_string=f"{{{secret}}}", map_info=None)
    scene = read_scene(header)
    assert scene.geo is not None and parse_crs(str(scene.geo.crs_wkt)) is None
    with open_raster(tmp_path / "out.tif", SHAPE, geo=scene.geo) as writer:
        writer.write(np.zeros(SHAPE, np.float32))
    with rasterio.open(tmp_path / "out.tif") as written:
        assert written.crs is None
    for text in ("http://127.0.0.1:9/x", "+proj=longlat +init=/etc/passwd", "[" * 100_000, "\ud800["):
        assert parse_crs(text) is None
    assert parse_crs("EPSG:4326") == parse_crs("epsg:4326") is not None


@pytest.mark.parametrize("how", ["link", "external", "virtual"])
def test_hdf5_that_reads_other_files(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) + 1
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["cube"] = values
    (tmp_path / "raw").write_bytes(values.tobytes())
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        if how == "link":
            file["cube"] = h5py.ExternalLink("other.h5", "cube")
        elif how == "external":
            file.create_dataset("cube", SHAPE, np.int16, external=[(str(tmp_path / "raw"), 0, values.nbytes)])
        else:
            layout = h5py.VirtualLayout(SHAPE, np.int16)
            layout[:] = h5py.VirtualSource("other.h5", "cube", SHAPE)
            file.create_virtual_dataset("cube", layout)
    with pytest.raises(SpecfmError, match=r"cube.h5: it .*nothing else.*--linked-files"):
        read_scene(tmp_path / "cube.h5", sensor=GRID)
    with pytest.raises(SpecfmError, match="nothing else"):
        read_raster(tmp_path / "cube.h5", "cube")
    monkeypatch.setenv("SPECFM_LINKED_FILES", "1")
    if how == "link":  # nobody walks through links in search of a cube, so there is none
        with pytest.raises(SpecfmError, match="no array with three axes"):
            read_scene(tmp_path / "cube.h5", sensor=GRID)
    else:
        assert (read_scene(tmp_path / "cube.h5", sensor=GRID).read() == values).all()


def test_the_option_of_the_command_line_allows_it(tmp_path: Path) -> None:
    values = np.full(SHAPE, 7, np.int16)
    (tmp_path / "raw").write_bytes(values.tobytes())
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        file.create_dataset("cube", SHAPE, np.int16, external=[(str(tmp_path / "raw"), 0, values.nbytes)])
        file["wavelength"] = GRID.wavelengths_nm
        file["wavelength"].attrs["units"] = "nm"
    refused = CliRunner().invoke(app, ["inspect", str(tmp_path / "cube.h5")])
    assert refused.exit_code == 1 and "external storage" in refused.output
    assert CliRunner().invoke(app, ["--linked-files", "inspect", str(tmp_path / "cube.h5")]).exit_code == 0
    assert CliRunner().invoke(app, ["inspect", str(tmp_path / "cube.h5")]).exit_code == 1  # of one command only


def test_chunks_never_written_are_nodata(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        cube = file.create_dataset("cube", SHAPE, np.int16, chunks=(3, 5, 2))
        cube[:3] = 5
        cube[3:, :, :2] = 6  # half the bands of the lower rows are missing
    scene = read_scene(tmp_path / "cube.h5", sensor=GRID)
    x_HWC = scene.read()
    assert (x_HWC[:3] == 5).all() and (x_HWC[3:, :, :2] == 6).all() and np.isnan(x_HWC[3:, :, 2:]).all()
    assert scene.mask()[:3].all() and not scene.mask()[3:].any()
    part = scene.read(slice(2, 6, 2), slice(1, 4), [3, 0])
    np.testing.assert_array_equal(part, x_HWC[2:6:2, 1:4][..., [3, 0]])


@pytest.mark.parametrize("chunks", [None, (2, 2, 2)])
def test_a_cube_of_which_nothing_was_written_is_nodata(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        file.create_dataset("cube", SHAPE, np.float32, chunks=chunks)
    assert not read_scene(tmp_path / "cube.h5", sensor=GRID).mask().any()


def test_missing_sources_of_a_virtual_cube_are_nodata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_LINKED_FILES", "1")
    with h5py.File(tmp_path / "there.h5", "w") as file:
        file["cube"] = np.full((2, *SHAPE[1:]), 3, np.int16)
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        layout = h5py.VirtualLayout(SHAPE, np.int16)
        layout[:2] = h5py.VirtualSource("there.h5", "cube", (2, *SHAPE[1:]))
        layout[2:4] = h5py.VirtualSource("lost.h5", "cube", (2, *SHAPE[1:]))
        file.create_virtual_dataset("cube", layout)
    scene = read_scene(tmp_path / "cube.h5", sensor=GRID)
    assert (scene.read(slice(0, 2)) == 3).all() and scene.mask()[:2].all() and not scene.mask()[2:].any()


# -- a card that came with a data set ------------------------------------------------------------------------------


def card(folder: Path, **keys: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "scene.hdr").exists():
        make.envi(folder, make.cube(SHAPE))
    told = {"name": "c", "domain": "d", "wavelength_trust": "high", "path": "*.hdr", **keys}
    (folder / "card.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in told.items()))
    return folder / "card.yaml"


@pytest.mark.parametrize("how", ["up", "absolute", "link", "labels", "data folder"])
def test_an_untrusted_card_stays_in_its_folder(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    make.envi(outside, make.cube(SHAPE))
    np.save(outside / "labels.npy", np.zeros(SHAPE[:2], np.int32))
    monkeypatch.setenv("SPECFM_DATA", str(outside))
    keys: dict[str, object] = {}
    if how == "up":
        keys = {"path": "../outside/scene.hdr"}
    elif how == "absolute":
        keys = {"path": str(outside / "*.hdr")}
    elif how == "link":
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "leaf.hdr").symlink_to(outside / "scene.hdr")
        (tmp_path / "set" / "leaf.dat").symlink_to(outside / "scene.dat")
        keys = {"path": "leaf.hdr"}
    elif how == "labels":
        keys = {"labels": {"path": "../outside/labels.npy"}, "label_names": ["a"]}
    else:
        keys = {"path": "labels.npy"}
    path = card(tmp_path / "set", **keys)
    if how != "data folder":
        assert next(load_card(path).scenes()).shape == SHAPE
    monkeypatch.setenv("SPECFM_UNTRUSTED", "1")
    with pytest.raises(SpecfmError, match=r"leads out of the card's folder|no labels.npy below"):
        list(load_card(path).scenes())
    assert next(load_card(card(tmp_path / "plain")).scenes()).shape == SHAPE


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bad_bands": "abc"}, "bad_bands.*1-based numbers"),
        ({"bad_bands": "1-999999999999"}, "too long; at most"),
        ({"date": "2000-02-30"}, "date"),
        ({"path": ""}, "must name a file"),
        ({"path": "/"}, "must name a file"),
        ({"path": "x" * 5000}, "longer than file systems allow"),
        ({"path": "**/**/**/*.hdr"}, "may be written once"),
        ({"path": "a\0b"}, "zero byte|not plain YAML"),
        ({"linear_nm": [400, 700, 10**9]}, "linear_nm asks for"),
        ({"group_match": "(a+)+$"}, "may take for ever"),
        ({"group_match": "(a|a)*b"}, "may take for ever"),
        ({"group_match": "(" + "a?" * 30 + "a" * 30 + ")"}, "too many ways"),
        ({"label_names": ["\ud800"]}, "surrogate"),
    ],
)
def test_what_a_card_cannot_say_is_one_sentence(tmp_path: Path, keys: dict[str, object], message: str) -> None:
    path = card(tmp_path, **keys)
    start = time.process_time()
    with pytest.raises(SpecfmError, match=message) as caught:
        load_card(path)
    assert "\n" not in str(caught.value) and time.process_time() - start < 5


def test_errors_do_not_quote_the_file_that_a_card_names(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root:$6$hash:19000\nname\n: [unclosed")
    for keys in (
        {"labels": {"table": {"path": "secret", "key": "k", "value": "v"}}, "label_names": ["a"]},
        {"labels": {"path": "secret"}, "label_names": ["a"]},
        {"bad_bands": "secret.csv"},
        {"wavelengths": "secret"},
        {"path": "secret"},
    ):
        (tmp_path / "secret.csv").write_text("band\n$6$hash\n")
        with pytest.raises(SpecfmError) as caught:
            list(load_card(card(tmp_path, **keys)).scenes())
        assert "hash" not in str(caught.value)
    with pytest.raises(SpecfmError) as caught:
        load_card(secret)
    assert "hash" not in str(caught.value) and "unclosed" not in str(caught.value)


# -- bounds before work ----------------------------------------------------------------------------------------------


def test_an_array_that_unpacks_to_far_more_than_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "labels.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        head = "{'descr': '<i4', 'fortran_order': False, 'shape': (100000, 1000000), }"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode())
    with h5py.File(tmp_path / "fill.h5", "w") as file:
        file.create_dataset("cube", (10**5, 10**5, 100), np.int16, chunks=(1000, 1000, 1))
    with pytest.raises(SpecfmError, match=r"labels.npz: its array would unpack to 400000000000 bytes"):
        read_raster(tmp_path / "labels.npz")
    with pytest.raises(SpecfmError, match=r"fill.h5: the cube would unpack.*SPECFM_MAX_UNPACKED_RATIO=\d+"):
        read_scene(tmp_path / "fill.h5", sensor=BandGrid(400.0 + np.arange(100)))
    monkeypatch.setenv("SPECFM_MAX_UNPACKED_RATIO", str(10**12))
    assert read_scene(tmp_path / "fill.h5", sensor=BandGrid(400.0 + np.arange(100))).shape == (10**5, 10**5, 100)


def test_a_limit_that_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_MAX_BANDS", "many")
    with pytest.raises(SpecfmError, match="SPECFM_MAX_BANDS must be a whole number, got 'many'"):
        read_scene(make.envi(tmp_path, make.cube(SHAPE)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 10**6}, "parameters, but model.safetensors has"),
        ({"dim": 10**9, "heads": 1}, "parameters, but model.safetensors has"),
        ({"patch_size": 10**4}, "patch_size is 10000; at most 64"),
        ({"hidden": 10**9}, "hidden is 1000000000; at most"),
        ({"mlp_ratio": 1e300}, "parameters"),
        ({"size": []}, "does not describe an encoder"),
    ],
)
def test_a_release_of_absurd_sizes(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = tmp_path / "model"
    specfm.save(create_encoder("nano", patch_size=3, dim=16, depth=1, heads=2), folder)
    config = json.loads((folder / "config.json").read_text())
    config["encoder"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder, kind="specfm-encoder")
    with pytest.raises(SpecfmError, match=message):
        specfm.load(folder)


# -- the kind: one place each -------------------------------------------------------------------------------------


def test_files_are_parsed_and_opened_in_one_place_each() -> None:
    """Whoever parses JSON or YAML, or opens HDF5 or a raster, somewhere else goes round the bounds."""
    only = {
        "json.loads": ("specfm/documents.py", "json.dumps"),  # a value of our own through json.dumps is no file
        "json.load": ("specfm/documents.py", ""),
        "yaml.safe_load": ("specfm/documents.py", ""),
        "yaml.load": ("specfm/documents.py", ""),
        "h5py.File": ("specfm/hdf5.py", "'w'"),
        "rasterio.open": ("specfm/readers/raster_source.py", "'w'"),
        "CRS.from_user_input": ("specfm/crs.py", ""),
        "np.load": ("downstream/features/bank.py", "self.path"),  # what we wrote: a verified entry, a command's result
    }
    wrong = []
    rooms = [REPOSITORY / room for room in ("specfm", "downstream", "pretrain")]
    for path in sorted(each for room in rooms for each in room.rglob("*.py")):
        where = path.relative_to(REPOSITORY).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name not in only or where == "specfm/engine/distributed.py":  # bytes of another rank
                continue
            home, harmless = only[name]
            if where != home and not (harmless and harmless in ast.unparse(node)):
                wrong.append(f"{where}:{node.lineno} {name}")
    assert not wrong


def test_a_class_name_with_a_dollar_is_drawn_as_it_is() -> None:
    pytest.importorskip("matplotlib")
    from specfm.rasters.class_map import Legend, legend_png

    assert legend_png(np.ones((4, 4), np.uint8), Legend.of(["$\\frac{", "$x$"])).startswith(b"\x89PNG")


def test_no_control_codes_of_a_file_reach_the_terminal() -> None:
    from specfm.errors import sentence

    assert sentence(SpecfmError("a\x1b[2Jb\ud800")) == "a\\x1b[2Jb\\ud800"
    assert len(sentence(SpecfmError("x" * 10**6))) < 5000


def test_a_small_portion_of_the_fuzzer() -> None:
    from tests.benchmarks import fuzz

    told: list[str] = []
    found = fuzz.run(60, seed=7, tell=told.append)
    assert not told and sum(sum(counts.values()) for counts in found.values()) == 60
    assert sum(counts["opened"] for counts in found.values()) > 5
