"""Files are told apart by content; what is no cube is refused with a sentence."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from specfm import BandGrid, Sensor
from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.readers.resolve import read_wavelengths

from . import make


def test_names_do_not_decide(tmp_path: Path) -> None:
    cube, bands = make.cube(), make.bands_csv(tmp_path, 6)
    np.save(tmp_path / "a.npy", cube)
    savemat(tmp_path / "b.mat", {"x": cube})
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["x"] = cube
    for number, name in enumerate(("a.npy", "b.mat", "c.h5")):
        path = (tmp_path / name).rename(tmp_path / f"cube{number}.bin")
        np.testing.assert_array_equal(read_scene(path, wavelengths=bands).read(), cube)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04....", "zip file, which is not read; unpack it first"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (b"\x89PNG\r\n", "PNG"),
        (b"HEAD74", "ERDAS"),
        (b"anything at all", "no header x.dat.hdr or x.hdr lies beside it"),
    ],
)
def test_what_is_no_cube(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(content)
    with pytest.raises(SpecfmError, match=message):
        read_scene(path)


def test_missing_and_folders(tmp_path: Path) -> None:
    with pytest.raises(SpecfmError, match="no such file"):
        read_scene(tmp_path / "nothing.tif")
    with pytest.raises(SpecfmError, match="is a folder"):
        read_scene(tmp_path)


def test_the_file_beats_the_arguments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make.envi(tmp_path, make.cube(), reflectance_scale_factor=100, data_ignore_value=-1)
    other = tmp_path / "other.csv"
    other.write_text("band,centre_nm\n" + "".join(f"{i},{900 + i}\n" for i in range(6)))
    table = Sensor(BandGrid(2000.0 + np.arange(6)), quantity="radiance", scale=3.0, gsd_m=5.0, name="table")
    caplog.set_level(logging.INFO)
    scene = read_scene(path, wavelengths=other, sensor=table)
    assert scene.sensor.bands.wavelengths_nm[0] == 400 and "other.csv is not used" in caplog.text
    assert scene.sensor.scale == pytest.approx(0.01)
    assert (scene.sensor.quantity, scene.sensor.gsd_m, scene.sensor.name) == ("radiance", 5.0, "table")
    told = read_scene(path, quantity="dn", scale=2.0, offset=1.0, nodata=7, name="mine")
    assert (told.sensor.quantity, told.sensor.scale, told.sensor.offset) == ("dn", 2.0, 1.0)
    assert (told.nodata, told.name) == (7.0, "mine")


def test_the_silent_file_is_told_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make.envi(tmp_path, make.cube(), wavelength=None, bbl="{1, 1, 1, 0, 1, 1}")
    caplog.set_level(logging.INFO)
    table = Sensor(BandGrid(2000.0 + np.arange(6)), scale=3.0, name="table")
    scene = read_scene(path, sensor=table)
    assert "taken from sensor table" in caplog.text and scene.sensor.scale == 3.0
    assert scene.sensor.bands.valid.tolist() == [True, True, True, False, True, True]
    assert read_scene(path, sensor=table, wavelengths=make.bands_csv(tmp_path, 6)).sensor.bands.wavelengths_nm[0] == 400
    with pytest.raises(SpecfmError, match="6 bands but sensor table has 3"):
        read_scene(path, sensor=table.replace(bands=table.bands.subset([0, 1, 2])))
    with pytest.raises(SpecfmError, match="'aviris'|unknown sensor|no sensor"):
        read_scene(path, sensor="no-such-sensor")


def test_units_given_on_purpose_win_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make.envi(tmp_path, make.cube(), wavelength_units="Micrometers")  # the header is wrong: 400 um
    with pytest.raises(SpecfmError, match="scene.hdr"):
        read_scene(path)
    assert read_scene(path, units="nm").sensor.bands.wavelengths_nm[0] == 400
    assert "says wavelengths are in Micrometers" in caplog.text


def test_wavelength_tables(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("\ufeffband,centre_nm,fwhm_nm,valid\n# note\n1,400,8,1\n2,500,,0\n", encoding="utf-8")
    bands = read_wavelengths(path)
    assert bands.wavelengths_nm.tolist() == [400, 500] and bands.valid.tolist() == [True, False]
    assert bands.fwhm_nm[0] == 8 and np.isnan(bands.fwhm_nm[1])
    for text, message in (
        ("band,wavelength\n1,400\n", "needs a column 'centre_nm'"),
        ("centre_nm\n", "needs a column"),
        ("centre_nm\nblue\n", "row 1: the columns centre_nm"),
        ("centre_nm\n0.4\n", "w.csv"),
    ):
        path.write_text(text)
        with pytest.raises(SpecfmError, match=message):
            read_wavelengths(path)
    path.write_bytes(b"centre_nm,\xb5m\n400,0.4\n")
    with pytest.raises(SpecfmError, match="w.csv is no CSV in UTF-8"):
        read_wavelengths(path)
    path.write_text("band, centre_nm , fwhm_nm\n1,400,8\n")  # blanks as a spreadsheet leaves them
    assert read_wavelengths(path).fwhm_nm.tolist() == [8]
    with pytest.raises(SpecfmError, match="no such wavelength file"):
        read_wavelengths(tmp_path / "no.csv")


@pytest.mark.parametrize("first", [0, 1])
def test_band_numbers_of_a_table_order_its_rows(tmp_path: Path, first: int) -> None:
    path = tmp_path / "w.csv"
    path.write_text(f"band,centre_nm,valid\n{first + 2},700,1\n{first},500,0\n{first + 1},600,1\n")
    bands = read_wavelengths(path)
    assert bands.wavelengths_nm.tolist() == [500, 600, 700] and bands.valid.tolist() == [False, True, True]
    path.write_text("band,centre_nm\nB8A,700\nB1,500\n")  # names say no order
    assert read_wavelengths(path).wavelengths_nm.tolist() == [700, 500]


@pytest.mark.parametrize("numbers", ["8,9,10", "1,2,4", "4,1,2", "1.0,2.0,3.0", "10,9,8.", "-1,0,1"])
def test_band_numbers_may_have_gaps(tmp_path: Path, numbers: str) -> None:
    """Cubes without their water bands come with the numbers that the instrument gives the bands that are left."""
    path = tmp_path / "w.csv"
    path.write_text("band,centre_nm\n" + "".join(f"{band},{500 + 10 * float(band)}\n" for band in numbers.split(",")))
    expected = sorted(500 + 10 * float(band) for band in numbers.split(","))
    assert read_wavelengths(path).wavelengths_nm.tolist() == expected


@pytest.mark.parametrize(
    ("numbers", "message"),
    [("1,1,2", "the number 1 twice; number every row once"), ("1,,3", "row 2 has no number in the column 'band'")],
)
def test_band_numbers_that_say_no_order_are_refused(tmp_path: Path, numbers: str, message: str) -> None:
    path = tmp_path / "w.csv"
    rows = "".join(f"{band},{500 + i}\n" for i, band in enumerate(numbers.split(",")))
    path.write_text(f"band,centre_nm\n{rows}")
    with pytest.raises(SpecfmError, match=f"w.csv: .*{message}"):
        read_wavelengths(path)


def test_advice_on_units_fits_where_the_list_stands(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("centre_nm\n0.45\n0.9\n")
    with pytest.raises(SpecfmError, match="look like micrometres.*write nm in the column centre_nm") as caught:
        read_wavelengths(path)
    assert "--units" not in str(caught.value)
    with pytest.raises(SpecfmError, match="scene.hdr: .*look like micrometres.*pass --units um for a file"):
        read_scene(make.envi(tmp_path, make.cube((2, 2, 2)), wavelength="{0.45, 0.9}"))


def test_a_list_that_is_not_there_is_refused_even_where_it_is_not_needed(tmp_path: Path) -> None:
    with pytest.raises(SpecfmError, match="no.csv: no such wavelength file"):
        read_scene(make.envi(tmp_path, make.cube()), wavelengths=tmp_path / "no.csv")


@pytest.mark.parametrize("kind", ["envi", "mat", "npy", "h5", "tif"])
def test_scenes_cross_processes(tmp_path: Path, kind: str) -> None:
    """Builders read in parallel: a scene is pickled without its pixels and reads the same on the other side."""
    import pickle

    cube, bands = make.cube((40, 40, 6)), make.bands_csv(tmp_path, 6)
    path = tmp_path / f"a.{kind}"
    if kind == "envi":
        path = make.envi(tmp_path, cube)
    elif kind == "mat":
        savemat(path, {"x": cube})
    elif kind == "npy":
        np.save(path, cube)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["x"] = cube
    else:
        rasterio = pytest.importorskip("rasterio")
        with rasterio.open(path, "w", driver="GTiff", height=40, width=40, count=6, dtype="int16") as raster:
            raster.write(cube.transpose(2, 0, 1))
    scene = read_scene(path, wavelengths=bands)
    scene.read()
    packed = pickle.dumps(scene)
    assert len(packed) < cube.nbytes / 4
    np.testing.assert_array_equal(pickle.loads(packed).read(slice(3, 5), bands=[1]), cube[3:5][:, :, [1]])


def test_erdas_imagine_goes_through_rasterio(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    cube = make.cube()
    with rasterio.open(tmp_path / "a.img", "w", driver="HFA", height=5, width=7, count=6, dtype="int16") as raster:
        raster.write(cube.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_scene(tmp_path / "a.img", wavelengths=make.bands_csv(tmp_path, 6)).read(), cube)
