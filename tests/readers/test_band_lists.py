"""Of several band lists the finer, mutually consistent one holds; contradictions are told; ranges mean their middle."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.readers.band_lists import BandList, choose
from specfm.readers.names import from_names
from tests.readers import make
from tests.readers.make import tag, tiff

pytest.importorskip("rasterio")

FINE = np.array([450.32, 549.81, 650.13])
PATH = Path("x.tif")


def listed(place: str, centres: object, units: str | None = "nm") -> BandList:
    return BandList(place, np.asarray(centres, float), units)


@pytest.mark.parametrize("coarse", [listed("a", [450, 550, 650]), listed("a", [0.45, 0.55, 0.65], "um")])
def test_the_finer_of_two_that_agree_holds_wherever_it_stands(coarse: BandList) -> None:
    fine = listed("b", FINE)
    for order in ([coarse, fine], [fine, coarse]):
        held = choose(PATH, order)
        assert held is not None and held.place == "b"


def test_lists_that_contradict_are_named_with_the_largest_difference(caplog: pytest.LogCaptureFixture) -> None:
    held = choose(PATH, [listed("the tags", [450, 550, 650]), listed("the names", FINE + 3)])
    assert held is not None and held.place == "the tags"
    (record,) = caplog.records
    assert "x.tif: wavelengths of the tags and of the names contradict each other by up to 3.32 nm" in record.message


def test_a_list_with_units_is_taken_before_one_without(caplog: pytest.LogCaptureFixture) -> None:
    held = choose(PATH, [listed("a", [450, 550, 650], None), listed("b", [0.45, 0.55, 0.65], "um")])
    assert held is not None and held.place == "b"
    assert not [r for r in caplog.records if r.levelname != "INFO"]
    assert choose(PATH, []) is None


def test_zeros_of_bad_bands_contradict_nothing(caplog: pytest.LogCaptureFixture) -> None:
    held = choose(PATH, [listed("a", [450, 0, 650]), listed("b", FINE)])
    assert held is not None and held.place == "b"
    assert not [r for r in caplog.records if r.levelname != "INFO"]


def test_a_list_inside_the_ranges_of_the_names_is_finer_than_their_middles() -> None:
    names = from_names("names", ["440-470 nm", "530-560 nm", "640-670 nm"])
    assert names is not None
    held = choose(PATH, [names, listed("tags", [450, 550, 650])])
    assert held is not None and held.place == "tags"


# the same from files


def cube_with_names(folder: Path, names: list[str]) -> Path:
    import rasterio

    path = tiff(folder / "a.tif", make.cube((4, 5, len(names))))
    with rasterio.open(path, "r+") as raster:
        for band, name in enumerate(names, 1):
            raster.set_band_description(band, name)
    return path


def test_geotiff_names_with_decimals_beat_rounded_tags(tmp_path: Path) -> None:
    path = cube_with_names(tmp_path, [f"{nm:.2f} nm" for nm in FINE])
    for band, nm in enumerate(FINE, 1):
        tag(path, band, "IMAGERY", CENTRAL_WAVELENGTH_UM=f"{nm / 1000:.3f}", FWHM_UM="0.010")
    grid = read_scene(path).sensor.bands
    np.testing.assert_allclose(grid.wavelengths_nm, FINE)
    np.testing.assert_allclose(grid.fwhm_nm, 10)


def test_geotiff_tags_and_item_that_contradict_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cube_with_names(tmp_path, ["a", "b", "c"])
    tag(path, 0, "ENVI", wavelength="450,550,650", wavelength_units="nm")
    bands = [{"center_wavelength": nm / 1000} for nm in (470, 570, 670)]
    (tmp_path / "a.json").write_text(json.dumps({"assets": {"d": {"href": "./a.tif", "eo:bands": bands}}}))
    assert read_scene(path).sensor.bands.wavelengths_nm.tolist() == [450, 550, 650]
    assert "the item a.json contradict each other by up to 20 nm; those of the tags of the file are used" in caplog.text


def test_envi_names_with_decimals_beat_a_rounded_list(tmp_path: Path) -> None:
    fields = {"wavelength": "{450, 550, 650}", "wavelength units": "Nanometers"}
    names = ", ".join(f"B{i} {nm:.2f} nm" for i, nm in enumerate(FINE))
    path = make.envi(tmp_path, make.cube((4, 5, 3)), **fields, **{"band names": f"{{{names}}}"})
    np.testing.assert_allclose(read_scene(path).sensor.bands.wavelengths_nm, FINE)


@pytest.mark.parametrize("key", ["wavelength", "fwhm", "bbl"])
def test_an_envi_list_of_another_length_gives_way_to_a_supplied_one(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {"wavelength": "{450, 550, 650}", "wavelength units": "nm"} | {key: "{1, 1, 1, 1}"}
    path = make.envi(tmp_path, make.cube((4, 5, 3)), **fields)
    with pytest.raises(SpecfmError, match=f"{key} has 4 values but the file has 3 bands; correct .*--wavelengths"):
        read_scene(path)
    caplog.set_level(logging.INFO)
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 3))
    assert scene.shape == (4, 5, 3) and f"{key} has 4 values but the file has 3 bands; it is not used" in caplog.text


def test_a_geotiff_list_of_another_length_gives_way_to_a_supplied_one(tmp_path: Path) -> None:
    path = cube_with_names(tmp_path, ["a", "b", "c"])
    tag(path, 0, "ENVI", wavelength="450,550", wavelength_units="nm")
    with pytest.raises(
        SpecfmError, match="'wavelength' has 2 values but the file has 3 bands; mend the tag, or supply"
    ):
        read_scene(path)
    assert read_scene(path, wavelengths=make.bands_csv(tmp_path, 3)).shape[2] == 3
