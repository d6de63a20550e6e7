"""Lists of spectra without ground: a window never shows two of them, whoever cuts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from downstream.baselines.mnf import NoNeighbours, fit_splits
from downstream.benchmark.run import _Entry, plan_cells
from downstream.benchmark.suite import SuiteConfig
from downstream.features.extract import iterate_windows
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.robustness.options import RobustnessOptions
from downstream.robustness.run import robustness
from downstream.splits.samples import collect_samples
from downstream.splits.split import make_splits
from downstream.tasks.data import make_place, make_samples, open_places
from specfm import create_encoder
from specfm.config import build_config
from specfm.errors import UsageError
from specfm.scene import Scene
from tests.downstream.tasks.toys import FINE, blocks, config, reflectance, write_card
from tests.downstream.toy_scenes import NAMES, SENSOR, plots, spectra

QUICK = ProbeOptions(
    protocols=("knn",), split="random_pixels", seeds=1, init_seeds=0, ks=(1,), draws=50, baselines=False
)


def listed(count: int = 60, name: str = "list") -> Scene:
    """Spectra of three classes in turn: neighbours in the file are of other classes."""
    labels_H1 = (np.arange(count) % 3)[:, None].astype(np.int32)
    noise = np.random.default_rng(5).normal(0, 0.02, (count, 1, 12))
    cube = (spectra()[labels_H1] + noise).astype(np.float32)
    made = Scene.from_array(cube, SENSOR, name=name, labels_HW=labels_H1, label_names=NAMES, group=name)
    return made.replace(neighbours=False)


def tiny() -> object:
    return create_encoder("nano", patch_size=3, dim=32, depth=1, heads=4).eval()


def test_a_window_shows_the_labelled_spectrum_alone() -> None:
    scenes = [plots(1)[0], listed()]
    samples = collect_samples(scenes, 9)
    assert any("only the labelled pixel" in notice for notice in samples.notices)
    for part in iterate_windows(scenes, samples, 9):
        if part.scene.neighbours:
            assert (part.mask_BHW.sum((1, 2)) > 1).all()
            continue
        assert (part.mask_BHW.sum((1, 2)) == 1).all() and part.mask_BHW[:, 4, 4].all()
        assert not part.x_BHWC[~part.mask_BHW].any()
        np.testing.assert_array_equal(part.x_BHWC[:, 4, 4], part.scene.read()[samples.rc_N2[part.ids_B, 0], 0])


def test_probe_and_robustness_take_windows_of_one_pixel() -> None:
    rows = probe(tiny(), [listed()], QUICK).rows
    assert {row["window"] for row in rows} == {1}
    found = robustness(tiny(), [listed()], RobustnessOptions(probe=QUICK, sensors=()))
    assert {row["window"] for row in found.rows} == {1}
    with pytest.raises(UsageError, match="window 9: list lists spectra.*leave --window out, or give 1"):
        probe(tiny(), [listed()], replace(QUICK, window=9))
    mixed = probe(tiny(), [*plots(2), listed()], replace(QUICK, window=9)).rows
    assert {row["window"] for row in mixed} == {9}


def test_no_noise_is_learnt_from_them() -> None:
    scenes = [listed()]
    samples = collect_samples(scenes, 9)
    with pytest.raises(NoNeighbours):
        fit_splits(scenes, 9, samples, make_splits(samples, "random_pixels", 1))


def spectra_card(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(90) % 3)[:, None]
    return write_card(folder, "spectra", {"scene": reflectance(labels, FINE, rng)}, labels, "library")


def test_benchmark_plans_windows_of_one_pixel(tmp_path: Path) -> None:
    card, entry = str(spectra_card(tmp_path)), _Entry("random:nano", "one", "w", "a", "-", "-", 9, 3, None)

    def windows(dataset: dict[str, object]) -> set[int]:
        asked = {"name": "s", "datasets": [{"cards": card, "split": "random_pixels", **dataset}]}
        return {plan.window for plan in plan_cells(build_config(asked, SuiteConfig, "suite"), [entry])}

    assert windows({}) == windows({"window": 1}) == {1}
    with pytest.raises(UsageError, match="window 9"):
        windows({"window": 9})


def test_fine_tuning_sees_one_spectrum_and_makes_no_map_of_a_list(tmp_path: Path) -> None:
    card = spectra_card(tmp_path)
    settings = config(tmp_path / "run", card, "classification", data={"tile": 9}, split={"rule": "random_pixels"})
    places = open_places(settings)
    assert not places[0].scene.neighbours
    samples, splits = make_samples(places, settings)
    assert samples.window == splits[0].window == 1
    corners = [(int(row) - 4, int(col) - 4) for row, col in samples.rc_N2[:5]]
    view = places[0].view(corners, 9, 9, [0, 1, 2, 3, 5])[0]
    assert view.mask_BHW is not None and view.mask_BHW[:, 4, 4].all() and int(view.mask_BHW.sum()) == 5
    with pytest.raises(UsageError, match="lists spectra, of which no map can be made"):
        open_places(config(tmp_path / "run", card, "segmentation"))


def test_a_place_keeps_all_that_its_scene_says() -> None:
    labels = blocks(12, 12, 6, 2, np.random.default_rng(0)).astype(np.int32)
    scene = plots(1)[0].replace(labels_HW=labels, group="g", domain="d", nodata=-1.0, saturation=9.0)
    held = make_place([scene]).scene
    for name in ("name", "group", "domain", "nodata", "saturation", "neighbours", "geo", "sensor"):
        assert getattr(held, name) == getattr(scene, name)
