"""Who may vote and teach in the monitor: none that shares pixels or light with the query, and never only losers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.config import MonitorConfig
from pretrain.monitor import Monitor
from specfm import BandGrid, Sensor
from specfm.shards import ShardSet, ShardWriter


class ByPosition(torch.nn.Module):
    """A stand-in for an encoder whose feature is a window's position, so that only neighbours in space look alike."""

    device = torch.device("cpu")

    def forward(self, batch):
        angle = batch.cat("origin_B2")[:, 0].float() / 1000.0
        return type("Features", (), {"pooled_BD": torch.stack([angle.cos(), angle.sin()], 1)})()


def line(
    path: Path, domain: str, label: np.ndarray, group: np.ndarray, step: int, names: str = "ab", start: int = 0
) -> str:
    """Windows of 4 x 4 pixels, one every ``step`` rows, a scene per group."""
    sensor = Sensor(BandGrid(np.linspace(500, 900, 5)), quantity="dn")
    count = len(label)
    with ShardWriter(path, (4, 4), sensor, "int16", domain, count=count, label_names=names) as shard:
        origin = np.stack([start + np.arange(count) * step, np.zeros(count, np.int64)], 1)
        shard.add(np.ones((count, 4, 4, 5), np.int16), label=label, group=group, origin=origin, scene_id=group)
    return str(path)


def scores(*files: str) -> dict[str, float]:
    return Monitor(ShardSet(list(files)), MonitorConfig(k=1, max_samples=40), seed=0)(ByPosition())  # type: ignore[arg-type]


def test_neighbours_and_the_own_group_are_not_asked(tmp_path: Path) -> None:
    """Labels come in pairs along a line: whoever may ask the window beside it scores high, and here nobody may."""
    count = 40
    label = np.arange(count) // 2 % 2  # 0 0 1 1 0 0 1 1 ...
    touching = line(tmp_path / "touch.h5", "touch", label, np.zeros(count, np.int64), step=4)
    groups = line(tmp_path / "group.h5", "group", label, np.arange(count) // 4, step=8)
    found = scores(touching, groups)
    # Nearest window that does not touch: two steps away, which has the other label everywhere but at the line's ends.
    assert found["knn/touch"] < 0.1
    # Nearest outside the own group of 0 0 1 1: the other label, but for those who look past the line's two ends.
    assert found["knn/group"] == pytest.approx(4 / count)
    assert found["knn"] == pytest.approx((found["knn/touch"] + found["knn/group"]) / 2)


def test_scenes_of_other_classes_are_judged_within_themselves(tmp_path: Path) -> None:
    """Two scenes of one domain without a common class: to ask only the other scene would be 0 whatever the features."""
    half = np.repeat([0, 1], 10)  # first ten windows of a line one class, last ten the other
    one = line(tmp_path / "one.h5", "aviris", half, np.zeros(20, np.int64), step=8)
    two = line(tmp_path / "two.h5", "aviris", half, np.ones(20, np.int64), step=8, names="cd", start=900)
    found = scores(one, two)
    assert found["knn"] == found["knn/aviris"] >= 36 / 40  # all but those at a border between classes


def test_what_nobody_can_answer_does_not_count(tmp_path: Path) -> None:
    """A class whose only two windows touch is not asked; a domain of such classes has no score."""
    alone = line(tmp_path / "alone.h5", "alone", np.array([0, 0, 1, 1]), np.zeros(4, np.int64), step=2)
    assert scores(alone) == {}
    apart = line(tmp_path / "apart.h5", "apart", np.array([0, 1, 0, 0, 1, 1]), np.zeros(6, np.int64), step=4)
    found = scores(alone, apart)
    assert (
        set(found) == {"knn", "knn/apart", "linear", "linear/apart", "majority"}
        and found["knn"] == found["knn/apart"] > 0
    )


def test_another_date_of_the_same_ground_is_not_asked(tmp_path: Path) -> None:
    """Two scenes of one group at the same place: the window beneath the query is the query's own ground."""
    label = np.tile([0, 0, 1, 1], 5)
    first, second = (line(tmp_path / f"{n}.h5", "dates", label, np.zeros(20, np.int64), step=4) for n in ("a", "b"))
    assert scores(first, second)["knn/dates"] < 0.1


def test_the_linear_probe_is_taught_by_those_who_may_vote(tmp_path: Path) -> None:
    """Features are places: only the own group and windows that touch could tell the label, and neither may."""
    count = 40
    label = np.arange(count) // 2 % 2
    found = scores(line(tmp_path / "a.h5", "groups", label, np.arange(count) // 4, step=8))
    assert found["linear/groups"] < 0.7 and found["majority"] == pytest.approx(0.5)
    half = np.repeat([0, 1], 10)
    easy = scores(line(tmp_path / "b.h5", "halves", half, np.zeros(20, np.int64), step=8))
    assert easy["linear"] == easy["linear/halves"] >= 0.9


def test_scores_before_the_first_step_are_told_beside_later_ones(tmp_path: Path) -> None:
    file = line(tmp_path / "a.h5", "halves", np.repeat([0, 0, 1], 8), np.zeros(24, np.int64), step=8)
    monitor = Monitor(ShardSet([file]), MonitorConfig(k=1, max_samples=40), seed=0)
    monitor.start(ByPosition(), "untrained")  # type: ignore[arg-type]
    found = monitor(ByPosition())  # type: ignore[arg-type]
    assert found["untrained/knn"] == found["knn"] and found["untrained/linear"] == found["linear"]
    assert found["majority"] == pytest.approx(16 / 24)
