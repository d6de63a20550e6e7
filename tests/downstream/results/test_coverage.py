"""Do the intervals of whole probes hold what they promise, where pixels come in spatial clusters?

Scenes whose classes lie in patches and whose noise is smooth over the ground are probed as any scene is: labelled
pixels, blocks, a linear probe fitted on one scene, the interval over blocks of another. The truth is the accuracy of
that same probe over many scenes. Shapes: H rows, W columns, C bands, N samples.
"""

from __future__ import annotations

import numpy as np
import pytest

from downstream.protocols.linear import linear_probe
from downstream.results.metrics import bootstrap, unit_confusions
from downstream.splits.ground import units_of
from downstream.splits.samples import collect_samples
from specfm.scene import Scene
from tests.downstream.toy_scenes import SENSOR, patchy_labels

SIDE, BLOCK, CLASSES, SMOOTH_PX = 60, 12, 3, 3.0
MEANS = np.random.default_rng(5).normal(size=(CLASSES, 4))


def clustered_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``[H, W]`` in patches and features ``[H, W, C]`` with noise that is smooth over ``SMOOTH_PX`` pixels."""
    from scipy.ndimage import gaussian_filter

    labels_HW = np.maximum(patchy_labels(SIDE, SIDE, CLASSES, rng, cell=5), 0)
    noise_HWC = gaussian_filter(rng.normal(size=(SIDE, SIDE, 4)), (SMOOTH_PX, SMOOTH_PX, 0), mode="wrap")
    noise_HWC *= 0.9 / noise_HWC.std()
    white_HWC = 0.5 * rng.normal(size=noise_HWC.shape)
    return labels_HW, (MEANS[labels_HW] + noise_HWC + white_HWC).astype(np.float32)


@pytest.mark.slow
def test_interval_of_a_probe_covers_the_truth_where_pixels_are_clustered() -> None:
    rng = np.random.default_rng(0)
    train_y, train_x = clustered_scene(rng)
    cube = np.ones((SIDE, SIDE, len(SENSOR.bands)), np.float32)
    scene = Scene.from_array(cube, SENSOR, labels_HW=train_y, label_names=("a", "b", "c"))
    unit_N = units_of(collect_samples([scene], 1), "block", BLOCK)
    trials = 600
    tests = [clustered_scene(rng) for _ in range(trials)]
    stacked = np.concatenate([x.reshape(-1, 4) for _, x in tests])
    half = SIDE * SIDE // 2
    x, y = train_x.reshape(-1, 4), train_y.reshape(-1)
    predicted = linear_probe(x[:half], y[:half], x[half:], y[half:], stacked).predicted_N.reshape(trials, -1)
    true = np.stack([labels.reshape(-1) for labels, _ in tests])
    truth = (predicted == true).mean()
    hit = naive = 0
    for true_N, predicted_N in zip(true, predicted, strict=True):
        conf_UKK = unit_confusions(true_N, predicted_N, unit_N, CLASSES, int(unit_N.max()) + 1)
        ci = bootstrap(conf_UKK[None], "oa", draws=500)
        hit += ci.low <= truth <= ci.high
        share = (true_N == predicted_N).mean()
        naive += abs(share - truth) <= 1.96 * np.sqrt(share * (1 - share) / len(true_N))
    print(f"OA {truth:.3f}; coverage over blocks {hit / trials:.3f}, over pixels {naive / trials:.3f} (nominal 0.95)")
    assert 0.92 <= hit / trials <= 0.98  # binomial deviation of 600 trials is 0.009
    assert naive / trials < 0.75  # what resampling pixels would have claimed


@pytest.mark.slow
def test_shuffled_labels_are_at_chance_within_the_interval_at_its_rate() -> None:
    rng = np.random.default_rng(1)
    trials, hit = 120, 0
    for _ in range(trials):
        _, features = clustered_scene(rng)
        true = rng.permutation(np.arange(SIDE * SIDE) % CLASSES)
        x = features.reshape(-1, 4)
        unit_N = (np.arange(SIDE)[:, None] // BLOCK * 5 + np.arange(SIDE)[None] // BLOCK).reshape(-1)
        fit, test = np.flatnonzero(unit_N < 10), np.flatnonzero(unit_N >= 10)
        found = linear_probe(x[fit[::2]], true[fit[::2]], x[fit[1::2]], true[fit[1::2]], x[test])
        conf_UKK = unit_confusions(true[test], found.predicted_N, unit_N[test], CLASSES, 25)
        ci = bootstrap(conf_UKK[None], "aa", draws=300)
        hit += ci.low <= 1 / CLASSES <= ci.high
    print(f"chance lies in {hit / trials:.3f} of the intervals (nominal 0.95)")
    assert hit / trials >= 0.88
