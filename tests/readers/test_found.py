"""What a file states of its numbers is settled in one place: gains that are none are refused, limits of counts go."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.readers.found import Found
from specfm.scene import ArraySource
from tests.readers import make
from tests.readers.test_geotiff import ENMAP, enmap_bands

CUBE = make.cube((4, 5, 3), "u2")


def found(gains: list[float], offsets: list[float], **more: object) -> Found:
    stated = (np.array(gains), np.array(offsets))
    return Found(ArraySource(CUBE), Path("x.hdr"), gains=stated, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("gain", [0.0, np.nan, np.inf])
def test_gains_of_zero_or_no_number_are_refused(gain: float) -> None:
    for gains in ([1.0, gain, 2.0], [gain] * 3):
        band = gains.index(gain) + 1
        with pytest.raises(SpecfmError, match=f"x.hdr: states the gain {gain:g} for band {band}; .* say --scale"):
            found(gains, [0.0] * 3).settle(None, None, None)
        assert found(gains, [0.0] * 3).settle(2.0, None, None) == (2.0, 0.0)  # the remedy works
    with pytest.raises(SpecfmError, match="side.xml: states the gain"):
        found([gain] * 3, [0.0] * 3, calibrated_by=Path("side.xml")).settle(None, None, None)


def test_offsets_that_are_no_number_are_refused() -> None:
    with pytest.raises(SpecfmError, match=r"x.hdr: states the offset inf for band 3; .* say --offset"):
        found([1.0] * 3, [0.0, 1.0, np.inf]).settle(None, None, None)
    assert found([1.0] * 3, [0.0, 1.0, np.inf]).settle(None, 0.0, None) == (1.0, 0.0)


def test_a_band_that_is_marked_bad_may_have_any_gain() -> None:
    settled = found([1.0, 0.0, 2.0], [0.0] * 3, valid=[1, 0, 1])
    assert settled.settle(None, None, None) == (1.0, 0.0)
    np.testing.assert_allclose(settled.source.read(range(1), range(1), np.array([2])), CUBE[:1, :1, 2:] * 2.0)


def test_the_file_that_states_the_gains_is_named(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    cube = make.cube((3, 4, 2))
    header = make.envi(tmp_path, cube, data_gain_values="{0, 1}")
    with pytest.raises(SpecfmError, match=r"scene.hdr: states the gain 0 for band 1"):
        read_scene(header)
    make.tiff(tmp_path / "E-SPECTRAL_IMAGE.TIF", cube)
    (tmp_path / "E-METADATA.XML").write_text(ENMAP.format(bands=enmap_bands(1e-4, float("nan"))))
    with pytest.raises(SpecfmError, match=r"E-METADATA.XML: states the gain nan for band 2"):
        read_scene(tmp_path / "E-SPECTRAL_IMAGE.TIF")
    path = make.tiff(tmp_path / "s.tif", cube)
    bands = [{"scale": 0, "eo:center_wavelength": 0.45}, {"scale": 1, "eo:center_wavelength": 0.55}]
    (tmp_path / "s.json").write_text(json.dumps({"assets": {"x": {"href": "s.tif", "bands": bands}}}))
    with pytest.raises(SpecfmError, match=r"s.json: states the gain 0 for band 1"):
        read_scene(path)


@pytest.mark.parametrize("side", ["xml", "hdr", "item", "tags"])
def test_a_limit_of_counts_goes_with_the_counts(tmp_path: Path, side: str) -> None:
    pytest.importorskip("rasterio")
    cube = make.cube((3, 4, 2), "u2")
    path = make.tiff(tmp_path / "E-SPECTRAL_IMAGE.TIF", cube)
    make.tag(path, 0, None, ceiling="4095")
    csv = make.bands_csv(tmp_path, 2)
    assert read_scene(path, wavelengths=csv).saturation == 4095
    if side == "xml":
        (tmp_path / "E-METADATA.XML").write_text(ENMAP.format(bands=enmap_bands(1e-4, 2e-4)))
    elif side == "hdr":
        keys = make.header(cube.shape, "u2", data_gain_values="{1, 2}")
        path.with_suffix(".hdr").write_text(make.header_text(keys))
    elif side == "item":
        bands = [{"scale": 0.1}] * 2
        path.with_suffix(".json").write_text(json.dumps({"assets": {"x": {"href": path.name, "raster:bands": bands}}}))
    else:
        make.tag(path, 0, None, scale_factor="0.5")
    assert read_scene(path, wavelengths=csv).saturation is None


def test_complex_numbers_keep_their_imaginary_part_under_gains() -> None:
    cube = np.array([[[1 + 2j, 3 - 1j]]], np.complex64)
    stated = Found(ArraySource(cube), Path("x.hdr"), gains=(np.array([2.0, 3.0]), np.zeros(2)))
    stated.nodata, stated.fills = 9.0, (8.0,)
    stated.settle(None, None, None)
    np.testing.assert_array_equal(stated.source.read(range(1), range(1), None), [[[2 + 4j, 9 - 3j]]])
