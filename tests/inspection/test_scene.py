"""Suspicious things are found where they were planted, nowhere else; samples are bounded; quicklooks are pictures."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from specfm import BandGrid, Scene, Sensor
from specfm.errors import SpecfmError, UsageError
from specfm.inspection.bands import sample_rows
from specfm.inspection.scene import inspect_scene, runs
from specfm.objects import on_objects
from specfm.rasters.quicklook import png_bytes, quicklook, quicklook_bands, write_quicklook

CENTRES = 400.0 + 20.0 * np.arange(20)


def clean(shape: tuple[int, int, int] = (64, 60, 20), seed: int = 0) -> np.ndarray:
    """A smooth scene with texture and noise, float32 reflectance."""
    rng = np.random.default_rng(seed)
    height, width, count = shape
    texture = gaussian_filter(rng.standard_normal((height, width)), 2.0, mode="wrap")  # alike in all directions
    texture = (texture - texture.min()) / max(float(np.ptp(texture)), 1e-9)
    spectrum = 0.2 + 0.1 * np.sin(np.arange(count) / 3)
    return ((0.5 + texture[..., None]) * spectrum + 0.005 * rng.standard_normal(shape)).astype(np.float32)


def scene_of(cube: np.ndarray, centres: np.ndarray = CENTRES, **fields: object) -> Scene:
    grid = BandGrid(centres[: cube.shape[2]], valid=fields.pop("valid", None))
    sensor = Sensor(grid, quantity=fields.pop("quantity", "surface_reflectance"), scale=fields.pop("scale", 1.0))
    return Scene.from_array(cube, sensor, name="made", **fields)


def found(scene: Scene) -> dict[str, tuple[int, ...]]:
    return {finding.kind: finding.bands for finding in inspect_scene(scene).findings}


def test_a_clean_scene_is_not_suspected() -> None:
    assert found(scene_of(clean())) == {}


def test_facts() -> None:
    labels = np.full((64, 60), -1)
    labels[:10] = 1
    scene = scene_of(
        clean(), nodata=-1.0, labels_HW=labels, label_names=("oak", "pine"), valid=[True] * 17 + [False] * 3
    )
    facts = inspect_scene(scene)
    assert facts.scene["shape"] == [64, 60, 20] and facts.scene["labels"] == {"unlabelled": 54 * 60, "pine": 600}
    assert facts.coverage["low_nm"] == 400 and facts.coverage["high_nm"] == 720 and facts.coverage["usable"] == 17
    assert facts.masks["bad_bands"] == "18-20" and facts.masks["valid_pixels"] == 1.0
    assert json.loads(json.dumps(facts.to_dict(), allow_nan=False))["sensor"]["quantity"] == "surface_reflectance"


def plant(kind: str) -> tuple[Scene, dict[str, tuple[int, ...]]]:
    """A clean scene with one defect, and what must be found."""
    cube = clean()
    rng = np.random.default_rng(1)
    if kind == "constant":
        cube[:, :, 4] = 0.1
        return scene_of(cube), {"constant": (4,)}
    if kind == "clipped":
        cube[:, :, 2:4] = np.minimum(cube[:, :, 2:4], np.quantile(cube[:, :, 2:4], 0.95))
        return scene_of(cube), {"clipped": (2, 3)}
    if kind == "saturated":
        cube[5, 5, 7] = 9.0
        return scene_of(cube, saturation=9.0), {"saturated": (7,)}
    if kind == "column_stripes":
        cube[:, :, 9] *= 1 + 0.02 * rng.standard_normal(60)
        return scene_of(cube), {"column_stripes": (9,)}
    if kind == "row_stripes":
        cube[:, :, 9] *= 1 + 0.02 * rng.standard_normal((64, 1))
        return scene_of(cube), {"row_stripes": (9,)}
    if kind == "all_nodata":
        cube[:, :, 11] = -9999
        return scene_of(cube, nodata=-9999.0), {"all_nodata": (11,), "no_valid_pixel": ()}
    if kind == "nan":
        cube[:, :, 11] = np.nan
        return scene_of(cube), {"all_nodata": (11,), "no_valid_pixel": ()}
    if kind == "mostly_invalid":
        cube[:40] = np.nan
        return scene_of(cube), {"mostly_invalid": ()}
    if kind == "negative":
        cube[rng.random((64, 60)) < 0.03, 0] = -0.1
        return scene_of(cube), {"negative": (0,)}
    if kind == "scale_missing":
        return scene_of((cube * 10_000).astype(np.int16)), {"scale_missing": ()}
    if kind == "quantity_unknown":
        return scene_of(cube, quantity=None), {"quantity_unknown": ()}
    if kind == "non_monotonic":
        centres = CENTRES.copy()
        centres[10:] -= 30
        return scene_of(cube, centres), {"non_monotonic": (10,)}
    if kind == "descending":
        return scene_of(cube, CENTRES[::-1]), {"descending": ()}
    if kind == "equal_centres":
        centres = CENTRES.copy()
        centres[10:] -= 20
        return scene_of(cube, centres), {"equal_centres": (10,)}
    if kind == "all_zero":
        return scene_of(np.zeros_like(cube)), {"all_zero": (), "constant": tuple(range(20))}
    assert kind == "empty"
    return scene_of(np.full_like(cube, np.nan)), {"all_nodata": tuple(range(20)), "empty": ()}


@pytest.mark.parametrize(
    "kind",
    ["constant", "clipped", "saturated", "column_stripes", "row_stripes", "all_nodata", "nan", "mostly_invalid",
     "negative", "scale_missing", "quantity_unknown", "non_monotonic", "descending", "equal_centres", "empty",
     "all_zero"],
)  # fmt: skip
def test_planted_defects_are_found_and_nothing_else(kind: str) -> None:
    scene, expected = plant(kind)
    assert found(scene) == expected


def test_defects_in_bad_bands_do_not_matter() -> None:
    cube = clean()
    cube[:, :, 3] = np.nan
    cube[:, :, 4] = 0.5
    valid = np.ones(20, bool)
    valid[3:5] = False
    assert found(scene_of(cube, valid=valid)) == {}


@pytest.mark.parametrize("dtype", (np.int16, np.float32, np.uint16))
def test_undeclared_fill_is_named_and_nothing_else_is_blamed_on_it(dtype: type) -> None:
    fill = 65535 if dtype is np.uint16 else -9999
    cube = (clean() * 10_000).clip(1).astype(dtype)
    corner, rows = cube.copy(), cube.copy()
    corner[:32, :30] = fill
    rows[20:22] = fill
    for filled, share in ((corner, "25.00%"), (rows, "3.12%")):
        findings = inspect_scene(scene_of(filled, scale=1e-4)).findings
        assert [finding.kind for finding in findings] == ["fill"]
        assert f"{fill} in every band of {share}" in findings[0].text and f"--nodata {fill}" in findings[0].text
        assert found(scene_of(filled, scale=1e-4, nodata=float(fill))) == {}
    cube[3, 3, 0] = fill  # in one band alone it is a number like any other
    assert "fill" not in found(scene_of(cube, scale=1e-4))


def test_few_levels_are_not_clipped_but_a_pile_at_the_top_is() -> None:
    levels = (clean()[:, :, :6] * 20).round().astype(np.uint8)
    assert max(len(np.unique(levels[:, :, band])) for band in range(6)) < 12
    assert "clipped" not in found(scene_of(levels, scale=0.05))
    cut = np.minimum((clean()[:, :, :6] * 200).round(), [[[30, 255, 255, 255, 255, 255]]]).astype(np.uint8)
    assert found(scene_of(cut, scale=0.005))["clipped"] == (0,)


def test_negative_means_physically_negative() -> None:
    stored = (clean() * 100 - 500).astype(np.int16)  # all stored numbers are negative
    sensor = Sensor(BandGrid(CENTRES), quantity="radiance", scale=0.01, offset=5.0)
    assert "negative" not in {f.kind for f in inspect_scene(Scene.from_array(stored, sensor)).findings}
    below = sensor.replace(offset=3.0)
    assert "negative" in {f.kind for f in inspect_scene(Scene.from_array(stored, below)).findings}


def test_tiny_and_odd_scenes() -> None:
    for shape in ((1, 1, 1), (1, 40, 2), (3, 1, 20)):
        inspect_scene(scene_of(clean(shape))).to_dict()
    complex_scene = scene_of(clean((4, 4, 3)).astype(np.complex64))
    assert inspect_scene(complex_scene).values["low"] is not None


def test_the_sample_is_bounded() -> None:
    assert sample_rows((1000, 100, 50), 2, 100 * 50 * 2 * 10) == range(0, 1000, 100)
    assert len(sample_rows((1000, 100, 50), 2, 1)) == 1
    asked = []

    class Spy:
        shape, dtype = (1000, 40, 20), np.dtype(np.float32)

        def read(self, rows: range, cols: range, bands: object) -> np.ndarray:
            asked.append(len(rows))
            return clean((len(rows), 40, 20))

    scene = scene_of(clean((2, 2, 20))).replace(source=Spy())
    result = inspect_scene(scene, sample_bytes=40 * 20 * 4 * 50)
    assert asked == [50] and result.masks["sampled_rows"] == 50


def test_band_ranges_read_well() -> None:
    assert runs([0, 1, 2, 5, 7, 8]) == "1-3, 6, 8-9" and runs([]) == ""
    assert runs(list(range(0, 20, 2))) == "1, 3, 5, 7, 9, 11 and 4 more ranges"


def decode(data: bytes) -> np.ndarray:
    """Unpack a PNG written without line filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 4 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 4)


