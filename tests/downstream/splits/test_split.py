"""No shared pixel between train, validation and test for any window; same seed, same split; clear refusals."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from downstream.results.leakage import leakage_score, near_duplicates
from downstream.splits.ground import overlapping
from downstream.splits.samples import Samples, collect_samples
from downstream.splits.split import Split, load_split, load_splits, make_split, make_splits, save_split
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from tests.downstream.toy_scenes import NAMES, SENSOR, field, geo_at, plots

FIELD, PLOTS = field(), plots()


def painted(samples: Samples, ids: np.ndarray) -> dict[int, set[tuple[int, int]]]:
    """Every pixel that the windows of ``ids`` cover, per frame: the slow truth the KD-tree is checked against."""
    before = samples.window // 2
    cover: dict[int, set[tuple[int, int]]] = {}
    for i in ids:
        row, col = samples.frame_rc_N2[i] - before
        pixels = cover.setdefault(int(samples.frame_N[i]), set())
        pixels.update((row + a, col + b) for a in range(samples.window) for b in range(samples.window))
    return cover


def assert_apart(samples: Samples, split: Split) -> None:
    train, val, test = (painted(samples, ids) for ids in (split.train_I, split.val_I, split.test_I))
    for one, other in ((train, test), (val, test), (train, val)):
        for frame in one.keys() & other.keys():
            assert not one[frame] & other[frame]


@pytest.mark.parametrize("window", [1, 2, 5, 8, 11])
@pytest.mark.parametrize("seed", range(6))
def test_blocks_share_no_pixel(window: int, seed: int) -> None:
    samples = collect_samples([FIELD], window)
    split = make_split(samples, "block", seed)
    assert_apart(samples, split)
    assert leakage_score(split, samples).overlap_share == 0
    for ids in (split.train_I, split.test_I):
        assert set(samples.y_N[ids]) == set(split.classes) == {0, 1, 2}
    assert len(split.val_I) and len(set(split.train_I) | set(split.val_I) | set(split.test_I)) == sum(
        map(len, (split.train_I, split.val_I, split.test_I))
    )


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole(seed: int) -> None:
    samples = collect_samples(PLOTS, 5)
    split = make_split(samples, "group", seed)
    groups = [set(samples.group_N[ids]) for ids in (split.train_I, split.val_I, split.test_I)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert 0.15 < len(split.test_I) / len(samples) < 0.5


def test_objects_in_one_scene_are_guarded_too() -> None:
    rows, cols = np.indices((60, 72))
    scene = FIELD.replace(groups_HW=(rows // 6 * 12 + cols // 6).astype(np.int64))
    samples = collect_samples([scene], 5)
    assert len(samples.group_names) == 120
    assert_apart(samples, make_split(samples, "group", 0))


def test_files_that_touch_on_the_ground_move_together() -> None:
    """Two plots of a public tree-species set show the very same ground under two names, many more are neighbours."""
    scenes = [p.replace(geo=geo_at(100 * i, 0)) for i, p in enumerate(PLOTS)]
    scenes[1] = scenes[1].replace(geo=geo_at(0, 3))  # overlaps plot 0 by nine columns
    scenes[2] = scenes[2].replace(geo=geo_at(0, 15))  # touches plot 1
    samples = collect_samples(scenes, 5)
    assert samples.frame_N.max() == 0
    for seed in range(20):
        split = make_split(samples, "group", seed)
        assert_apart(samples, split)
        sides = [{0, 1, 2} & set(samples.scene_N[ids].tolist()) for ids in (split.train_I, split.val_I, split.test_I)]
        assert sorted(map(len, sides)) == [0, 0, 3]
    assert any("10 units" in n for n in split.notices)


def test_overlap_across_files_is_guarded_under_leave_one_scene_out() -> None:
    scenes = [p.replace(geo=geo_at(100 * i, 0)) for i, p in enumerate(PLOTS)]
    scenes[1] = scenes[1].replace(geo=geo_at(0, 3))
    samples = collect_samples(scenes, 5)
    split = make_split(samples, "scene", held_scene=0)
    assert_apart(samples, split)
    gone = np.setdiff1d(np.flatnonzero(samples.scene_N == 1), np.concatenate([split.train_I, split.val_I]))
    assert len(gone) > 50 and split.options["purged"] >= len(gone)


def test_random_pixels_are_leaky_and_say_so() -> None:
    samples = collect_samples([FIELD], 9)
    split = make_split(samples, "random_pixels", 0)
    score = leakage_score(split, samples)
    assert split.leaky and score.overlap_share > 0.99 and score.min_distance_px == 1
    # drawn for small windows and used with large ones: what the encoder sees now is what counts
    small = collect_samples([FIELD], 3, max_per_class=20)
    reused = make_split(small, "random_pixels", 0)
    wider = leakage_score(reused, replace(small, window=9)).overlap_share
    assert wider > leakage_score(reused, small).overlap_share


def test_a_scene_left_out_says_which_classes_it_lacks() -> None:
    lacking = [
        s.replace(labels_HW=np.where(s.labels_HW == 2, -1, s.labels_HW)) if i == 1 else s for i, s in enumerate(PLOTS)
    ]
    samples = collect_samples(lacking, 3)
    for split in make_splits(samples, "scene", 1):
        absent = {samples.label_names[c] for c in split.classes} - {
            samples.label_names[y] for y in samples.y_N[split.test_I]
        }
        said = [n for n in split.notices if "no test sample of" in n]
        assert bool(said) == bool(absent) and all(name in said[0] for name in absent)
        assert absent or split.options["held_scene"] != samples.scene_names[1]


def test_leave_one_scene_out_covers_every_scene_once() -> None:
    samples = collect_samples(PLOTS, 3)
    splits = make_splits(samples, "scene", 5)
    held = [set(samples.scene_N[s.test_I].tolist()) for s in splits]
    assert len(splits) == len(PLOTS) and all(len(h) == 1 for h in held) and set.union(*held) == set(range(len(PLOTS)))
    assert all(not h & set(samples.scene_N[s.fit_I].tolist()) for h, s in zip(held, splits, strict=True))


def test_shots_are_that_many_labels() -> None:
    samples = collect_samples(PLOTS, 3)
    full, few = make_split(samples, "group", 1), make_split(samples, "group", 1, shots=5)
    assert np.bincount(samples.y_N[few.train_I]).tolist() == [5, 5, 5] and not len(few.val_I)
    assert set(few.train_I) <= set(full.fit_I) and np.array_equal(few.test_I, full.test_I)
    other = make_split(samples, "group", 2, shots=5)
    assert set(other.train_I) != set(few.train_I)


def test_rare_classes_are_left_out_by_name() -> None:
    labels = FIELD.labels_HW.copy()  # type: ignore[union-attr]
    labels[:3, :3] = 3
    scene = FIELD.replace(labels_HW=labels, label_names=(*NAMES, "rare"))
    split = make_split(collect_samples([scene], 3), "block", 0)
    assert split.classes == (0, 1, 2) and any("'rare'" in n and "left out" in n for n in split.notices)


def test_refusals_name_the_remedy() -> None:
    samples = collect_samples([FIELD], 3)
    with pytest.raises(SpecfmError, match="--split block"):
        make_split(samples, "group", 0)
    with pytest.raises(UsageError, match="unknown split"):
        make_split(samples, "pixels", 0)
    with pytest.raises(UsageError, match="--shots"):
        make_split(samples, "block", 0, shots=0)
    labels = np.where(np.arange(72)[None, :] < 4, 1, 0).repeat(60, 0).astype(np.int32)
    lonely = FIELD.replace(labels_HW=labels[:60], label_names=("a", "b"))
    with pytest.raises(SpecfmError, match="min-groups"):
        make_split(collect_samples([lonely], 41), "block", 0, min_groups=1, block=20)
    with pytest.raises(SpecfmError, match=r"on labelled ground of 60 x 72, needs 3; pass a --block below 60"):
        make_split(samples, "block", 0, block=60)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecfmError, match="no labels"):
        collect_samples([FIELD.replace(labels_HW=None)], 3)
    with pytest.raises(SpecfmError, match="no pixel of field is labelled"):
        collect_samples([FIELD.replace(labels_HW=np.full(FIELD.shape[:2], -1, np.int32))], 3)
    empty = Scene.from_array(np.full_like(FIELD.read(), np.nan), FIELD.sensor, name="dark")
    with pytest.raises(SpecfmError, match="every labelled pixel of dark lies on invalid data"):
        collect_samples([empty.replace(labels_HW=FIELD.labels_HW, label_names=FIELD.label_names)], 3)
    with pytest.raises(SpecfmError, match="other label names"):
        collect_samples([PLOTS[0], PLOTS[1].replace(label_names=("x", "y", "z"))], 3)


def test_max_per_class_caps_every_class_of_every_group() -> None:
    samples = collect_samples(PLOTS, 3, max_per_class=4)
    counts = np.zeros((len(PLOTS), 3), int)
    np.add.at(counts, (samples.group_N, samples.y_N), 1)
    everything = collect_samples(PLOTS, 3)
    full = np.zeros_like(counts)
    np.add.at(full, (everything.group_N, everything.y_N), 1)
    np.testing.assert_array_equal(counts, np.minimum(full, 4))
    assert "at most 4" in samples.notices[-1]


CODE = """
from tests.downstream.toy_scenes import plots
from downstream.splits.samples import collect_samples
from downstream.splits.split import make_split
samples = collect_samples(plots(), 5)
print(samples.digest, *[make_split(samples, "group", s, shots=k).digest for s in (0, 7) for k in (None, 5)])
"""


def test_same_split_in_another_process(repository: Path) -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=repository, check=True,
            env={"PYTHONHASHSEED": str(i), "PATH": "/usr/bin", "PYTHONPATH": str(repository)},
        ).stdout
        for i in (1, 2)
    ]  # fmt: skip
    assert runs[0] == runs[1] and len(set(runs[0].split())) == 5


def test_split_files(tmp_path: Path) -> None:
    samples = collect_samples(PLOTS, 5)
    split = make_split(samples, "group", 3)
    path = tmp_path / "s.json"
    save_split(split, path)
    again = load_split(path, samples)
    assert again.digest == split.digest and np.array_equal(again.test_I, split.test_I)
    with pytest.raises(UsageError, match="exists"):
        save_split(split, path)
    with pytest.raises(SpecfmError, match="other data"):
        load_split(path, collect_samples(PLOTS[1:], 5))
    with pytest.raises(SpecfmError, match="guards windows of 5"):
        load_split(path, replace(samples, window=9))
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match=r"s.json and .*copy.json are the same split"):
        load_splits([path, copy], samples)
    raw = json.loads(path.read_text())
    raw["train"], raw["test"] = raw["train"][1:], raw["test"] + raw["train"][:1]
    (tmp_path / "forged.json").write_text(json.dumps(raw))
    with pytest.raises(SpecfmError, match="changed"):
        load_split(tmp_path / "forged.json", samples)
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(SpecfmError, match="not a split file"):
        load_split(tmp_path / "no.json", samples)


def test_overlap_is_exact() -> None:
    samples = collect_samples([FIELD], 4)
    some = np.arange(0, len(samples), 37)
    others = np.arange(5, len(samples), 211)
    found = overlapping(samples, some, others)
    gap = np.abs(samples.rc_N2[some][:, None] - samples.rc_N2[others][None]).max(-1)
    np.testing.assert_array_equal(found, (gap < 4).any(1))
    assert found.any() and not found.all()


def test_near_duplicates_are_counted() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(300, 20)) + 5
    test = np.concatenate([train[:25] * (1 + 1e-5), rng.normal(size=(75, 20)) + 5])
    assert near_duplicates(train, test) == 0.25
    assert near_duplicates(train[:0], test) == 0


def test_digest_depends_on_labels() -> None:
    samples = collect_samples([FIELD], 3)
    y = samples.y_N.copy()
    y[0] = (y[0] + 1) % 3
    assert replace(samples, y_N=y).digest != samples.digest
    assert len(hashlib.sha256(samples.digest.encode()).hexdigest()) == 64 and SENSOR.name == "toy"


def test_labels_of_one_class_are_named_as_such() -> None:
    names = ("soil", "grass")
    scene = Scene.from_array(np.ones((20, 20, 13)), "sentinel2", labels_HW=np.zeros((20, 20), int), label_names=names)
    with pytest.raises(SpecfmError, match=r"all of one class \(soil\), and a probe needs two; look at the labels"):
        make_split(collect_samples([scene], 3), "block")


def test_a_specimen_scanned_twice_is_told_of_where_scans_are_divided() -> None:
    rng = np.random.default_rng(0)

    def scan(number: int) -> Scene:
        return Scene.from_array(
            rng.uniform(1, 2, (12, 12, 13)), "sentinel2", name=f"scan {number}", group=f"specimen {number // 2}",
            labels_HW=rng.integers(0, 2, (12, 12)), label_names=("soil", "grass"),
        )  # fmt: skip

    samples = collect_samples([scan(number) for number in range(6)], 1)
    said = "100% of the test samples are of groups that other scenes of the training side show too"
    for split in make_splits(samples, "scene"):
        assert any(said in notice and "--split group keeps them apart" in notice for notice in split.notices)
    assert any("show too (specimen" in notice for notice in make_split(samples, "block", block=4).notices)
    for split in make_splits(samples, "group", 3):
        assert not any("show too" in notice for notice in split.notices)
    alone = collect_samples([FIELD], 3)
    assert not any("show too" in notice for notice in make_split(alone, "block").notices)


def test_too_few_samples_are_not_blamed_on_groups() -> None:
    labels = np.full_like(FIELD.labels_HW, -1)  # type: ignore[arg-type]
    labels[::20, ::24] = np.arange(labels[::20, ::24].size).reshape(labels[::20, ::24].shape) % 2
    sparse = FIELD.replace(labels_HW=labels)
    samples = collect_samples([sparse], 3)
    assert 3 < len(samples.y_N) < 12
    with pytest.raises(SpecfmError, match="a class needs 9 samples under any split, so label or scan more") as refused:
        make_split(samples, "block", 0, min_groups=1, min_samples=9, block=10)
    assert "min-groups" not in str(refused.value)
