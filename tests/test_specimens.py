"""Whole specimens: which pixels are one, and views that show all of it, nothing else, at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.band_selection import BandSelection
from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment import pretreat, pretreat_spectra
from specfm.readers import read_scene
from specfm.readers.own import save_scene
from specfm.scene import Scene
from specfm.selected_scene import select_scenes
from specfm.sensors import Sensor
from specfm.shards import ShardSet
from specfm.shards.build import write_shards
from specfm.shards.identity import scene_content, scene_identity
from specfm.simulate import resample_scene, simulate_specimen
from specfm.specimens import _triangles, find_specimens, whole_view, whole_views

GRID = BandGrid(np.linspace(400, 800, 5))


def drawer(dtype: str = "uint16", **fields: object) -> Scene:
    """Two specimens, 1 (9 x 21 pixels, class 2) and 4 (6 x 6, class 0), on a bright card."""
    cube = np.full((40, 50, 5), 9000)
    groups, labels = np.full((40, 50), -1), np.full((40, 50), -1)
    for number, label, box, level in ((1, 2, np.s_[5:14, 10:31], 1000), (4, 0, np.s_[25:31, 3:9], 3000)):
        groups[box], labels[box] = number, label
        cube[box] = level + 100 * np.arange(5)
    labels[5, 10:13] = 1  # a minority
    base = Scene.from_array(cube.astype(dtype), GRID, name="drawer", domain="lab", label_names=("a", "b", "c"))
    return base.replace(labels_HW=labels, groups_HW=groups, group="drawer", **fields)


def test_specimens_are_the_numbers_of_groups_or_what_a_mask_leaves() -> None:
    first, second = find_specimens(drawer())
    assert (first.name, first.row, first.col, first.mask_hw.shape, first.label) == ("drawer#1", 5, 10, (9, 21), 2)
    assert (second.name, second.label) == ("drawer#4", 0)
    mask = np.zeros((40, 50), bool)
    mask[20:30, 5:8] = True
    (only,) = find_specimens(drawer().replace(groups_HW=None), mask)
    assert (only.name, only.mask_hw.shape, only.label) == ("drawer", (10, 3), 0)
    with pytest.raises(SpecfmError, match="no pixel shows a specimen"):
        find_specimens(drawer(), np.zeros((40, 50), bool))


@pytest.mark.parametrize("side", [6, 7, 21, 64])
def test_a_view_shows_the_specimen_alone_and_in_proportion(side: int) -> None:
    view = whole_views([drawer()], side)[0]
    assert view.shape == (side, side, 5) and view.dtype == np.uint16
    mask = view.mask()
    assert (view.read()[mask] == 1000 + 100 * np.arange(5)).all()  # no card bleeds in
    assert (view.read()[~mask] == view.nodata).all() and np.array_equal(mask, view.source.mask_ss)
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert len(cols) == side and abs(len(rows) - side * 9 / 21) <= 1
    assert abs(rows.mean() - (side - 1) / 2) <= 0.5


def test_values_are_means_of_the_own_pixels_by_a_triangle() -> None:
    rng = np.random.default_rng(0)
    cube, on = rng.uniform(0, 1, (13, 18, 5)).astype(np.float32), rng.random((13, 18)) < 0.8
    on[0, 0] = on[-1, -1] = True  # the box is the scene
    scene = Scene.from_array(cube, GRID, name="x").replace(groups_HW=np.where(on, 3, -1))
    side = 5
    view = whole_view(find_specimens(scene)[0], side)
    found, scale = view.read(), 18 / side
    for row in range(side):
        for col in range(side):
            y, x = (row + 0.5) * scale - 0.5 - (18 - 13) / 2, (col + 0.5) * scale - 0.5
            total, share, all_of_it = np.zeros(5), 0.0, 0.0
            for j in range(-10, 30):
                for i in range(-10, 30):
                    weight = max(0, 1 - abs(j - y) / scale) * max(0, 1 - abs(i - x) / scale)
                    all_of_it += weight
                    if 0 <= j < 13 and 0 <= i < 18 and on[j, i]:
                        total, share = total + weight * cube[j, i], share + weight
            assert view.source.mask_ss[row, col] == (share / all_of_it >= 0.5)
            if share / all_of_it >= 0.5:
                assert np.allclose(found[row, col], total / share, atol=1e-5)
            else:
                assert np.isnan(found[row, col]).all()


def test_parts_of_a_view_are_the_parts_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    view = whole_views([simulate_specimen(2, (60, 50), 1)], 32)[0]
    whole = view.read()
    assert np.array_equal(view.read(slice(3, 9), slice(5, 30, 2), [400, 3]), whole[3:9, 5:30:2][..., [400, 3]])
    assert np.array_equal(select_scenes([view], "rgb")[0].read(), whole[..., _rgb(view)])
    monkeypatch.setattr("specfm.specimens.BLOCK_BYTES", 4 * 50 * 408 * 8)
    assert np.abs(view.read().astype(int) - whole).max() <= 1  # in blocks; rounding


def _rgb(view: Scene) -> np.ndarray:
    from specfm.band_selection import BandSelection

    return BandSelection.parse("rgb").indices(view.sensor.bands)


def test_weights_sum_to_one_inside() -> None:
    weights = _triangles(30, 10, 3.0)
    assert np.allclose(weights[1:-1].sum(1), 1, atol=1e-6) and (weights[[0, -1]].sum(1) < 1).all()
    assert np.allclose(_triangles(12, 12, 1.0), np.eye(12))


def test_invalid_pixels_of_a_specimen_are_none_of_it() -> None:
    scene = drawer(saturation=8000)
    scene.source.cube_HWC[8:10, 12:29] = 8000
    view = whole_views([scene], 21)[0]
    assert view.mask().sum() < whole_views([drawer()], 21)[0].mask().sum()
    assert (view.read()[view.mask()] == 1000 + 100 * np.arange(5)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("bands", [[2], [0, 3]])
def test_what_is_no_specimen_is_invalid_whatever_the_numbers(dtype: str, bands: list[int]) -> None:
    scene = drawer(dtype)  # no value stands for no data
    scene.source.cube_HWC[:] = scene.source.cube_HWC // 50 % 200
    scene.source.cube_HWC[7:9, 12:20, 3] = 0  # dark in one band, yet measured
    for view in select_scenes(whole_views([scene], 16), BandSelection("sample", numbers=tuple(b + 1 for b in bands))):
        assert np.array_equal(view.mask(), view.source.under.mask_ss) and not view.mask().all()
    (narrow, *_) = whole_views(select_scenes([scene], "sample:3"), 16)
    assert np.array_equal(narrow.mask(), narrow.source.mask_ss)


def test_no_mean_is_taken_for_no_data_and_a_value_that_the_type_lacks_marks_nothing() -> None:
    cube = np.full((12, 12, 5), 65535, np.uint16)
    groups_HW = np.where(np.abs(np.arange(12) - 5.5) < 3, 0, -1)[:, None].repeat(12, 1)
    (view,) = whole_views([Scene.from_array(cube, GRID, groups_HW=groups_HW)], 12)
    assert view.mask().sum() == 72 and (view.read()[view.mask()] == 65534).all() and view.nodata == 65535
    (view,) = whole_views([drawer(nodata=-9999).replace(groups_HW=np.where(drawer().groups_HW == 1, 1, -1))], 21)
    assert np.array_equal(view.mask(), view.source.mask_ss) and not view.mask().all()


def test_a_view_is_labelled_in_its_middle_and_moves_with_its_scan() -> None:
    alone = drawer().replace(group="")
    for side in (16, 17):
        for view, label in zip(whole_views([alone], side), (2, 0), strict=True):
            assert np.argwhere(view.labels_HW >= 0).tolist() == [[side // 2] * 2] and view.labels_HW.max() == label
            assert view.group == "drawer" and view.whole
    assert {view.group for view in whole_views([drawer()], 16)} == {"drawer"}
    seen = resample_scene(alone, Sensor(BandGrid([450.0, 650.0], [80.0, 80.0]), name="two"))
    assert {view.group for view in whole_views([seen], 16)} == {"drawer"}  # the same specimens by another sensor


def test_what_is_done_to_spectra_and_pretreatment_come_in_one_order() -> None:
    """Measured, then bands, then whole, then pretreated, however it is asked for; no other band has a part in it."""
    scene = drawer("float32")
    rng = np.random.default_rng(0)
    scene.source.cube_HWC[:] *= rng.uniform(0.5, 1.5, scene.shape).astype(np.float32)
    scene.source.cube_HWC[8, 15:20, 4] = np.nan
    (wanted, _) = [pretreat(view, ["snv"]) for view in whole_views(select_scenes([scene], "sample:1-3"), 16)]
    (first, _) = whole_views(select_scenes([pretreat(scene, ["snv"])], "sample:1-3"), 16)
    assert np.array_equal(first.read(), wanted.read(), equal_nan=True) and first.sensor == wanted.sensor
    assert first.mask().any() and np.array_equal(first.mask(), wanted.mask())
    (bare, _) = whole_views([scene], 16)
    (last, _) = select_scenes(whole_views([pretreat(scene, ["snv"])], 16), "sample:1-3")
    expected, _ = pretreat_spectra(bare.read()[bare.mask()][:, :3], last.sensor.bands, ["snv"])
    assert np.allclose(last.read()[bare.mask()], expected, atol=1e-5)


def test_bands_and_views_of_a_file_of_pretreated_spectra_are_refused(tmp_path: Path) -> None:
    kept = read_scene(save_scene(pretreat(drawer("float32"), ["snv"]), tmp_path / "kept.h5"))
    for change in (lambda: select_scenes([kept], "sample:1-3"), lambda: whole_views([kept], 16)):
        with pytest.raises(SpecfmError, match=r"kept.h5: holds spectra pretreated by snv.*give the scene from before"):
            change()
    write_shards([kept], tmp_path / "set", window=4)
    with pytest.raises(SpecfmError, match=r"pretreated by snv from all bands; choose bands where shards are cut"):
        ShardSet(tmp_path / "set", bands="sample:1-3")
    view = whole_views([drawer()], 16)[0]
    assert read_scene(save_scene(view, tmp_path / "view.h5")).whole


def test_shards_of_whole_specimens(tmp_path: Path) -> None:
    write_shards([drawer()], tmp_path / "set", whole=16, workers=1)
    (reader,) = ShardSet(tmp_path / "set").readers
    assert reader.window == (16, 16) and len(reader) == 2
    assert reader.label_N.tolist() == [2, 0] and len(set(reader.instance_id_N.tolist())) == 2
    x, mask = reader.read([0, 1])
    for number, view in enumerate(whole_views([drawer()], 16)):
        assert np.array_equal(x[number], view.read()) and np.array_equal(mask[number], view.mask())
    assert not mask.all()
    for other in ({"window": 8}, {"stride": 16}, {"label": "majority"}, {"min_valid": 0.9}):
        with pytest.raises(UsageError, match="leave window, stride, min_valid and label out"):
            write_shards([drawer()], tmp_path / "other", whole=16, **other)  # type: ignore[arg-type]
    (row,) = write_shards([drawer()], tmp_path / "other", window=(16, 16), whole=16, dry_run=True)
    assert row["samples"] == 2


def test_shards_of_specimens_told_by_a_threshold(tmp_path: Path) -> None:
    scene = drawer().replace(groups_HW=None)
    scene.source.cube_HWC[25:31, 3:9] = 9000  # one specimen alone
    write_shards([scene], tmp_path / "set", whole=20, object_threshold="otsu", dark_objects=True)
    (reader,) = ShardSet(tmp_path / "set").readers
    x, mask = reader.read([0])
    assert mask[0].any(0).all() and 6 <= mask[0].any(1).sum() <= 10 and (x[mask] < 1500).all()
    how = {"whole": 20, "object_threshold": "otsu", "dark_objects": True, "bands": "sample:1-3"}
    write_shards([pretreat(scene, ["snv"])], tmp_path / "snv", **how)  # type: ignore[arg-type]
    (treated,) = ShardSet(tmp_path / "snv").readers
    y, seen = treated.read([0])
    assert np.array_equal(seen, mask)  # brightness is found beneath the pretreatment
    expected, _ = pretreat_spectra(x[mask][:, :3], treated.sensor.bands, ["snv"])
    assert np.allclose(y[mask], expected, atol=1e-3)


def test_what_a_view_is_known_by_tells_its_specimen_and_size() -> None:
    views = [*whole_views([drawer()], 16), *whole_views([drawer()], 17)]
    assert len({scene_identity(view)["gains"] for view in views}) == 4
    assert {scene_content(view) for view in views} == {scene_content(drawer())}  # a scan that was seen is seen
