"""GeoTIFF: windows, and band metadata from every place writers put them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specfm.bands import BandGrid
from specfm.errors import SpecfmError
from specfm.readers import raster_source, read_scene
from specfm.sensors import Sensor

from . import make
from .make import tag, tiff

rasterio = pytest.importorskip("rasterio")

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_windows_and_place(tmp_path: Path, interleave: str) -> None:
    cube = make.cube()
    path = tiff(tmp_path / "a.tif", cube, place=True, interleave=interleave, nodata=-999)
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 6))
    np.testing.assert_array_equal(scene.read(), cube)
    np.testing.assert_array_equal(
        scene.read(slice(0, 5, 2), slice(1, 6, 2), [5, 0, 0]), cube[::2, 1:6:2][:, :, [5, 0, 0]]
    )
    assert scene.dtype == np.int16 and scene.nodata == -999 and scene.sensor.gsd_m == 2.0
    assert scene.geo is not None and scene.geo.transform == (500000.0, 2.0, 0.0, 4100000.0, 0.0, -2.0)
    assert "32617" in (scene.geo.crs_wkt or "")


def test_no_place_is_none(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", make.cube())
    assert read_scene(path, wavelengths=make.bands_csv(tmp_path, 6)).geo is None


def expect_two_bands(path: Path, fwhm: bool = True, **options: Any) -> None:
    bands = read_scene(path, **options).sensor.bands
    np.testing.assert_allclose(bands.wavelengths_nm, [450, 850])
    if fwhm:
        np.testing.assert_allclose(bands.fwhm_nm, [10, 20])


def two(tmp_path: Path) -> Path:
    return tiff(tmp_path / "a.tif", make.cube((3, 4, 2)))


def test_imagery_domain(tmp_path: Path) -> None:
    path = two(tmp_path)
    for band, (centre, width) in enumerate([("0.45", "0.01"), ("0.85", "0.02")], 1):
        tag(path, band, "IMAGERY", CENTRAL_WAVELENGTH_UM=centre, FWHM_UM=width)
    expect_two_bands(path)


@pytest.mark.parametrize("ns", [None, "ENVI"])
def test_band_tags(tmp_path: Path, ns: str | None) -> None:
    path = two(tmp_path)
    for band, (centre, width) in enumerate([("450", "10"), ("850", "20")], 1):
        tag(path, band, ns, wavelength=centre, wavelength_units="nanometers", fwhm=width, bbl=str(band - 1))
    expect_two_bands(path, fwhm=False)
    bands = read_scene(path).sensor.bands
    assert bands.valid.tolist() == [False, True] and bands.fwhm_nm[1] == 20


@pytest.mark.parametrize("ns", [None, "ENVI"])
def test_dataset_tags(tmp_path: Path, ns: str | None) -> None:
    path = two(tmp_path)
    tag(path, 0, ns, wavelength="{0.45, 0.85}", wavelength_units="Micrometers", fwhm="{ 0.01,0.02 }")
    expect_two_bands(path)


def test_names_with_units(tmp_path: Path) -> None:
    path = two(tmp_path)
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = ("Resize (Band 8) (450.0 Nanometers)", "band 9 (850 nanometers)")
    expect_two_bands(path, fwhm=False)
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = ("B450", "Band 850")
    with pytest.raises(SpecfmError, match="no wavelengths"):
        read_scene(path)


def test_aux_xml_beside_the_file(tmp_path: Path) -> None:
    path = two(tmp_path)
    Path(f"{path}.aux.xml").write_text(
        '<PAMDataset><Metadata><MDI key="wavelength">{450, 850}</MDI><MDI key="fwhm">{10, 20}</MDI>'
        '<MDI key="wavelength_units">nm</MDI></Metadata></PAMDataset>'
    )
    expect_two_bands(path)


@pytest.mark.parametrize("version", [1, 2])
def test_stac_beside_the_file(tmp_path: Path, version: int) -> None:
    path = two(tmp_path)
    prefix = "" if version == 1 else "eo:"
    bands = [
        {"name": name, f"{prefix}center_wavelength": centre, f"{prefix}full_width_half_max": width}
        for name, centre, width in (("blue", 0.45, 0.01), ("nir", 0.85, 0.02))
    ]
    node = {"properties": {"eo:bands": bands}} if version == 1 else {"assets": {"image": {"bands": bands}}}
    (tmp_path / "a.stac.json").write_text(json.dumps({"type": "Feature", **node}))
    expect_two_bands(path)
    (tmp_path / "a.stac.json").write_text("{")
    with pytest.raises(SpecfmError, match="a.stac.json: not readable as JSON"):
        read_scene(path)


ENMAP = """<?xml version="1.0"?><level_X><base><mission>EnMAP</mission><level>L2A</level></base><specific>
<bandCharacterisation>{bands}</bandCharacterisation></specific>
<product><smileCorrection><VNIR><bandID number="1"><wavelength>420.0</wavelength></bandID></VNIR></smileCorrection>
</product></level_X>"""
BAND = """<bandID number="{number}"><wavelengthCenterOfBand>{centre}</wavelengthCenterOfBand>
<FWHMOfBand>{width}</FWHMOfBand><GainOfBand>{gain}</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>"""


def enmap_bands(*gains: float) -> str:
    rows = zip([450, 850, 1500], [10, 20, 12], gains, strict=False)
    return "".join(
        BAND.format(number=number, centre=centre, width=width, gain=gain)
        for number, (centre, width, gain) in enumerate(rows, 1)
    )


def test_enmap_metadata(tmp_path: Path) -> None:
    cube = make.cube((3, 4, 2))
    path = tiff(tmp_path / "ENMAP01-X-SPECTRAL_IMAGE.TIF", cube, nodata=-32768)
    side = tmp_path / "ENMAP01-X-METADATA.XML"
    side.write_text(ENMAP.format(bands=enmap_bands(1e-4, 1e-4)))
    scene = read_scene(path)
    expect_two_bands(path)
    assert scene.sensor.scale == 1e-4 and scene.dtype == np.int16
    assert (scene.sensor.name, scene.sensor.level, scene.sensor.quantity) == ("EnMAP", "L2", "surface_reflectance")
    side.write_text(ENMAP.format(bands=enmap_bands(0.5, 0.25)).replace("L2A", "L1C"))
    scene = read_scene(path)
    assert scene.sensor.quantity == "radiance" and scene.dtype == np.float32
    valid = (cube != -32768).all(-1)
    np.testing.assert_allclose(scene.read()[valid], (cube * [0.5, 0.25])[valid], rtol=1e-6)
    side.write_text(ENMAP.format(bands=enmap_bands(1e-4, 1e-4, 1e-4)))
    with pytest.raises(SpecfmError, match="describes 3 bands but .* has 2"):
        read_scene(path)
    side.write_text('<!DOCTYPE x [<!ENTITY a "b">]>' + ENMAP.format(bands=enmap_bands(1, 1)))
    with pytest.raises(SpecfmError, match="XML entities"):
        read_scene(path)


def test_desis_metadata(tmp_path: Path) -> None:
    names = {"bandID": "band", "FWHMOfBand": "wavelengthWidthOfBand", "GainOf": "gainOf", "OffsetOf": "offsetOf"}
    text = ENMAP.format(bands=enmap_bands(1e-4, 1e-4)).replace("EnMAP", "DESIS")
    for old, new in names.items():
        text = text.replace(old, new)
    (tmp_path / "DESIS-METADATA.xml").write_text(text)
    path = tiff(tmp_path / "DESIS-SPECTRAL_IMAGE.tif", make.cube((3, 4, 2)))
    expect_two_bands(path)
    assert read_scene(path).sensor.scale == 1e-4 and read_scene(path).sensor.name == "DESIS"
    with rasterio.open(path, "r+") as raster:
        raster.scales = (1e-4, 1e-4)
    assert read_scene(path).sensor.scale == 1e-4  # stated twice, applied once


def test_enmap_l1b_detectors_share_one_description(tmp_path: Path) -> None:
    (tmp_path / "E-METADATA.XML").write_text(ENMAP.format(bands=enmap_bands(2, 3, 4)))
    vnir = tiff(tmp_path / "E-SPECTRAL_IMAGE_VNIR.TIF", make.cube((3, 4, 2)))
    swir = tiff(tmp_path / "E-SPECTRAL_IMAGE_SWIR.TIF", make.cube((3, 4, 1)))
    expect_two_bands(vnir)
    swir_sensor = read_scene(swir).sensor
    assert swir_sensor.bands.wavelengths_nm.tolist() == [1500] and swir_sensor.scale == 4


def test_scale_and_offset_of_the_file(tmp_path: Path) -> None:
    cube = make.cube((3, 4, 2))
    path = tiff(tmp_path / "a.tif", cube)
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = (0.5, 0.5), (1.0, 1.0)
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 2))
    np.testing.assert_allclose(scene.values(), cube * 0.5 + 1, rtol=1e-6)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = two(tmp_path)
    with pytest.raises(SpecfmError, match="a.tif: no wavelengths in this file; .*--sensor NAME or --wavelengths"):
        read_scene(path)
    with pytest.raises(SpecfmError, match="leave out layout"):
        read_scene(path, layout="CHW")
    tag(path, 0, "ENVI", wavelength="450,850", wavelength_units="n")
    with pytest.raises(SpecfmError, match="unknown unit 'n'"):
        read_scene(path)
    expect_two_bands(path, fwhm=False, units="nm")
    tag(path, 0, "ENVI", wavelength="450")
    with pytest.raises(SpecfmError, match="1 values but the file has 2 bands"):
        read_scene(path)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(SpecfmError, match=r"specfm\[geo\]"):
        read_scene(path)


@pytest.mark.parametrize("keep", [0.5, 0.02])
def test_cut_short(tmp_path: Path, keep: float) -> None:
    path = tiff(tmp_path / "a.tif", make.cube((40, 40, 6)), interleave="band")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(SpecfmError, match="a.tif: "):
        read_scene(path, wavelengths=make.bands_csv(tmp_path, 6)).read()


def test_what_band_tags_leave_open_comes_from_the_dataset(tmp_path: Path) -> None:
    path = two(tmp_path)
    for band, centre in enumerate(("450", "850"), 1):
        tag(path, band, None, wavelength=centre)
    with pytest.raises(SpecfmError, match="units are never guessed"):
        read_scene(path)
    tag(path, 0, "ENVI", wavelength_units="Nanometers", fwhm="{10, 20}", bbl="{1, 0}")
    expect_two_bands(path, fwhm=False)
    bands = read_scene(path).sensor.bands
    assert bands.valid.tolist() == [True, False] and bands.fwhm_nm[0] == 10


def test_widths_of_another_place_keep_its_units(tmp_path: Path) -> None:
    path = two(tmp_path)
    for band, centre in enumerate(("0.45", "0.85"), 1):
        tag(path, band, "IMAGERY", CENTRAL_WAVELENGTH_UM=centre)
    tag(path, 0, "ENVI", wavelength="{450, 850}", wavelength_units="nm", fwhm="{10, 20}")
    expect_two_bands(path)


def test_lists_from_before_bands_were_taken_out_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = two(tmp_path)
    for band, centre in enumerate(("450", "850"), 1):
        tag(path, band, None, wavelength=centre, wavelength_units="nm")
    tag(path, 0, "ENVI", wavelength="{450, 650, 850}", bbl="{1, 0, 1}")
    expect_two_bands(path, fwhm=False)
    assert read_scene(path).sensor.bands.valid.all() and "'bbl' has 3 values but the file has 2 bands" in caplog.text


@pytest.mark.parametrize("inside", [True, False])
def test_masks_of_the_file(tmp_path: Path, inside: bool) -> None:
    cube = make.cube()
    kept = np.ones(cube.shape[:2], bool)
    kept[1, 2:5] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
        path = tiff(tmp_path / "a.tif", cube)
        with rasterio.open(path, "r+") as raster:
            raster.write_mask(kept)
    assert (tmp_path / "a.tif.msk").exists() != inside
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 6))
    np.testing.assert_array_equal(scene.mask(), kept)
    assert scene.dtype == np.float32
    np.testing.assert_array_equal(scene.read()[kept], cube[kept])
    part = scene.read(slice(1, 5, 2), slice(1, 6, 2), [5, 0])
    np.testing.assert_array_equal(np.isnan(part[..., 0]), ~kept[1:5:2, 1:6:2])
    np.testing.assert_array_equal(part[1], cube[3, 1:6:2][:, [5, 0]])


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_transparency_is_no_band(tmp_path: Path, dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    from rasterio.enums import ColorInterp

    cube = np.random.default_rng(0).integers(1, 100, (5, 7, 4)).astype(dtype)
    cube[2, 3:, 3] = 0
    path = tiff(tmp_path / "a.tif", cube, photometric="minisblack")
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = (ColorInterp.gray, ColorInterp.undefined, ColorInterp.undefined, ColorInterp.alpha)
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 3))
    assert "band 4 is marked as transparency" in caplog.text and scene.shape == (5, 7, 3)
    np.testing.assert_array_equal(scene.mask(), cube[..., 3] != 0)
    np.testing.assert_array_equal(scene.read(bands=[2])[:2, :, 0], cube[:2, :, 2])
    tag(path, 0, None, wavelength="{450, 550, 650, 850}", wavelength_units="nm")
    measured = read_scene(path)
    assert measured.dtype == cube.dtype and measured.mask().sum() == 31 + 4
    np.testing.assert_array_equal(measured.read(), cube)


@pytest.mark.parametrize("how", ["sensor", "wavelengths"])
def test_a_list_with_a_row_for_every_band_makes_transparency_a_band(tmp_path: Path, how: str) -> None:
    """GDAL marks the fourth of four uint8 bands unasked: red, green, blue and near infrared are such a file."""
    cube = np.random.default_rng(0).integers(0, 9, (5, 7, 4)).astype(np.uint8)
    path = tiff(tmp_path / "a.tif", cube)
    listed = Sensor(BandGrid([650, 550, 450, 850])) if how == "sensor" else make.bands_csv(tmp_path, 4)
    scene = read_scene(path, **{how: listed})
    assert scene.dtype == np.uint8
    np.testing.assert_array_equal(scene.read(), cube)
    tag(path, 0, None, wavelength="{650, 550, 450}", wavelength_units="nm")  # the file itself counts three
    assert read_scene(path, **{how: listed}).sensor.bands.wavelengths_nm.tolist() == [650, 550, 450]


def test_complex_integers_are_read_as_complex_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.array([[[1 + 2j, 3 - 4j]], [[5j, 6]], [[7, 8]]], np.complex64)
    with rasterio.open(path, "w", driver="GTiff", height=1, width=2, count=3, dtype="complex_int16", nodata=7) as out:
        out.write(values)
    bands = make.bands_csv(tmp_path, 3)
    scene = read_scene(path, wavelengths=bands)
    assert scene.dtype == np.complex64 and scene.mask().tolist() == [[False, True]]
    np.testing.assert_array_equal(scene.read(), values.transpose(1, 2, 0))
    tag(path, 0, None, missing_value="8")
    with rasterio.open(path, "r+") as raster:
        raster.nodata = None
    tag(path, 0, None, missing_value="8", _FillValue="5")
    np.testing.assert_array_equal(read_scene(path, wavelengths=bands).mask(), [[True, False]])


def test_many_pages_are_bands_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GDAL's library for Python lists them as text: 1, 10, 11, 2."""
    cube = make.cube((6, 5, 23))
    path = tmp_path / "p.tif"
    for number in range(23):
        more = {"APPEND_SUBDATASET": "YES"} if number else {}
        with rasterio.open(path, "w", driver="GTiff", height=6, width=5, count=1, dtype="int16", **more) as out:
            out.write(cube[..., number], 1)
    csv = make.bands_csv(tmp_path, 23)
    for kept in (1 << 20, 0):  # read whole and kept, or page by page
        monkeypatch.setattr(raster_source, "KEPT_BYTES", kept)
        scene = read_scene(path, wavelengths=csv)
        np.testing.assert_array_equal(scene.read(), cube)
        part = scene.read(slice(1, 6, 2), slice(2, 5), [22, 3, 9])
        np.testing.assert_array_equal(part, cube[1:6:2, 2:5][..., [22, 3, 9]])
        scene.read()[:] = 0
        np.testing.assert_array_equal(scene.read(), cube)


