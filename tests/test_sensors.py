"""Sensor: what is refused, round trips, digests."""

from __future__ import annotations

import json

import pytest

from specfm import BandGrid, Sensor, SpecfmError

GRID = BandGrid([500, 600, 700], [10, 0, 12], [True, True, False])
FULL = Sensor(GRID, "radiance", 0.01, -0.5, "L1", 4.0, "HYDICE")


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"quantity": "albedo"}, "unknown quantity 'albedo'.*surface_reflectance"),
        ({"level": "L7"}, "unknown processing level 'L7'.*L1"),
        ({"scale": 0.0}, "scale must be a positive finite number"),
        ({"scale": float("nan")}, "scale must be a positive finite number"),
        ({"scale": float("inf")}, "scale must be a positive finite number"),
        ({"scale": "1"}, "scale must be a positive finite number, got '1'"),
        ({"offset": float("nan")}, "offset must be a finite number"),
        ({"offset": float("-inf")}, "offset must be a finite number"),
        ({"gsd_m": -1.0}, "gsd_m must be a positive finite number"),
        ({"bands": [400, 500]}, "bands are a BandGrid, got list"),
    ),
)
def test_refusals(change: dict[str, object], message: str) -> None:
    with pytest.raises(SpecfmError, match=message):
        FULL.replace(**change)


@pytest.mark.parametrize("sensor", (FULL, Sensor(GRID)), ids=("full", "bare"))
def test_dictionary_round_trip(sensor: Sensor) -> None:
    again = Sensor.from_dict(json.loads(json.dumps(sensor.to_dict(), allow_nan=False)))
    assert again == sensor and again.digest == sensor.digest


def test_digest_covers_everything_a_model_is_told() -> None:
    changes = [
        {"bands": GRID.subset([0, 1, 1])},
        {"quantity": "dn"},
        {"scale": 0.02},
        {"offset": 0.0},
        {"level": "L2"},
        {"gsd_m": None},
        {"name": None},
    ]
    assert len({FULL.digest, *(FULL.replace(**c).digest for c in changes)}) == 1 + len(changes)


def test_a_sensor_cannot_change() -> None:
    with pytest.raises(AttributeError):
        FULL.scale = 2.0
