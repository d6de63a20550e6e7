"""Splits over random scenes and windows, leave-one-sensor-out, and digests that must never change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from downstream.results.leakage import leakage_score
from downstream.splits.samples import collect_samples
from downstream.splits.split import Split, make_split, make_splits
from specfm.bands import BandGrid
from specfm.errors import SpecfmError
from specfm.scene import Scene
from specfm.simulate import resample_scene
from tests.downstream.splits.test_split import assert_apart
from tests.downstream.toy_scenes import NAMES, SENSOR, field, plots

OTHER = SENSOR.replace(bands=BandGrid(np.linspace(460, 880, 9)), name="other")
THIRD = SENSOR.replace(bands=BandGrid(np.linspace(500, 800, 5)), name="third")


@pytest.mark.parametrize("seed", range(12))
def test_no_pixel_is_shared_and_every_class_is_on_both_sides_or_the_split_is_refused(seed: int) -> None:
    rng = np.random.default_rng([seed, 21])
    scene = field(int(rng.integers(30, 70)), int(rng.integers(30, 70)), seed, cell=int(rng.integers(2, 9)))
    window, rule = int(rng.integers(1, 18)), ("block", "group", "scene")[seed % 3]
    scenes = [scene] if rule == "block" else [*plots(int(rng.integers(4, 10)), 14, seed=seed)]
    samples = collect_samples(scenes, window)
    for draw in range(4):
        try:
            split = make_split(samples, rule, draw, block=int(rng.integers(6, 20)) if rule == "block" else None)
        except SpecfmError as refusal:
            assert "--window" in str(refusal) or "--min-groups" in str(refusal) or "--block" in str(refusal)
            continue
        assert_apart(samples, split)
        assert leakage_score(split, samples).overlap_share == 0
        assert set(samples.y_N[split.train_I]) == set(split.classes)
        if rule != "scene":
            assert set(samples.y_N[split.test_I]) == set(split.classes)


def test_a_class_that_one_side_must_miss_is_refused_or_left_out() -> None:
    labels = np.repeat(np.repeat([[0, 1, 0, 1], [1, 0, 1, 0]], 12, 0), 12, 1).astype(np.int32)
    labels[10:14, 20:24] = 2  # one clump: whatever blocks are held out, the guard band or they take all of it
    scene = Scene.from_array(np.ones((24, 48, 12), np.float32), SENSOR, labels_HW=labels, label_names=NAMES)
    samples = collect_samples([scene], 5)
    with pytest.raises(SpecfmError, match="(training|test) sample of soil.*--min-groups"):
        for seed in range(5):
            make_split(samples, "block", seed, min_groups=1, block=12)
    split = make_split(samples, "block", 0, block=12)
    assert split.classes == (0, 1) and "'soil' left out" in split.notices[0]


def one_ground_three_sensors(scenes: list[Scene]) -> list[Scene]:
    return [*scenes, *(resample_scene(s, t) for s in scenes for t in (OTHER, THIRD))]


@pytest.mark.parametrize("scenes", [[field()], plots(8)], ids=["blocks", "groups"])
def test_leave_one_sensor_out_on_one_ground_holds_out_ground_too(scenes: list[Scene]) -> None:
    samples = collect_samples(one_ground_three_sensors(scenes), 5)
    splits = make_splits(samples, "sensor", 3)
    assert (
        len(splits) == 9 and [s.options["held_sensor"] for s in splits] == ["other"] * 3 + ["third"] * 3 + ["toy"] * 3
    )
    for split in splits:
        assert_apart(samples, split)  # windows of one ground count as overlapping whatever the sensor
        held = set(samples.sensor_N[split.test_I].tolist())
        assert len(held) == 1 and set(samples.sensor_N[split.fit_I].tolist()) == {0, 1, 2} - held
        assert set(samples.y_N[split.train_I]) == set(samples.y_N[split.test_I]) == {0, 1, 2}
        assert leakage_score(split, samples).overlap_share == 0 and not split.leaky


def test_leave_one_sensor_out_on_different_ground_tests_the_whole_sensor() -> None:
    scenes = [*plots(5), *(p.replace(name=f"q{p.name}", group=f"q{p.group}") for p in plots(4, sensor=OTHER))]
    samples = collect_samples(scenes, 5)
    splits = make_splits(samples, "sensor", 10)
    assert len(splits) == 2
    for split in splits:
        names = sorted(set(samples.sensor_names))
        held = names.index(split.options["held_sensor"])
        np.testing.assert_array_equal(split.test_I, np.flatnonzero(samples.sensor_N == held))
        assert len(split.val_I)


def test_one_sensor_cannot_be_left_out() -> None:
    with pytest.raises(SpecfmError, match="one sensor.*--through"):
        make_split(collect_samples(plots(4), 3), "sensor")


def test_a_class_that_only_the_held_out_sensor_has_is_left_out_of_the_test() -> None:
    bare = [p.replace(labels_HW=np.minimum(p.labels_HW, 1)) for p in plots(5)]  # type: ignore[type-var]
    rich = [p.replace(name=f"q{p.name}", group=f"q{p.group}") for p in plots(5, sensor=OTHER)]
    samples = collect_samples([*bare, *rich], 3)
    split = make_splits(samples, "sensor", 1)[0]
    assert split.options["held_sensor"] == "other" and split.classes == (0, 1)
    assert set(samples.y_N[split.test_I]) == {0, 1} and any("only 'other' has" in n for n in split.notices)


def test_the_cap_holds_for_every_sensor() -> None:
    samples = collect_samples(one_ground_three_sensors(plots(4)), 3, max_per_class=2)
    counts = np.zeros((4, 3, 3), int)
    np.add.at(counts, (samples.group_N, samples.sensor_N, samples.y_N), 1)
    assert counts.max() == 2 and len(samples) == counts.sum() > 60


def integer_scene(sensor: str = "a") -> Scene:
    """Labels from integer arithmetic alone: no random generator, no rounding, so its digests are the same anywhere."""
    rows, cols = np.indices((40, 44))
    labels = ((rows // 5) * 7 + (cols // 5) * 3 + (rows // 10) * (cols // 7)) % 4 - 1
    cube = np.ones((40, 44, 12), np.float32)
    return Scene.from_array(
        cube, SENSOR.replace(name=sensor), name="g", group="g", labels_HW=labels, label_names=NAMES
    )  # fmt: skip


GOLDEN = {
    "samples": "16e78e9bcfbd7a90",
    "block": "4eeae0ea4feedf4a",
    "block 5 shots": "c442f4164fa7e684",
    "random_pixels": "865fc03b5891ee64",
    "sensor": "e6da8d0b2e1c59de",
}


def test_digests_are_the_same_on_any_machine() -> None:
    samples = collect_samples([integer_scene()], 5)
    both = collect_samples([integer_scene(), integer_scene("b")], 5)
    made: dict[str, Split] = {
        "block": make_split(samples, "block", 3),
        "block 5 shots": make_split(samples, "block", 3, shots=5),
        "random_pixels": make_split(samples, "random_pixels", 3),
        "sensor": make_split(both, "sensor", 3),
    }
    found = {"samples": samples.digest, **{name: split.digest for name, split in made.items()}}
    assert found == GOLDEN
    assert replace(made["block"], seed=4).digest != found["block"]
