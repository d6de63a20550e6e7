"""ENVI cubes against SPy as oracle, every header convention, and what is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import checked, read_scene
from specfm.readers.envi_header import parse_header

from . import make


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("dtype", sorted(make.ENVI_CODES))
def test_every_type_order_and_interleave_equals_spy(
    tmp_path: Path, dtype: str, big_endian: bool, interleave: str
) -> None:
    import spectral.io.envi as spy

    cube = make.cube(dtype=dtype)
    path = make.envi(tmp_path, cube, interleave, big_endian, offset=13)
    scene = read_scene(path)
    oracle = np.asarray(spy.open(str(path)).open_memmap(interleave="bip"))
    assert scene.dtype == np.dtype(dtype) and scene.shape == cube.shape
    np.testing.assert_array_equal(scene.read(), oracle)
    np.testing.assert_array_equal(scene.read(), cube)


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize(
    "window",
    [
        (slice(1, 4), slice(2, 6), [5, 0, 3]),
        (slice(None, None, 2), slice(1, None, 3), [4]),
        (slice(4, 5), slice(0, 1), None),
        (slice(0, 5), slice(0, 7), [2, 2, 1, 1]),
        (slice(2, 2), slice(0, 3), None),
    ],
)
def test_windows_equal_slices(tmp_path: Path, interleave: str, window: tuple) -> None:
    cube = make.cube()
    scene = read_scene(make.envi(tmp_path, cube, interleave))
    rows, cols, bands = window
    expected = cube[rows, cols] if bands is None else cube[rows, cols][:, :, bands]
    np.testing.assert_array_equal(scene.read(rows, cols, bands), expected)


class Counter:
    """Counts bytes handed over by os.pread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        real = os.pread

        def counted(handle: int, count: int, offset: int) -> bytes:
            data = real(handle, count, offset)
            self.bytes += len(data)
            return data

        monkeypatch.setattr(checked.os, "pread", counted)


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_little_is_read_for_little(tmp_path: Path, interleave: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (256, 4096, 100)  # 200 MB, sparse on disk
    path = tmp_path / "big.hdr"
    path.write_text(make.header_text(make.header(shape, "i2", interleave)))
    with (tmp_path / "big").open("wb") as handle:
        handle.truncate(int(np.prod(shape)) * 2)
    counter = Counter(monkeypatch)
    scene = read_scene(path)
    assert counter.bytes == 0
    scene.read(slice(100, 110), slice(1000, 1010))
    window = counter.bytes
    assert window < 100 * 2 * (10 * 10) * 60  # at most neighbouring pages, not the cube (210 MB)
    if interleave != "bip":  # bands of a BIP pixel share its pages
        counter.bytes = 0
        scene.read(rows=slice(0, 16), bands=np.arange(0, 90, 10))
        assert counter.bytes == 16 * 4096 * 9 * 2


def test_long_reads_come_in_bounded_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "CALL_BYTES", 64)
    cube = make.cube()
    for interleave in make.FILE_AXES:
        np.testing.assert_array_equal(read_scene(make.envi(tmp_path, cube, interleave)).read(), cube)


def test_short_counts_are_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = make.cube()
    scene = read_scene(make.envi(tmp_path, cube))
    real = os.pread
    monkeypatch.setattr(checked.os, "pread", lambda handle, count, offset: real(handle, min(count, 7), offset))
    np.testing.assert_array_equal(scene.read(), cube)


