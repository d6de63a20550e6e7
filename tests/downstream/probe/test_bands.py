"""`--bands` of a probe: every row sees the chosen bands and no other, and the table says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from downstream.explain.compare import compare_bands
from downstream.explain.options import CompareOptions, ExplainOptions
from downstream.explain.run import explain
from downstream.features.extract import extract, iterate_windows
from downstream.features.spectra import spectra
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.robustness.options import RobustnessOptions
from downstream.robustness.run import robustness
from downstream.splits.samples import collect_samples
from downstream.tasks.config import FinetuneConfig
from downstream.tasks.data import open_places
from specfm.config import build_config
from specfm.errors import UsageError
from specfm.pretreatment import pretreat
from specfm.scene import Scene
from specfm.selected_scene import select_scenes
from specfm.simulate import simulate_specimen
from specfm.specimens import whole_views
from tests.downstream.toy_scenes import SENSOR, ToyEncoder, plots

QUICK = ProbeOptions(seeds=2, init_seeds=0, window=3, max_per_class=15, draws=200, grid=(1.0,), protocols=("knn",))


class Watching(ToyEncoder):
    """Remembers the bands that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[float, ...]] = set()

    def __call__(self, x_BHWC: Any, bands: Any, mask_BHW: Any) -> Any:
        self.seen.add(tuple(bands.bands.wavelengths_nm))
        assert x_BHWC.shape[-1] == len(bands.bands)
        return super().__call__(x_BHWC, bands, mask_BHW)


def test_all_rows_see_the_chosen_bands() -> None:
    encoder, scenes = Watching(), plots()
    found = probe(encoder, scenes, replace(QUICK, bands="sample:2,9"))
    wanted = scenes[0].sensor.bands.wavelengths_nm[[1, 8]]
    assert encoder.seen == {tuple(wanted)}
    assert found.spectra is not None and found.spectra[0].X_ND.shape[1] == 2
    assert all("bands sample:2,9: 2 of 12 are used" in row["notices"] for row in found.rows)


def test_what_pretraining_saw_is_told_of_scenes_as_measured() -> None:
    encoder, scenes = ToyEncoder(), plots(6)
    options = replace(QUICK, bands="sample:2,5,9", seeds=1, max_per_class=6)
    record = {"scenes": ["x"], "sensors": [scenes[0].sensor.digest]}  # the digest is of all its bands
    encoder.card = {"pretraining": record}  # type: ignore[attr-defined]
    plain = ProbeOptions()
    robust = RobustnessOptions(replace(options, baselines=False), sensors=(), steps=(), snrs=())
    explained = replace(options, protocols=plain.protocols, init_seeds=plain.init_seeds)
    found = [
        probe(encoder, scenes, options).rows[0],
        robustness(encoder, scenes, robust).rows[0],
        compare_bands(encoder, scenes, CompareOptions(explained, (), ("sample:1",)))[0],
        explain(encoder, scenes, ExplainOptions(explained, (200.0,), gradients=0)).facts,
    ]
    assert [each["seen"] for each in found] == ["sensor seen"] * 4


def test_fewer_bands_tell_less() -> None:
    def accuracy(bands: str | None) -> float:
        rows = probe(ToyEncoder(), plots(noise=0.25), replace(QUICK, bands=bands)).rows
        return next(r for r in rows if r["method"] == "pixel spectrum" and r["protocol"] == "knn5")["oa"]["mean"]

    assert accuracy("sample:1") + 0.1 < accuracy(None)


def test_fitted_choices_are_marked() -> None:
    rows = probe(ToyEncoder(), plots(), replace(QUICK, bands="importance:3")).rows
    assert "bands importance:3: 3 of 12 are used, chosen on pixels of all scenes without labels" in rows[0]["notices"]


def test_components_are_refused_with_what_to_use_instead() -> None:
    with pytest.raises(UsageError, match="--bands: pca makes components without wavelengths.*importance:N"):
        probe(ToyEncoder(), plots(), replace(QUICK, bands="pca:3"))


def test_finetune_takes_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        task = "classification"

        def scenes(self) -> list[Scene]:
            return plots(3)

    monkeypatch.setattr("specfm.cards.load_card", lambda name: Card())
    values = {"task": "classification", "out": "x", "data": {"card": "toy", "bands": {"uniform": 4}}}
    config = build_config(values, FinetuneConfig, "test")
    assert config.data.bands == "uniform:4"
    assert {place.scene.shape[2] for place in open_places(config)} == {4}
    assert {bands.channels for place in open_places(config) for bands in place.bands} == {4}
    assert np.array_equal(open_places(config)[0].scene.read(), plots(3)[0].read(bands=[0, 4, 7, 11]))
    with pytest.raises(UsageError, match="data.bands"):
        build_config({**values, "data": {"card": "toy", "bands": "pca:3"}}, FinetuneConfig, "test")