def test_png_is_a_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    np.testing.assert_array_equal(decode(png_bytes(picture)), picture)


def test_quicklook_bands() -> None:
    assert quicklook_bands(scene_of(clean())) == (12, 7, 2)  # 640, 540, 440: nearest 650, 550, 450 (first of equals)
    infrared = scene_of(clean(), 1000.0 + 30 * np.arange(20))
    red, green, blue = quicklook_bands(infrared)
    assert red > green > blue and (red, blue) == (16, 3)
    bad = np.ones(20, bool)
    bad[[12, 13]] = False
    assert quicklook_bands(scene_of(clean(), valid=bad))[0] in (11, 14)
    with pytest.raises(SpecfmError, match="no usable band"):
        quicklook_bands(scene_of(clean(), valid=np.zeros(20, bool)))


def test_quicklook_is_stretched_enlarged_and_transparent(tmp_path: Path) -> None:
    cube = clean((32, 30, 20))
    cube[:4] = np.nan
    scene = scene_of(cube)
    picture, _ = quicklook(scene)
    assert picture.shape == (256, 240, 4)
    assert (picture[:32, :, 3] == 0).all() and (picture[32:, :, 3] == 255).all()
    for colour in range(3):
        shown = picture[32:, :, colour]
        assert shown.min() == 0 and shown.max() == 255 and 0.01 < (shown == 255).mean() < 0.05
    path = tmp_path / "look.png"
    assert write_quicklook(scene, path) == quicklook_bands(scene)
    np.testing.assert_array_equal(decode(path.read_bytes()), picture)
    with pytest.raises(UsageError, match="--overwrite"):
        write_quicklook(scene, path)
    write_quicklook(scene, path, overwrite=True)


