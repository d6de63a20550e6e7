"""What lies beside a TIFF or inside a page or a struct is read, or named with a remedy that works."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from specfm.cards.loose_files import folder_files
from specfm.errors import SpecfmError
from specfm.readers import read_scene
from tests.readers import make
from tests.readers.make import tag, tiff

pytest.importorskip("rasterio")

CUBE = make.cube((4, 5, 3))
HEADER = """ENVI
samples = 5
lines = {lines}
bands = 3
data type = 12
interleave = bsq
wavelength units = Nanometers
wavelength = {{450, 550, 650}}
fwhm = {{8, 8, 8}}
bbl = {{1, 0, 1}}
Reflectance Scale Factor = 10000
data ignore value = 65535
"""


def test_a_header_beside_a_tiff_is_read(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", CUBE)
    (tmp_path / "a.hdr").write_text(HEADER.format(lines=4))
    scene = read_scene(path)
    assert scene.sensor.bands.wavelengths_nm.tolist() == [450, 550, 650]
    assert scene.sensor.bands.valid.tolist() == [True, False, True] and scene.sensor.bands.fwhm_nm[0] == 8
    assert scene.sensor.scale == pytest.approx(1e-4) and scene.nodata == 65535
    with pytest.raises(SpecfmError, match="a.hdr: describes the TIFF a.tif beside it; name that file instead"):
        read_scene(tmp_path / "a.hdr")
    assert folder_files(tmp_path) == [path]


def test_a_header_of_another_size_beside_a_tiff_is_told_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiff(tmp_path / "a.tif", CUBE)
    (tmp_path / "a.hdr").write_text(HEADER.format(lines=7))
    with pytest.raises(SpecfmError, match="no wavelengths in this file"):
        read_scene(path)
    assert "the header beside it, a.hdr, has another size; it is not used" in caplog.text


def test_what_the_tiff_says_wins_over_the_header_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tiff(tmp_path / "a.tif", CUBE, nodata=0)
    tag(path, 0, "ENVI", reflectance_scale_factor="1000")
    (tmp_path / "a.hdr").write_text(HEADER.format(lines=4))
    scene = read_scene(path)
    assert scene.nodata == 0 and scene.sensor.scale == pytest.approx(1e-3)
    assert "says another nodata value than the file; that of the file is used" in caplog.text
    assert "says another scale or offset than the file; those of the file are used" in caplog.text


def own_nodata(path: Path, values: list[float]) -> None:
    bands = (
        f'<PAMRasterBand band="{i}"><NoDataValue>{v}</NoDataValue></PAMRasterBand>' for i, v in enumerate(values, 1)
    )
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{''.join(bands)}</PAMDataset>")


@pytest.mark.parametrize("ours", [[0], [0, 4, 8]])
@pytest.mark.parametrize("theirs", ["0", "{0, 4, 8}", "{0, 4}"])
def test_nodata_of_bands_and_of_all_are_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ours: list[float], theirs: str
) -> None:
    caplog.set_level(logging.INFO)
    path = tiff(tmp_path / "a.tif", CUBE, nodata=0 if len(ours) == 1 else None)
    if len(ours) == 3:
        own_nodata(path, ours)
    (tmp_path / "a.hdr").write_text(HEADER.format(lines=4).replace("65535", theirs))
    scene = read_scene(path)
    assert (scene.nodata == 0) == (len(ours) == 1)
    same = (len(ours), theirs) in ((1, "0"), (3, "{0, 4, 8}"))
    assert ("says another nodata value than the file" in caplog.text) != same


def test_a_list_of_another_length_in_the_header_gives_way_to_a_supplied_one(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", CUBE)
    (tmp_path / "a.hdr").write_text(HEADER.format(lines=4).replace("{450, 550, 650}", "{450, 550}"))
    with pytest.raises(SpecfmError, match="a.hdr: wavelength has 2 values but the file has 3 bands; .*--wavelengths"):
        read_scene(path)
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 3))
    assert scene.sensor.bands.valid.tolist() == [True, False, True] and scene.nodata == 65535


def test_widths_of_the_header_keep_its_units_where_the_names_are_finer(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", CUBE)
    text = HEADER.format(lines=4).replace("Nanometers", "Micrometers").replace("450, 550, 650", "0.45, 0.55, 0.65")
    text = text.replace("{8, 8, 8}", "{.008, .008, .008}") + "band names = {450.25 nm, 549.75 nm, 650.5 nm}\n"
    (tmp_path / "a.hdr").write_text(text)
    bands = read_scene(path).sensor.bands
    np.testing.assert_allclose(bands.wavelengths_nm, [450.25, 549.75, 650.5])
    np.testing.assert_allclose(bands.fwhm_nm, 8)


@pytest.mark.parametrize("nodata", [float("nan"), -9999.0])
def test_one_nodata_in_all_bands(tmp_path: Path, nodata: float) -> None:
    cube = CUBE.astype(np.float32)
    cube[0, 0] = nodata
    scene = read_scene(tiff(tmp_path / "a.tif", cube, nodata=nodata), wavelengths=make.bands_csv(tmp_path, 3))
    np.testing.assert_equal(scene.nodata, nodata)
    assert scene.mask().sum() == 19
    assert read_scene(tmp_path / "a.tif", wavelengths=make.bands_csv(tmp_path, 3), nodata=-1).nodata == -1


def test_bands_with_a_nodata_of_their_own_are_masked_by_it(tmp_path: Path) -> None:
    import rasterio

    cube = np.arange(60, dtype=np.int16).reshape(4, 5, 3)
    path = tiff(tmp_path / "a.tif", cube)
    own_nodata(path, [0, 4, 8])
    with rasterio.open(path) as raster:
        assert raster.nodatavals == (0, 4, 8)
    csv = make.bands_csv(tmp_path, 3)
    scene = read_scene(path, wavelengths=csv)
    expected = cube.astype(np.float32)
    expected[0, 0, 0] = expected[0, 1, 1] = expected[0, 2, 2] = np.nan
    np.testing.assert_array_equal(scene.read(), expected)
    np.testing.assert_array_equal(scene.source.read(range(1), range(3), np.array([2])), expected[:1, :3, 2:])
    told = read_scene(path, wavelengths=csv, nodata=59)  # the user's word goes before that of the file
    assert told.nodata == 59
    np.testing.assert_array_equal(told.read(), cube)


def test_a_header_named_for_its_tiff_is_no_flat_file(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", CUBE)
    (tmp_path / "a.tif.hdr").write_text(HEADER.format(lines=4))
    with pytest.raises(SpecfmError, match="a.tif.hdr: describes the TIFF a.tif beside it; name that file instead"):
        read_scene(tmp_path / "a.tif.hdr")


def pages(path: Path, shapes: list[tuple[int, ...]], kind: str = "uint16") -> list[np.ndarray]:
    import rasterio
    from rasterio.enums import ColorInterp

    rng, made = np.random.default_rng(0), []
    for number, shape in enumerate(shapes):
        page = rng.integers(0, 900, shape).astype(kind)
        count = 1 if page.ndim == 2 else shape[0]
        with rasterio.open(
            path, "w", driver="GTiff", height=shape[-2], width=shape[-1], count=count, dtype=kind,
            photometric="minisblack", **({"APPEND_SUBDATASET": "YES"} if number else {}),
        ) as raster:  # fmt: skip
            raster.write(page if page.ndim == 3 else page[None])
            raster.colorinterp = [ColorInterp.gray] * count if count == 1 else raster.colorinterp
        made.append(page)
    return made


def test_pages_of_one_size_are_the_bands_of_a_cube(tmp_path: Path) -> None:
    made = pages(tmp_path / "p.tif", [(6, 5)] * 3)
    with pytest.raises(SpecfmError, match="p.tif: no wavelengths in this file"):
        read_scene(tmp_path / "p.tif")
    scene = read_scene(tmp_path / "p.tif", wavelengths=make.bands_csv(tmp_path, 3))
    assert scene.shape == (6, 5, 3)
    np.testing.assert_array_equal(scene.read(), np.stack(made, -1))
    np.testing.assert_array_equal(scene.read(slice(1, 5, 2), slice(2, 4)), np.stack(made, -1)[1:5:2, 2:4])


def test_pages_of_other_sizes_are_refused_with_a_remedy(tmp_path: Path) -> None:
    pages(tmp_path / "p.tif", [(6, 5), (3, 2), (6, 5)])
    with pytest.raises(
        SpecfmError, match=r"p.tif: this TIFF has 3 pages \(3x2 .*, 6x5 .*\), which are no bands of one"
    ):
        read_scene(tmp_path / "p.tif", wavelengths=make.bands_csv(tmp_path, 3))


def test_a_cube_inside_a_struct_is_read_with_its_list(tmp_path: Path) -> None:
    from scipy.io import savemat

    cube = np.random.default_rng(0).random((4, 5, 3))
    inner = {"Data": cube, "info": {"wavelength": np.array([[450.0], [550.0], [650.0]])}}
    savemat(tmp_path / "s.mat", {"hsi": inner})
    for variable in (None, "hsi", "hsi.Data"):
        scene = read_scene(tmp_path / "s.mat", variable=variable, units="nm")
        np.testing.assert_array_equal(scene.read(), cube)
        assert scene.sensor.bands.wavelengths_nm.tolist() == [450, 550, 650]


def test_several_arrays_inside_structs_are_listed(tmp_path: Path) -> None:
    from scipy.io import savemat

    cube = np.zeros((4, 5, 3))
    savemat(tmp_path / "s.mat", {"a": {"x": cube, "y": cube}, "n": 1.0})
    with pytest.raises(SpecfmError, match="choose one with --variable: a.x 4x5x3, a.y 4x5x3"):
        read_scene(tmp_path / "s.mat", units="nm")
    with pytest.raises(SpecfmError, match="no variable 'a.z'; it holds n 1x1, a.x 4x5x3, a.y 4x5x3"):
        read_scene(tmp_path / "s.mat", variable="a.z")


def test_a_struct_of_a_new_matlab_file_is_read_too(tmp_path: Path) -> None:
    import h5py

    path, cube = tmp_path / "s.mat", np.random.default_rng(0).random((4, 5, 3))
    with h5py.File(path, "w", userblock_size=512) as file:
        file["hsi/Data"] = cube.T
        file["hsi/wavelength"] = np.array([[450.0, 550.0, 650.0]])
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(head + path.read_bytes()[128:])
    scene = read_scene(path, units="nm", variable="hsi.Data")
    np.testing.assert_array_equal(scene.read(), cube)
    assert scene.sensor.bands.wavelengths_nm.tolist() == [450, 550, 650]


def test_what_is_stated_and_not_used_is_said_in_one_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tiff(tmp_path / "a.tif", CUBE, nodata=0)
    tag(
        path,
        0,
        None,
        wavelength="450,550,650",
        wavelength_units="nm",
        Scale_Factor="10000",
        missing_value="-1",
        AUTHOR="x",
    )
    scene = read_scene(path)
    assert scene.sensor.scale == 1 and scene.nodata == 0
    (record,) = caplog.records
    assert "a.tif states what is not used: " in record.message
    assert "scale factor = 10000" in record.message and "missing value = -1" in record.message
    assert "author" not in record.message
    caplog.clear()
    envi = make.envi(tmp_path, CUBE, **{"geo points": "{1, 1, 2, 3}", "data reflectance gain values": "{1, 2, 3}"})
    assert read_scene(envi).sensor.scale == 1
    (record,) = caplog.records
    assert "geo points = 1, 1, 2, 3" in record.message and "data reflectance gain values" in record.message


def test_a_scale_factor_that_multiplies_is_used(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", CUBE)
    tag(path, 0, None, wavelength="450,550,650", wavelength_units="nm", scale_factor="0.0001", add_offset="-0.1")
    scene = read_scene(path)
    assert (scene.sensor.scale, scene.sensor.offset) == (pytest.approx(1e-4), -0.1)


def test_what_every_band_says_alike_is_said_of_the_file(tmp_path: Path) -> None:
    cube = np.array([[[0, 5, 7], [5, 9, 0]]], np.uint16)
    path = tiff(tmp_path / "a.tif", cube)
    for band in (1, 2, 3):
        tag(path, band, None, scale_factor="0.5", _FillValue="0", missing_value="9", wavelength=str(400 + 10 * band))
    scene = read_scene(path, units="nm")
    assert scene.sensor.scale == 0.5
    np.testing.assert_array_equal(scene.values(), [[[np.nan, 2.5, 3.5], [2.5, np.nan, np.nan]]])