def test_conventions_of_a_header(tmp_path: Path) -> None:
    cube = make.cube((2, 3, 3))
    make.envi(tmp_path, cube)
    (tmp_path / "scene.hdr").write_text(
        "ENVI\n; a comment = {\nSamples   = 3 ; across track\nLINES = 2\nbands = 3\nData Type = 2\nInterleave = BSQ\n"
        "description = {\n  two lines, with = signs\n  and brackets [1]}\n"
        "wavelength\tunits = Micrometers\nWavelength = {\n 0.4, ; blue\n; a line of comment\n 0.5,\n 0.9,\n}\n"
        "fwhm = {0.01, 0.02,\n0.03}\nBBL = { 1, 0, 1 }\ndata ignore value = -99\nreflectance scale factor = 1e4\n"
        "sensor type = Unknown\nband names = {a, b, c}\n"
    )
    scene = read_scene(tmp_path / "scene.hdr")
    np.testing.assert_array_equal(scene.read(), cube)
    bands = scene.sensor.bands
    np.testing.assert_allclose(bands.wavelengths_nm, [400, 500, 900])
    np.testing.assert_allclose(bands.fwhm_nm, [10, 20, 30])
    assert bands.valid.tolist() == [True, False, True]
    assert scene.nodata == -99 and scene.sensor.scale == pytest.approx(1e-4) and scene.sensor.name is None


@pytest.mark.parametrize(
    ("wavelength", "message"),
    [("{400, nan, 600}", "band 2 of 3 .from 1. is not a number"), ("{400, 500, -600}", "-600-500 nm are outside")],
)
def test_what_is_no_wavelength_is_refused_unless_its_band_is_bad(tmp_path: Path, wavelength: str, message: str) -> None:
    path = make.envi(tmp_path, make.cube((2, 2, 3)), wavelength=wavelength)
    with pytest.raises(SpecfmError, match=f"scene.hdr: .*{message}"):
        read_scene(path)
    bad = "{1, 0, 1}" if "nan" in wavelength else "{1, 1, 0}"
    assert read_scene(make.envi(tmp_path, make.cube((2, 2, 3)), wavelength=wavelength, bbl=bad)).sensor.bands.valid[0]


def test_zero_wavelengths_are_bad_bands(tmp_path: Path) -> None:
    scene = read_scene(make.envi(tmp_path, make.cube((2, 2, 3)), wavelength="{0, 500, 600}"))
    assert scene.sensor.bands.valid.tolist() == [False, True, True]


@pytest.mark.parametrize("data", ["x", "x.dat", "x.IMG", "x.raw", "x.bil", "x.bsq"])
@pytest.mark.parametrize("double", [False, True])
def test_pairs(tmp_path: Path, data: str, double: bool) -> None:
    cube = make.cube()
    path = make.envi(tmp_path, cube, name=data)
    if double and "." in data:
        path = path.rename(tmp_path / f"{data}.HDR")
    for named in (path, tmp_path / data):
        scene = read_scene(named)
        assert scene.path == tmp_path / data
        np.testing.assert_array_equal(scene.read(bands=[1]), cube[:, :, [1]])


def test_two_data_files_are_not_chosen_between(tmp_path: Path) -> None:
    path = make.envi(tmp_path, make.cube(), name="x.dat")
    (tmp_path / "x.img").write_bytes(b"1")
    with pytest.raises(SpecfmError, match="x.dat, x.img"):
        read_scene(path)
    assert read_scene(tmp_path / "x.dat").path == tmp_path / "x.dat"


def test_gains_equal_in_all_bands_stay_outside_the_numbers(tmp_path: Path) -> None:
    cube = make.cube((2, 2, 3))
    gains = {"data_gain_values": "{0.5, 0.5, 0.5}", "data_offset_values": "{1, 1, 1}"}
    scene = read_scene(make.envi(tmp_path, cube, **gains))
    assert scene.dtype == np.int16 and (scene.sensor.scale, scene.sensor.offset) == (0.5, 1.0)
    np.testing.assert_allclose(scene.values(), cube * 0.5 + 1.0)


def test_gains_of_their_own_are_applied_on_reading(tmp_path: Path) -> None:
    cube = make.cube((3, 2, 3))
    cube[0, 0] = -9999
    extra = {"data_gain_values": "{0.5, 2, 1}", "data_offset_values": "{0, 0, 3}", "data_ignore_value": -9999}
    scene = read_scene(make.envi(tmp_path, cube, **extra))
    expected = cube * np.array([0.5, 2, 1]) + np.array([0, 0, 3])
    assert scene.dtype == np.float32 and scene.sensor.scale == 1.0
    np.testing.assert_allclose(scene.read(slice(1, 3), bands=[2, 0]), expected[1:, :, [2, 0]])
    assert np.isnan(scene.read()[0, 0]).all() and not scene.mask()[0, 0]


