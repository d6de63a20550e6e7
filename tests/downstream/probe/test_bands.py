"""`--bands` of a probe: every row sees the chosen bands and no other, and the table says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from downstream.explain.compare import compare_bands
from downstream.explain.options import CompareOptions, ExplainOptions
from downstream.explain.run import explain
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.robustness.options import RobustnessOptions
from downstream.robustness.run import robustness
from downstream.tasks.config import FinetuneConfig
from downstream.tasks.data import open_places
from specfm.band_selection import select_scenes
from specfm.config import build_config
from specfm.errors import UsageError
from specfm.scene import Scene
from specfm.simulate import simulate_specimen
from tests.downstream.toy_scenes import ToyEncoder, plots

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
    with pytest.raises(UsageError, match="--whole 24 is the window"):
        probe(ToyEncoder(), scenes, replace(options, window=9))
