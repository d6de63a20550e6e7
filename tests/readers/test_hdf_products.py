"""HDF5 products as strangers have them, rebuilt small: NEON of all years, Tanager, PACE OCI, AVIRIS-3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.scene import Geo

from . import make

CENTRES = np.array(make.centres(6))


def test_neon_of_2013(tmp_path: Path) -> None:
    cube = make.cube((4, 3, 6), "u2") >> 3
    cube[0] = 15000
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("Reflectance", data=cube.astype("i2").transpose(2, 0, 1))
        data.attrs["Scale Factor"], data.attrs["data ignore value"] = 10000, "15000.0"
        file.create_dataset("wavelength", data=CENTRES[None] / 1000).attrs["Units"] = "micrometers"
        file["fwhm"] = np.full((1, 6), 0.0055)
        file["map info"] = np.bytes_("UTM,1,1,325963.0,4103482.0,1.0,1.0,11,North,WGS-84,units=Meters")
    scene = read_scene(path)
    assert scene.sensor.scale == 1e-4 and scene.nodata == 15000
    assert scene.mask().sum() == (cube != 15000).all(axis=2).sum()
    np.testing.assert_array_equal(scene.read(), cube)
    np.testing.assert_allclose(scene.sensor.bands.fwhm_nm, 5.5)
    assert scene.geo == Geo("EPSG:32611", (325963.0, 1.0, 0.0, 4103482.0, 0.0, -1.0)) and scene.sensor.gsd_m == 1


@pytest.mark.parametrize("where", ["cube", "root"])
def test_place_as_an_attribute(tmp_path: Path, where: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("flight/cube", data=make.cube())
        (data if where == "cube" else file).attrs["Map_Info"] = (
            "{UTM, 1, 1, 10, 20, 2, 2, 33, South, WGS-84, units=Meters}"
        )
        file["flight/wavelength_nm"] = CENTRES
    assert read_scene(path).geo == Geo("EPSG:32733", (10.0, 2.0, 0.0, 20.0, 0.0, -2.0))


def neon_radiance(
    path: Path, radiance: np.ndarray, sites: tuple[str, ...] = ("SJER",), one: float | None = 1e4
) -> Path:
    with h5py.File(path, "w") as file:
        for number, site in enumerate(sites):
            group = file.create_group(f"{site}/Radiance")
            stored = radiance + number
            group["RadianceIntegerPart"] = np.floor(stored).astype("u2")
            group["RadianceDecimalPart"] = np.round((stored % 1) * (one or 1e4)).astype("u2")
            if one:
                group["RadianceDecimalPart"].attrs["Scale_Factor"] = one
            for part in ("Integer", "Decimal"):
                group[f"Radiance{part}Part"].attrs["Data_Ignore_Value"] = 65535
            group["Metadata/Spectral_Data/Wavelength"] = CENTRES
            group["Metadata/Spectral_Data/Wavelength"].attrs["Units"] = "nanometers"
    return path


@pytest.mark.parametrize("one", [10000.0, 50000.0])
def test_neon_radiance_is_the_sum_of_its_parts(tmp_path: Path, one: float) -> None:
    radiance = np.random.default_rng(0).uniform(0, 9, (4, 5, 6))
    path = neon_radiance(tmp_path / "rad.h5", radiance, one=one)
    with h5py.File(path, "r+") as file:
        for part in ("Integer", "Decimal"):
            file[f"SJER/Radiance/Radiance{part}Part"][0, 0] = 65535
    scene = read_scene(path)
    assert (scene.sensor.quantity, scene.sensor.level, scene.sensor.scale) == ("radiance", "L1", 1.0)
    assert np.isnan(scene.values()[0, 0]).all() and scene.mask().sum() == 19
    np.testing.assert_allclose(scene.values()[1:], radiance[1:], atol=1.1 / one)
    np.testing.assert_allclose(scene.read(slice(2, 4), bands=[4, 0]), radiance[2:4][:, :, [4, 0]], atol=1.1 / one)
    np.testing.assert_array_equal(read_scene(path, variable="SJER/Radiance").read(), scene.read())
    for part in ("Integer", "Decimal"):
        with pytest.raises(SpecfmError, match="one part of NEON's radiance.* --variable SJER/Radiance,"):
            read_scene(path, variable=f"SJER/Radiance/Radiance{part}Part")


def test_neon_radiance_of_two_sites_and_without_its_divisor(tmp_path: Path) -> None:
    radiance = np.random.default_rng(0).uniform(0, 9, (4, 5, 6))
    path = neon_radiance(tmp_path / "two.h5", radiance, ("ABBY", "SJER"))
    with pytest.raises(SpecfmError, match="--variable: ABBY/Radiance, SJER/Radiance"):
        read_scene(path)
    np.testing.assert_allclose(read_scene(path, variable="SJER").values(), radiance + 1, atol=2e-4)
    with pytest.raises(SpecfmError, match="RadianceDecimalPart does not say its Scale_Factor"):
        read_scene(neon_radiance(tmp_path / "no.h5", radiance, one=None))


def test_neon_sites_are_chosen_by_name(tmp_path: Path) -> None:
    cubes = {"ABBY": make.cube(seed=1), "SJER": make.cube(seed=2)}
    path = tmp_path / "two.h5"
    with h5py.File(path, "w") as file:
        for site, cube in cubes.items():
            data = file.create_dataset(f"{site}/Reflectance/Reflectance_Data", data=cube)
            data.attrs["Scale_Factor"], data.attrs["Data_Ignore_Value"] = 10000.0, -9999.0
            file[f"{site}/Reflectance/Metadata/Spectral_Data/Wavelength"] = CENTRES
    with pytest.raises(SpecfmError, match="--variable: ABBY, SJER"):
        read_scene(path)
    scene = read_scene(path, variable="SJER")
    np.testing.assert_array_equal(scene.read(), cubes["SJER"])
    assert (scene.sensor.scale, scene.sensor.quantity, scene.nodata) == (1e-4, "surface_reflectance", -9999)


def tanager(
    path: Path, cube: np.ndarray, place: str = "HDFEOS/SWATHS/HYP/Data Fields/toa_radiance", **lists: Any
) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_dataset(place, data=cube.transpose(2, 0, 1))
        data.attrs.update(lists)
        data.attrs["_FillValue"] = np.float32(-9999)
    return path


LISTS = {"wavelengths": CENTRES, "fwhm": np.full(6, 5.5, "f4"), "good_wavelengths": np.array([1, 1, 0, 1, 1, 1], "f4")}


@pytest.mark.parametrize("shape", [(5, 7, 6), (5, 6, 6), (6, 6, 6)])
def test_tanager(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    cube = make.cube(shape, "f4")
    scene = read_scene(tanager(tmp_path / "t.h5", cube, **LISTS))
    np.testing.assert_array_equal(scene.read(), cube)
    bands = scene.sensor.bands
    assert bands.wavelengths_nm.tolist() == CENTRES.tolist() and bands.fwhm_nm[0] == 5.5 and scene.nodata == -9999
    assert bands.valid.tolist() == [True, True, False, True, True, True]
    assert (scene.sensor.quantity, scene.sensor.name) == ("radiance", "Tanager")


def test_tanager_without_lists_names_the_layout(tmp_path: Path) -> None:
    cube, bands = make.cube(dtype="f4"), make.bands_csv(tmp_path, 6)
    path = tanager(tmp_path / "t.h5", cube)
    with pytest.raises(SpecfmError, match="--layout CHW"):
        read_scene(path, wavelengths=bands)
    np.testing.assert_array_equal(read_scene(path, wavelengths=bands, layout="CHW").read(), cube)


def test_lists_as_attributes_of_any_cube_and_group(tmp_path: Path) -> None:
    cube = make.cube(dtype="f4")
    path = tanager(tmp_path / "a.h5", cube, "flight/cube", **LISTS)
    with pytest.raises(SpecfmError, match="units are never guessed"):
        read_scene(path)
    np.testing.assert_array_equal(read_scene(path, units="nm").read(), cube)
    with h5py.File(path, "r+") as file:
        file["flight/cube"].attrs["Wavelength_Units"] = "Micrometers"
        file["flight/cube"].attrs["wavelengths"] = CENTRES / 1000
        file["flight/cube"].attrs["fwhm"] = np.full(6, 0.0055)
    bands = read_scene(path).sensor.bands
    np.testing.assert_allclose(bands.wavelengths_nm, CENTRES)
    np.testing.assert_allclose(bands.fwhm_nm, 5.5)
    path = tanager(tmp_path / "b.h5", cube, "flight/cube")
    with h5py.File(path, "r+") as file:
        file["flight"].attrs["Center_Wavelengths_nm"] = CENTRES
    np.testing.assert_array_equal(read_scene(path).read(), cube)


@pytest.mark.parametrize(
    "text", ["{400, 410, 420, 430, 440, 450}", "400.0 410.0 420.0 430.0 440.0 450.0", [f"{c}" for c in CENTRES]]
)
def test_a_list_as_text(tmp_path: Path, text: Any) -> None:
    cube = make.cube(dtype="f4")
    path = tanager(tmp_path / "a.h5", cube, "flight/cube", Wavelengths=text, **{"wavelength units": "nm"})
    scene = read_scene(path)
    np.testing.assert_array_equal(scene.read(), cube)
    assert scene.sensor.bands.wavelengths_nm.tolist() == CENTRES.tolist()


def pace(path: Path, blue: np.ndarray, red: np.ndarray, names: tuple[str, ...] = ("blue", "red")) -> Path:
    with h5py.File(path, "w") as file:
        for name, cube, first in zip(names, (blue, red), (315, 600), strict=True):
            file[f"observation_data/rhot_{name}"] = cube.transpose(2, 0, 1)
            centres = first + 5.0 * np.arange(cube.shape[2])
            file.create_dataset(f"sensor_band_parameters/{name}_wavelength", data=centres).attrs["units"] = "nm"
    return path


@pytest.mark.parametrize("counts", [(8, 9), (8, 8), (8, 5)])  # 5 red bands are as many as rows
def test_pace_lists_belong_to_the_cube_of_their_name(tmp_path: Path, counts: tuple[int, int]) -> None:
    cubes = [make.cube((5, 7, count), "f4", seed=count) for count in counts]
    path = pace(tmp_path / "pace.nc", *cubes)
    with pytest.raises(SpecfmError, match="--variable: observation_data/rhot_blue 8x5x7, observation_data/rhot_red"):
        read_scene(path)
    for name, cube, first in (("blue", cubes[0], 315), ("red", cubes[1], 600)):
        if cube.shape[2] == cube.shape[0]:
            continue
        scene = read_scene(path, variable=f"observation_data/rhot_{name}")
        np.testing.assert_array_equal(scene.read(), cube)
        assert scene.sensor.bands.wavelengths_nm[0] == first


def test_a_list_of_another_cube_is_not_taken(tmp_path: Path) -> None:
    path = pace(tmp_path / "pace.nc", make.cube((5, 7, 6), "f4"), make.cube((5, 7, 6), "f4"))
    with h5py.File(path, "r+") as file:
        del file["sensor_band_parameters/blue_wavelength"]
    with pytest.raises(SpecfmError, match="no wavelengths in this file"):
        read_scene(path, variable="observation_data/rhot_blue")


def test_lists_that_nothing_tells_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["cube"] = make.cube()
        for name in ("one", "two"):
            file[f"{name}/wavelength_nm"] = CENTRES + (name == "two")
    with pytest.raises(SpecfmError, match=r"one/wavelength_nm \(6 values\), two/wavelength_nm .*--wavelengths"):
        read_scene(path)
    told = read_scene(path, wavelengths=make.bands_csv(tmp_path, 6))
    assert told.sensor.bands.wavelengths_nm.tolist() == CENTRES.tolist()


def test_a_list_of_another_length_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["cube"], file["info/band_wavelengths"] = make.cube(), np.arange(400.0, 480.0, 10)
    with pytest.raises(SpecfmError, match=r"info/band_wavelengths \(8 values\) .*/cube 5x7x6.*--wavelengths"):
        read_scene(path)
    assert read_scene(path, wavelengths=make.bands_csv(tmp_path, 6)).shape == (5, 7, 6)


def test_aviris_3(tmp_path: Path) -> None:
    cube = make.cube(dtype="f4")
    with h5py.File(tmp_path / "av3.nc", "w") as file:
        file.create_dataset("reflectance/reflectance", data=cube.transpose(2, 0, 1)).attrs["_FillValue"] = -9999.0
        for name, values in (("wavelength", CENTRES), ("fwhm", np.full(6, 8.0))):
            file.create_dataset(f"reflectance/{name}", data=values).attrs["units"] = "nm"
    scene = read_scene(tmp_path / "av3.nc")
    np.testing.assert_array_equal(scene.read(), cube)
    assert scene.nodata == -9999 and scene.sensor.bands.fwhm_nm.tolist() == [8.0] * 6 and scene.geo is None


def test_a_packed_netcdf_product_with_dimensions(tmp_path: Path) -> None:
    """As PACE's L2: packed numbers, a list of the axis and one of all bands, and dimensions that hold no numbers."""
    stored = np.arange(4 * 6 * 6).reshape(4, 6, 6).astype("i2")
    path = tmp_path / "l2.nc"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("geophysical_data/Rrs", data=stored)
        data.attrs.update({"scale_factor": np.float32(2e-6), "add_offset": np.float32(0.05)})
        data.attrs.update({"_FillValue": np.int16(-32767), "valid_min": np.int16(10), "valid_max": np.int16(25000)})
        file["sensor_band_parameters/wavelength"] = np.arange(300.0, 390.0, 10)
        file.create_dataset("sensor_band_parameters/wavelength_3d", data=CENTRES).attrs["units"] = "nm"
        for axis, name in enumerate(("number_of_lines", "pixels_per_line", "wavelength")):
            scale = file.create_dataset(name, data=np.zeros(stored.shape[axis], "f4"))
            scale.make_scale("This is a netCDF dimension but not a netCDF variable.   6")
            data.dims[axis].attach_scale(scale)
    scene = read_scene(path)
    assert scene.sensor.bands.wavelengths_nm.tolist() == CENTRES.tolist() and scene.nodata == -32767
    values = scene.values()
    assert np.isnan(values).sum() == 10 and values[3, 5, 5] == pytest.approx(0.05 + 143 * 2e-6, abs=1e-8)
