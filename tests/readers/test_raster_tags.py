"""Nodata, scale and offset of a TIFF: of all bands, of single bands and pages; what may mean two things is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.scene import Scene
from tests.readers import make
from tests.readers.make import tag, tiff

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CUBE = np.array([[[10, 20, 30], [7, 8, 9]]], np.int16)


def scene(folder: Path, bands: list[dict[str, str]], file: dict[str, str] | None = None, **options: Any) -> Scene:
    path = tiff(folder / "a.tif", CUBE)
    for band, tags in enumerate(bands, 1):
        tag(path, band, None, **tags)
    if file:
        tag(path, 0, None, **file)
    return read_scene(path, wavelengths=make.bands_csv(folder, 3), **options)


def test_scale_offset_and_nodata_of_single_bands(tmp_path: Path) -> None:
    said = [
        {"scale_factor": "0.5", "_FillValue": "7"},
        {"scale_factor": "0.1", "_FillValue": "8", "add_offset": "1"},
        {"scale_factor": "0.5", "_FillValue": "-1"},
    ]
    read = scene(tmp_path, said)
    np.testing.assert_allclose(read.values(), [[[5, 3, 15], [np.nan, np.nan, 4.5]]])
    assert (read.sensor.scale, read.sensor.offset) == (1, 0)
    np.testing.assert_allclose(read.values(bands=[1]), [[[3], [np.nan]]])
    told = scene(tmp_path, said, scale=2.0, offset=0.0, nodata=9)  # the user's word goes before that of the file
    np.testing.assert_allclose(told.values(), [[[20, 40, 60], [14, 16, np.nan]]])


def test_a_band_speaks_before_the_file(tmp_path: Path) -> None:
    read = scene(tmp_path, [{}, {"scale_factor": "0.1"}, {}], {"scale_factor": "0.5", "nodata": "7"})
    np.testing.assert_allclose(read.values(), [[[5, 2, 15], [np.nan, 0.8, 4.5]]])


def test_factors_that_divide_differ_too(tmp_path: Path) -> None:
    read = scene(tmp_path, [{"reflectance_scale_factor": factor} for factor in ("10", "100", "1000")])
    np.testing.assert_allclose(read.values()[0, 0], [1, 0.2, 0.03], rtol=1e-6)
    with pytest.raises(SpecfmError, match="a.tif: reflectance scale factor must be positive, got 0; mend the tag"):
        scene(tmp_path, [{"reflectance_scale_factor": factor} for factor in ("10", "0", "1000")])


@pytest.mark.parametrize(
    ("tags", "noted"),
    [
        ({"scale": "1:5000"}, "scale = 1:5000"),
        ({"nodata": "none"}, "nodata = none"),
        ({"reflectance_scale_factor": "unknown"}, "reflectance scale factor = unknown"),
        ({"offset": "128"}, "offset = 128"),  # of a header, say
        ({"scale": "1:5000", "add_offset": "3"}, "add offset = 3"),
        ({"scale_factor": "10000"}, "scale factor = 10000"),
    ],
)
def test_what_may_mean_another_thing_is_told_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tags: dict[str, str], noted: str
) -> None:
    read = scene(tmp_path, [], tags)
    assert (read.sensor.scale, read.sensor.offset, read.nodata) == (1, 0, None)
    assert "a.tif states what is not used: " in caplog.text and noted in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(scene(tmp_path, [tags, {}, tags]).read(), CUBE)  # the same of single bands
    assert noted in caplog.text


def test_an_offset_that_is_one_is_used_alone(tmp_path: Path) -> None:
    assert scene(tmp_path, [], {"add_offset": "5"}).sensor.offset == 5
    assert scene(tmp_path, [], {"scale": "0.5", "offset": "5"}).sensor.offset == 5


@pytest.mark.parametrize(("tags", "name"), [({"add_offset": "nan"}, "offset nan"), ({"scale_factor": "1e-999"}, "")])
def test_numbers_that_are_none_are_refused_with_the_file(tmp_path: Path, tags: dict[str, str], name: str) -> None:
    if not name:  # zero is told as every factor that may mean something else
        assert scene(tmp_path, [], tags).sensor.scale == 1
        return
    with pytest.raises(SpecfmError, match=f"a.tif: states the {name} for band 1; correct it, or say --offset"):
        scene(tmp_path, [], tags)
    assert scene(tmp_path, [], tags, offset=2.0).sensor.offset == 2


def pages(path: Path, said: list[dict[str, Any]]) -> Path:
    for number, stated in enumerate(said):
        profile = {"height": 1, "width": 2, "count": 1, "dtype": "int16", "nodata": stated.get("nodata")}
        more = {"APPEND_SUBDATASET": "YES"} if number else {}
        with rasterio.open(path, "w", driver="GTiff", photometric="minisblack", **profile, **more) as raster:
            raster.write(CUBE[None, ..., number])
            raster.scales, raster.offsets = [stated.get("scale", 1)], [stated.get("offset", 0)]
            raster.update_tags(**stated.get("tags", {}))
    return path


def test_each_page_keeps_its_nodata_scale_and_offset(tmp_path: Path) -> None:
    said = [{"nodata": 7, "scale": 0.5}, {"nodata": 20, "offset": 1}, {"nodata": 9, "scale": 0.1}]
    read = read_scene(pages(tmp_path / "p.tif", said), wavelengths=make.bands_csv(tmp_path, 3))
    np.testing.assert_allclose(read.values(), [[[5, np.nan, 3], [np.nan, 9, np.nan]]])
    alike = pages(tmp_path / "q.tif", [{"nodata": 7, "scale": 0.5, "offset": 1}] * 3)
    read = read_scene(alike, wavelengths=make.bands_csv(tmp_path, 3))
    assert (read.nodata, read.sensor.scale, read.sensor.offset, read.dtype) == (7, 0.5, 1, np.int16)


def test_tags_of_pages_and_of_the_first_for_all(tmp_path: Path) -> None:
    said = [{"tags": {"scale_factor": text}} for text in ("0.5", "0.1", "0.2")]
    read = read_scene(pages(tmp_path / "p.tif", said), wavelengths=make.bands_csv(tmp_path, 3))
    np.testing.assert_allclose(read.values()[0, 0], [5, 2, 6])
    read = read_scene(pages(tmp_path / "q.tif", [said[0], {}, {}]), wavelengths=make.bands_csv(tmp_path, 3))
    assert read.sensor.scale == 0.5
