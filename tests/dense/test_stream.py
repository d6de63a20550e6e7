"""Dense features written to a file agree with features of the tiles themselves, in any format and any scene size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import specfm
from specfm.dense.stream import embed_to_file
from specfm.dense.tile_reader import TileReader
from specfm.errors import UsageError
from specfm.scene import Geo, Scene
from specfm.sensors import Sensor
from specfm.tiles import Tile


@pytest.fixture(scope="module")
def encoder() -> specfm.Encoder:
    import torch

    torch.manual_seed(0)
    return specfm.create_encoder("nano", patch_size=4, dim=48, depth=1, heads=3).eval()


def make_scene(height: int = 22, width: int = 17) -> Scene:
    rng = np.random.default_rng(1)
    cube = (rng.random((height, width, 12)) + 1).astype(np.float32)
    sensor = Sensor(specfm.BandGrid(np.linspace(450, 900, 12)), quantity="surface_reflectance")
    return Scene.from_array(cube, sensor, name="field")


def test_one_tile_equals_the_encoder_itself(encoder: specfm.Encoder, tmp_path: Path) -> None:
    scene = make_scene(16, 16)
    embed_to_file(encoder, scene, tmp_path / "x.npy", window=16, level="sample")
    import torch

    with torch.inference_mode():
        tokens = encoder(torch.from_numpy(scene.read())[None], scene.sensor).tokens_BND
    written = np.load(tmp_path / "x.npy", allow_pickle=False)
    np.testing.assert_allclose(written.reshape(16, -1), tokens[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(("size", "options"), (((32, 48), {}), ((37, 50), {"tile": 16, "stride": 12}), ((9, 70), {})))
def test_the_file_holds_what_embed_gives_in_memory(
    encoder: specfm.Encoder, tmp_path: Path, size: tuple[int, int], options: dict[str, int]
) -> None:
    scene = make_scene(*size)
    embed_to_file(encoder, scene, tmp_path / "x.npy", window=options.get("tile", 0), stride=options.get("stride", 0))
    inside = encoder.embed(scene, **options).features_hwD
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), inside)


def test_batching_changes_nothing_and_edges_are_covered(encoder: specfm.Encoder, tmp_path: Path) -> None:
    scene = make_scene()
    done = embed_to_file(encoder, scene, tmp_path / "a.npy", window=8, stride=4, pca_png=tmp_path / "a.png")
    embed_to_file(encoder, scene, tmp_path / "b.npy", window=8, stride=4, batch_size=2)
    a, b = (np.load(tmp_path / f"{n}.npy", allow_pickle=False) for n in "ab")
    assert a.shape == (6, 5, 48) == tuple(done["shape"]) and np.isfinite(a).all()
    np.testing.assert_allclose(a, b, atol=1e-5)
    side = json.loads((tmp_path / "a.json").read_text())
    assert side["patch"] == 4 and side["first_centre_rc"] == [1.5, 1.5] and (tmp_path / "a.png").stat().st_size > 0


def test_patches_without_a_valid_pixel_are_nan(encoder: specfm.Encoder, tmp_path: Path) -> None:
    cube = make_scene(16, 16).read()
    cube[:4, :8] = np.nan
    scene = Scene.from_array(cube, make_scene().sensor)
    embed_to_file(encoder, scene, tmp_path / "x.npy", window=8)
    found = np.isnan(np.load(tmp_path / "x.npy", allow_pickle=False)).all(-1)
    expected = np.zeros((4, 4), bool)
    expected[0, :2] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("options", [{"window": 6}, {"window": 8, "stride": 3}, {"window": 8, "stride": 12}])
def test_misfitting_windows_are_refused(encoder: specfm.Encoder, tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        embed_to_file(encoder, make_scene(), tmp_path / "x.npy", **options)
    assert list(tmp_path.iterdir()) == []


def test_lists_of_spectra_are_not_mixed(encoder: specfm.Encoder, tmp_path: Path) -> None:
    listed = make_scene(9, 1).replace(neighbours=False)
    with pytest.raises(UsageError, match="field: is a list of spectra, which tiles of 8 x 4 pixels.*specfm probe"):
        embed_to_file(encoder, listed, tmp_path / "x.npy", window=8)
    assert list(tmp_path.iterdir()) == []
    cubes, masks = TileReader(listed, 1)([Tile(3, 0, 1, 1)])  # one by one is what such a list is for
    np.testing.assert_array_equal(cubes[0, 0, 0], listed.read()[3, 0])
    assert masks.all()


def test_tiles_read_together_equal_tiles_read_alone() -> None:
    cube = make_scene(14, 30).read()
    cube[3:6, 9:14, 2] = np.nan
    read = TileReader(Scene.from_array(cube, make_scene().sensor), 2)
    tiles = [Tile(r, c, 4, 5) for r in (0, 4) for c in (0, 3, 5, 11)]  # overlaps, a gap, and past the lower edge
    cubes, masks = read(tiles)
    for tile, values, mask in zip(tiles, cubes, masks, strict=True):
        alone = cube[tile.row * 2 : tile.row * 2 + 8, tile.col * 2 : tile.col * 2 + 10]
        expected = np.zeros((8, 10, 12), np.float32)
        expected[: len(alone), : alone.shape[1]] = alone
        np.testing.assert_array_equal(values, expected)
        inside = np.zeros((8, 10), bool)
        inside[: len(alone), : alone.shape[1]] = np.isfinite(alone).all(-1)
        np.testing.assert_array_equal(mask, inside)


def test_false_colours_as_a_raster_keep_place_and_missing_patches(encoder: specfm.Encoder, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    cube = make_scene(16, 24).read()
    cube[:4, :8] = np.nan
    geo = Geo("EPSG:32617", (500000.0, 2.0, 0.0, 4000000.0, 0.0, -2.0))
    scene = Scene.from_array(cube, make_scene().sensor, geo=geo)
    files = {"pca_png": tmp_path / "p.png", "pca_tif": tmp_path / "p.tif"}
    embed_to_file(encoder, scene, tmp_path / "x.npy", window=8, **files)
    with rasterio.open(tmp_path / "p.tif") as file:
        colours = file.read().transpose(1, 2, 0)
        assert file.transform.a == 8.0 and file.crs.to_epsg() == 32617 and file.nodata == 0
    missing = np.isnan(np.load(tmp_path / "x.npy", allow_pickle=False)).all(-1)
    np.testing.assert_array_equal((colours == 0).all(-1), missing)
    assert missing.sum() == 2 and colours[~missing].min() >= 1 and colours[~missing].std(0).min() > 10
    (tmp_path / "x.npy").unlink()
    with pytest.raises(UsageError, match=r"p\.png exists"):
        embed_to_file(encoder, scene, tmp_path / "y.npy", window=8, **files)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".tmp", "y"))]


def test_evened_features_do_not_show_the_tiles(encoder: specfm.Encoder, tmp_path: Path) -> None:
    spectrum = make_scene().read()[0, 0]
    noise = 1 + 0.02 * np.random.default_rng(3).normal(size=(64, 64, 12))
    scene = Scene.from_array((spectrum * noise).astype(np.float32), make_scene().sensor)
    for name, even in (("raw", False), ("even", True)):
        embed_to_file(encoder, scene, tmp_path / f"{name}.npy", window=16, even=even)
    raw, even = (np.load(tmp_path / f"{n}.npy", allow_pickle=False) for n in ("raw", "even"))
    of_lattice = [x[2:14, 2:14].reshape(6, 2, 6, 2, -1).mean((0, 2)) for x in (raw, even)]  # stride: 2 patches
    spread_raw, spread_even = (x.std((0, 1)).mean() for x in of_lattice)
    assert spread_even < 0.2 * spread_raw
    np.testing.assert_allclose(raw.mean((0, 1)), even.mean((0, 1)), atol=0.3)  # only the place is taken out