def test_pages_cut_short_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.tif"
    page = make.cube((40, 40, 1)).transpose(2, 0, 1)
    for number in range(3):
        more = {"APPEND_SUBDATASET": "YES"} if number else {}
        with rasterio.open(path, "w", driver="GTiff", height=40, width=40, count=1, dtype="int16", **more) as out:
            out.write(page)
    whole, csv = path.read_bytes(), make.bands_csv(tmp_path, 3)
    scene = read_scene(path, wavelengths=csv)
    for keep in range(10, 100, 10):
        path.write_bytes(whole[: len(whole) * keep // 100])
        with pytest.raises(SpecfmError, match="p.tif: "):
            scene.read()


def test_a_list_of_good_bands_of_another_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a reader lets one through (EMIT's good_wavelengths, say)."""
    import h5py

    path, csv = tmp_path / "a.nc", make.bands_csv(tmp_path, 6)
    with h5py.File(path, "w") as file:
        file["reflectance"] = make.cube(dtype="f4")
        for name, values in (("wavelengths", make.centres(6)), ("fwhm", [8.0] * 6), ("good_wavelengths", [1] * 5)):
            file[f"sensor_band_parameters/{name}"] = values
    with pytest.raises(
        SpecfmError, match=r"a.nc: its list of good bands has 5 values but the file has 6 bands; correct"
    ):
        read_scene(path)
    assert read_scene(path, wavelengths=csv).sensor.bands.valid.all()
    assert "its list of good bands has 5 values but the file has 6 bands; it is not used" in caplog.text