def test_quicklook_of_a_large_scene_is_thinned() -> None:
    scene = scene_of(np.ones((3000, 10, 3), np.uint8), np.array([450.0, 550.0, 650.0]))
    assert max(quicklook(scene)[0].shape[:2]) <= 1024


def test_stripes_are_those_of_the_detector_not_edges_of_objects() -> None:
    cube = 0.05 + 0.005 * np.random.default_rng(3).standard_normal((64, 60, 20)).astype(np.float32)
    objects = np.zeros((64, 60), bool)
    for left in (6, 20, 37, 49):
        objects[:, left : left + 5] = True
    cube[objects] += 0.5
    scene = scene_of(cube.astype(np.float32))
    assert "column_stripes" in found(scene)
    kinds = {finding.kind for finding in inspect_scene(scene, given=on_objects(scene, objects)).findings}
    assert not {"column_stripes", "row_stripes"} & kinds
    cube *= 1 + 0.1 * np.random.default_rng(4).standard_normal(60).astype(np.float32)[None, :, None]
    striped = scene_of(cube.astype(np.float32))
    kinds = {finding.kind for finding in inspect_scene(striped, given=on_objects(striped, objects)).findings}
    assert "column_stripes" in kinds


def test_classes_that_lose_their_labels_to_an_object_mask_are_named() -> None:
    labels = np.full((20, 20), -1)
    labels[:10], labels[10:] = 0, 1
    scene = scene_of(
        np.full((20, 20, len(CENTRES)), 0.3, np.float32), labels_HW=labels, label_names=("green", "roasted")
    )
    objects = np.ones((20, 20), bool)
    objects[10:19] = False  # a threshold that took dark things for background
    objects[0, :5] = False  # an edge is no matter
    (said,) = [
        each.text for each in inspect_scene(scene, given=on_objects(scene, objects)).findings if "label" in each.kind
    ]
    assert "no label: 180 of 200 of roasted; look at object in the card" in said
    whole = scene.replace(labels_HW=np.zeros((20, 20), int))  # a species of a table: the mask says where it is
    findings = inspect_scene(whole, given=on_objects(whole, objects)).findings
    assert not any(each.kind == "labels_off_objects" for each in findings)
    for fine in (None, scene, on_objects(scene, np.ones((20, 20), bool))):
        assert not any(each.kind == "labels_off_objects" for each in inspect_scene(scene, given=fine).findings)
