"""HDF5 and NetCDF: missions' layouts (faked small), the own layout, and files nobody described."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from specfm import BandGrid, Scene, Sensor
from specfm.errors import SpecfmError, UsageError
from specfm.readers import read_scene
from specfm.readers.own import save_scene
from specfm.scene import Geo

from . import make

CENTRES = np.array(make.centres(6))
WINDOW = (slice(0, 5, 2), slice(1, 4), [4, 0, 1, 1])


def check_reads(scene: Scene, cube: np.ndarray) -> None:
    rows, cols, bands = WINDOW
    np.testing.assert_array_equal(scene.read(), cube)
    np.testing.assert_array_equal(scene.read(*WINDOW), cube[rows, cols][:, :, bands])


def test_neon(tmp_path: Path) -> None:
    cube = make.cube()
    with h5py.File(tmp_path / "neon.h5", "w") as file:
        group = file.create_group("SERC/Reflectance")
        data = group.create_dataset("Reflectance_Data", data=cube)
        data.attrs["Scale_Factor"], data.attrs["Data_Ignore_Value"] = 10000.0, -9999.0
        spectral = group.create_group("Metadata/Spectral_Data")
        spectral["Wavelength"], spectral["FWHM"] = CENTRES, np.full(6, 5.5)
        group.attrs["Band_Window_1_Nanometers"] = [415, 425]
        place = group.create_group("Metadata/Coordinate_System")
        place["EPSG Code"] = b"32618"
        place["Map_Info"] = b"UTM,1.000,1.000,368000.0,4307000.0,1.0,1.0,18,North,WGS-84,units=Meters, 0"
    scene = read_scene(tmp_path / "neon.h5")
    check_reads(scene, cube)
    sensor = scene.sensor
    assert sensor.scale == 1e-4 and scene.nodata == -9999 and sensor.quantity == "surface_reflectance"
    assert sensor.bands.valid.tolist() == [True, True, False, True, True, True] and sensor.bands.fwhm_nm[0] == 5.5
    assert scene.geo == Geo("EPSG:32618", (368000.0, 1.0, 0.0, 4307000.0, 0.0, -1.0)) and sensor.gsd_m == 1.0
    with h5py.File(tmp_path / "neon.h5", "r+") as file:
        place = file["SERC/Reflectance/Metadata/Coordinate_System"]
        del place["Map_Info"], place["EPSG Code"]
        place["Map_Info"] = b"UTM, 11, 21, 256521, 4112571, 1, 1, 11, North, WGS-84, units=Meters, 0"
    tied = read_scene(tmp_path / "neon.h5").geo
    assert tied == Geo("EPSG:32611", (256511.0, 1.0, 0.0, 4112591.0, 0.0, -1.0))


def prisma(path: Path, vnir_HWC: np.ndarray, swir_HWC: np.ndarray, level: str = "L2D", **attrs: object) -> Path:
    with h5py.File(path, "w") as file:
        fields = file.create_group(f"HDFEOS/SWATHS/PRS_{level}_HCO/Data Fields")
        for name, cube in (("VNIR_Cube", vnir_HWC), ("SWIR_Cube", swir_HWC)):
            fields[name] = cube.transpose(0, 2, 1)
        lists = {"Vnir": [0.0, 900.0, 500.0], "Swir": [2400.0, 950.0]}
        for detector, centres in lists.items():
            file.attrs[f"List_Cw_{detector}"] = np.array(centres, np.float32)
            file.attrs[f"List_Fwhm_{detector}"] = np.where(np.array(centres) > 0, 11.0, 0.0)
            file.attrs[f"List_Cw_{detector}_Flags"] = (np.array(centres) > 0).astype(np.uint8)
        file.attrs.update(attrs)
    return path


def test_prisma(tmp_path: Path) -> None:
    vnir, swir = make.cube((4, 5, 3), "u2", 1), make.cube((4, 5, 2), "u2", 2)
    scales = {"L2ScaleVnirMin": 0.0, "L2ScaleVnirMax": 0.5, "L2ScaleSwirMin": 0.1, "L2ScaleSwirMax": 0.9}
    scene = read_scene(prisma(tmp_path / "p.he5", vnir, swir, **scales))
    bands = scene.sensor.bands
    assert bands.valid.tolist() == [False, True, True, True, True]
    np.testing.assert_allclose(bands.wavelengths_nm[1:], [900, 500, 2400, 950])
    expected = np.concatenate([vnir / 65535 * 0.5, 0.1 + swir / 65535 * 0.8], axis=2)
    np.testing.assert_allclose(scene.values(), expected, rtol=1e-6)
    np.testing.assert_allclose(scene.read(slice(1, 3), bands=[3, 1]), expected[1:3][:, :, [3, 1]], rtol=1e-6)
    same = {key: (0.0 if key.endswith("Min") else 0.5) for key in scales}
    stored = read_scene(prisma(tmp_path / "q.he5", vnir, swir, **same))
    assert stored.dtype == np.uint16 and stored.sensor.scale == pytest.approx(0.5 / 65535)
    np.testing.assert_array_equal(stored.read(), np.concatenate([vnir, swir], axis=2))


@pytest.mark.parametrize(("lower_right", "shift"), [(None, 0.0), (300000.0 + 150.0, 0.0), (300000.0 + 120.0, 15.0)])
def test_prisma_has_a_place_and_fill(tmp_path: Path, lower_right: float | None, shift: float) -> None:
    """Corners are edges of the image (5 pixels of 30 m) or centres of its corner pixels (4 pixels apart)."""
    vnir, swir = make.cube((4, 5, 3), "u2", 1) | 1, make.cube((4, 5, 2), "u2", 2) | 1
    vnir[0, 0], swir[0, 0] = 0, 0
    vnir[1, 1] = 0  # dark in one detector only: measured
    attrs = {"Epsg_Code": 32633, "Product_ULcorner_easting": 300000.0, "Product_ULcorner_northing": 5000000.0}
    attrs |= {} if lower_right is None else {"Product_LRcorner_easting": lower_right}
    scales = {"L2ScaleVnirMin": 0.01, "L2ScaleVnirMax": 0.5, "L2ScaleSwirMin": 0.1, "L2ScaleSwirMax": 0.9}
    scene = read_scene(prisma(tmp_path / "p.he5", vnir, swir, **scales, **attrs))
    corner = (300000.0 - shift, 30.0, 0.0, 5000000.0 + shift, 0.0, -30.0)
    assert scene.geo == Geo("EPSG:32633", corner) and scene.sensor.gsd_m == 30
    assert not scene.mask()[0, 0] and scene.mask().sum() == 19
    one_band = scene.values(bands=[1])[..., 0]
    assert np.isnan(one_band[0, 0]) and one_band[1, 1] == pytest.approx(0.01)
    one = dict.fromkeys(scales, 0.5) | {"L2ScaleVnirMin": 0.01, "L2ScaleSwirMin": 0.01}
    assert not read_scene(prisma(tmp_path / "q.he5", vnir, swir, **one, **attrs)).mask()[0, 0]


def test_prisma_radiance_and_missing_parts(tmp_path: Path) -> None:
    vnir, swir = make.cube((4, 5, 3), "u2", 1), make.cube((4, 5, 2), "u2", 2)
    scales = {"ScaleFactor_Vnir": 100.0, "ScaleFactor_Swir": 100.0, "Offset_Vnir": 1.0, "Offset_Swir": 1.0}
    path = prisma(tmp_path / "p.he5", vnir, swir, level="L1", **scales)
    scene = read_scene(path)
    assert scene.sensor.quantity == "radiance" and scene.sensor.level == "L1"
    np.testing.assert_allclose(scene.values(bands=[1]), vnir[:, :, [1]] / 100 - 1, rtol=1e-5)
    with h5py.File(path, "r+") as file:
        del file["HDFEOS/SWATHS/PRS_L1_HCO/Data Fields/SWIR_Cube"]
    with pytest.raises(SpecfmError, match="no SWIR_Cube"):
        read_scene(path)


@pytest.mark.parametrize(("name", "level"), [("reflectance", "L2"), ("radiance", "L1")])
def test_emit(tmp_path: Path, name: str, level: str) -> None:
    cube = make.cube(dtype="f4")
    with h5py.File(tmp_path / "emit.nc", "w") as file:
        file.create_dataset(name, data=cube, chunks=(2, 3, 6)).attrs["_FillValue"] = np.float32(-9999)
        file["sensor_band_parameters/wavelengths"] = CENTRES
        file["sensor_band_parameters/fwhm"] = np.full(6, 8.4)
        file["sensor_band_parameters/good_wavelengths"] = np.array([1, 1, 0, 1, 1, 1], np.uint8)
        file["location/glt_x"] = np.zeros((9, 9), np.int32)
    scene = read_scene(tmp_path / "emit.nc")
    check_reads(scene, cube)
    assert scene.sensor.level == level and scene.nodata == -9999 and scene.geo is None
    assert not scene.sensor.bands.valid[2] and scene.sensor.bands.fwhm_nm[3] == 8.4


@pytest.mark.parametrize("order", ["HWC", "CHW", "HCW"])
def test_a_file_nobody_described(tmp_path: Path, order: str) -> None:
    cube = make.cube()
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("group/cube", data=cube.transpose(["HWC".index(axis) for axis in order]))
        data.attrs["scale_factor"], data.attrs["_FillValue"] = 0.5, -1
        file["group/wavelength"] = CENTRES / 1000
        file["group/wavelength"].attrs["units"] = "um"
        file["group/fwhm"] = np.full(6, 8.0)
        file["group/fwhm"].attrs["units"] = "nm"
    scene = read_scene(path)
    check_reads(scene, cube)
    np.testing.assert_allclose(scene.sensor.bands.wavelengths_nm, CENTRES)
    np.testing.assert_allclose(scene.sensor.bands.fwhm_nm, 8.0)
    assert scene.sensor.scale == 0.5 and scene.nodata == -1


def test_scale_factors_per_band(tmp_path: Path) -> None:
    cube = make.cube()
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("cube", data=cube.transpose(2, 0, 1))
        data.attrs["scale_factor"], data.attrs["add_offset"] = np.arange(1, 7) / 10, [1.0]
        file["wavelength_nm"] = CENTRES
    expected = cube * (np.arange(1, 7) / 10) + 1
    np.testing.assert_allclose(read_scene(path, layout="CHW").values(), expected, rtol=1e-5)
    np.testing.assert_allclose(read_scene(path, scale=2.0).values(), cube * 2.0 + 1, rtol=1e-5)
    for wrong, message in ((np.ones(4), "one for each of 6 bands"), (["a"], "a number is needed")):
        with h5py.File(path, "r+") as file:
            file["cube"].attrs["scale_factor"] = wrong
        with pytest.raises(SpecfmError, match=f"a.h5: /cube says scale_factor = .*{message}"):
            read_scene(path)
    with h5py.File(path, "r+") as file:
        del file["cube"].attrs["scale_factor"]
        file["cube"].attrs["_FillValue"] = [1, 2]
    with pytest.raises(SpecfmError, match="_FillValue = 1, 2; one value is needed"):
        read_scene(path)


def test_what_cannot_be_told_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["cube"] = make.cube((6, 4, 6))
        file["wavelength"] = CENTRES
    with pytest.raises(SpecfmError, match="--layout HWC or --layout CHW"):
        read_scene(path)
    with pytest.raises(SpecfmError, match="units are never guessed"):
        read_scene(path, layout="CHW")
    assert read_scene(path, layout="CHW", units="nm").shape == (4, 6, 6)
    with h5py.File(path, "r+") as file:
        file["other"] = make.cube((3, 3, 6))
    with pytest.raises(SpecfmError, match=r"--variable: cube 6x4x6, other 3x3x6"):
        read_scene(path)
    assert read_scene(path, variable="other", units="nm").shape == (3, 3, 6)
    with pytest.raises(SpecfmError, match="no cube 'nothing'"):
        read_scene(path, variable="nothing")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["image"] = np.zeros((4, 4))
    with pytest.raises(SpecfmError, match="no array with three axes"):
        read_scene(tmp_path / "b.h5")


def test_little_is_read_for_little(tmp_path: Path) -> None:
    """Bytes asked of the system while nine bands and a window are read from a 50 MB contiguous cube."""
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("needs /proc/self/io to count bytes")

    def bytes_read() -> int:
        return int(counter.read_text().split("rchar: ")[1].split()[0])

    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("cube", (100, 500, 500), np.int16)[0] = 1
        file["wavelength_nm"] = 400.0 + np.arange(100)
    scene = read_scene(path)
    before = bytes_read()
    scene.read(slice(100, 110), slice(100, 110))
    scene.read(bands=np.arange(0, 90, 10))
    nine_bands, sieve_buffers = 9 * 500 * 500 * 2, 100 * 65536  # HDF5 fetches 64 KiB around each small piece
    assert bytes_read() - before < nine_bands + sieve_buffers + 1_000_000 < 50_000_000 / 4


def full_scene(cube: np.ndarray) -> Scene:
    sensor = Sensor(BandGrid(CENTRES, valid=[1, 1, 0, 1, 1, 1]), quantity="radiance", scale=0.5, gsd_m=2.0, name="x")
    return Scene.from_array(
        cube, sensor, name="plot", nodata=float("nan"), saturation=4000.0, group="g", domain="lab",
        labels_HW=np.arange(35).reshape(5, 7) % 3 - 1, label_names=("a", "b"), groups_HW=np.ones((5, 7)),
        geo=Geo("EPSG:4326", (1.0, 2.0, 0.0, 3.0, 0.0, -2.0)),
    )  # fmt: skip


@pytest.mark.parametrize("neighbours", [True, False])
def test_own_layout_knows_lists_of_spectra(tmp_path: Path, neighbours: bool) -> None:
    path = save_scene(full_scene(make.cube()).replace(neighbours=neighbours), tmp_path / "own.h5")
    assert read_scene(path).neighbours == neighbours
    with h5py.File(path, "r+") as file:  # files of format 1 do not say it, and keep what they say in an attribute
        text = file["description"][()].tobytes().decode()
        file.attrs["json"] = text.replace(f'"neighbours": {str(neighbours).lower()}, ', "")
        assert "neighbours" not in file.attrs["json"]
        file.attrs["specfm_scene"] = 1
        del file["description"]
    assert read_scene(path).neighbours


def test_own_layout_gives_everything_back(tmp_path: Path) -> None:
    scene = full_scene(make.cube())
    path = save_scene(scene, tmp_path / "own.h5")
    back = read_scene(path)
    check_reads(back, scene.read())
    assert back.sensor.digest == scene.sensor.digest and back.geo == scene.geo
    for field in ("name", "saturation", "group", "domain", "label_names"):
        assert getattr(back, field) == getattr(scene, field), field
    assert np.isnan(back.nodata or 0)
    np.testing.assert_array_equal(back.labels_HW, scene.labels_HW)
    np.testing.assert_array_equal(back.groups_HW, scene.groups_HW)
    assert read_scene(path, quantity="dn", scale=2.0).sensor.scale == 2.0
    with pytest.raises(UsageError, match="exists"):
        save_scene(scene, path)
    save_scene(scene.replace(name="again"), path, overwrite=True)
    assert read_scene(path).name == "again" and len(list(tmp_path.iterdir())) == 1


def test_own_layout_follows_the_rules_of_other_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = full_scene(make.cube())
    path = save_scene(scene.replace(sensor=scene.sensor.replace(level=None)), tmp_path / "own.h5")
    caplog.set_level(logging.INFO)
    table = Sensor(BandGrid(2000.0 + np.arange(6)), scale=3.0, level="L1", name="table")
    told = read_scene(path, sensor=table, wavelengths=make.bands_csv(tmp_path, 6))
    assert "bands.csv is not used" in caplog.text
    assert told.sensor.bands == scene.sensor.bands and told.sensor.scale == 0.5 and told.sensor.level == "L1"
    read_scene(path, sensor=table)
    assert "those of sensor table are not used" in caplog.text
    caplog.clear()
    read_scene(path, sensor=read_scene(path).sensor.replace(name="the same"))
    assert "not used" not in caplog.text, "nothing to say where both agree"
    with pytest.raises(SpecfmError, match="own.h5: .*look like nanometres"):
        read_scene(path, units="um")
    with pytest.raises(SpecfmError, match="no such wavelength file"):
        read_scene(path, wavelengths=tmp_path / "no.csv")


def test_own_layout_from_the_future_or_damaged(tmp_path: Path) -> None:
    path = save_scene(full_scene(make.cube()), tmp_path / "own.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["specfm_scene"] = 3
    with pytest.raises(SpecfmError, match="format 3 is newer"):
        read_scene(path)
    with h5py.File(path, "r+") as file:
        file.attrs["specfm_scene"], file.attrs["json"] = 1, "{}"
    with pytest.raises(SpecfmError, match="damaged"):
        read_scene(path)


def test_no_byte_of_an_own_file_changes_unnoticed(tmp_path: Path) -> None:
    """Whatever byte is altered, a read gives what was written or an error: never other pixels, labels or bands."""
    path = save_scene(full_scene(make.cube()), tmp_path / "own.h5")
    whole = path.read_bytes()

    def everything() -> tuple[Any, ...]:
        scene = read_scene(path)
        assert scene.labels_HW is not None and scene.groups_HW is not None
        arrays = (scene.read(), scene.labels_HW, scene.groups_HW)
        known = (scene.sensor.digest, scene.geo, scene.name, scene.saturation, scene.group, scene.label_names)
        return (*(array.tobytes() for array in arrays), known)

    expected, noticed = everything(), 0
    held = [i for i in range(len(whole)) if whole[i]]  # zeros are mostly what HDF5 left empty
    for place in held[::7]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :])
        try:
            assert everything() == expected, place
        except SpecfmError as error:
            noticed += 1
            assert "own.h5" in str(error), (place, error)
    assert noticed > 50


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (5, 7, 6), (1, 3000, 70), (3000, 1, 200), (40, 50, 129)], ids=lambda shape: str(shape)
)
def test_own_files_of_any_shape_are_checked_in_parts(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    cube = np.random.default_rng(0).integers(0, 9999, shape).astype(np.int16)
    sensor = Sensor(BandGrid(400.0 + np.arange(shape[2])), quantity="radiance")
    path = save_scene(Scene.from_array(cube, sensor, name="x"), tmp_path / "own.h5")
    np.testing.assert_array_equal(read_scene(path).read(), cube)
    with h5py.File(path) as file:
        assert file["cube"].fletcher32 and file["cube"].id.get_storage_size() < 2 * cube.nbytes + 4096
        assert np.prod(file["cube"].chunks) <= 256 * 64


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    class Broken:
        shape, dtype = (5, 7, 6), np.dtype(np.int16)

        def read(self, rows: range, cols: range, bands: object) -> np.ndarray:
            raise SpecfmError("disk gone")

    scene = full_scene(make.cube()).replace(source=Broken())
    with pytest.raises(SpecfmError, match="disk gone"):
        save_scene(scene, tmp_path / "own.h5")
    assert not list(tmp_path.iterdir())


def test_cut_short(tmp_path: Path) -> None:
    path = save_scene(full_scene(make.cube()), tmp_path / "own.h5")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SpecfmError, match=r"own.h5: not a readable HDF5 file \(\d+ bytes"):
        read_scene(path)


def test_a_file_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["cube"], file["wavelengths_nm"] = make.cube(), make.centres(6)
    walks = []
    visititems = h5py.Group.visititems
    monkeypatch.setattr(h5py.Group, "visititems", lambda self, visit: walks.append(self) or visititems(self, visit))
    assert read_scene(path).shape == (5, 7, 6) and len(walks) == 1
