"""White and dark references: known reflectance comes back."""

from __future__ import annotations

import numpy as np
import pytest

from specfm.bands import BandGrid
from specfm.calibration import MASKED, calibrate
from specfm.errors import SpecfmError
from specfm.scene import Scene
from specfm.shards.identity import scene_content
from specfm.shards.windows import WindowOptions, plan_scene
from tests.shards.make import sensor


def push_broom(lines: int = 12, columns: int = 9, channels: int = 5) -> tuple[np.ndarray, Scene, Scene, Scene]:
    """True reflectance, and a scan, white and dark of a sensor whose detector elements all differ."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.05, 0.95, (lines, columns, channels))
    dark_WC = rng.uniform(90, 110, (columns, channels))
    gain_WC = rng.uniform(2000, 3000, (columns, channels))
    noise = rng.normal(0, 0.2, (40, columns, channels))
    raw = np.rint(dark_WC + gain_WC * truth).astype("uint16")
    scenes = [
        Scene.from_array(cube, sensor(channels).replace(quantity="dn", scale=1.0), name=name)
        for name, cube in (("scan", raw), ("white", dark_WC + gain_WC + noise), ("dark", dark_WC + noise))
    ]
    return truth, *scenes


def test_reflectance_comes_back_per_detector_element() -> None:
    truth, scan, white, dark = push_broom()
    scene = calibrate(scan, white, dark)
    assert (scene.dtype, scene.sensor.quantity, scene.sensor.scale) == (np.dtype("int16"), "surface_reflectance", 1e-4)
    np.testing.assert_allclose(scene.values(), truth, atol=5e-4)
    np.testing.assert_array_equal(scene.read(slice(3, 7), slice(2, 6), [4, 1]), scene.read()[3:7, 2:6][:, :, [4, 1]])


def test_references_of_another_width_are_averaged(caplog: pytest.LogCaptureFixture) -> None:
    truth, scan, white, dark = push_broom()
    narrow = [Scene.from_array(s.read(cols=slice(0, 4)), s.sensor) for s in (white, dark)]
    scene = calibrate(scan, *narrow)
    assert "one value per band" in caplog.text
    assert np.abs(scene.values() - truth).mean() < 0.1


def test_saturated_pixels_are_masked() -> None:
    _, scan, white, dark = push_broom()
    cube = scan.read()
    cube[4, 5, 2] = 65535
    cube[1, 1, 0] = 4095
    scene = calibrate(Scene.from_array(cube, scan.sensor), white, dark)
    assert not scene.mask()[4, 5] and scene.mask().sum() == scene.mask().size - 1
    assert scene.read()[4, 5, 2] == MASKED
    limited = calibrate(Scene.from_array(cube, scan.sensor), white, dark, saturation=4095)
    assert not limited.mask()[1, 1] and not limited.mask()[4, 5]
    plan = plan_scene(limited, WindowOptions((3, 3), (1, 1), min_valid=1.0))
    assert not any(r <= 1 < r + 3 and c <= 1 < c + 3 for r, c in plan.origin_N2)


def test_dead_element_masks_its_column_and_dead_band_is_marked_bad() -> None:
    _, scan, white, dark = push_broom()
    light = white.read()
    light[:, 3, 1] = 0  # one element
    light[:, :, 4] = 0  # a whole band
    scene = calibrate(scan, Scene.from_array(light, white.sensor), dark)
    assert scene.sensor.bands.valid.tolist() == [True, True, True, True, False]
    assert not scene.mask()[:, 3].any() and scene.mask()[:, :3].all() and scene.mask()[:, 4:].all()


def test_wrong_references_are_refused() -> None:
    _, scan, white, dark = push_broom()
    with pytest.raises(SpecfmError, match="are they swapped"):
        calibrate(scan, dark, white)
    other = push_broom(channels=4)[2]
    with pytest.raises(SpecfmError, match="has 4 bands, the scan 5"):
        calibrate(scan, other, dark)


def test_what_the_raw_scan_calls_nodata_stays_masked() -> None:
    _, scan, white, dark = push_broom()
    cube = scan.read().astype(np.float32)
    cube[4, 5] = 3000.0  # nodata, and a plausible count
    cube[6, 2] = 0  # fill: all bands zero
    cube[7, 3, 1] = np.nan
    cube[1, 1, 0] = 0  # one zero is a measurement
    raw = Scene.from_array(cube, scan.sensor, nodata=3000.0)
    scene = calibrate(raw, white, dark)
    np.testing.assert_array_equal(scene.mask(), raw.mask())
    assert scene.mask().sum() == scene.mask().size - 3
    np.testing.assert_array_equal(scene.read(bands=[1, 0])[..., ::-1], scene.read()[..., :2])
    assert scene_content(scene) != scene_content(calibrate(raw.replace(nodata=None), white, dark))


def test_nodata_of_a_reference_is_not_averaged() -> None:
    truth, scan, white, dark = push_broom()
    light = white.read()
    light[::2] = -9999
    scene = calibrate(scan, Scene.from_array(light, white.sensor, nodata=-9999.0), dark)
    np.testing.assert_allclose(scene.values(), truth, atol=1e-3)


def test_reflectance_below_zero_is_kept_and_the_level_is_told() -> None:
    _, scan, white, dark = push_broom()
    below = np.full((3, 9, 5), 50, np.uint16)  # darker than the dark reference
    scene = calibrate(Scene.from_array(below, scan.sensor.replace(level="raw")), white, dark)
    assert scene.mask().all() and (scene.values() < -0.01).all()
    assert scene.sensor.level == "L2"


def test_references_of_other_wavelengths_are_refused() -> None:
    _, scan, white, dark = push_broom()
    nm = scan.sensor.bands.wavelengths_nm
    other = white.sensor.replace(bands=BandGrid(nm * 0.5 + 700))
    with pytest.raises(SpecfmError, match=r"white reference white has other wavelengths \(900-1700 nm\) than the scan"):
        calibrate(scan, white.replace(sensor=other), dark)
    near = dark.sensor.replace(bands=BandGrid(nm + 0.3))  # another day's calibration of the same sensor
    assert calibrate(scan, white, dark.replace(sensor=near)).mask().all()
