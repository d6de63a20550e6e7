"""Dense features of a scene: tiles, nodata, coordinates, levels, refusals.

Shapes: H W pixels, C bands, h w patches, D width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specfm import BandGrid, Encoder, Scene, Sensor, SpecfmError
from specfm.dense.tile_reader import scene_level
from specfm.scene import Geo
from tests.properties.cases import build, comb, cube

GRID = comb(7)
SENSOR = Sensor(GRID, quantity="surface_reflectance", scale=1e-4, gsd_m=10.0)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build("hyper", GRID, patch_size=4)


def stored(height: int, width: int) -> np.ndarray:
    """(H, W, C) int16."""
    side = max(height, width)
    return (cube(GRID, 1, side)[0, :height, :width].numpy() * 1e4).round().astype(np.int16)


def test_a_feature_per_patch_with_its_place(encoder: Encoder) -> None:
    geo = Geo("EPSG:32633", (500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0))
    scene = Scene.from_array(stored(10, 14), SENSOR, geo=geo)
    found = encoder.embed(scene)
    assert found.features_hwD.shape == (3, 4, encoder.num_features) and found.features_hwD.dtype == np.float32
    assert np.isfinite(found.features_hwD).all()
    assert found.rows_h.tolist() == [1.5, 5.5, 9.5] and found.cols_w.tolist() == [1.5, 5.5, 9.5, 13.5]
    assert found.x_w.tolist() == [500_020.0, 500_060.0, 500_100.0, 500_140.0]
    assert found.y_h.tolist() == [4_999_980.0, 4_999_940.0, 4_999_900.0]


@pytest.mark.parametrize("transform", (None, (0.0, 10.0, 1.0, 0.0, 0.0, -10.0)))
def test_no_map_coordinates_without_a_north_up_reference(encoder: Encoder, transform: object) -> None:
    scene = Scene.from_array(stored(8, 8), SENSOR, geo=Geo(None, transform))
    found = encoder.embed(scene)
    assert found.x_w is None and found.y_h is None


def test_each_tile_is_encoded_by_itself(encoder: Encoder) -> None:
    cube_HWC = stored(16, 16)
    found = encoder.embed(Scene.from_array(cube_HWC, SENSOR), tile=8, stride=8, level="sample")
    for row in (0, 8):
        for col in (0, 8):
            tile = torch.from_numpy(cube_HWC[row : row + 8, col : col + 8])[None]
            with torch.inference_mode():
                tokens = encoder(tile, SENSOR).tokens_BND[0].unflatten(0, (2, 2)).numpy()
            part = found.features_hwD[row // 4 : row // 4 + 2, col // 4 : col // 4 + 2]
            np.testing.assert_allclose(part, tokens, atol=1e-5)


@pytest.mark.parametrize("batch_size", (1, 3, 100))
def test_batching_changes_nothing(encoder: Encoder, batch_size: int) -> None:
    scene = Scene.from_array(stored(20, 12), SENSOR)
    expected = encoder.embed(scene, tile=8).features_hwD
    np.testing.assert_allclose(encoder.embed(scene, tile=8, batch_size=batch_size).features_hwD, expected, atol=1e-5)


def test_nodata_patches_are_nan_and_do_not_touch_the_others(encoder: Encoder) -> None:
    cube_HWC = stored(16, 16)
    cube_HWC[4:8, 8:12] = -9999  # a whole patch
    cube_HWC[0, 0] = -9999  # part of one
    scene = Scene.from_array(cube_HWC, SENSOR, nodata=-9999)
    found = encoder.embed(scene).features_hwD
    empty_hw = np.zeros((4, 4), bool)
    empty_hw[1, 2] = True
    assert np.array_equal(np.isnan(found).all(-1), empty_hw) and np.array_equal(np.isnan(found).any(-1), empty_hw)
    changed = cube_HWC.copy()
    changed[changed == -9999] = -32768
    again = encoder.embed(Scene.from_array(changed, SENSOR, nodata=-32768)).features_hwD
    np.testing.assert_array_equal(again, found)


def test_a_scene_of_nodata_is_all_nan(encoder: Encoder) -> None:
    scene = Scene.from_array(np.full((8, 8, 7), -9999, np.int16), SENSOR, nodata=-9999)
    assert np.isnan(encoder.embed(scene).features_hwD).all() and scene_level(scene) == 1.0


def test_scene_level_leaves_no_seams_and_sample_level_does(encoder: Encoder) -> None:
    bright = stored(8, 16)
    bright[:, 8:] *= 2  # the same left patch beside a bright or a dark neighbour tile
    scene = Scene.from_array(bright, SENSOR)
    assert scene_level(scene) == pytest.approx(float(1.5 * stored(8, 16)[:, :8].mean() * 1e-4), rel=0.1)
    whole = encoder.embed(scene, tile=8, stride=8).features_hwD
    own = encoder.embed(scene, tile=8, stride=8, level="sample").features_hwD
    with torch.inference_mode():
        level_B = torch.tensor([scene_level(scene)])
        tokens = encoder(torch.from_numpy(bright[:, :8])[None], SENSOR, level_B=level_B).tokens_BND[0]
    np.testing.assert_allclose(whole[:, :2].reshape(4, -1), tokens.numpy(), atol=1e-5)
    assert np.abs(whole - own).max() > 1e-3


def test_an_array_needs_its_sensor(encoder: Encoder) -> None:
    cube_HWC = stored(8, 8)
    with pytest.raises(SpecfmError, match="pass sensor="):
        encoder.embed(cube_HWC)
    by_sensor = encoder.embed(cube_HWC, SENSOR).features_hwD
    np.testing.assert_array_equal(by_sensor, encoder.embed(Scene.from_array(cube_HWC, SENSOR)).features_hwD)
    assert np.isfinite(encoder.embed(cube_HWC.astype(np.float32) * 1e-4, GRID).features_hwD).all()


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"sensor": SENSOR}, "carries its own sensor"),
        ({"level": "global"}, "unknown level 'global'"),
        ({"tile": -4}, "tile -4 is not a multiple"),
        ({"tile": 10}, "tile 10 is not a multiple of the encoder's patch of 4"),
    ),
)
def test_refusals(encoder: Encoder, options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecfmError, match=message):
        encoder.embed(Scene.from_array(stored(8, 8), SENSOR), **options)


@pytest.mark.parametrize("size", ((1, 1), (5, 9), (12, 7)))
def test_a_scene_smaller_than_a_tile_is_encoded_as_it_is(encoder: Encoder, size: tuple[int, int]) -> None:
    cube_HWC = stored(12, 12)[: size[0], : size[1]]
    with torch.inference_mode():
        expected = encoder(cube_HWC[None], SENSOR).tokens_BND[0].numpy()
    for tile in (0, 4000):  # beyond the scene no memory is spent
        found = encoder.embed(cube_HWC, SENSOR, tile=tile, level="sample").features_hwD
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


def test_arrays_of_every_kind(encoder: Encoder) -> None:
    cube_HWC = stored(8, 8)
    expected = encoder.embed(cube_HWC, SENSOR).features_hwD
    tensor = torch.from_numpy(cube_HWC)
    for given in (tensor, tensor.double().requires_grad_(), np.asfortranarray(cube_HWC), cube_HWC.astype(">i4")):
        np.testing.assert_array_equal(encoder.embed(given, SENSOR).features_hwD, expected)
    assert np.isfinite(encoder.embed(tensor.bfloat16(), SENSOR).features_hwD).all()
    known = encoder.embed(np.ones((4, 4, 13), np.float32), "sentinel2")
    assert np.isfinite(known.features_hwD).all()


@pytest.mark.parametrize(
    ("given", "sensor", "message"),
    (
        ("scene.hdr", None, r"not of a str; open a file by specfm.read_scene\(path\)"),
        ([[[1.0] * 7]], SENSOR, "not of a list"),
        (np.ones((0, 4, 7)), SENSOR, r"array: has no pixel \(0 x 4\)"),
        (
            np.ones((4, 4, 7), np.complex64),
            SENSOR,
            "array: holds complex64, and an encoder takes whole or real",
        ),
        (np.ones((4, 4, 7), object), SENSOR, "array: holds object"),
        (np.ones((4, 4, 7), bool), SENSOR, "array: holds bool"),
        (np.ones((4, 4, 7), np.float32), "sentinel22", "unknown sensor 'sentinel22'; did you mean sentinel2_msi"),
        (np.ones((4, 4, 7), np.float32), [500.0] * 7, r"got list; wrap wavelengths as specfm.BandGrid\(centres_nm\)"),
    ),
)
def test_what_is_no_cube_or_no_sensor_is_refused(encoder: Encoder, given: object, sensor: object, message: str) -> None:
    with pytest.raises(SpecfmError, match=message):
        encoder.embed(given, sensor)


def test_without_a_usable_band_there_is_no_feature(encoder: Encoder) -> None:
    none = BandGrid(GRID.wavelengths_nm, valid=np.zeros(7, bool))
    assert np.isnan(encoder.embed(stored(8, 8), none).features_hwD).all()
    assert not encoder(stored(8, 8)[None], none).token_mask_BN.any()
    both = encoder(np.stack([stored(8, 8)] * 2), [none, GRID]).token_mask_BN
    assert not both[0].any() and both[1].all()


def test_lists_of_spectra_are_not_mixed(encoder: Encoder) -> None:
    listed = Scene.from_array(stored(8, 1), SENSOR, name="leaves", neighbours=False)
    found = encoder.embed(listed).features_hwD
    changed = Scene.from_array(stored(8, 1).copy(), SENSOR, neighbours=False)
    changed.source.cube_HWC[1:] = 7
    np.testing.assert_array_equal(encoder.embed(changed).features_hwD[0], found[0])
    one_by_one = build("hyper", GRID, patch_size=1).embed(listed, tile=1).features_hwD
    assert np.isfinite(one_by_one).all()


def test_an_encoder_in_training_is_in_training_afterwards() -> None:
    encoder = build("hyper", GRID, patch_size=4).train()
    first = encoder.embed(stored(9, 9), SENSOR).features_hwD
    assert encoder.training
    assert np.array_equal(first, encoder.eval().embed(stored(9, 9), SENSOR).features_hwD) and not encoder.training


def test_a_feature_for_every_pixel_of_an_encoder_with_pixel_tokens(encoder: Encoder) -> None:
    """Those of a window read by itself, where no tiles overlap; in places and order of the scene."""
    pixel = build("hyper", GRID, patch_size=2, pixel=True)
    geo = Geo("EPSG:32633", (500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0))
    scene = Scene.from_array(stored(11, 14), SENSOR, geo=geo)
    found = pixel.embed(scene, tile=8, stride=4, pixels=True)
    assert found.features_hwD.shape == (11, 14, pixel.num_features) and np.isfinite(found.features_hwD).all()
    assert found.rows_h.tolist() == list(range(11)) and found.x_w is not None and found.x_w[1] == 500_015.0
    cut = Scene.from_array(stored(8, 8), SENSOR)
    one = pixel.embed(cut, tile=8, stride=8, pixels=True, level="sample").features_hwD
    with torch.inference_mode():
        window = torch.from_numpy(stored(8, 8)).float()[None]
        wanted = pixel(window, SENSOR, pixels="all").pixel_BQD[0].reshape(8, 8, -1).numpy()
    np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-6)
    assert pixel.embed(scene).features_hwD.shape == (6, 7, pixel.num_features)
    with pytest.raises(SpecfmError, match="no token of single pixels"):
        encoder.embed(scene, pixels=True)
