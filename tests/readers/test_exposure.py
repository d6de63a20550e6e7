"""Integration times and saturation as recorders of many makers write them, with their units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.readers import read_scene
from specfm.readers.exposure import integration_time, saturation_level
from specfm.readers.own import save_scene
from tests.calibration.lab import CENTRES_NM, write_envi

WHERE = Path("x.hdr")
CUBE = np.arange(1, 2 * 3 * 6 + 1).reshape(2, 3, 6)


@pytest.mark.parametrize(
    ("key", "text", "milliseconds"),
    [
        ("tint", "8.00", 8.0),  # Specim
        ("shutter", "10.004", 10.004),  # Resonon
        ("integration time", "8 ms", 8.0),
        ("Integration Time (us)", "9000", 9.0),
        ("exposure_time_ms", "12.5", 12.5),
        ("exposure [s]", "0.02", 20.0),
        ("Exposure Time", "2500 microseconds", 2.5),
        ("exposure", "{4 ms}", 4.0),
        ("sensor integration time", "1.5e-3 s", 1.5),
    ],
)
def test_times_with_their_units(key: str, text: str, milliseconds: float) -> None:
    time = integration_time({key: text}, 6, WHERE)
    assert time is not None and time.unit == "ms"
    assert time.value == pytest.approx((milliseconds,))
    assert time.said == f"{key} = {text.strip('{}')}"


def test_a_unit_may_have_a_key_of_its_own_and_is_never_guessed() -> None:
    time = integration_time({"exposure": "900", "exposure units": "us"}, 6, WHERE)
    assert time is not None and (time.value, time.unit) == ((0.9,), "ms")
    silent = integration_time({"exposure": "900"}, 6, WHERE)
    assert silent is not None and (silent.value, silent.unit) == ((900.0,), "the unit of exposure")


def test_one_of_several_times_is_always_the_same() -> None:
    fields = {"exposure": "900", "tint": "8"}
    for order in (fields, dict(reversed(fields.items()))):
        time = integration_time(order, 6, WHERE)
        assert time is not None and time.said == "tint = 8"


@pytest.mark.parametrize("text", ["auto", "0", "-3", "{1, 2}", "", "1e999", "{1, 2, 3, 4, 5, 1e999}"])
def test_what_is_no_time_is_told_and_not_used(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert integration_time({"exposure": text}, 6, WHERE) is None
    assert f"x.hdr: exposure = {text} is no integration time above zero; it is not used" in caplog.text


def test_other_keys_are_no_times(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"fps": "20", "shutter type": "global", "exposure mode": "auto", "tint color": "3", "frame averages": "4"}
    assert integration_time(fields, 6, WHERE) is None and caplog.messages == []


def test_two_detectors() -> None:
    fields = {"tint1": "28.0", "tint2": "8.0", "vimg1": "1, 2", "vimg2": "3, 6"}
    time = integration_time(fields, 6, WHERE)
    assert time is not None and time.value == (28.0, 28.0, 8.0, 8.0, 8.0, 8.0)
    assert time.said == "tint1 = 28.0, tint2 = 8.0"
    assert integration_time({**fields, "vimg1": "{1, 2}"}, 6, WHERE) == time
    assert integration_time({**fields, "vimg2": "4, 6"}, 6, WHERE) is None  # of band 3 nothing is known
    for wrong in ({"vimg1": "{nan, 2}"}, {"vimg1": "1, inf"}, {"tint1": "nan"}, {"tint2": "1e999"}):
        assert integration_time({**fields, **wrong}, 6, WHERE) is None


def test_saturation_from_a_limit_or_from_bits(caplog: pytest.LogCaptureFixture) -> None:
    u2 = np.dtype("u2")
    assert saturation_level({"ceiling": "4095"}, u2, WHERE) == 4095
    assert saturation_level({"Saturation Level": "16000"}, u2, WHERE) == 16000
    assert saturation_level({"bit depth": "14"}, u2, WHERE) == 16383
    assert saturation_level({"bit_depth": "12", "ceiling": "4000"}, u2, WHERE) == 4000
    assert saturation_level({"bit depth": "12"}, np.dtype("f4"), WHERE) is None
    assert saturation_level({}, u2, WHERE) is None and caplog.messages == []
    assert saturation_level({"ceiling": "1e999"}, u2, WHERE) is None
    assert "ceiling = 1e999 cannot be a limit of uint16 counts" in caplog.text
    assert saturation_level({"bit depth": "32"}, u2, WHERE) is None
    assert "bit depth = 32 cannot be a limit of uint16 counts" in caplog.text


def test_envi_headers(tmp_path: Path) -> None:
    scene = read_scene(write_envi(tmp_path / "a.raw", CUBE, "tint = 8.00 ; ms\nbit depth = 12\n"))
    assert scene.integration is not None and scene.integration.value == (8.0,) and scene.saturation == 4095
    scene = read_scene(
        write_envi(tmp_path / "b.raw", CUBE, "description = {\nInterface = x\nIntegration time = 9000\n}\n")
    )
    assert scene.integration is not None and scene.integration.value == (9000.0,)  # HySpex
    scaled = read_scene(write_envi(tmp_path / "c.raw", CUBE, "reflectance scale factor = 10000\nceiling = 10000\n"))
    assert scaled.saturation is None  # no counts any more
    saved = read_scene(save_scene(read_scene(tmp_path / "a.hdr"), tmp_path / "a.h5"))
    assert saved.integration == read_scene(tmp_path / "a.hdr").integration and saved.saturation == 4095


@pytest.mark.parametrize("place", ["cube", "group", "root", "beside"])
def test_hdf5_attributes_and_numbers_beside_the_cube(tmp_path: Path, place: str) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("raw")
        group["cube"] = CUBE.astype(np.uint16)
        group["wavelengths_nm"] = CENTRES_NM
        if place == "beside":
            group["exposure_time"] = 2500.0
            group["exposure_time"].attrs["units"] = "us"
            file.attrs["exposure_time"] = "99 ms"  # farther away
        else:
            item = {"cube": group["cube"], "group": group, "root": file}[place]
            item.attrs["Integration_Time"] = "2.5 ms"
            item.attrs["bit_depth"] = 14
    scene = read_scene(tmp_path / "a.h5")
    assert scene.integration is not None and (scene.integration.value, scene.integration.unit) == ((2.5,), "ms")
    assert scene.saturation == (None if place == "beside" else 16383)


def test_a_header_beside_a_tiff_and_its_tags(tmp_path: Path) -> None:
    import rasterio

    profile = {"driver": "GTiff", "height": 2, "width": 3, "count": 6, "dtype": "uint16", "photometric": "minisblack"}
    for name in ("a", "b"):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as out:
            out.write(CUBE.transpose(2, 0, 1).astype(np.uint16))
            if name == "b":
                out.update_tags(exposure="4 ms")
        write_envi(tmp_path / f"{name}.raw", CUBE, "tint = 8\nceiling = 4095\n").unlink()
    one, two = (read_scene(tmp_path / f"{name}.tif") for name in ("a", "b"))
    assert one.integration is not None and one.integration.value == (8.0,) and one.saturation == 4095
    assert two.integration is not None and two.integration.value == (4.0,)  # the file itself speaks first
