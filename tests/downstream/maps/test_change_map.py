"""Changes between two dates on one grid, whatever sensors saw them; other grids are refused, with nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from downstream.maps.change import Distance, distance_to_file
from downstream.maps.predict import predict_to_file
from specfm.errors import SpecfmError, UsageError
from specfm.grids import Grid, require_one_grid
from specfm.scene import Geo, Scene
from tests.downstream.maps.toy_maps import GEO, fitted_model, make_encoder, make_labels, make_scene


def two_dates(bands_after: int = 12) -> tuple[Scene, Scene, np.ndarray]:
    """Two dates of one ground, the second brighter and from a sensor of its own; a block became another class."""
    labels = make_labels((60, 96), seed=2, size=16)
    later = labels.copy()
    later[18:42, 30:66] = (later[18:42, 30:66] + 1) % 3
    before, after = make_scene(labels, 12, seed=3), make_scene(later, bands_after, seed=4)
    brighter = Scene.from_array(after.read() * 1.4, after.sensor, name="later", geo=GEO, labels_HW=after.labels_HW)
    return before, brighter, later != labels


@pytest.mark.parametrize("bands_after", [12, 30])
def test_without_labels_the_changed_block_stands_out(tmp_path: Path, bands_after: int) -> None:
    before, after, truth = two_dates(bands_after)
    out, distance = tmp_path / "change.npy", tmp_path / "distance.npy"
    cut, shares = distance_to_file(make_encoder(), before, after, out, distance=distance, preview=False)
    codes, found = (np.load(path, allow_pickle=False)[..., 0] for path in (out, distance))
    assert (codes == 2).mean() == pytest.approx(shares["changed"]) and codes.min() == 1
    np.testing.assert_array_equal(codes == 2, found > cut)
    both = (codes == 2) & truth
    assert 2 * both.sum() / ((codes == 2).sum() + truth.sum()) > 0.8
    assert json.loads((tmp_path / "change.json").read_text())["threshold"] == cut


def test_the_same_seed_and_any_batch_give_the_same_map(tmp_path: Path) -> None:
    before, after, _ = two_dates()
    for name, batch in (("a", 16), ("b", 3)):
        distance_to_file(make_encoder(), before, after, tmp_path / f"{name}.npy", batch_size=batch, preview=False)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_trained_model_finds_the_block_across_sensors(tmp_path: Path) -> None:
    before, after, truth = two_dates(30)
    model = fitted_model([before, after])
    predict_to_file(model, [before, after], tmp_path / "c.npy", probabilities=tmp_path / "p.npy", preview=False)
    codes = np.load(tmp_path / "c.npy", allow_pickle=False)[..., 0]
    both = (codes == 2) & truth
    assert 2 * both.sum() / ((codes == 2).sum() + truth.sum()) > 0.85
    changed = np.load(tmp_path / "p.npy", allow_pickle=False)[..., 1]
    model.threshold = 0.9
    predict_to_file(model, [before, after], tmp_path / "d.npy", preview=False)
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy", allow_pickle=False)[..., 0] == 2, changed > 0.9)


@pytest.mark.parametrize("trained", [False, True])
def test_no_data_at_either_date_is_no_data(tmp_path: Path, trained: bool) -> None:
    before, after, _ = two_dates()
    one, two = before.read(), after.read()
    one[:10, :10] = np.nan
    two[50:, 90:] = np.nan
    dates = [Scene.from_array(one, before.sensor, geo=GEO), Scene.from_array(two, after.sensor, geo=GEO)]
    out = tmp_path / "c.npy"
    if trained:
        predict_to_file(fitted_model([before, after], steps=5), dates, out, preview=False)
    else:
        distance_to_file(make_encoder(), *dates, out, preview=False)
    codes = np.load(out, allow_pickle=False)[..., 0]
    missing = np.zeros_like(codes, bool)
    missing[:10, :10] = missing[50:, 90:] = True
    np.testing.assert_array_equal(codes == 0, missing)


def test_other_grids_are_refused_with_nothing_written(tmp_path: Path) -> None:
    before, after, _ = two_dates()
    moved = Geo("EPSG:32617", (500002.0, 2.0, 0.0, 4000000.0, 0.0, -2.0))
    coarse = Geo("EPSG:32617", (500000.0, 4.0, 0.0, 4000000.0, 0.0, -4.0))
    elsewhere = Geo("EPSG:32618", GEO.transform)
    cut = Scene.from_array(after.read()[:-1], after.sensor, name="cut")
    cases = [(cut, "60 x 96 and 59 x 96"), (after.replace(geo=moved), "1.0 pixels apart")]
    cases += [(after.replace(geo=coarse), "pixels apart"), (after.replace(geo=elsewhere), "coordinate systems")]
    for other, message in cases:
        if "coordinate" in message:
            pytest.importorskip("rasterio")
        with pytest.raises(SpecfmError, match=message):
            distance_to_file(make_encoder(), before, other, tmp_path / "c.npy")
        assert list(tmp_path.iterdir()) == []
    nearly = Geo("EPSG:32617", (500000.05, 2.0, 0.0, 4000000.0, 0.0, -2.0))
    for same in (after, after.replace(geo=None), after.replace(geo=nearly)):
        require_one_grid(Grid.of(before), Grid.of(same))


def test_two_dates_without_common_data_are_refused(tmp_path: Path) -> None:
    before, after, _ = two_dates()
    empty = Scene.from_array(np.full_like(after.read(), np.nan), after.sensor, geo=GEO)
    with pytest.raises(SpecfmError, match="have 0 common patches with data"):
        distance_to_file(make_encoder(), before, empty, tmp_path / "c.npy")
    with pytest.raises(UsageError, match="share side files"):
        distance_to_file(make_encoder(), before, after, tmp_path / "c.npy", distance=tmp_path / "c.tif")
    assert list(tmp_path.iterdir()) == []


def test_the_distance_ignores_what_differs_everywhere() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(500, 8))
    two = one * 3 + 5
    two[0] = -two[0]
    measure = Distance.fit(np.concatenate([one, two], 1))
    found = measure(np.concatenate([one, two], 1))
    assert found[1:].max() < 0.05 and found[0] > 0.5
