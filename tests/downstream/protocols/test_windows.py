"""Windows in memory: which sample each is of, epochs that show every one once, turns that keep the labelled pixel."""

from __future__ import annotations

import numpy as np
import pytest

from downstream.protocols.windows import Epochs, by_sensor, windows_of
from downstream.splits.samples import collect_samples
from specfm.bands import BandGrid
from specfm.sensors import Sensor
from tests.downstream.toy_scenes import SENSOR, plots

OTHER = Sensor(BandGrid(np.linspace(450, 900, 7)), quantity="surface_reflectance", name="other")
SCENES = [*plots(2), *plots(2, seed=1, sensor=OTHER), *plots(1, seed=2)]
SAMPLES = collect_samples(SCENES, 3)
IDS = np.random.default_rng(0).permutation(len(SAMPLES))[:300]


def test_one_part_a_sensor_and_every_window_beside_its_sample() -> None:
    parts = by_sensor(windows_of(SCENES, SAMPLES, IDS, 3))
    assert [part.sensor for part in parts] == [SENSOR, OTHER]
    assert sorted(np.concatenate([part.id_N for part in parts])) == list(range(300))
    for part in parts:
        of_N = IDS[part.id_N]
        np.testing.assert_array_equal(part.y_N, SAMPLES.y_N[of_N])
        for x, i in zip(part.x_NHWC, of_N, strict=True):
            row, col = SAMPLES.rc_N2[i]
            np.testing.assert_array_equal(x[1, 1], SCENES[SAMPLES.scene_N[i]].read()[row, col])
    assert by_sensor(windows_of(SCENES, SAMPLES, IDS[:0], 3)) == []


def test_an_epoch_shows_every_window_once_in_batches_of_one_sensor() -> None:
    parts = by_sensor(windows_of(SCENES, SAMPLES, IDS, 3))
    draw = Epochs(parts, 32, np.random.default_rng(0))
    lengths, orders = [], []
    for _ in range(2):
        seen: list[float] = []
        lengths.append(0)
        while not lengths[-1] or not draw.at_end:
            (batch,) = draw()
            lengths[-1] += 1
            assert 1 <= len(batch.labels) <= 32 and len(batch.views) == 1
            seen += batch.views[0].x_BHWC[:, 1, 1, 0].tolist()  # the labelled pixel, however the window is turned
        assert sorted(seen) == sorted(np.concatenate([part.x_NHWC[:, 1, 1, 0] for part in parts]).tolist())
        orders.append(seen)
    assert lengths == [sum(-(-len(part) // 32) for part in parts)] * 2 and orders[0] != orders[1]


@pytest.mark.parametrize(("window", "ways"), [(3, 8), (2, 1)])
def test_odd_windows_are_turned_all_eight_ways(window: int, ways: int) -> None:
    parts = by_sensor(windows_of(SCENES[:1], SAMPLES, np.arange(1), window))
    draw = Epochs(parts, 1, np.random.default_rng(0))
    assert len({draw()[0].views[0].x_BHWC.numpy().tobytes() for _ in range(100)}) == ways
