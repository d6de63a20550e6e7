"""Which windows are cut, and what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from specfm.errors import SpecfmError, UsageError
from specfm.shards.windows import WindowOptions, blocks, cut, plan_scene, starts
from tests.shards.make import ramp_scene


def options(side: int = 4, stride: int = 2, **fields: object) -> WindowOptions:
    return WindowOptions((side, side), (stride, stride), **fields)


@pytest.mark.parametrize(("size", "window", "stride"), [(10, 4, 4), (10, 4, 3), (4, 4, 4), (33, 9, 4), (7, 1, 1)])
def test_windows_cover_every_pixel_and_end_at_the_border(size: int, window: int, stride: int) -> None:
    first = starts(size, window, stride)
    covered = np.zeros(size, bool)
    for start in first:
        covered[start : start + window] = True
    assert first[-1] == size - window and len(set(first)) == len(first)
    assert covered.all() == (stride <= window)


def test_no_window_in_a_smaller_scene() -> None:
    assert len(starts(3, 4, 1)) == 0
    plan = plan_scene(ramp_scene(3, 9), options())
    assert len(plan) == 0 and "3x9 pixels are smaller" in plan.reason


def test_lists_of_spectra_are_cut_one_by_one() -> None:
    listed = ramp_scene(30, 1).replace(neighbours=False)
    assert len(plan_scene(listed, options(1, 1))) == 30
    plan = plan_scene(listed, WindowOptions((9, 1), (1, 1)))
    assert len(plan) == 0 and "a list of spectra" in plan.reason and "--window 1" in plan.reason


def test_cut_takes_the_pixels_at_the_origin() -> None:
    scene = ramp_scene(20, 24)
    plan = plan_scene(scene, options(stride=3))
    cube = scene.read()
    windows = cut(scene, plan.origin_N2[5:30], (4, 4))
    for window, (row, col) in zip(windows, plan.origin_N2[5:30], strict=True):
        np.testing.assert_array_equal(window, cube[row : row + 4, col : col + 4])


def test_blocks_hold_every_window_once_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ramp_scene(60, 24)
    monkeypatch.setattr("specfm.shards.windows.STRIP_BYTES", 8 * 24 * 6 * 4)  # eight rows
    plan = plan_scene(scene, options())
    found = blocks(plan, scene, (4, 4))
    assert len(found) > 5
    assert [n for rows in found for n in range(rows.start, rows.stop)] == list(range(len(plan)))
    for rows in found:
        tops = plan.origin_N2[rows, 0]
        assert tops.max() + 4 - tops.min() <= 8


def test_strips_do_not_change_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = ramp_scene(31, 24).read()
    cube[3:9, 5:20] = -9999
    scene = ramp_scene(31, 24).replace(nodata=-9999.0)
    scene = scene.from_array(cube, scene.sensor, nodata=-9999.0, domain="d")
    whole = plan_scene(scene, options())
    monkeypatch.setattr("specfm.shards.windows.STRIP_BYTES", 1)
    np.testing.assert_array_equal(plan_scene(scene, options()).mask_HW, whole.mask_HW)
    np.testing.assert_array_equal(whole.mask_HW, cube[:, :, 0] != -9999)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_windows_with_too_few_valid_pixels_are_left_out(share: float) -> None:
    cube = ramp_scene().read()
    cube[:, :11] = -1
    scene = ramp_scene().from_array(cube, ramp_scene().sensor, nodata=-1.0, domain="d")
    plan = plan_scene(scene, options(min_valid=share))
    kept = {tuple(origin) for origin in plan.origin_N2.tolist()}
    for row in starts(20, 4, 2):
        for col in starts(24, 4, 2):
            valid = (cube[row : row + 4, col : col + 4, 0] != -1).mean()
            assert ((row, col) in kept) == (valid >= share and valid > 0)


def test_label_of_the_centre_or_of_the_majority() -> None:
    labels = np.full((20, 24), -1, np.int32)
    labels[2, 2] = 1  # the centre pixel of the first window
    labels[0, 0:3] = 2
    scene = ramp_scene(labels_HW=labels, label_names=("x", "y", "z"))
    assert plan_scene(scene, options()).label_N[0] == 1
    assert plan_scene(scene, options(label="majority")).label_N[0] == 2
    plan = plan_scene(scene, options(labelled_only=True, stride=1))
    assert plan.origin_N2.tolist() == [[0, 0]] or (plan.label_N >= 0).all()
    none = plan_scene(ramp_scene(), options(labelled_only=True))
    assert none.reason == "no window is labelled"


def test_instances_are_crowns_where_known_else_blocks() -> None:
    crowns = np.full((20, 24), -1, np.int64)
    crowns[0:8, 0:8] = 7
    plan = plan_scene(ramp_scene(groups_HW=crowns, group="plot"), options(stride=1))
    centre = plan.origin_N2 + 2
    inside = (centre < 8).all(1)
    assert len(set(plan.instance_N[inside].tolist())) == 1
    assert plan.instance_N[inside][0] not in plan.instance_N[~inside]
    keys = [tuple(c) for c in (centre[~inside] // 4).tolist()]
    assert len(set(keys)) == len(set(plan.instance_N[~inside].tolist()))
    for key, instance in zip(keys, plan.instance_N[~inside], strict=True):
        assert instance == plan.instance_N[~inside][keys.index(key)]


def test_groups_and_instances_differ_between_scenes_and_domains() -> None:
    first = plan_scene(ramp_scene(name="one"), options())
    second = plan_scene(ramp_scene(name="two"), options())
    other = plan_scene(ramp_scene(name="one", domain="else"), options())
    assert len({first.group, second.group, other.group}) == 3
    assert not set(first.instance_N.tolist()) & (set(second.instance_N.tolist()) | set(other.instance_N.tolist()))
    same = [plan_scene(ramp_scene(name=name, group="plot"), options()).group for name in ("one", "two")]
    assert same[0] == same[1]


@pytest.mark.parametrize("dark", [False, True])
def test_objects_are_told_from_the_background(dark: bool) -> None:
    rng = np.random.default_rng(0)
    cube = rng.normal(3000 if dark else 300, 30, (40, 40, 6))
    cube[10:22, 15:30] = rng.normal(300 if dark else 3000, 30, (12, 15, 6))
    scene = ramp_scene().from_array(cube.astype("int16"), ramp_scene().sensor, domain="lab")
    plan = plan_scene(scene, options(object_threshold="otsu", dark_objects=dark, min_valid=0.75))
    inside = np.zeros((40, 40), bool)
    inside[10:22, 15:30] = True
    np.testing.assert_array_equal(plan.mask_HW, inside)
    assert 0 < len(plan) < plan.candidates / 4
    fixed = plan_scene(scene, options(object_threshold=1500.0, dark_objects=dark, min_valid=0.75))
    np.testing.assert_array_equal(fixed.origin_N2, plan.origin_N2)


def test_background_mask_is_left_out_and_must_fit() -> None:
    background = np.zeros((20, 24), bool)
    background[:, :12] = True
    plan = plan_scene(ramp_scene(), options(min_valid=1.0), background)
    assert plan.origin_N2[:, 1].min() == 12
    with pytest.raises(SpecfmError, match="background mask is"):
        plan_scene(ramp_scene(), options(), background[:5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_valid": 1.5}, "min_valid"),
        ({"label": "mean"}, "centre or majority"),
        ({"object_threshold": "auto"}, "a number or otsu"),
        ({"dark_objects": True}, "need an object threshold"),
        ({"window": (0, 4)}, "at least one pixel"),
    ],
)
def test_bad_options_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WindowOptions(**{"window": (4, 4), "stride": (2, 2), **change})
