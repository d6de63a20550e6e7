"""Scene: windows, masks, physical values, what is refused, and the way out to xarray."""

from __future__ import annotations

import numpy as np
import pytest

from specfm import BandGrid, Scene, Sensor
from specfm.errors import SpecfmError
from specfm.scene import Geo


def sensor(count: int, **fields: object) -> Sensor:
    return Sensor(BandGrid(400 + 10.0 * np.arange(count), np.full(count, 9.0)), **fields)  # type: ignore[arg-type]


def cube(shape: tuple[int, int, int] = (4, 5, 3)) -> np.ndarray:
    return np.arange(1, 1 + np.prod(shape), dtype=np.int16).reshape(shape)


def test_windows_keep_type_and_axes() -> None:
    x = cube()
    scene = Scene.from_array(x, sensor(3))
    np.testing.assert_array_equal(scene.read(), x)
    np.testing.assert_array_equal(scene.read(slice(1, 3), slice(None, None, 2), [2, 0]), x[1:3, ::2][:, :, [2, 0]])
    np.testing.assert_array_equal(scene.read(-1, 2), x[-1:, 2:3])
    np.testing.assert_array_equal(scene.read(range(0, 4, 3), bands=np.array([True, False, True])), x[::3][:, :, [0, 2]])
    np.testing.assert_array_equal(scene.read(bands=slice(1, None)), x[:, :, 1:])
    assert scene.read(slice(2, 2)).shape == (0, 5, 3) and scene.read(bands=[]).shape == (4, 5, 0)


def test_a_window_is_a_copy() -> None:
    x = cube()
    scene = Scene.from_array(x, sensor(3))
    scene.read()[:] = 0
    assert x.min() == 1


@pytest.mark.parametrize(
    "window",
    [
        {"rows": slice(None, None, -1)},
        {"rows": 4},
        {"cols": range(3, 7)},
        {"bands": [3]},
        {"bands": [-4]},
        {"bands": [0.5]},
        {"bands": [True, False]},
    ],
)
def test_windows_that_do_not_exist(window: dict) -> None:
    with pytest.raises(SpecfmError, match="plot 7"):
        Scene.from_array(cube(), sensor(3), name="plot 7").read(**window)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecfmError, match="3 bands but 4 wavelengths"):
        Scene.from_array(cube(), sensor(4))
    with pytest.raises(SpecfmError, match="three axes"):
        Scene.from_array(cube()[0], sensor(3))
    with pytest.raises(SpecfmError, match="labels_HW has shape"):
        Scene.from_array(cube(), sensor(3), labels_HW=np.zeros((5, 4)))


@pytest.mark.parametrize(
    ("labels", "message"),
    (
        ([[0, 7]], "labels_HW goes up to 7 but label_names has 2 names"),
        ([[0, 0.5]], "labels_HW must hold whole numbers"),
    ),
)
def test_labels_without_a_name_are_refused(labels: list[list[float]], message: str) -> None:
    with pytest.raises(SpecfmError, match=message):
        Scene.from_array(
            np.ones((1, 2, 3)), Sensor(BandGrid([500, 600, 700])), labels_HW=labels, label_names=("a", "b")
        )


def test_labels_and_groups_get_their_types() -> None:
    scene = Scene.from_array(cube(), sensor(3), labels_HW=np.full((4, 5), -1, np.int8), groups_HW=np.ones((4, 5), "u1"))
    assert scene.labels_HW is not None and scene.labels_HW.dtype == np.int32
    assert scene.groups_HW is not None and scene.groups_HW.dtype == np.int64
    renamed = scene.replace(name="other", domain="lab")
    assert (renamed.name, renamed.domain, scene.name) == ("other", "lab", "array")


def test_mask_rule() -> None:
    x = np.ones((1, 7, 3), np.float32)
    x[0, 1, 1] = np.nan
    x[0, 2, 2] = np.inf
    x[0, 3, 0] = -9999
    x[0, 4] = 0  # all zero: fill
    x[0, 5, 1] = 0  # one zero: a dark band
    x[0, 6, 2] = 4095
    scene = Scene.from_array(x, sensor(3), nodata=-9999.0, saturation=4095.0)
    assert scene.mask()[0].tolist() == [True, False, False, False, False, True, False]
    assert scene.mask(cols=slice(3, 6))[0].tolist() == [False, False, True]


