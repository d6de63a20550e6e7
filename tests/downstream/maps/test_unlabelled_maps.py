"""Clusters and similarity: maps from an encoder alone, on the scene's own pixels, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import specfm
from downstream.maps.cluster import cluster_to_file, fit_clusters
from downstream.maps.search import BestPlaces, search_to_file
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from tests.downstream.maps.toy_maps import GEO, make_encoder, make_labels, make_scene

LABELS = make_labels((76, 101), seed=7, size=20)


@pytest.fixture(scope="module")
def encoder() -> specfm.Encoder:
    return make_encoder()


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(LABELS)


def codes_of(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)[..., 0]


@pytest.mark.parametrize("method", ["kmeans", "spectral"])
def test_clusters_follow_the_materials(encoder: specfm.Encoder, scene: Scene, tmp_path: Path, method: str) -> None:
    from sklearn.metrics import normalized_mutual_info_score

    shares = cluster_to_file(encoder, scene, tmp_path / "c.npy", classes=3, method=method, preview=False)
    codes = codes_of(tmp_path / "c.npy")
    assert codes.shape == LABELS.shape and set(np.unique(codes)) == {1, 2, 3}
    # unrelated maps share nothing; these .84 and more, but .50 where one seed of six put two materials together
    assert normalized_mutual_info_score(LABELS.ravel(), codes.ravel()) > 0.35
    assert sum(shares.values()) == pytest.approx(1) and shares["cluster 1"] == max(shares.values())


def test_clusters_are_the_same_for_the_same_seed_and_any_batch(
    encoder: specfm.Encoder, scene: Scene, tmp_path: Path
) -> None:
    for name, batch in (("a", 32), ("b", 5)):
        cluster_to_file(encoder, scene, tmp_path / f"{name}.npy", classes=5, batch_size=batch, preview=False)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_clusters_keep_nodata_and_place(encoder: specfm.Encoder, scene: Scene, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    cube = scene.read()
    cube[20:33, :50] = np.nan
    cluster_to_file(encoder, Scene.from_array(cube, scene.sensor, geo=GEO), tmp_path / "c.tif", classes=3)
    with rasterio.open(tmp_path / "c.tif") as file:
        missing = file.read(1) == 0
        assert file.transform.to_gdal() == GEO.transform and file.shape == LABELS.shape
    expected = np.zeros_like(missing)
    expected[20:33, :50] = True
    np.testing.assert_array_equal(missing, expected)


def test_cells_join_their_cluster_and_missing_ones_none() -> None:
    rng = np.random.default_rng(0)
    cells = np.concatenate([rng.normal(size=(300, 6)), rng.normal(8, 1, size=(700, 6))])
    for method in ("kmeans", "spectral"):
        clusters = fit_clusters(cells, 2, method, 0)
        found = clusters(cells.reshape(50, 20, 6))
        assert (found[15:] == 1).all() and (found[:15] == 2).all()  # the larger heap is class 1
        assert clusters(np.full((1, 2, 6), np.nan)).max() == 0


def test_bad_clusterings_leave_nothing(encoder: specfm.Encoder, scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "c.npy"
    with pytest.raises(UsageError, match="kmeans"):
        cluster_to_file(encoder, scene, out, method="median")
    with pytest.raises(UsageError, match="classes 1"):
        cluster_to_file(encoder, scene, out, classes=1)
    with pytest.raises(UsageError, match="300"):
        cluster_to_file(encoder, scene, out, classes=300)
    small = Scene.from_array(scene.read()[:3, :6], scene.sensor)
    with pytest.raises(SpecfmError, match="2 patches with data"):
        cluster_to_file(encoder, small, out, classes=3)
    assert list(tmp_path.iterdir()) == []


def test_search_finds_the_material_of_the_example(encoder: specfm.Encoder, scene: Scene, tmp_path: Path) -> None:
    row, col = np.argwhere(LABELS == 1)[len(np.argwhere(LABELS == 1)) // 2]
    places = search_to_file(encoder, scene, [(int(row), int(col))], tmp_path / "s.npy", top=5, apart=9)
    found = codes_of(tmp_path / "s.npy")
    assert found.shape == LABELS.shape and np.nanmax(np.abs(found)) <= 1 + 1e-5
    assert found[row, col] == pytest.approx(1, abs=1e-4)
    assert found[LABELS == 1].mean() > found[LABELS != 1].mean() + 0.4
    assert len(places) == 5 and all(LABELS[p.row, p.col] == 1 for p in places)
    assert [p.similarity for p in places] == sorted((p.similarity for p in places), reverse=True)
    for place in places:
        assert found[place.row, place.col] == pytest.approx(place.similarity, abs=1e-6)
        assert (place.x, place.y) == (500000 + 2 * (place.col + 0.5), 4000000 - 2 * (place.row + 0.5))
        assert max(abs(place.row - row), abs(place.col - col)) >= 6
    assert json.loads((tmp_path / "s.json").read_text())["like"] == [[int(row), int(col)]]


def test_several_examples_take_the_nearest(encoder: specfm.Encoder, scene: Scene, tmp_path: Path) -> None:
    one, two = ((int(r), int(c)) for r, c in (np.argwhere(k == LABELS)[40] for k in (0, 1)))
    for name, like in (("one", [one]), ("two", [two]), ("both", [one, two])):
        search_to_file(encoder, scene, like, tmp_path / f"{name}.npy")
    maps = {name: codes_of(tmp_path / f"{name}.npy") for name in ("one", "two", "both")}
    np.testing.assert_allclose(maps["both"], np.maximum(maps["one"], maps["two"]), atol=1e-5)


def test_impossible_examples_leave_nothing(encoder: specfm.Encoder, scene: Scene, tmp_path: Path) -> None:
    cube = scene.read()
    cube[:12, :12] = np.nan
    holed = Scene.from_array(cube, scene.sensor)
    with pytest.raises(UsageError, match="76,0 lies outside"):
        search_to_file(encoder, holed, [(76, 0)], tmp_path / "s.npy")
    with pytest.raises(UsageError, match="--like"):
        search_to_file(encoder, holed, [], tmp_path / "s.npy")
    with pytest.raises(SpecfmError, match="no data"):
        search_to_file(encoder, holed, [(4, 4)], tmp_path / "s.npy")
    assert list(tmp_path.iterdir()) == []


def test_best_places_are_apart_and_complete() -> None:
    values = np.random.default_rng(0).random((40, 30))
    values[3, 3] = np.nan
    best = BestPlaces(6)
    for first in range(0, 40, 7):
        best.add(first, values[first : first + 7])
    found = best.top(4, [(0, 0)])
    assert found[0][0] == np.nanmax(values) and len(found) == 4
    assert all(values[row, col] == value for value, row, col in found)
    for i, (_, row, col) in enumerate(found):
        assert all(max(abs(row - r), abs(col - c)) >= 6 for _, r, c in [(0.0, 0, 0), *found[:i]])
