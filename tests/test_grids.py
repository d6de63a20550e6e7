"""Whether two rasters lie on one grid: rounding passes; half a pixel, another zone and upside down do not."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.grids import Grid, require_one_grid
from specfm.scene import Geo

AT = (500000.0, 30.0, 0.0, 4100000.0, 0.0, -30.0)
ONE = Grid("scene.tif", (40, 50), Geo("EPSG:32617", AT))


def other(transform: tuple[float, ...] | None = AT, crs: str | None = "EPSG:32617", shape: tuple = (40, 50)) -> Grid:
    return Grid("labels.tif", shape, Geo(crs, transform))  # type: ignore[arg-type]


def moved(x: float = 0.0, y: float = 0.0, dx: float = 0.0) -> tuple[float, ...]:
    return (AT[0] + x, AT[1] + dx, 0.0, AT[3] + y, 0.0, AT[5] - dx)


@pytest.mark.parametrize(
    "same",
    [other(), other(moved(x=1.0, y=-1.0)), other(crs=None), other(moved(dx=0.01))],
    ids=["equal", "rounded corner", "no system named", "rounded pixel"],
)
def test_one_grid_in_other_words(same: Grid) -> None:
    require_one_grid(ONE, same)


@pytest.mark.parametrize("flat", [(1, 0, 0, 1, 0, 0), (1, 0, 0, 1, 0, -30), (1, 30, 30, 1, 30, 30), (np.nan,) * 6])
def test_pixels_without_a_size_are_no_place(flat: tuple[float, ...], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for pair in ((ONE, other(flat)), (other(flat), ONE)):
        require_one_grid(*pair)
        assert "labels.tif has no georeference; it is taken to lie on scene.tif" in caplog.text
        caplog.clear()
    require_one_grid(other(flat), other(flat))
    with pytest.raises(SpecfmError, match="50 pixels without georeference"):
        require_one_grid(ONE, other(flat, shape=(41, 50)))


@pytest.mark.parametrize(
    ("wrong", "how"),
    [
        (other(moved(x=15.0)), r"differ in extent \(corners 0.5 pixels apart\)"),
        (other(moved(x=150.0, y=-150.0)), r"differ in extent \(corners 7.1 pixels apart\)"),
        (other(moved(dx=0.2)), "differ in extent"),
        (other(shape=(40, 51)), "differ in extent \\(40 x 50 and 40 x 51 pixels\\)"),
        (other(crs="EPSG:32618"), "lie in different coordinate systems"),
        (other((AT[0], 30.0, 0.0, AT[3] - 1200.0, 0.0, 30.0)), "rows from south to north"),
        (other((AT[0], 29.0, 5.0, AT[3], 5.0, -29.0)), "differ in extent"),
    ],
    ids=["half a pixel", "five pixels", "pixel size", "size", "zone", "south up", "rotated"],
)
def test_both_grids_are_in_the_sentence(wrong: Grid, how: str) -> None:
    pytest.importorskip("rasterio")
    with pytest.raises(SpecfmError, match=f"scene.tif and labels.tif are not on one grid: they .*{how}") as refused:
        require_one_grid(ONE, wrong)
    assert str(ONE) in str(refused.value) and str(wrong) in str(refused.value)


def test_wkt_and_code_of_one_system_are_one() -> None:
    crs = pytest.importorskip("rasterio.crs")
    require_one_grid(ONE, other(crs=crs.CRS.from_epsg(32617).to_wkt()))


def test_without_a_place_the_size_counts_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for bare in (Grid("labels.npy", (40, 50), None), other(None)):
        caplog.clear()
        require_one_grid(ONE, bare)
        assert f"{bare.name} has no georeference; it is taken to lie on scene.tif" in caplog.text
    caplog.clear()
    require_one_grid(Grid("a.npy", (40, 50), None), Grid("b.npy", (40, 50), None))
    assert not caplog.records