def test_mask_in_blocks_is_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 3, (37, 5, 2)).astype(np.int16)
    scene = Scene.from_array(x, sensor(2), nodata=2)
    whole = scene.mask(slice(1, None, 2), slice(4))
    np.testing.assert_array_equal(whole, ((x != 2).all(-1) & (x != 0).any(-1))[1::2, :4])
    monkeypatch.setattr("specfm.scene.MASK_BYTES", 50)
    np.testing.assert_array_equal(scene.mask(slice(1, None, 2), slice(4)), whole)


def test_bad_bands_do_not_count_in_the_mask() -> None:
    x = np.ones((1, 3, 3), np.float32)
    x[0, :, 1] = np.nan  # dead everywhere
    x[0, 1, [0, 2]] = 0  # fill in the usable bands
    x[0, 2, 2] = np.nan
    bands = BandGrid([400, 410, 420], valid=[True, False, True])
    assert Scene.from_array(x, Sensor(bands)).mask()[0].tolist() == [True, False, False]


def test_a_single_black_band_is_a_measurement() -> None:
    assert Scene.from_array(np.zeros((2, 2, 1), np.uint8), sensor(1)).mask().all()


@pytest.mark.parametrize("nodata", [70000, -1, 0.5, np.nan])
def test_nodata_outside_the_type_hits_nothing(nodata: float) -> None:
    x = np.array([[[65535, 4464, 1]]], np.uint16)  # 70000 mod 65536 = 4464
    assert Scene.from_array(x, sensor(3), nodata=nodata).mask().all()


def test_nodata_written_as_text_matches_its_float32() -> None:
    x = np.ones((1, 2, 2), np.float32)
    x[0, 1] = -3.4e38
    assert Scene.from_array(x, sensor(2), nodata=-3.4e38).mask()[0].tolist() == [True, False]


def test_values_are_physical_and_honest_about_gaps() -> None:
    x = np.array([[[100, -9999], [5000, 12000]]], np.int16)
    scene = Scene.from_array(x, sensor(2, scale=1e-4, offset=0.1), nodata=-9999, saturation=12000)
    values = scene.values()
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [[[0.11, np.nan], [0.6, np.nan]]], rtol=1e-6)


def test_values_of_large_integers_keep_their_digits() -> None:
    x = np.array([[[2**53 + 2, 3]]], np.int64)
    offset = -float(2**53)
    values = Scene.from_array(x, sensor(2, offset=offset)).values()
    assert values[0, 0, 0] == 2.0


def test_complex_values_have_no_radiometry() -> None:
    scene = Scene.from_array(np.ones((1, 1, 2), np.complex64), sensor(2), nodata=-1.0)
    assert scene.read().dtype == np.complex64 and scene.mask().all()
    with pytest.raises(SpecfmError, match="complex"):
        scene.values()


def test_big_endian_arrays_come_out_native() -> None:
    x = cube().astype(">i2")
    assert Scene.from_array(x, sensor(3)).read().dtype == np.dtype("=i2")


def test_to_xarray() -> None:
    pytest.importorskip("xarray")
    geo = Geo("EPSG:32617", (500000.0, 2.0, 0.0, 4100000.0, 0.0, -2.0))
    scene = Scene.from_array(cube(), sensor(3, quantity="radiance", scale=0.5), name="plot", geo=geo)
    array = scene.to_xarray()
    assert array.dims == ("y", "x", "wavelength") and array.name == "plot"
    np.testing.assert_allclose(array.wavelength, [400, 410, 420])
    np.testing.assert_allclose(array.x[:2], [500001, 500003])
    np.testing.assert_allclose(array.y[:2], [4099999, 4099997])
    assert array.attrs["units"] == "nm" and array.attrs["fwhm"] == [9.0] * 3 and array.attrs["crs"] == "EPSG:32617"
    np.testing.assert_allclose(array.sel(wavelength=410), cube()[:, :, 1] * 0.5)
    assert array.spatial_ref.attrs["GeoTransform"].startswith("500000.0 2.0")
    plain = Scene.from_array(cube(), sensor(3)).to_xarray()
    np.testing.assert_allclose(plain.x, np.arange(5) + 0.5)
