"""STAC items beside a GeoTIFF: wavelengths, scale, offset and nodata, of the asset that is this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene

from . import make

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

EO = [
    {"name": f"b{at}", "center_wavelength": value, "full_width_half_max": 0.02} for at, value in enumerate((0.45, 0.85))
]
OTHER = [{**band, "center_wavelength": band["center_wavelength"] + 0.1} for band in EO]


def scene(folder: Path, item: Any, cube: np.ndarray | None = None, name: str = "a.tif", **options: Any) -> Any:
    cube = np.arange(24).reshape(3, 4, 2).astype(np.uint16) if cube is None else cube
    path = make.tiff(folder / name, cube)
    (folder / "a.json").write_text(json.dumps({"type": "Feature", **item}))
    return read_scene(path, **options)


def assets(href: str = "a.tif", **asset: Any) -> dict[str, Any]:
    return {"assets": {"data": {"href": href, **asset}}}


def test_raster_bands_are_scale_offset_and_nodata(tmp_path: Path) -> None:
    raster = [{"nodata": 0, "scale": 0.0001, "offset": -0.1}] * 2
    read = scene(tmp_path, assets(**{"eo:bands": EO, "raster:bands": raster}))
    assert (read.sensor.scale, read.sensor.offset, read.nodata, read.dtype) == (0.0001, -0.1, 0, np.uint16)
    assert read.sensor.bands.fwhm_nm.tolist() == [20, 20]
    told = scene(tmp_path, assets(**{"eo:bands": EO, "raster:bands": raster}), scale=2.0, offset=1.0, nodata=5)
    assert (told.sensor.scale, told.sensor.offset, told.nodata) == (2.0, 1.0, 5)


def test_what_differs_between_bands_is_applied_band_by_band(tmp_path: Path) -> None:
    cube = np.array([[[7, 7], [0, 3], [2, 0]]], np.int16)
    raster = [{"nodata": 0, "scale": 0.5}, {"nodata": 7, "scale": 2.0, "offset": 1.0}]
    read = scene(tmp_path, assets(**{"eo:bands": EO, "raster:bands": raster}), cube)
    np.testing.assert_allclose(read.values()[0], [[3.5, np.nan], [np.nan, 7.0], [1.0, 1.0]])
    assert read.mask()[0].tolist() == [False, False, True]


def test_bands_of_stac_1_1_and_what_the_asset_says_for_all(tmp_path: Path) -> None:
    bands = [{"name": "x", "eo:center_wavelength": centre, "raster:scale": 0.01} for centre in (0.45, 0.85)]
    read = scene(tmp_path, {"stac_version": "1.1.0", **assets(bands=bands, nodata=9)})
    np.testing.assert_allclose(read.sensor.bands.wavelengths_nm, [450, 850])
    assert read.sensor.scale == 0.01 and read.nodata == 9
    plain = [{"eo:center_wavelength": centre} for centre in (0.45, 0.85)]
    read = scene(tmp_path, {"properties": {"nodata": "nan"}, **assets(bands=plain, **{"raster:scale": 0.5})})
    assert read.sensor.scale == 0.5 and np.isnan(read.nodata)


def test_bands_that_say_all_without_prefixes(tmp_path: Path) -> None:
    bands = [{**band, "nodata": "nan", "scale": at + 1.0, "offset": 1.0} for at, band in enumerate(EO)]
    cube = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    read = scene(tmp_path, assets(bands=bands), cube)
    np.testing.assert_allclose(read.read()[1:], cube[1:] * [1.0, 2.0] + 1)
    assert read.sensor.bands.fwhm_nm.tolist() == [20, 20]


@pytest.mark.parametrize("href", ["a.tif", "./a.tif", "https://host/path/a.tif?sig=1", "../x/a.tif"])
def test_the_asset_is_chosen_by_its_href(tmp_path: Path, href: str) -> None:
    item = {"assets": {"no": {"href": "b.tif", "eo:bands": OTHER, "raster:bands": [{"scale": 5}] * 2}}}
    item["assets"]["yes"] = {"href": href, "eo:bands": EO}
    read = scene(tmp_path, item)
    np.testing.assert_allclose(read.sensor.bands.wavelengths_nm, [450, 850])
    assert read.sensor.scale == 1.0


def test_several_assets_of_other_files_are_not_chosen_between(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    item = {"assets": {"one": {"href": "b.tif", "eo:bands": OTHER}, "two": {"href": "c.tif", "eo:bands": EO}}}
    with pytest.raises(SpecfmError, match="no wavelengths in this file"):
        scene(tmp_path, item)
    assert "none of its href is this file" in caplog.text
    item["assets"]["one"]["eo:bands"] = EO
    np.testing.assert_allclose(scene(tmp_path, item).sensor.bands.wavelengths_nm, [450, 850])


def test_numbers_of_bands_in_the_list_of_the_item(tmp_path: Path) -> None:
    read = scene(tmp_path, {"properties": {"eo:bands": [*OTHER, *EO]}, **assets(**{"eo:bands": [3, 0]})})
    np.testing.assert_allclose(read.sensor.bands.wavelengths_nm, [850, 550])


def test_what_the_file_says_itself_holds_and_the_rest_is_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make.tiff(tmp_path / "a.tif", make.cube((3, 4, 2)), nodata=-5)
    with rasterio.open(path, "r+") as raster:
        raster.scales = (0.5, 0.5)
    item = assets(**{"eo:bands": EO, "raster:bands": [{"nodata": 0, "scale": 0.25}] * 2})
    (tmp_path / "a.json").write_text(json.dumps(item))
    caplog.set_level("INFO")
    read = read_scene(path)
    assert read.sensor.scale == 0.5 and read.nodata == -5
    assert "says another nodata value than the file" in caplog.text
    assert "says another scale or offset than the file" in caplog.text


def test_a_broken_neighbour_stops_only_a_file_that_needs_it(tmp_path: Path) -> None:
    path = make.tiff(tmp_path / "a.tif", make.cube((3, 4, 2)))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SpecfmError, match=r"a.json: not readable as JSON .*; mend it or move it away"):
        read_scene(path)
    make.tag(path, 0, None, wavelength="{450, 850}", wavelength_units="nm")
    assert read_scene(path).sensor.bands.wavelengths_nm.tolist() == [450, 850]
    (tmp_path / "a.json").write_text('[{"bands": 3}, null, {"eo:bands": []}]')
    assert read_scene(path).sensor.bands.wavelengths_nm.tolist() == [450, 850]


def test_numbers_written_as_text_are_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    eo = [{key: str(value) for key, value in band.items()} for band in EO]
    read = scene(tmp_path, assets(**{"eo:bands": eo, "raster:bands": [{"nodata": "0", "scale": "0.0001"}] * 2}))
    assert (read.sensor.scale, read.nodata) == (0.0001, 0) and not caplog.records
    np.testing.assert_allclose(read.sensor.bands.wavelengths_nm, [450, 850])
    np.testing.assert_allclose(read.sensor.bands.fwhm_nm, [20, 20])


@pytest.mark.parametrize("wrong", ["1/10000", True, [1], {"value": 1}, pytest.param(10**400, id="huge")])
def test_what_is_no_number_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: Any) -> None:
    read = scene(tmp_path, assets(**{"eo:bands": EO, "raster:bands": [{"nodata": 0, "scale": wrong}] * 2}))
    assert (read.sensor.scale, read.nodata) == (1, 0)
    assert f"a.json: what is no number is not used: raster:scale = {str(wrong)[:20]}" in caplog.text


def test_an_href_that_is_no_address_is_not_this_file(tmp_path: Path) -> None:
    item = {"assets": {"no": {"href": "https://[host/a.tif", "eo:bands": OTHER}, "yes": {"href": "a.tif"}}}
    item["assets"]["yes"]["eo:bands"] = EO  # type: ignore[assignment]
    np.testing.assert_allclose(scene(tmp_path, item).sensor.bands.wavelengths_nm, [450, 850])