def test_what_the_user_says_of_stored_numbers_wins_over_gains(tmp_path: Path) -> None:
    """nodata is compared before any gain; a scale or an offset takes the place of all gains or offsets."""
    cube = np.arange(2, 26, dtype=np.int16).reshape(2, 3, 4)
    cube[0, 0] = -9999
    gain_C = np.array([0.1, 0.2, 0.3, 0.4])
    path = make.envi(tmp_path, cube, data_gain_values="{.1, .2, .3, .4}", data_offset_values="{1, 2, 3, 4}")
    told = read_scene(path, nodata=-9999)
    assert not told.mask()[0, 0] and told.mask().sum() == 5 and np.isnan(told.values()[0, 0]).all()
    np.testing.assert_allclose(told.values()[1], cube[1] * gain_C + [1, 2, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(read_scene(path, scale=0.5).values(), cube * 0.5 + [1, 2, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(read_scene(path, offset=7.0).values(), cube * gain_C + 7, rtol=1e-6)
    both = read_scene(path, scale=0.5, offset=7.0, nodata=-9999)
    assert both.dtype == np.int16 and (both.sensor.scale, both.sensor.offset, both.nodata) == (0.5, 7.0, -9999)


def test_fill_of_zeros_stays_fill_under_offsets(tmp_path: Path) -> None:
    cube = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    cube[1, 1] = 0
    path = make.envi(tmp_path, cube, data_offset_values="{1, 2, 3, 4}")
    scene = read_scene(path)
    assert not scene.mask()[1, 1] and scene.mask().sum() == 5
    assert np.isnan(scene.read(bands=[0])[1, 1, 0])
    assert scene.read(bands=[0])[0, 0, 0] == 1  # zero in one band only is a measurement


def test_place_equals_gdal(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    info = "{UTM, 3.0, 2.0, 583171.5, 4986234.5, 3.0, 2.5, 12, North, WGS-84, units=Meters, rotation=-43.0}"
    path = make.envi(tmp_path, make.cube(), name="scene.dat", map_info=info)
    scene = read_scene(path)
    assert scene.geo is not None and scene.geo.crs_wkt == "EPSG:32612"
    with rasterio.open(tmp_path / "scene.dat") as raster:
        np.testing.assert_allclose(scene.geo.transform, raster.transform.to_gdal(), rtol=1e-9)
    assert scene.sensor.gsd_m == pytest.approx((3.0 * 2.5) ** 0.5)


def test_a_list_may_begin_on_the_next_line(tmp_path: Path) -> None:
    path = make.envi(tmp_path, make.cube((2, 2, 3)), wavelength="\n {400, 500,\n  600}")
    scene = read_scene(path)
    assert scene.shape[2] == 3 and scene.sensor.bands.wavelengths_nm.tolist() == [400, 500, 600]


def test_spectral_library_is_a_column(tmp_path: Path) -> None:
    spectra = make.cube((4, 1, 6), "f4")
    path = make.envi(
        tmp_path, spectra.transpose(0, 2, 1), name="lib.sli", interleave="bsq", file_type="ENVI Spectral Library",
        wavelength="{" + ", ".join(map(str, make.centres(6))) + "}", spectra_names="{oak, pine, soil, water}",
    )  # fmt: skip
    scene = read_scene(path)
    assert scene.shape == (4, 1, 6) and scene.label_names == ("oak", "pine", "soil", "water")
    np.testing.assert_array_equal(scene.read(), spectra)
    np.testing.assert_array_equal(scene.labels_HW, np.arange(4)[:, None])
    assert not scene.neighbours


def test_unit_less_wavelengths_want_a_word(tmp_path: Path) -> None:
    path = make.envi(tmp_path, make.cube(), wavelength_units=None)
    with pytest.raises(SpecfmError, match=r"--units nm or --units um"):
        read_scene(path)
    np.testing.assert_allclose(read_scene(path, units="nm").sensor.bands.wavelengths_nm, make.centres(6))
    with pytest.raises(SpecfmError, match="scene.hdr"):
        read_scene(path, units="um")  # 400 um: the list looks like another unit
    supplied = read_scene(path, wavelengths=make.bands_csv(tmp_path, 6)).sensor.bands
    assert supplied.fwhm_nm.tolist() == [8.0] * 6


@pytest.mark.parametrize(
    "written",
    [
        "{400 nm, 410 nm, 420 nm, 430 nm, 440 nm, 450 nm}",
        "{0.40 um, 0.41 um, 0.42 um, 0.43 um, 0.44 um, 0.45 um}",
        "{400; 410; 420; 430; 440; 450}",
        "{400,0; 410,0; 420,0; 430,0; 440,0; 450,0;}",
        "{400 410 420 430 440 450}",
        "{400,0 410,0\n 420,0 430,0\n 440,0 450,0}",
    ],
)
def test_lists_as_other_programs_write_them(tmp_path: Path, written: str) -> None:
    units = {} if "m," in written else {"wavelength units": "[nm]"}
    scene = read_scene(make.envi(tmp_path, make.cube(), **{"wavelength units": None, "wavelength": written, **units}))
    np.testing.assert_allclose(scene.sensor.bands.wavelengths_nm, np.linspace(400, 450, 6))


@pytest.mark.parametrize("stated", [None, "nm", "um"])
@pytest.mark.parametrize("key", ["wavelength", "fwhm"])
def test_what_numbers_say_of_their_unit_is_not_guessed(tmp_path: Path, key: str, stated: str | None) -> None:
    mixed = "{400 nm, 410 nm, 0.42 um, 430 nm, 440 nm, 450 nm}"
    with pytest.raises(SpecfmError, match=rf"{key} has numbers in several units \(nm, um.*--wavelengths"):
        read_scene(make.envi(tmp_path, make.cube(), **{"wavelength units": stated, key: mixed}))


def test_a_unit_behind_some_numbers_is_not_that_of_all(tmp_path: Path) -> None:
    some = "{400 nm, 410, 420, 430, 440, 450}"
    with pytest.raises(SpecfmError, match="without their units"):
        read_scene(make.envi(tmp_path, make.cube(), **{"wavelength units": None, "wavelength": some}))


@pytest.mark.parametrize("stated", ["nm", "wavenumber", "Nanometers (nm)"])
def test_numbers_that_contradict_the_stated_unit(tmp_path: Path, stated: str) -> None:
    in_um = "{0.40 um, 0.41 um, 0.42 um, 0.43 um, 0.44 um, 0.45 um}"
    path = make.envi(tmp_path, make.cube(), **{"wavelength units": stated, "wavelength": in_um})
    with pytest.raises(SpecfmError, match=rf"unknown unit '{re.escape(stated)}, um behind its numbers'.*--units"):
        read_scene(path)
    assert read_scene(path, units="um").sensor.bands.wavelengths_nm[0] == pytest.approx(400)


@pytest.mark.parametrize(
    ("units", "width"), [("um", "0.3 nm"), ("nm", "0.008 um"), (None, "8 nm"), ("wavenumber", "8 nm")]
)
def test_a_width_with_a_unit_among_widths_without_one(tmp_path: Path, units: str | None, width: str) -> None:
    mixed = f"{{8, {width}, 8, 8, 8, 8}}"
    with pytest.raises(SpecfmError, match=r"fwhm has numbers in several units \(.*--wavelengths"):
        read_scene(make.envi(tmp_path, make.cube(), **{"wavelength units": units, "fwhm": mixed}))
    same = read_scene(make.envi(tmp_path, make.cube(), **{"wavelength units": "nm", "fwhm": "{8, 8 nm, 8, 8, 8, 8}"}))
    np.testing.assert_allclose(same.sensor.bands.fwhm_nm, 8.0)


@pytest.mark.parametrize("written", ["{" + ", ".join(["0.008 um"] * 6) + "}", "0.008 um", "8 nm"])
@pytest.mark.parametrize("units", ["nm", "um"])
def test_widths_may_have_a_unit_of_their_own(tmp_path: Path, written: str, units: str) -> None:
    """Not that of the wavelengths: 0.008 um is no width of 0.008 nm."""
    listed = ", ".join(f"{nm if units == 'nm' else nm / 1000}" for nm in range(400, 460, 10))
    header = {"wavelength units": units, "wavelength": f"{{{listed}}}", "fwhm": written}
    bands = read_scene(make.envi(tmp_path, make.cube(), **header)).sensor.bands
    np.testing.assert_allclose(bands.fwhm_nm, 8.0)
    np.testing.assert_allclose(bands.wavelengths_nm, np.arange(400, 460, 10))


@pytest.mark.parametrize("written", ["{about, 1, 1, 1, 0, 1, 1}", "{1, 1, x, 1, 0, 1, 1}", "{1, 1, 1, 0, 1, 1, end}"])
@pytest.mark.parametrize("key", ["wavelength", "fwhm", "bbl", "data gain values"])
def test_what_is_no_number_is_not_passed_over(tmp_path: Path, key: str, written: str) -> None:
    """Seven of which six are numbers, of six bands: which belongs to which nobody knows."""
    with pytest.raises(SpecfmError, match=f"{key} has 7 values but the file has 6 bands"):
        read_scene(make.envi(tmp_path, make.cube(), **{key: written}))


@pytest.mark.parametrize("written", ["8.0", "{8.0}", "8.0 nm"])
def test_one_width_is_that_of_all_bands(tmp_path: Path, written: str) -> None:
    scene = read_scene(make.envi(tmp_path, make.cube(), fwhm=written))
    assert set(scene.sensor.bands.fwhm_nm) == {8.0}


@pytest.mark.parametrize("key", ["wavelength", "fwhm", "bbl"])
@pytest.mark.parametrize("written", ["{1, 2}", "{a, b, c, d, e, f}"])
def test_a_list_that_cannot_be_read_gives_way_to_that_of_the_user(
    tmp_path: Path, key: str, written: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = make.envi(tmp_path, make.cube(), **{key: written})
    with pytest.raises(SpecfmError, match=f"{key} h.*--wavelengths"):
        read_scene(path)
    caplog.set_level("INFO")
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 6))
    np.testing.assert_allclose(scene.sensor.bands.wavelengths_nm, make.centres(6))
    assert f"{key} h" in caplog.text and "it is not used" in caplog.text


def test_a_silent_file_that_names_a_known_sensor_is_told_so(tmp_path: Path) -> None:
    cube = np.ones((2, 3, 408), np.uint16)
    path = make.envi(tmp_path, cube, **{"wavelength": None, "fwhm": None, "sensor type": "Specimen-408"})
    with pytest.raises(SpecfmError, match="say --sensor specimen_408; else supply"):
        read_scene(path)
    with pytest.raises(SpecfmError, match="in this file; supply"):
        read_scene(make.envi(tmp_path, cube[..., :9], **{"wavelength": None, "sensor type": "specimen_408"}))


@pytest.mark.parametrize("units", ["Unknown", "unknown", "Index", ""])
def test_units_that_say_nothing(tmp_path: Path, units: str) -> None:
    path = make.envi(tmp_path, make.cube(), wavelength_units=units)
    with pytest.raises(SpecfmError, match="units are never guessed"):
        read_scene(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wavelength": None}, "--sensor NAME or --wavelengths"),
        ({"wavelength": "{0.4, 0.5, 0.6, 0.7, 0.8, 0.9}"}, "scene.hdr"),
        ({"wavelength": "{400, 500}"}, "2 values but the file has 6 bands"),
        ({"wavelength": "{400, 410, x, 430, 440, 450}"}, "'x', which is not a number"),
        ({"wavelength": "{400, 410, 420"}, "never closes"),
        ({"bbl": "{1, 0}"}, "bbl has 2 values"),
        ({"samples": None, "data_type": None}, "lacks samples, data type"),
        ({"data_type": 7}, "data type 7"),
        ({"byte_order": 2}, "byte order"),
        ({"interleave": "bxp"}, "interleave must be"),
        ({"header_offset": -1}, "header offset"),
        ({"lines": 0}, "lines must be at least 1"),
        ({"samples": "7.5"}, "whole number"),
        ({"file_compression": 1}, "compressed"),
        ({"reflectance_scale_factor": 0}, "must be positive"),
        ({"map_info": "{UTM, 1, 1, here, 5, 3, 3}"}, "map info"),
        ({"lines": 6}, r"holds 420 bytes but scene.hdr says 504"),
    ],
)
def test_odd_headers_are_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    path = make.envi(tmp_path, make.cube(), **change)
    with pytest.raises(SpecfmError, match=message) as caught:
        read_scene(path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_shrinks_after_opening(tmp_path: Path) -> None:
    scene = read_scene(make.envi(tmp_path, make.cube()))
    os.truncate(tmp_path / "scene.dat", 100)
    with pytest.raises(SpecfmError, match="ends at byte 100"):
        scene.read()


def test_header_alone_and_foreign_headers(tmp_path: Path) -> None:
    path = make.envi(tmp_path, make.cube())
    (tmp_path / "scene.dat").unlink()
    with pytest.raises(SpecfmError, match="no data file"):
        read_scene(path)
    esri = tmp_path / "esri.hdr"
    esri.write_text("BYTEORDER I\nLAYOUT BIL\nNROWS 3\n")
    with pytest.raises(SpecfmError, match="ESRI"):
        read_scene(esri)
    other = tmp_path / "other.hdr"
    other.write_text("hello\n")
    with pytest.raises(SpecfmError, match="not an ENVI header"):
        read_scene(other)


def test_a_class_map_is_no_cube(tmp_path: Path) -> None:
    path = make.envi(
        tmp_path,
        make.cube((5, 7, 1), "u1"),
        wavelength=None,
        file_type="ENVI Classification",
        class_names="{none, oak}",
    )
    with pytest.raises(SpecfmError, match="map of classes"):
        read_scene(path)


def test_header_in_an_old_encoding(tmp_path: Path) -> None:
    path = make.envi(tmp_path, make.cube())
    path.write_bytes(path.read_bytes() + "description = {größe µm}\n".encode("latin-1"))
    assert "größe" in parse_header(path).fields["description"]
    path.write_bytes(b"\xef\xbb\xbf" + make.header_text(make.header((5, 7, 6), "i2")).encode())
    assert read_scene(path).shape == (5, 7, 6)


def test_extra_bytes_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make.envi(tmp_path, make.cube())
    with (tmp_path / "scene.dat").open("ab") as handle:
        handle.write(b"12345")
    assert read_scene(path).shape == (5, 7, 6)
    assert "5 bytes more" in caplog.text


@pytest.mark.parametrize("key", ["data_ignore_value", "missing value", "Data Ignore Value", "NoData"])
def test_spellings_of_nodata(tmp_path: Path, key: str) -> None:
    assert read_scene(make.envi(tmp_path, make.cube(), **{key: 7})).nodata == 7


@pytest.mark.parametrize("text", ["{nan, nan, nan}", "nan", "{nan}"])
def test_nodata_that_is_no_number_in_every_band(tmp_path: Path, text: str) -> None:
    cube = make.cube((5, 7, 3), "f4")
    cube[0, 0] = np.nan
    scene = read_scene(make.envi(tmp_path, cube, **{"data ignore value": text}))
    assert scene.mask().mean() == pytest.approx(34 / 35)


def test_nodata_band_by_band_goes_before_gains(tmp_path: Path) -> None:
    cube = np.array([[[1, 5, 9], [5, 9, 1]]], np.int16)
    more = {"data ignore value": "{1, 5, 9}", "data gain values": "{2, 3, 4}"}
    values = read_scene(make.envi(tmp_path, cube, **more)).values()
    np.testing.assert_array_equal(values, [[[np.nan] * 3, [10, 27, 4]]])
    several = read_scene(make.envi(tmp_path, cube, name="b.dat", **{"data ignore value": "{1, 9}"}))
    assert several.nodata == 1 and (several.read() == [[[1, 5, 1], [5, 1, 1]]]).all()
