"""Rasters of a card lie on the grid of its scene and mean what their files say, or are refused with the reason."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specfm.cards import load_card
from specfm.errors import SpecfmError
from specfm.scene import Scene

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine, from_origin  # noqa: E402

SIDE = 8
TRUTH = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) // 16  # classes 0..3 in stripes of two rows
PLACE = from_origin(500000, 4100000, 30, 30)
NAMES = ["water", "soil", "grass", "tree"]


def tiff(path: Path, array: np.ndarray, transform: Any = PLACE, crs: str | None = "EPSG:32617", **more: Any) -> Path:
    """A GeoTIFF of (H, W) or (H, W, C)."""
    cube = array if array.ndim == 3 else array[..., None]
    profile = {"height": SIDE, "width": SIDE, "count": cube.shape[2], "dtype": cube.dtype.name, "crs": crs}
    with rasterio.open(
        path, "w", driver="GTiff", transform=transform, photometric="minisblack", **profile, **more
    ) as out:
        out.write(cube.transpose(2, 0, 1))
    return path


def envi(path: Path, array: np.ndarray, **more: str) -> Path:
    """An ENVI raster of one band beside its header."""
    array.astype("u1").tofile(path)
    keys = {"samples": SIDE, "lines": SIDE, "bands": 1, "data type": 1, "interleave": "bsq", "byte order": 0, **more}
    path.with_suffix(".hdr").write_text("ENVI\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()))
    return path


def card(folder: Path, labels: str, names: list[str] = NAMES, more: str = "", task: str = "classification") -> Path:
    """A scene of three bands at ``PLACE``, and a card with this labels entry."""
    tiff(folder / "scene.tif", np.ones((SIDE, SIDE, 3), np.float32))
    path = folder / "mine.yaml"
    path.write_text(
        f"name: mine\ndomain: made\ntask: {task}\nwavelength_trust: high\npath: scene.tif\n"
        f"linear_nm: [500, 700, 3]\nquantity: surface_reflectance\nlabel_names: [{', '.join(names)}]\n"
        f"labels: {labels}\n{more}"
    )
    return path


def opened(path: Path) -> Scene:
    (scene,) = load_card(path).scenes()
    return scene


def labels_of(path: Path) -> np.ndarray:
    found = opened(path).labels_HW
    assert found is not None
    return found


CODES = (TRUTH + 1).astype("u1")
GRIDS = {
    "5 pixels off": {"transform": from_origin(500150, 4099850, 30, 30)},
    "half a pixel off": {"transform": from_origin(500015, 4100000, 30, 30)},
    "south up": {"transform": Affine(30, 0, 500000, 0, 30, 4100000 - 30 * SIDE)},
    "another zone": {"crs": "EPSG:32618"},
    "other pixels": {"transform": from_origin(500000, 4100000, 10, 10)},
}


@pytest.mark.parametrize("how", GRIDS)
@pytest.mark.parametrize("entry", ["labels", "masks", "groups"])
def test_a_raster_on_another_grid_is_refused(tmp_path: Path, how: str, entry: str) -> None:
    wrong = tiff(tmp_path / "w.tif", CODES, **GRIDS[how])
    tiff(tmp_path / "l.tif", CODES)
    plain = "{path: l.tif, unlabelled: [0]}"
    written = {
        "labels": card(tmp_path, "{path: w.tif, unlabelled: [0]}"),
        "masks": None,
        "groups": None,
    }
    if entry == "masks":
        written["masks"] = card(tmp_path, "{masks: {water: w.tif}}")
    if entry == "groups":
        written["groups"] = card(tmp_path, plain, more="groups: {path: w.tif}\n")
    with pytest.raises(
        SpecfmError, match="scene.tif and .*w.tif are not on one grid: .*8 x 8 pixels of 30 x 30 from 5"
    ) as e:
        opened(written[entry] or written["labels"])
    assert wrong.name in str(e.value)


def test_a_shifted_envi_raster_is_refused_and_one_in_place_is_read(tmp_path: Path) -> None:
    for x, fits in ((500000, True), (500015, False)):
        info = f"{{UTM, 1, 1, {x}, 4100000, 30, 30, 17, North, WGS-84}}"
        envi(tmp_path / "l.img", CODES, **{"map info": info})
        path = card(tmp_path, "{path: l.img, unlabelled: [0]}")
        if fits:
            np.testing.assert_array_equal(labels_of(path), TRUTH)
        else:
            with pytest.raises(SpecfmError, match=r"corners 0.5 pixels apart"):
                opened(path)


def test_a_file_without_a_place_is_taken_by_its_size_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    np.save(tmp_path / "l.npy", CODES)
    np.testing.assert_array_equal(labels_of(card(tmp_path, "{path: l.npy, unlabelled: [0]}")), TRUTH)
    assert "l.npy has no georeference; it is taken to lie on" in caplog.text
    np.save(tmp_path / "l.npy", CODES[:, 1:])
    with pytest.raises(SpecfmError, match="do not fit a scene of 8 x 8 pixels"):
        opened(card(tmp_path, "{path: l.npy, unlabelled: [0]}"))


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_what_the_label_file_calls_no_data_is_unlabelled(tmp_path: Path, dtype: str) -> None:
    codes = CODES.astype(dtype)
    codes[0] = -9999
    tiff(tmp_path / "l.tif", codes, nodata=-9999)
    found = labels_of(card(tmp_path, "{path: l.tif, unlabelled: [0]}"))
    assert (found[0] == -1).all()
    np.testing.assert_array_equal(found[1:], TRUTH[1:])
    tiff(tmp_path / "l.tif", codes)  # not said by the file
    with pytest.raises(SpecfmError, match=r"label values \[-9999.*\] are neither classes of the card"):
        opened(card(tmp_path, "{path: l.tif, unlabelled: [0]}"))


def test_a_class_of_the_card_stays_one_whatever_the_file_calls_no_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiff(tmp_path / "l.tif", TRUTH.astype("u1"), nodata=0)
    np.testing.assert_array_equal(labels_of(card(tmp_path, "{path: l.tif}")), TRUTH)
    assert "it calls 0 no data, which the card counts as class" in caplog.text


def test_no_data_of_a_mask_belongs_to_no_class(tmp_path: Path) -> None:
    for i, name in enumerate(NAMES[:2]):
        mask = (i == TRUTH).astype("float32")
        mask[0, 0] = [np.nan, 255][i]
        tiff(tmp_path / f"{name}.tif", mask, nodata=255)
    found = labels_of(card(tmp_path, "{masks: {water: water.tif, soil: soil.tif}}"))
    assert found[0, 0] == -1 and found[0, 1] == 0 and (found[2:4] == 1).all() and (found[4:] == -1).all()


def test_groups_with_fractions_are_refused(tmp_path: Path) -> None:
    tiff(tmp_path / "l.tif", CODES)
    tiff(tmp_path / "g.tif", CODES.astype("float32") + 0.5)
    with pytest.raises(SpecfmError, match="groups are whole numbers, but it holds fractions"):
        opened(card(tmp_path, "{path: l.tif, unlabelled: [0]}", more="groups: {path: g.tif}\n"))


def test_a_share_that_is_no_number_is_no_label(tmp_path: Path) -> None:
    shares = np.stack([i == TRUTH for i in range(4)], -1).astype("float32")
    shares[0, 0, 1] = np.nan
    np.save(tmp_path / "a.npy", shares)
    found = labels_of(card(tmp_path, "{path: a.npy, dominant: 0.5}"))
    assert found[0, 0] == -1 and found[0, 1] == 0


def test_no_data_of_abundances_is_no_share(tmp_path: Path) -> None:
    shares = np.stack([i == TRUTH for i in range(4)], -1).astype("float32")
    shares[0, 0] = [0.9, 9999, 0, 0]
    shares[0, 1] = 9999
    entry = "{path: a.tif, dominant: 0.5}"
    tiff(tmp_path / "a.tif", shares, nodata=9999)
    found = labels_of(card(tmp_path, entry, task="unmixing"))
    assert (found[0, :2] == -1).all()
    np.testing.assert_array_equal(found[1:], TRUTH[1:])
    tiff(tmp_path / "a.tif", shares)  # a nodata value of each band
    bands = (
        f'<PAMRasterBand band="{i}"><NoDataValue>{9999 if i < 3 else -i}</NoDataValue></PAMRasterBand>'
        for i in (1, 2, 3, 4)
    )
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{''.join(bands)}</PAMDataset>")
    assert (labels_of(card(tmp_path, entry, task="unmixing"))[0, :2] == -1).all()


@pytest.mark.parametrize("array", [CODES.astype("c8"), CODES.astype("U2"), CODES.astype("M8[s]")], ids=["c", "U", "M"])
@pytest.mark.parametrize("entry", ["labels", "masks", "dominant", "groups"])
def test_arrays_of_something_else_than_numbers_are_refused(tmp_path: Path, array: np.ndarray, entry: str) -> None:
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "l.npy", CODES)
    labels = {
        "labels": "{path: a.npy}",
        "masks": "{masks: {water: a.npy}}",
        "dominant": "{path: a.npy, dominant: 0.5}",
        "groups": "{path: l.npy, unlabelled: [0]}",
    }[entry]
    more = "groups: {path: a.npy}\n" if entry == "groups" else ""
    with pytest.raises(SpecfmError, match=r"a.npy: holds .*, where real numbers are needed"):
        opened(card(tmp_path, labels, more=more))


@pytest.mark.parametrize("group", [np.uint64(2**63 + 5), np.float64(1e300), -1e300])
def test_groups_too_large_to_count_are_refused(tmp_path: Path, group: Any) -> None:
    np.save(tmp_path / "l.npy", CODES)
    groups = CODES.astype(np.asarray(group).dtype)
    groups[0, 0] = group
    np.save(tmp_path / "g.npy", groups)
    with pytest.raises(SpecfmError, match=r"g.npy: group .* is too large to count with; number groups below 2\^63"):
        opened(card(tmp_path, "{path: l.npy, unlabelled: [0]}", more="groups: {path: g.npy}\n"))
    groups[0, 0] = 2**53
    np.save(tmp_path / "g.npy", groups)
    found = opened(card(tmp_path, "{path: l.npy, unlabelled: [0]}", more="groups: {path: g.npy}\n")).groups_HW
    assert found is not None and found[0, 0] == 2**53


def test_an_image_too_large_to_unpack_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    Image.fromarray(TRUTH.astype("u1")).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(SpecfmError, match=r"p.png: too large an image to be unpacked .*; save it as .npy or GeoTIFF"):
        opened(card(tmp_path, "{path: p.png}"))


def test_labels_in_a_compressed_file_among_other_things(tmp_path: Path) -> None:
    import h5py

    hdf5plugin = pytest.importorskip("hdf5plugin")
    with h5py.File(tmp_path / "l.h5", "w") as file:
        file.create_dataset("labels", data=TRUTH.astype(">i4"), chunks=(4, 4), **hdf5plugin.Blosc())
        file["note"] = "made"
        file["nothing"] = h5py.Empty("f4")
    found = labels_of(card(tmp_path, "{path: l.h5}"))
    np.testing.assert_array_equal(found, TRUTH)
    np.testing.assert_array_equal(labels_of(card(tmp_path, "{path: l.h5, variable: /labels}")), TRUTH)


def test_no_data_of_a_group_raster_is_background(tmp_path: Path) -> None:
    groups = CODES.astype("float32")
    groups[:, 0] = np.nan
    tiff(tmp_path / "l.tif", CODES)
    tiff(tmp_path / "g.tif", groups)
    found = opened(card(tmp_path, "{path: l.tif, unlabelled: [0]}", more="groups: {path: g.tif}\n")).groups_HW
    assert found is not None and (found[:, 0] == -1).all() and (found[:, 1:] == CODES[:, 1:]).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_palette_holds_numbers_and_a_picture_does_not(tmp_path: Path, suffix: str) -> None:
    from PIL import Image

    image = Image.fromarray(TRUTH.astype("u1"), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(labels_of(card(tmp_path, "{path: p.png}")), TRUTH)
    if suffix == "png":
        image.convert("RGB").save(tmp_path / "c.png")
    else:
        with rasterio.open(
            tmp_path / "c.tif", "w", driver="GTiff", height=SIDE, width=SIDE, count=3, dtype="uint8", photometric="rgb"
        ) as out:
            out.write(np.zeros((3, SIDE, SIDE), np.uint8))
    with pytest.raises(SpecfmError, match=f"c.{suffix}: a picture of colours holds no class numbers; save the labels"):
        opened(card(tmp_path, f"{{path: c.{suffix}}}"))


def header(*names: str) -> dict[str, str]:
    return {"file type": "ENVI Classification", "classes": str(len(names)), "class names": f"{{{', '.join(names)}}}"}


def test_what_the_card_lists_as_unlabelled_stays_so_whatever_the_header_calls_it(tmp_path: Path) -> None:
    envi(tmp_path / "l.img", CODES, **header("Unclassified", *NAMES))
    found = labels_of(card(tmp_path, "{path: l.img, unlabelled: [0, 2]}"))
    assert (found[TRUTH == 1] == -1).all() and (found[TRUTH == 2] == 2).all()


def test_names_that_differ_in_underscores_are_one_name(tmp_path: Path) -> None:
    names = ["healthy_grass", "stressed-grass", "bare soil", "tree"]
    envi(tmp_path / "l.img", CODES, **header("Unclassified", "Stressed Grass", "Healthy Grass", "Bare Soil", "Tree"))
    assert labels_of(card(tmp_path, "{path: l.img}", names=names))[0, 0] == 1


@pytest.mark.parametrize("case", ["same", "Same", "other order"])
def test_names_in_the_header_say_what_the_numbers_are(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = {"same": NAMES, "Same": [n.title() for n in NAMES], "other order": NAMES[::-1]}[case]
    envi(tmp_path / "l.img", np.where(TRUTH == 3, 2, TRUTH) + 1, **header("Unclassified", *names))
    found = labels_of(card(tmp_path, "{path: l.img}"))  # 0 never occurs and is not listed as unlabelled
    first = {"other order": 3}.get(case, 0)
    assert found[0, 0] == first and set(np.unique(found)) == ({3, 2, 1} if first else {0, 1, 2})
    assert "taken by the names in its header" in caplog.text


def test_a_header_that_contradicts_the_card_is_refused(tmp_path: Path) -> None:
    envi(tmp_path / "l.img", CODES, **header("Unclassified", "soil", "water", "rock", "tree"))
    with pytest.raises(SpecfmError, match="header says that 1 is 'soil', 2 is 'water', but the card counts otherwise"):
        opened(card(tmp_path, "{path: l.img, unlabelled: [0]}"))
    told = "{path: l.img, unlabelled: [0], remap: {1: soil, 2: water, 3: grass, 4: tree}}"
    assert labels_of(card(tmp_path, told))[0, 0] == 1


def test_names_of_another_language_are_said_not_to_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    envi(tmp_path / "l.img", CODES, **header("Unclassified", "eau", "sol", "herbe", "arbre"))
    np.testing.assert_array_equal(labels_of(card(tmp_path, "{path: l.img, unlabelled: [0]}")), TRUTH)
    assert "the class names of its header are not used" in caplog.text


@pytest.mark.parametrize(("x", "fits"), [(500000, True), (500150, False)])
def test_two_dates_of_a_card_lie_on_one_grid(tmp_path: Path, x: int, fits: bool) -> None:
    from typer.testing import CliRunner

    from specfm.cli import app

    for name, left in (("before", 500000), ("after", x)):
        tiff(tmp_path / f"{name}.tif", np.ones((SIDE, SIDE, 3), np.float32), from_origin(left, 4100000, 30, 30))
    np.save(tmp_path / "changed.npy", (TRUTH == 0).astype("u1"))
    (tmp_path / "pair.yaml").write_text(
        "name: pair\ndomain: made\ntask: change\nwavelength_trust: high\nlinear_nm: [500, 700, 3]\ngroup: one\n"
        "quantity: surface_reflectance\nlabel_names: [unchanged, changed]\nparts:\n"
        "  - {path: before.tif, date: 2024-05-01, labels: {path: changed.npy}}\n"
        "  - {path: after.tif, date: 2025-05-01}\n"
    )
    card_of_pair = load_card(tmp_path / "pair.yaml")
    inspected = CliRunner().invoke(app, ["inspect", str(tmp_path / "pair.yaml")])
    if fits:
        assert len(card_of_pair.pairs()) == 1 and inspected.exit_code == 0
        return
    with pytest.raises(SpecfmError, match="before.tif and .*after.tif are not on one grid: .*5.0 pixels apart"):
        card_of_pair.pairs()
    assert inspected.exit_code == 1 and "are not on one grid" in inspected.output
