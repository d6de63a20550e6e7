"""A map hardly depends on where its tiles lie, keeps the scene's place and nodata, and appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from downstream.maps.class_maps import Layout, TilePredictor
from downstream.maps.predict import predict_to_file, tile_predictor
from downstream.supervised.model import TaskModel
from specfm.errors import UsageError
from specfm.scene import Scene
from specfm.tiles import blended_rows
from tests.downstream.maps.toy_maps import GEO, NAMES, fitted_model, make_labels, make_scene

TILE, PATCH = 24, 3


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(make_labels((64, 151)))  # neither side a multiple of the patch


@pytest.fixture(scope="module")
def model(scene: Scene) -> TaskModel:
    return fitted_model([scene], TILE, PATCH)


@pytest.fixture(scope="module")
def reference(model: TaskModel, scene: Scene) -> NDArray[np.int64]:
    """The map by the default layout."""
    return codes_of(model, scene, Layout())


def codes_of(model: TaskModel, scene: Scene, layout: Layout, batch_size: int = 8) -> NDArray[np.int64]:
    height, width = scene.shape[:2]
    plan = layout.plan((height, width), model.tile, model.encoder.patch_size)
    rows = [rows for _, rows in blended_rows(plan, tile_predictor(model, [scene]), batch_size)]
    return model.decide(np.nan_to_num(np.concatenate(rows)[:height, :width])) + 1


def seam_excess(codes: NDArray[np.int64], tile: int, stride: int, halo: int, patch: int) -> float:
    """Welch's t of class edges per column boundary: at seams against other boundaries of the lattice of patches.

    Seams are the borders of the parts of tiles that count.
    """
    edges = (codes[:, 1:] != codes[:, :-1]).sum(0).astype(float)  # edges[c]: between columns c and c + 1
    boundaries = np.arange(1, codes.shape[1])
    lattice = boundaries % patch == 0
    seam = np.zeros(len(boundaries), bool)
    for start in range(0, codes.shape[1] - tile, stride):
        seam |= np.isin(boundaries, (start + halo, start + tile - halo))
    at, rest = edges[seam & lattice], edges[~seam & lattice]
    return float((at.mean() - rest.mean()) / np.sqrt(at.var(ddof=1) / len(at) + rest.var(ddof=1) / len(rest)))


def test_the_model_is_worth_mapping(reference: NDArray[np.int64], scene: Scene) -> None:
    assert (reference - 1 == scene.labels_HW).mean() > 0.9


@pytest.mark.parametrize("origin", [(3, 9), (1, 0), (0, 2), (5, 1), (2, 7)])
def test_shifted_tiles_give_the_same_map(
    model: TaskModel, scene: Scene, reference: NDArray[np.int64], origin: tuple[int, int]
) -> None:
    """Also where the shift is no multiple of the patch, so that every patch mixes other pixels."""
    assert (codes_of(model, scene, Layout(origin=origin)) == reference).mean() >= 0.99


def test_a_cropped_scene_gives_the_same_map(model: TaskModel, scene: Scene, reference: NDArray[np.int64]) -> None:
    part = Scene.from_array(scene.read()[1:, 2:], scene.sensor)
    # .9897 to .9912 over six seeds; maps whose tiles step along the lattice of patches agree on .976
    assert (codes_of(model, part, Layout()) == reference[1:, 2:]).mean() >= 0.985


@pytest.mark.parametrize(
    ("tile", "patch", "stride"), [(24, 3, 5), (9, 3, 2), (64, 8, 15), (12, 1, 3), (8, 8, 3), (16, 16, 3), (2, 2, 1)]
)
def test_default_steps_share_no_divisor_with_the_patch(tile: int, patch: int, stride: int) -> None:
    plan = Layout().plan((200, 300), tile, patch)
    assert (plan.stride, plan.halo, plan.shape) == (stride, tile // 8, (200, 300))


def test_seams_carry_no_more_edges_than_the_rest(model: TaskModel) -> None:
    wide = make_scene(make_labels((60, 900), seed=5), seed=6)
    layout = Layout(stride=12, halo=3)
    assert abs(seam_excess(codes_of(model, wide, layout), TILE, 12, 3, PATCH)) < 3


def test_the_seam_test_sees_seams(model: TaskModel) -> None:
    wide = make_scene(make_labels((60, 900), seed=5), seed=6)
    predict = tile_predictor(model, [wide])
    plan = Layout(stride=TILE, halo=0).plan((60, 900), TILE, PATCH)

    def biased(tiles: list) -> tuple[NDArray, NDArray]:
        probabilities, valid = predict(tiles)
        lean = np.array([[0.3, 0, 0], [0, 0.3, 0]])[[tile.col // TILE % 2 for tile in tiles]]
        return probabilities + lean[:, None, None], valid

    codes = model.decide(np.concatenate([rows for _, rows in blended_rows(plan, biased, 8)])) + 1
    assert seam_excess(codes, TILE, TILE, 0, PATCH) > 3


def test_batch_size_changes_nothing(model: TaskModel, scene: Scene, reference: NDArray[np.int64]) -> None:
    for batch_size in (1, 5, 100):
        np.testing.assert_array_equal(codes_of(model, scene, Layout(), batch_size), reference)


def test_pixels_without_data_stay_so_and_disturb_no_other(
    model: TaskModel, scene: Scene, reference: NDArray[np.int64], tmp_path: Path
) -> None:
    cube = scene.read()
    cube[30:45, 100:120] = -9999.0
    cube[5, 7, 3] = np.nan
    holed = scene.replace(source=Scene.from_array(cube, scene.sensor).source, nodata=-9999.0)
    predict_to_file(model, [holed], tmp_path / "map.npy", probabilities=tmp_path / "p.npy", preview=False)
    codes = np.load(tmp_path / "map.npy", allow_pickle=False)[..., 0]
    missing = np.zeros(scene.shape[:2], bool)
    missing[30:45, 100:120] = missing[5, 7] = True
    np.testing.assert_array_equal(codes == 0, missing)
    probabilities = np.load(tmp_path / "p.npy", allow_pickle=False)
    np.testing.assert_array_equal(np.isnan(probabilities).all(-1), missing)
    np.testing.assert_allclose(probabilities[~missing].sum(-1), 1, atol=1e-5)
    away = np.ones_like(missing)
    away[10:65, 80:140] = away[:20, :20] = False
    assert (codes == reference)[away].mean() > 0.995


def test_a_scene_smaller_than_a_tile_is_mapped(model: TaskModel) -> None:
    small = make_scene(make_labels((64, 151))[:10, :17])
    codes = codes_of(model, small, Layout())
    assert codes.shape == (10, 17) and codes.min() >= 1


def test_geotiff_has_place_palette_and_names(
    model: TaskModel, scene: Scene, reference: NDArray[np.int64], tmp_path: Path
) -> None:
    rasterio = pytest.importorskip("rasterio")
    shares = predict_to_file(model, [scene], tmp_path / "map.tif", facts={"model": "abc"})
    assert abs(sum(shares.values()) - 1) < 1e-9 and set(shares) == set(NAMES)
    with rasterio.open(tmp_path / "map.tif") as file:
        codes = file.read(1)
        assert file.crs.to_epsg() == 32617 and file.transform.to_gdal() == GEO.transform and file.nodata == 0
        palette = file.colormap(1)
        assert len({palette[i] for i in range(4)}) == 4 and palette[1][:3] == (0, 114, 178)
        assert json.loads(file.tags()["classes"])["3"] == "soil, dry" and file.tags()["model"] == "abc"
        assert [Path(name).name for name in file.files] == ["map.tif", "map.tif.aux.xml"]  # GDAL reads the names
    assert "<Category>soil, dry</Category>" in (tmp_path / "map.tif.aux.xml").read_text()
    np.testing.assert_array_equal(codes, reference)
    picture = (tmp_path / "map.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(picture[16:20]) > 151  # the legend is beside it


def test_envi_classification_reads_back(
    model: TaskModel, scene: Scene, reference: NDArray[np.int64], tmp_path: Path
) -> None:
    spectral = pytest.importorskip("spectral")
    predict_to_file(model, [scene], tmp_path / "map.hdr", preview=False)
    image = spectral.open_image(str(tmp_path / "map.hdr"))
    assert image.metadata["file type"] == "ENVI Classification" and image.metadata["classes"] == "4"
    assert image.metadata["class names"] == ["no data", "water", "grass", "soil  dry"]
    assert [int(v) for v in image.metadata["class lookup"]][:6] == [0, 0, 0, 0, 114, 178]
    assert [float(v) for v in image.metadata["map info"][3:7]] == [500000.0, 4000000.0, 2.0, 2.0]
    np.testing.assert_array_equal(np.asarray(image.load())[..., 0], reference)
    assert not (tmp_path / "map.png").exists()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(halo=-1), "halo"),
        (Layout(stride=21, halo=3), "stride"),
        (Layout(stride=-3), "stride"),
    ],
)
def test_misfitting_layouts_leave_nothing(
    model: TaskModel, scene: Scene, tmp_path: Path, layout: Layout, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        predict_to_file(model, [scene], tmp_path / "map.npy", layout=layout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", ["map.npy", "map.json", "map.png", "p.npy"])
def test_nothing_is_written_where_one_file_exists(
    model: TaskModel, scene: Scene, tmp_path: Path, existing: str
) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(UsageError, match=f"{existing} exists"):
        predict_to_file(model, [scene], tmp_path / "map.npy", probabilities=tmp_path / "p.npy")
    assert [path.name for path in tmp_path.iterdir()] == [existing] and (tmp_path / existing).read_text() == "mine"


def test_a_failure_half_way_leaves_nothing(
    model: TaskModel, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def fail(self: TilePredictor, tiles: list) -> tuple[NDArray, NDArray]:
        if next(calls) == 3:
            raise RuntimeError("out of memory")
        return original(self, tiles)

    original = TilePredictor.__call__
    monkeypatch.setattr(TilePredictor, "__call__", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_to_file(model, [scene], tmp_path / "map.tif", probabilities=tmp_path / "p.hdr")
    assert list(tmp_path.iterdir()) == []
