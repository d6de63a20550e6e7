"""On the real scenes: plots that lie side by side stay together, and the controls are where the data say they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from downstream.results.leakage import leakage_score
from downstream.splits.samples import collect_samples
from downstream.splits.split import make_splits
from specfm.cards import load_card


def test_neighbouring_tree_plots_are_never_divided(data_root: Path) -> None:
    pytest.importorskip("rasterio")
    scenes = list(load_card("neon_osbs").scenes(data_root))
    samples = collect_samples(scenes, 9)
    names = [name.split("/")[-1] for name in samples.scene_names]
    for split in make_splits(samples, "group", 5):
        side = np.zeros(len(samples), int)
        side[split.val_I], side[split.test_I] = 1, 2
        together = 0
        for pair in (("OSBS_16", "OSBS_35"), ("OSBS_1", "OSBS_37"), ("OSBS_15", "OSBS_20"), ("OSBS_2", "OSBS_5")):
            mine = np.isin(samples.scene_N, [names.index(n) for n in pair]) & np.isin(samples.y_N, split.classes)
            used = np.intersect1d(np.flatnonzero(mine), np.r_[split.train_I, split.val_I, split.test_I])
            assert len(np.unique(side[used])) <= 1
            together += len(np.unique(samples.scene_N[used])) == 2
        assert together >= 2
        score = leakage_score(split, samples)
        assert score.overlap_share == 0 and score.min_distance_px is not None and score.min_distance_px >= 9
        assert set(samples.y_N[split.test_I]) == set(split.classes)
    assert sum("left out" in n for n in split.notices) == 12 - len(split.classes)


@pytest.mark.parametrize("name", ["salinas_a", "jasper_ridge", "samson"])
def test_sanity_scenes_split_by_blocks(data_root: Path, name: str) -> None:
    scenes = list(load_card(name).scenes(data_root))
    samples = collect_samples(scenes, 9)
    for split in make_splits(samples, "block", 3):
        assert leakage_score(split, samples).overlap_share == 0
        assert set(samples.y_N[split.train_I]) == set(samples.y_N[split.test_I]) == set(range(len(samples.label_names)))
        assert len(split.train_I) > len(samples) / 10 and len(split.test_I) > len(samples) / 5
