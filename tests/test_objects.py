"""Objects told from background: pixels, a scan of nothing else, and the key of a card that every command honours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from specfm import BandGrid, Scene, Sensor
from specfm.cards import load_card
from specfm.errors import SpecfmError, UsageError
from specfm.objects import no_data_value, numbered, object_pixels, on_objects, otsu, pieces, tidied

SENSOR = Sensor(BandGrid([500.0, 600.0, 700.0, 800.0]), "dn")


def scan(dtype: str = "uint16") -> tuple[np.ndarray, np.ndarray]:
    """Two bright specimens on a dark ground, one with a dark eye, and a bright scale bar of few pixels."""
    rng = np.random.default_rng(0)
    on_HW = np.zeros((20, 30), bool)
    on_HW[3:11, 4:14] = on_HW[10:17, 18:28] = True
    cube = rng.integers(10, 30, (20, 30, 4)) + 500 * on_HW[..., None]
    cube[5:7, 7:9] = 20  # the eye
    cube[18, 2:8] = 900  # the bar
    return cube.astype(dtype), on_HW


def test_otsu_finds_the_gap_and_holes_and_small_pieces_are_tidied() -> None:
    cube, on_HW = scan()
    scene = Scene.from_array(cube, SENSOR)
    found = object_pixels(scene, "otsu")
    assert not found[5, 7] and found[18, 4] and pieces(found) == 3
    np.testing.assert_array_equal(tidied(found, True, 16), on_HW)
    assert tidied(found, False, 1)[18, 4] and not tidied(found, False, 1)[5, 7]
    np.testing.assert_array_equal(object_pixels(scene, 25, dark=True), cube.mean(-1) <= 25)
    assert 30 < otsu(cube.mean(-1).ravel()) < 500


def test_pieces_are_numbered_from_the_top_and_counted_by_their_size() -> None:
    _, on_HW = scan()
    numbers_HW = numbered(on_HW)
    assert numbers_HW[3, 4] == 1 and numbers_HW[10, 18] == 2 and set(np.unique(numbers_HW)) == {-1, 1, 2}
    on_HW[0, 0] = True
    assert pieces(on_HW) == 3 and pieces(on_HW, 0.2) == 2 and pieces(np.zeros((3, 3), bool)) == 0


def test_each_piece_of_a_tray_is_a_specimen_where_the_card_says_so(tmp_path: Path) -> None:
    from specfm.dense.per_specimen import one_of_several_pieces
    from specfm.specimens import specimens_of

    cube, on_HW = scan()
    np.save(tmp_path / "tray.npy", cube)
    keys = {"name": "a", "domain": "b", "path": "tray.npy", "linear_nm": [500, 800, 4], "layout": "HWC"}

    def found(rule: dict[str, Any], **more: Any) -> list[Any]:
        (tmp_path / "card.yaml").write_text(yaml.safe_dump({**keys, "object": {"threshold": "otsu", **rule}, **more}))
        return specimens_of(load_card(tmp_path / "card.yaml").scenes())

    one, two = found({"each_piece": True})
    assert [one.name, two.name] == ["a/tray#1", "a/tray#2"]
    assert (one.row, one.col, int(one.mask_hw.sum())) == (3, 4, 80)
    assert one_of_several_pieces([one, two]) is None
    together = found({})
    assert len(together) == 1 and int(together[0].mask_hw.sum()) == on_HW.sum()
    assert "its 2 pieces count as one specimen" in str(one_of_several_pieces(together))
    np.save(tmp_path / "n.npy", np.ones((20, 30), int))
    with pytest.raises(UsageError, match="and so does object.each_piece"):
        found({"each_piece": True}, groups={"path": "n.npy"})


def test_otsu_cuts_between_two_heaps() -> None:
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(0.2, 0.03, 900), rng.normal(0.8, 0.05, 100)]
    assert 0.3 < otsu(values) < 0.7
    assert otsu(np.zeros(5)) >= 0 and not (np.zeros(5) > otsu(np.zeros(5))).any()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint8", "float32"])
def test_background_is_no_data_and_carries_neither_label_nor_group(dtype: str) -> None:
    cube, on_HW = scan("uint16" if dtype != "uint8" else "uint8")
    cube = cube.astype(dtype)
    if dtype == "uint16":
        cube[4, 5] = 65535  # by chance the value that now stands for no data
    scene = Scene.from_array(
        cube, SENSOR, labels_HW=np.zeros((20, 30), int), label_names=("moth",), groups_HW=np.ones((20, 30), int)
    )
    given = on_objects(scene, on_HW)
    np.testing.assert_array_equal(given.mask(), on_HW)
    np.testing.assert_array_equal(given.labels_HW, np.where(on_HW, 0, -1))
    np.testing.assert_array_equal(given.groups_HW, np.where(on_HW, 1, -1))
    assert given.dtype == scene.dtype and np.isnan(given.values()[~on_HW]).all()
    kept = on_HW & (cube != no_data_value(scene)).all(-1)
    np.testing.assert_array_equal(given.read()[kept], cube[kept])
    np.testing.assert_array_equal(scene.read(), cube)  # what lies under it is not written to
    part = given.read(slice(2, 12, 3), 5, [3, 0])
    np.testing.assert_array_equal(part, given.read()[2:12:3, 5:6, [3, 0]])
    with pytest.raises(SpecfmError, match="its object mask"):
        on_objects(scene, on_HW[:5])


def card(folder: Path, **changes: Any) -> Path:
    cube, on_HW = scan()
    np.save(folder / "a.npy", cube)
    np.save(folder / "a_mask.npy", on_HW.astype(np.uint8))
    fields = {
        "name": "moths", "domain": "lab", "path": "a.npy", "layout": "HWC", "linear_nm": [500, 800, 4],
        "quantity": "dn", "labels": {"constant": "moth"}, "label_names": ["moth"], **changes,
    }  # fmt: skip
    path = folder / "moths.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.parametrize("rule", [{"threshold": "otsu"}, {"threshold": 200}, {"mask": "{stem}_mask.npy"}])
def test_a_card_tells_objects_from_background(tmp_path: Path, rule: dict[str, Any]) -> None:
    given = next(load_card(card(tmp_path, object=rule)).scenes())
    np.testing.assert_array_equal(given.mask(), scan()[1])
    np.testing.assert_array_equal(given.labels_HW >= 0, scan()[1])  # the bar is no moth


def test_pretreatment_comes_after_and_leaves_background_out(tmp_path: Path) -> None:
    given = next(load_card(card(tmp_path, object={"threshold": "otsu"}, pretreatment=["snv"])).scenes())
    assert not given.mask()[~scan()[1]].any() and given.mask()[4, 5]


def test_shards_and_whole_specimens_hold_objects_alone(tmp_path: Path) -> None:
    from specfm.shards import ShardSet, write_shards
    from specfm.specimens import find_specimens

    given = next(load_card(card(tmp_path, object={"threshold": "otsu"})).scenes())
    write_shards([given], tmp_path / "shards", window=4, min_valid=1.0)
    store = ShardSet(tmp_path / "shards")
    origin_N2 = store.readers[0].origin_N2
    assert len(origin_N2) and all(scan()[1][r : r + 4, c : c + 4].all() for r, c in origin_N2)
    assert (find_specimens(given)[0].mask_hw.sum()) == scan()[1].sum()


def test_a_saturation_told_on_the_way_is_that_of_counts_not_of_reflectance(tmp_path: Path) -> None:
    from specfm.cards.opening import open_scenes
    from specfm.shards.identity import scene_identity

    np.save(tmp_path / "white.npy", np.full((3, 30, 4), 1000, np.uint16))
    np.save(tmp_path / "dark.npy", np.full((3, 30, 4), 5, np.uint16))
    path = card(tmp_path, object={"threshold": "otsu"}, white="white.npy", dark="dark.npy")
    (plain,), (told,) = (list(open_scenes([str(path)], {"saturation": level})) for level in (None, 60000))
    assert plain.saturation is None and told.saturation is None and told.sensor.quantity == "surface_reflectance"
    np.testing.assert_array_equal(plain.mask(), scan()[1])
    identity = scene_identity(plain)
    path = card(tmp_path, object={"threshold": "otsu", "smallest_px": 1}, white="white.npy", dark="dark.npy")
    other = scene_identity(next(open_scenes([str(path)])))
    assert identity["content"] == other["content"] and identity["gains"] != other["gains"]


def test_inspect_says_how_much_of_a_scan_is_object(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from specfm.cli import app

    found = CliRunner().invoke(app, ["inspect", str(card(tmp_path, object={"threshold": "otsu"}))])
    assert found.exit_code == 0 and "objects on 25.0% of pixels, in 2 pieces" in found.stdout


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "give threshold"),
        ({"threshold": "otsu", "mask": "a.npy"}, "not both"),
        ({"mask": "a.npy", "dark": True}, "a mask says itself"),
        ({"threshold": "auto"}, "object.threshold"),
        ({"threshold": "otsu", "smallest_px": 0}, "smallest_px"),
    ],
)
def test_odd_rules_are_refused(tmp_path: Path, rule: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_card(card(tmp_path, object=rule))


def test_a_card_without_any_object_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(SpecfmError, match="no pixel is left of its objects; look at object in the card"):
        next(load_card(card(tmp_path, object={"threshold": 5000})).scenes())


def test_a_model_of_objects_alone_is_told_of_a_scan_with_its_background(tmp_path: Path) -> None:
    from downstream.maps.class_maps import background_told
    from specfm.pretreatment import pretreat
    from specfm.readers import read_scene
    from specfm.readers.own import save_scene
    from specfm.selected_scene import select_scenes

    cube, on_HW = scan()
    whole = Scene.from_array(cube, SENSOR)
    alone = on_objects(whole, on_HW)
    save_scene(alone, tmp_path / "own.h5")
    taught = {"objects_alone": True}
    for given in (
        alone,
        pretreat(alone, ["snv"]),
        *select_scenes([alone], "sample:1-3"),
        read_scene(tmp_path / "own.h5"),
    ):
        assert background_told(given, taught) is None
    assert "knows no background" in str(background_told(whole, taught))
    assert background_told(whole, {}) is None and background_told(whole, {"objects_alone": False}) is None
