"""Row-by-row rasters read back equal, carry their geo reference, and never leave a half-written file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError, UsageError
from specfm.rasters.map_info import parse_map_info
from specfm.rasters.writers import open_raster, scaled_geo, stretch, write_png
from specfm.readers.envi_header import parse_header
from specfm.scene import Geo

GEO = Geo("EPSG:32617", (500000.0, 2.0, 0.0, 4000000.0, 0.0, -2.0))
CUBE = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float32)


def write(path: Path, **options: object) -> None:
    with open_raster(path, CUBE.shape, "float32", geo=GEO, band_names=["a", "b", "c"], **options) as writer:  # type: ignore[arg-type]
        for start in range(0, 7, 2):
            writer.write(CUBE[start : start + 2])


def test_npy_round_trip_with_coordinates(tmp_path: Path) -> None:
    write(tmp_path / "x.npy", facts={"checkpoint": "abc"})
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), CUBE)
    side = json.loads((tmp_path / "x.json").read_text())
    assert side["geo"]["transform"] == list(GEO.transform or ()) and side["checkpoint"] == "abc"


def test_envi_round_trip_through_an_independent_reader(tmp_path: Path) -> None:
    spectral = pytest.importorskip("spectral")
    write(tmp_path / "x.hdr", nodata=-1.0)
    image = spectral.open_image(str(tmp_path / "x.hdr"))
    np.testing.assert_array_equal(np.asarray(image.load()), CUBE)
    assert image.metadata["band names"] == ["a", "b", "c"]
    assert [float(v) for v in image.metadata["map info"][3:7]] == [500000.0, 4000000.0, 2.0, 2.0]
    assert float(image.metadata["data ignore value"]) == -1.0


PLACES = {
    "utm": ("EPSG:32617", (500000.0, 2.0, 0.0, 4000000.0, 0.0, -2.0)),
    "utm south, oblong": ("EPSG:32733", (300000.0, 2.0, 0.0, 6000000.0, 0.0, -3.0)),
    "nad83": ("EPSG:26911", (300000.0, 1.0, 0.0, 4000000.0, 0.0, -1.0)),
    "degrees": ("EPSG:4326", (10.0, 0.001, 0.0, 50.0, 0.0, -0.001)),
    "rotated": ("EPSG:32612", (583171.5, 2.4, -1.8, 4986234.5, -1.8, -2.4)),
    "half turn": ("EPSG:32612", (583171.5, -3.0, 0.0, 4986234.5, 0.0, 3.0)),
    "other projection": ("EPSG:3035", (4000000.0, 10.0, 0.0, 3000000.0, 0.0, -10.0)),
    "no name": (None, (5.0, 2.0, 0.0, 7.0, 0.0, -2.0)),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_place_of_an_envi_raster_survives(tmp_path: Path, name: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    crs, transform = PLACES[name]
    with open_raster(tmp_path / "x.hdr", CUBE.shape, geo=Geo(crs, transform)) as writer:  # type: ignore[arg-type]
        writer.write(CUBE)
    with rasterio.open(tmp_path / "x.img") as file:
        np.testing.assert_allclose(file.transform.to_gdal(), transform, rtol=1e-12)
        assert (file.crs.to_epsg() if file.crs else None) == (None if crs is None else int(crs[5:]))
    header = parse_header(tmp_path / "x.hdr")
    stated, read, gsd_m = header.geo()
    np.testing.assert_allclose(read, transform, rtol=1e-12, atol=1e-9)
    assert (stated is None) == (crs is None)
    side = abs(transform[1] * transform[5] - transform[2] * transform[4]) ** 0.5
    assert gsd_m == (None if crs in (None, "EPSG:4326") else pytest.approx(side))
    if name not in ("other projection", "no name"):  # map info alone says it too
        assert parse_map_info(header.items("map info"), tmp_path)[0] == crs


def test_a_sheared_grid_is_said_to_lose_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    geo = Geo("EPSG:32617", (500000.0, 2.0, 1.0, 4000000.0, 0.0, -2.0))
    with open_raster(tmp_path / "x.hdr", CUBE.shape, geo=geo) as writer:
        writer.write(CUBE)
    assert "x.hdr: its grid is sheared" in caplog.text and "map info" not in (tmp_path / "x.hdr").read_text()


def test_geotiff_round_trip(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    write(tmp_path / "x.tif", nodata=float("nan"), facts={"checkpoint": "abc", "n": 3})
    with rasterio.open(tmp_path / "x.tif") as file:
        np.testing.assert_array_equal(file.read().transpose(1, 2, 0), CUBE)
        assert file.transform.to_gdal() == GEO.transform and file.crs.to_epsg() == 32617
        assert file.descriptions == ("a", "b", "c") and file.tags()["checkpoint"] == "abc"


@pytest.mark.parametrize("suffix", [".npy", ".hdr", ".tif"])
def test_an_error_or_missing_rows_leave_nothing(tmp_path: Path, suffix: str) -> None:
    if suffix == ".tif":
        pytest.importorskip("rasterio")
    with pytest.raises(RuntimeError), open_raster(tmp_path / f"x{suffix}", CUBE.shape) as writer:
        writer.write(CUBE[:3])
        raise RuntimeError("killed half-way")
    with pytest.raises(SpecfmError, match="3 of 7 rows"), open_raster(tmp_path / f"x{suffix}", CUBE.shape) as writer:
        writer.write(CUBE[:3])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".npy", ".hdr", ".tif"])
def test_existing_files_are_refused_unless_overwritten(tmp_path: Path, suffix: str) -> None:
    if suffix == ".tif":
        pytest.importorskip("rasterio")
    path = tmp_path / f"x{suffix}"
    write(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        write(path)
    assert path.read_bytes() == before
    write(path, overwrite=True)


def test_a_companion_file_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("mine")
    with pytest.raises(UsageError, match="x.json exists"):
        write(tmp_path / "x.npy")
    assert (tmp_path / "x.json").read_text() == "mine"


def test_unknown_suffix_and_misfitting_rows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="suffix"):
        open_raster(tmp_path / "x.jpg", CUBE.shape)
    with pytest.raises(ValueError, match="do not fit"), open_raster(tmp_path / "x.npy", CUBE.shape) as writer:
        writer.write(CUBE[:, :2])


def test_scaled_geo_keeps_the_corner() -> None:
    scaled = scaled_geo(GEO, 3)
    assert scaled is not None and scaled.transform == (500000.0, 6.0, 0.0, 4000000.0, 0.0, -6.0)
    assert scaled_geo(None, 3) is None


def test_png_and_stretch(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = stretch(np.where(CUBE > 1, np.nan, CUBE))
    assert image.min() >= 0 and image.max() <= 1 and (image[CUBE > 1] == 0.5).all()
    write_png(tmp_path / "x.png", image)
    assert (tmp_path / "x.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UsageError, match="exists"):
        write_png(tmp_path / "x.png", image)


def test_constant_channel_stretches_to_grey() -> None:
    assert (stretch(np.ones((3, 3, 1))) == 0.5).all()
