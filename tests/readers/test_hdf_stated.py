"""What HDF5 files state about their numbers, in all spellings: read, or said to be unused in one note."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.scene import Scene

from . import make

CENTRES = np.array(make.centres(6))


def store(folder: Path, cube: np.ndarray, group: dict[str, Any] | None = None, **attrs: Any) -> Path:
    """A cube with attributes (``__`` in a name stands for a blank) in a group with its own."""
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("flight/cube", data=cube)
        for item, said in ((data, attrs), (data.parent, group or {})):
            for name, value in said.items():
                item.attrs[name.replace("__", " ")] = value
        file["flight/wavelength_nm"] = CENTRES
    return path


def small(dtype: str = "i2") -> np.ndarray:
    return np.arange(1, 2 * 3 * 6 + 1).reshape(2, 3, 6).astype(dtype)


def sums(scene: Scene) -> tuple[float, int]:
    """Sum of the physical values that are there, and how many are missing."""
    values = scene.values().astype(np.float64)
    return float(np.nansum(values)), int(np.isnan(values).sum())


@pytest.mark.parametrize(
    ("attrs", "scale"),
    [
        ({"scale_factor": 0.5}, 0.5),
        ({"scale_factor": 4.0}, 4.0),
        ({"Scale__Factor": 10000}, 1e-4),
        ({"Scale_Factor": np.array([10000.0])}, 1e-4),
        ({"ScaleFactor": "0.01"}, 0.01),
        ({"reflectance__scale__factor": 100}, 0.01),
        ({"SCALE": b"1e-4"}, 1e-4),
        ({"Scale": np.array([250], "i4")}, 1 / 250),
    ],
)
def test_spellings_of_scale(tmp_path: Path, attrs: dict[str, Any], scale: float) -> None:
    sensor = read_scene(store(tmp_path, small(), **attrs)).sensor
    assert sensor.scale == pytest.approx(scale, rel=1e-12) and sensor.offset == 0
    of_group = {name: value for name, value in attrs.items() if name.lower() != "scale"}
    if of_group:
        assert read_scene(store(tmp_path, small(), of_group)).sensor.scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("name", ["add_offset", "Add__Offset", "AddOffset", "offset"])
def test_spellings_of_offset(tmp_path: Path, name: str) -> None:
    scene = read_scene(store(tmp_path, small(), scale_factor=0.5, **{name: -2.0}))
    assert (scene.sensor.scale, scene.sensor.offset) == (0.5, -2.0)


@pytest.mark.parametrize(
    "name", ["_FillValue", "missing_value", "data__ignore__value", "Data_Ignore_Value", "NoData", "no_data_value"]
)
@pytest.mark.parametrize("value", [7, 7.0, "7", np.array([7, 7, 7, 7, 7, 7])])
def test_spellings_of_nodata(tmp_path: Path, name: str, value: Any) -> None:
    scene = read_scene(store(tmp_path, small(), **{name: value}))
    assert scene.nodata == 7 and sums(scene)[1] == 1


def test_what_lies_on_the_cube_wins_over_its_group(tmp_path: Path) -> None:
    scene = read_scene(store(tmp_path, small(), {"scale_factor": 3.0, "_FillValue": 5}, scale_factor=2.0))
    assert (scene.sensor.scale, scene.nodata) == (2.0, 5.0)


def test_numbers_stored_beside_the_cube(tmp_path: Path) -> None:
    path = store(tmp_path, small())
    with h5py.File(path, "r+") as file:
        file["flight/Scale Factor"] = np.arange(1, 7) * 1000.0
        file["flight/Data Ignore Value"] = -9999
    scene = read_scene(path)
    assert sums(scene)[0] == pytest.approx((small() / (np.arange(1, 7) * 1000.0)).sum(), rel=1e-6)


def test_several_fills(tmp_path: Path) -> None:
    """Each is nodata; the stored type stays; the scene crosses processes."""
    path = store(tmp_path, small(), _FillValue=np.int16(1), missing_value=np.array([2, 9], "i2"), nodata=36)
    scene = pickle.loads(pickle.dumps(read_scene(path)))
    assert scene.nodata == 1 and scene.dtype == np.int16 and sums(scene) == (36 * 37 / 2 - 1 - 2 - 9 - 36, 4)
    assert scene.read(bands=[1])[0, 0, 0] == 1 and scene.mask().sum() == 3
    told = read_scene(path, nodata=5)
    assert told.nodata == 5 and sums(told)[1] == 1, "the user's nodata wins over all of them"
    both = read_scene(store(tmp_path, small("f4"), _FillValue=np.nan, missing_value=np.float32(3)))
    assert sums(both)[1] == 1
    calibrated = read_scene(store(tmp_path, small(), _FillValue=1, missing_value=2, scale_factor=np.arange(1, 7.0)))
    assert sums(calibrated)[1] == 2


@pytest.mark.parametrize(
    ("attrs", "missing"),
    [
        ({"valid_range": np.array([3, 30], "i2")}, 8),
        ({"valid_min": np.int16(3)}, 2),
        ({"valid_max": np.int16(30)}, 6),
        ({"valid_min": 3, "valid_max": 30, "_FillValue": -1}, 8),
        ({"valid_range": np.array([0.3, 3.0]), "scale_factor": 0.1}, 8),
        ({"valid_max": 3.0, "scale_factor": 0.1, "add_offset": -0.6}, 0),
    ],
)
def test_valid_range(tmp_path: Path, attrs: dict[str, Any], missing: int) -> None:
    """In stored units, or in physical ones where a fraction is said of packed integers."""
    assert sums(read_scene(store(tmp_path, small(), **attrs)))[1] == missing
    if "scale_factor" not in attrs:
        assert sums(read_scene(store(tmp_path, small("f4"), **attrs)))[1] == missing


def test_what_counts_as_nodata_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read_scene(store(tmp_path, small(), valid_max=np.int16(30), _FillValue=1, missing_value=2))
    assert "stored values above 30 count as nodata (valid_max)" in caplog.text
    assert "several values count as nodata: 1, 2" in caplog.text


def test_unsigned_packed_in_signed(tmp_path: Path) -> None:
    cube = np.array([[[1, 40000, 65535, 2, 3, 60000]]], "u2")
    attrs = {"_Unsigned": "true", "_FillValue": np.int16(-1), "scale_factor": 0.01, "add_offset": 1.0}
    scene = read_scene(store(tmp_path, cube.view("i2"), **attrs))
    assert scene.dtype == np.uint16 and scene.nodata == 65535
    np.testing.assert_array_equal(scene.read(), cube)
    np.testing.assert_allclose(scene.values()[0, 0], [1.01, 401, np.nan, 1.02, 1.03, 601], rtol=1e-6)
    np.testing.assert_array_equal(scene.read(bands=[5, 1])[0, 0], [60000, 40000])
    ranged = attrs | {"valid_range": np.array([0, -5], "i2"), "scale_factor": 1.0, "add_offset": 0.0}
    assert sums(read_scene(store(tmp_path, cube.view("i2"), **ranged))) == (1 + 40000 + 2 + 3 + 60000, 1)
    signed = read_scene(store(tmp_path, np.full((1, 1, 6), 255, "u1"), _Unsigned="false"))
    assert signed.dtype == np.int8 and (signed.read() == -1).all()


def test_a_negative_factor_is_applied(tmp_path: Path) -> None:
    scene = read_scene(store(tmp_path, small(), scale_factor=-1.0, add_offset=100.0))
    assert sums(scene) == (36 * 100 - 36 * 37 / 2, 0)


def test_what_is_not_used_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = store(tmp_path, small(), scale_factor=0.5, Scale=9.0, gain_setting=3, saturation_value=4000, unit="W")
    with h5py.File(path, "r+") as file:
        file["flight/nodata_pixels"] = np.zeros((2, 3), "u1")
    read_scene(path)
    notes = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(notes) == 1
    for said in ("Scale = 9.0", "gain_setting = 3", "saturation_value = 4000", "nodata_pixels"):
        assert said in notes[0]
    assert "unit" not in notes[0] and "scale_factor" not in notes[0]


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"scale_factor": "a lot"}, "scale_factor = a lot; a number is needed"),
        ({"Scale__Factor": 0}, "Scale Factor = 0; a finite number other than zero"),
        ({"scale_factor": np.nan}, "scale_factor = nan; a finite number"),
        ({"add_offset": np.ones(5)}, r"add_offset = 1.0, .*\(5 values\); one value, or one for each of 6 bands"),
        ({"_FillValue": [1, 2]}, "_FillValue = 1, 2; one value is needed"),
        ({"valid_range": 3}, "valid_range = 3; two values are needed"),
        ({"valid_range": [3, 1]}, "valid_range = 3, 1; the lower end must come first"),
        ({"_Unsigned": "maybe"}, "_Unsigned = maybe; true or false is needed"),
        ({"data__ignore__value": "none"}, "data ignore value = none; a number is needed"),
    ],
)
def test_wrong_attributes_end_in_a_sentence(tmp_path: Path, attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecfmError, match=f"a.h5: /flight/cube says {message}"):
        read_scene(store(tmp_path, small(), **attrs))


def odd_types(item: Any) -> None:
    """Attributes of types that NumPy has none for: a time and a bit field."""
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5a.create(item.id, b"taken_at", h5py.h5t.UNIX_D32LE, space)
    h5py.h5a.create(item.id, b"flags", h5py.h5t.STD_B8LE, space)


def test_attributes_and_arrays_of_odd_types_are_passed_over(tmp_path: Path) -> None:
    path = store(tmp_path, small(), {"Integration_Time": "2 ms"})
    with h5py.File(path, "r+") as file:
        for item in (file, file["flight"], file["flight/cube"], file["flight/wavelength_nm"]):
            odd_types(item)
        for name, shape in (("time", (1,)), ("times", (2, 3, 6))):
            h5py.h5d.create(file["flight"].id, name.encode(), h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple(shape))
        file["flight"].create_dataset("nothing", data=h5py.Empty("f4"))
        file["flight/gone"] = h5py.SoftLink("/nowhere")
    scene = read_scene(path)
    assert scene.integration is not None and scene.integration.value == (2.0,)
    np.testing.assert_array_equal(scene.read(), small())


def test_a_saturation_that_is_used_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_scene(store(tmp_path, small("u2"), saturation_value=30)).saturation == 30
    assert "not used" not in caplog.text
    scaled = read_scene(store(tmp_path, small("u2"), saturation_value=30, scale_factor=0.1))
    assert scaled.saturation is None and "not used: saturation_value = 30" in caplog.text
