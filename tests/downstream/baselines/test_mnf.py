"""Minimum noise fraction: orders by signal over noise, looks at training windows only, says why a row is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from downstream.baselines import mnf
from downstream.baselines.classics import pca_features
from downstream.baselines.mnf import covered, fit_splits
from downstream.features.extract import iterate_windows
from downstream.features.spectra import spectra
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.splits.samples import Samples, collect_samples
from downstream.splits.split import Split, make_splits
from specfm.bands import BandGrid
from specfm.scene import Scene
from specfm.sensors import Sensor
from tests.downstream.toy_scenes import SENSOR, ToyEncoder, field, patchy_labels, plots

QUICK = ProbeOptions(seeds=2, init_seeds=0, window=3, max_per_class=15, draws=50, grid=(1e-2, 1.0))


def noisy_field(seed: int = 0) -> Scene:
    """Classes told apart by four quiet bands under eight loud ones that hold nothing but noise."""
    rng = np.random.default_rng([seed, 5])
    labels = patchy_labels(60, 72, 3, rng, 8)
    level = np.array([[0.0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]])[np.maximum(labels, 0)]
    quiet = 3 + 0.3 * level + 0.02 * rng.normal(size=level.shape)
    loud = 9 + 3 * rng.normal(size=(60, 72, 8))
    cube = np.concatenate([quiet, loud], -1).astype(np.float32)
    names = ("oak", "pine", "soil")
    return Scene.from_array(cube, SENSOR, name="noisy", labels_HW=labels, label_names=names)


def samples_and_splits(scene: Scene, window: int = 5) -> tuple[Samples, list[Split]]:
    samples = collect_samples([scene], window)
    return samples, make_splits(samples, "block", 2)


def test_components_are_ordered_by_signal_over_noise() -> None:
    scene = noisy_field()
    samples, splits = samples_and_splits(scene)
    split, fit = splits[0], fit_splits([scene], 5, samples, splits, 12)[0]
    raw = spectra([scene], 5, samples)
    assert raw is not None
    X = raw[0].X_ND[split.test_I]
    assert (np.diff(fit.ratio_D) <= 0).all() and fit.ratio_D[1] > 3 * fit.ratio_D[2]  # three classes span two
    weight_CD = np.abs(fit.basis_KD) * np.array([0.02] * 4 + [3.0] * 8)[:, None]
    assert (weight_CD[:4, :2].max(0) > 2 * weight_CD[4:, :2].max(0)).all()
    cube = scene.read().astype(np.float64)
    step = (cube[:, 1:] - cube[:, :-1]).reshape(-1, 12) @ fit.basis_KD / np.sqrt(2)
    np.testing.assert_allclose(step.std(0), 1, atol=0.2)  # noise of unit variance, of pixels that were not fitted too

    def between(Z: np.ndarray) -> float:
        y = samples.y_N[split.test_I]
        means = np.stack([Z[y == c].mean(0) for c in range(3)])
        return float(means.var(0).sum() / np.mean([Z[y == c].var(0).sum() for c in range(3)]))

    loud = pca_features(raw[0].X_ND[split.fit_I], X, 2)[1]
    assert between(fit.scores(X)[:, :2]) > 20 * between(loud)


@pytest.mark.parametrize("side", [(3, 3), (3, 2), (1, 4)])
def test_covered_is_what_slicing_gives(side: tuple[int, int]) -> None:
    corner_N2 = np.random.default_rng(0).integers(-3, 12, (9, 2))
    expected = np.zeros((10, 12), bool)
    for r, c in corner_N2:
        expected[max(r, 0) : max(r + side[0], 0), max(c, 0) : max(c + side[1], 0)] = True
    np.testing.assert_array_equal(covered(corner_N2, (10, 12), side), expected)


@pytest.mark.parametrize("strip_bytes", [1, 2**15, 2**26])
def test_moments_are_those_of_the_windows(strip_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = field().read()
    cube[20:24, 30:33] = np.nan  # invalid
    scene = field().replace(source=Scene.from_array(cube, SENSOR).source)
    samples = collect_samples([scene], 4, max_per_class=20)
    splits = make_splits(samples, "block", 2)
    found: list[mnf.Moments] = []
    monkeypatch.setattr(mnf, "STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(mnf, "solve", lambda moments, _: found.append(moments))
    fit_splits([scene], 4, samples, splits)
    for split, moments in zip(splits, found, strict=True):
        mine = samples.take(split.fit_I)
        pixels, pairs = {}, {}
        for part in iterate_windows([scene], mine, 4):
            for k, i in enumerate(part.ids_B):
                for a, b in np.argwhere(part.mask_BHW[k]):
                    at = tuple(mine.rc_N2[i] - 2 + (a, b))
                    pixels[at] = part.x_BHWC[k, a, b].astype(np.float64)
                    for down, right in ((0, 1), (1, 0)):
                        if a + down < 4 and b + right < 4 and part.mask_BHW[k, a + down, b + right]:
                            pairs[at, down] = part.x_BHWC[k, a + down, b + right].astype(np.float64) - pixels[at]
        x, d = np.stack(list(pixels.values())), np.stack(list(pairs.values()))
        assert (moments.pixels, moments.pairs) == (len(x), len(d))
        np.testing.assert_allclose(moments.sum_K, x.sum(0))
        np.testing.assert_allclose(moments.square_KK, x.T @ x)
        np.testing.assert_allclose(moments.difference_KK, d.T @ d)


@pytest.mark.parametrize("poison", [1e6, np.nan, -3.0])
def test_test_pixels_change_no_fit(poison: float) -> None:
    scene = field()
    samples, splits = samples_and_splits(scene)
    for split in splits:
        before = fit_splits([scene], 5, samples, [split])[0]
        cube = scene.read()
        held = samples.rc_N2[split.test_I]
        for row, col in held:  # whole windows of the test side
            cube[max(row - 2, 0) : row + 3, max(col - 2, 0) : col + 3] = poison
        after = fit_splits([scene.replace(source=Scene.from_array(cube, SENSOR).source)], 5, samples, [split])[0]
        np.testing.assert_array_equal(after.basis_KD, before.basis_KD)
        np.testing.assert_array_equal(after.mean_K, before.mean_K)
        cube = scene.read()
        cube[tuple(samples.rc_N2[split.train_I[0]])] = poison
        seen = fit_splits([scene.replace(source=Scene.from_array(cube, SENSOR).source)], 5, samples, [split])[0]
        assert not np.array_equal(seen.basis_KD, before.basis_KD)


def test_labels_change_no_fit() -> None:
    scene = field()
    samples, splits = samples_and_splits(scene)
    other = replace(samples, y_N=np.random.default_rng(0).permutation(samples.y_N))
    for a, b in zip(fit_splits([scene], 5, samples, splits), fit_splits([scene], 5, other, splits), strict=True):
        np.testing.assert_array_equal(a.basis_KD, b.basis_KD)


def test_the_row_beats_principal_components_where_noise_is_loud() -> None:
    options = replace(QUICK, window=3, split="block", max_per_class=60, pca=2, protocols=("knn", "linear", "ridge"))
    rows = {(r["method"], r["protocol"]): r["oa"]["mean"] for r in probe(ToyEncoder(), [noisy_field()], options).rows}
    assert rows["MNF-2 pixel", "knn5"] > 0.95 and rows["PCA-2 pixel", "knn5"] < 0.6
    assert rows["MNF-2 pixel", "linear"] > 0.95 and rows["MNF-2 pixel", "ridge"] > 0.95


def test_a_band_that_never_changes_and_dependent_bands_do_not_break_it() -> None:
    scenes = []
    for scene in plots(6):
        cube = scene.read()
        cube[..., 3], cube[..., 5] = 1.0, cube[..., 4]
        scenes.append(scene.replace(source=Scene.from_array(cube, SENSOR).source))
    samples = collect_samples(scenes, 3)
    for fit in fit_splits(scenes, 3, samples, make_splits(samples, "group", 2)):
        assert fit.basis_KD.shape == (12, 12) and np.isfinite(fit.basis_KD).all() and fit.ratio_D[0] < 1e6


def test_a_missing_row_says_why() -> None:
    def notices(scenes: list[Scene], options: ProbeOptions) -> str:
        rows = probe(ToyEncoder(), scenes, options).rows
        assert not any(r["method"].startswith("MNF") for r in rows)
        return " / ".join(rows[0]["notices"])

    class Point(ToyEncoder):
        patch_size = 1

    knn = replace(QUICK, protocols=("knn",))
    rows = probe(Point(), plots(6), replace(knn, window=1)).rows
    assert not any(r["method"].startswith("MNF") for r in rows) and any(r["method"] == "PCA-30 pixel" for r in rows)
    assert "no MNF baseline: windows of 1 pixel hold no neighbours to tell noise from signal" in rows[0]["notices"]
    many = SENSOR.replace(bands=BandGrid(np.linspace(450, 900, 60)))
    assert "pairs of neighbours for 60 bands" in notices(plots(6, sensor=many), replace(knn, shots=1))
    other = Sensor(BandGrid(np.linspace(470, 880, 12)), quantity="radiance", name="other")
    assert "no raw-spectrum, PCA and MNF baselines: the scenes have no common quantity" in notices(
        [*plots(6), *plots(6, sensor=other)], replace(knn, split="sensor")
    )
    assert "MNF" not in " ".join(probe(ToyEncoder(), plots(6), replace(knn, baselines=False)).rows[0]["notices"])


def test_sensors_of_other_bands_meet_on_the_common_grid() -> None:
    from specfm.simulate import resample_scene

    other = SENSOR.replace(bands=BandGrid(np.linspace(470, 880, 8)), name="other")
    scenes = plots(9)
    rows = probe(
        ToyEncoder(), [*scenes, *(resample_scene(s, other) for s in scenes)],
        replace(QUICK, split="sensor", protocols=("knn",)),
    ).rows  # fmt: skip
    row = next(r for r in rows if (r["method"], r["protocol"]) == ("MNF-30 pixel", "knn5"))
    assert set(row["held_out"]) == {"toy", "other"} and min(v["oa"] for v in row["held_out"].values()) > 0.8
