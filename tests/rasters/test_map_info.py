"""ENVI's map info: which coordinate systems it names, and that it names none rather than a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from specfm.errors import SpecfmError
from specfm.rasters.map_info import parse_map_info


@pytest.mark.parametrize(
    ("info", "crs", "gsd_m"),
    [
        ("UTM, 1, 1, 0, 0, 3, 3, 12, North, WGS-84, units=Meters", "EPSG:32612", 3),
        ("UTM, 1, 1, 0, 0, 3, 3, 33, South, WGS-84", "EPSG:32733", 3),
        ("UTM, 1, 1, 0, 0, 3, 3, 12, North, WGS-84, units=Feet", None, None),
        ("UTM, 1, 1, 0, 0, 3, 3, 61, North, WGS-84", None, 3),
        ("UTM, 1, 1, 0, 0, 3, 3, 12, here, WGS-84", None, 3),
        ("UTM, 1, 1, 0, 0, 3, 3, 12, North, Tokyo, units=Meters", None, 3),
        ("UTM, 1, 1, 0, 0, 3, 3, 12, North, units=Meters", None, 3),
        ("UTM, 1, 1, 0, 0, 3, 3, 11, North, North America 1983, units=Meters", "EPSG:26911", 3),
        ("UTM, 1, 1, 0, 0, 3, 3, 11, South, North America 1983, units=Meters", None, 3),
        ("UTM, 1, 1, 0, 0, 3, 3, 11, North, North America 1927, units=Meters", "EPSG:26711", 3),
        ("Geographic Lat/Lon, 1, 1, 10, 50, 1e-3, 1e-3, WGS-84, units=Degrees", "EPSG:4326", None),
        ("Geographic Lat/Lon, 1, 1, 10, 50, 1e-3, 1e-3, WGS-84", "EPSG:4326", None),
        ("Geographic Lat/Lon, 1, 1, 10, 50, 1, 1, WGS-84, units=Seconds", None, None),
        ("Geographic Lat/Lon, 1, 1, 10, 50, 1e-3, 1e-3, European 1950, units=Degrees", None, None),
        ("Arbitrary, 1, 1, 0, 0, 1, 1, 0, North", None, None),
        ("Arbitrary, 1, 1, 0, 0, 2, 2, 0, North, units=Meters", None, 2),
    ],
)
def test_coordinate_systems(info: str, crs: str | None, gsd_m: float | None) -> None:
    found = parse_map_info(info.split(","), Path("x.hdr"))
    assert (found[0], found[2]) == (crs, gsd_m) and found[1] is not None


def test_the_tie_point_counts_from_one() -> None:
    _, transform, _ = parse_map_info(["UTM", "11", "21", "256521", "4112571", "1", "1"], Path("x.hdr"))
    assert transform == (256511, 1, 0, 4112591, 0, -1)


def test_too_short_and_not_numbers() -> None:
    assert parse_map_info(["UTM", "1", "1"], Path("x.hdr")) == (None, None, None)
    for bad in ("UTM, 1, 1, here, 5, 3, 3", "UTM, 1, 1, 5, 5, 3, 3, rotation=left"):
        with pytest.raises(SpecfmError, match="x.hdr: map info holds something else than numbers"):
            parse_map_info(bad.split(","), Path("x.hdr"))