def test_whole_specimens_are_one_sample_each() -> None:
    scenes = [simulate_specimen(kind, (32, 32), seed, name=f"{kind}-{seed}") for kind in (0, 2, 4) for seed in range(6)]
    options = replace(QUICK, window=None, whole=24, bands="uniform:12", seeds=1, max_per_class=None)
    found = probe(Watching(), scenes, options)
    assert len(found.samples) == 18 and len(set(found.samples.group_N.tolist())) == 18
    assert found.samples.window == 24
    assert "one sample a specimen, seen whole on 24 x 24 pixels" in found.rows[0]["notices"]
    assert found.spectra is not None
    for row, scene in zip(found.spectra[1].X_ND, scenes, strict=True):  # the mean of the window is the specimen's
        (narrow,) = select_scenes([scene], "uniform:12")
        assert np.allclose(row, narrow.values()[scene.labels_HW >= 0].mean(0), rtol=0.1, atol=0.01)
    narrow = select_scenes(scenes, "uniform:12")
    for row, view in zip(found.spectra[1].X_ND, whole_views(narrow, 24), strict=True):
        assert np.allclose(row, view.values()[view.mask()].mean(0), rtol=1e-5)
    with pytest.raises(UsageError, match="--split group keeps those of a scan together"):
        probe(ToyEncoder(), scenes, replace(options, split="scene"))
    with pytest.raises(UsageError, match="--whole 24 is the window"):
        probe(ToyEncoder(), scenes, replace(options, window=9))


def test_pretreatment_of_a_card_and_asked_for_is_one() -> None:
    scenes = [simulate_specimen(kind, (24, 24), seed, name=f"{kind}-{seed}") for kind in (0, 4) for seed in range(6)]
    options = replace(QUICK, window=None, whole=9, bands="importance:30", seeds=1, max_per_class=None)
    treated = [pretreat(scene, ["continuum", "snv"]) for scene in scenes]
    by_card = probe(ToyEncoder(), treated, options).rows
    asked = probe(ToyEncoder(), scenes, replace(options, pretreatment=("continuum", "snv"))).rows
    plain = probe(ToyEncoder(), scenes, options).rows
    for one, other in zip(by_card, asked, strict=True):
        assert one["oa"] == other["oa"] and one["digests"]["data"] == other["digests"]["data"]
        assert one["notices"] == other["notices"]
    assert asked[0]["digests"]["data"] != plain[0]["digests"]["data"]


@pytest.mark.parametrize("side", [9, 12])
def test_a_window_of_a_whole_specimen_is_its_view(side: int) -> None:
    """Also of a ring, whose middle shows none of it."""
    row_HW, col_HW = np.indices((30, 34))
    away_HW = np.hypot(row_HW - 14.5, col_HW - 16.5)
    groups_HW = np.select([(away_HW < 14) & (away_HW > 10), (row_HW < 6) & (col_HW < 7)], [3, 8], -1)
    cube = np.random.default_rng(0).uniform(1, 2, (30, 34, 12)).astype(np.float32)
    labels_HW = np.where(groups_HW < 0, -1, groups_HW // 8)
    ring = Scene.from_array(cube, SENSOR, "tray", groups_HW=groups_HW, labels_HW=labels_HW, label_names=("a", "b"))
    views = whole_views([ring], side)
    samples = collect_samples(views, side)
    assert samples.y_N.tolist() == [0, 1] and not views[0].mask()[side // 2, side // 2]
    for part, view in zip(iterate_windows(views, samples, side), views, strict=True):
        assert np.array_equal(part.mask_BHW[0], view.mask())
        assert np.array_equal(part.x_BHWC[0][view.mask()], view.read()[view.mask()])
    raw = spectra(views, side, samples, patch=3)
    assert raw is not None and raw.patch is not None
    for kind in raw:
        valid_NC = views[0].read()[views[0].mask()]
        assert (valid_NC.min(0) - 1e-4 <= kind.X_ND[0]).all() and (kind.X_ND[0] <= valid_NC.max(0) + 1e-4).all()
    pooled = extract(ToyEncoder(), views, side, samples).X_ND
    assert np.array_equal(pooled[0, :16], pooled[0, 16:])  # nothing is in the middle: the mean stands for it
