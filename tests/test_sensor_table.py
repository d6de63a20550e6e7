"""The table of known instruments: every row is usable, findable by any spelling, and says where it comes from."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from specfm.errors import UsageError
from specfm.sensor_table import EXACTNESS, TABLES, get_row, get_sensor, known_sensors
from specfm.sensors import QUANTITIES

ASKED = (
    *("AVIRIS classic", "AVIRIS-NG", "AVIRIS-3", "EnMAP", "PRISMA", "DESIS", "EMIT", "Hyperion", "HYDICE", "ROSIS"),
    *("CASI", "CASI-1500", "NEON AIS", "HyMap", "HySpex VNIR-1800", "HySpex SWIR-384", "FX10", "FX17", "Sentinel-2"),
    *("Landsat 5", "Landsat 7", "Landsat 8", "ALI", "PRISM", "SAMSON", "specimen_408"),
)


@pytest.mark.parametrize("name", ASKED)
def test_every_instrument_asked_for_is_there(name: str) -> None:
    assert len(get_sensor(name).bands) > 0


@pytest.mark.parametrize("name", list(known_sensors()))
def test_rows_are_complete_and_physical(name: str) -> None:
    row = known_sensors()[name]
    centres, fwhm = row.bands.wavelengths_nm, row.bands.fwhm_nm
    assert np.all((centres > 300) & (centres < 2600))
    assert row.exactness in EXACTNESS and row.fwhm_exactness in EXACTNESS and row.quantity in QUANTITIES
    assert len(row.source) > 20
    assert np.isfinite(fwhm).all() == (row.fwhm_exactness != "unknown")
    assert row.sensor.name == name and row.sensor.quantity is None
    # No duplicate bands, and neighbours are at most one broad atmospheric gap apart.
    assert len(np.unique(centres)) == len(centres)


@pytest.mark.parametrize(
    ("name", "bands", "low", "high"),
    [
        ("AVIRIS-NG", 425, 376.86, 2500.54),
        ("aviris 3", 284, 389.755, 2493.481),
        ("EMIT", 285, 381.006, 2492.924),
        ("enmap", 224, 418.24, 2445.53),
        ("specimen_408", 408, 348.0, 810.0),
        ("NEON", 426, 383.534, 2511.895),
        ("s2", 13, 442.69, 2202.37),
    ],
)
def test_known_counts_and_ranges(name: str, bands: int, low: float, high: float) -> None:
    centres = get_sensor(name).bands.wavelengths_nm
    assert len(centres) == bands
    assert centres.min() == pytest.approx(low, abs=0.01) and centres.max() == pytest.approx(high, abs=0.01)


def test_detector_overlap_is_kept_in_file_order() -> None:
    centres = get_sensor("aviris_classic_2010s").bands.wavelengths_nm
    assert (np.diff(centres) < 0).any(), "AVIRIS detectors overlap, so its list is not sorted"


def test_names_ignore_case_and_separators_and_aliases_never_clash() -> None:
    assert get_row("aviris_ng") == get_row("AVIRIS-NG") == get_row("Aviris ng")
    seen: dict[str, str] = {}
    for row in known_sensors().values():
        for alias in (row.name, *row.aliases):
            assert seen.setdefault(alias.lower(), row.name) == row.name
            assert get_row(alias).name == row.name


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="emit") as caught:
        get_sensor("emitt")
    assert "unknown sensor 'emitt'" in str(caught.value)


def test_no_table_lies_about_unused() -> None:
    assert {p.stem for p in TABLES.glob("*.csv")} == set(known_sensors())


@pytest.mark.parametrize(
    ("name", "reference"),
    [("emit", "emit_285"), ("aviris_ng", "aviris_ng_425"), ("hyperion", "hyperion_242"), ("enmap", "enmap_224")],
)
def test_agrees_with_the_instrument_lists(data_root: Path, name: str, reference: str) -> None:
    with (data_root / "sensors" / f"{reference}.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    bands = get_sensor(name).bands
    np.testing.assert_allclose(bands.wavelengths_nm, [float(r["centre_nm"]) for r in rows], atol=1e-3)
    np.testing.assert_allclose(bands.fwhm_nm, [float(r["fwhm_nm"]) for r in rows], atol=1e-3)


def test_command_lists_and_prints_json() -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        plain = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
        words = [sys.executable, "-m", "specfm", "sensors", *args]
        return subprocess.run(words, capture_output=True, text=True, env=plain)

    table = run()
    assert table.returncode == 0 and "aviris_ng" in table.stdout and "425" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80 and all(
        f"{name} " in table.stdout for name in known_sensors()
    )
    rows = json.loads(run("--json").stdout)
    assert len(rows) >= 15 and all(r["source"] for r in rows)
    one = json.loads(run("Sentinel-2", "--json").stdout)
    assert [b["band"] for b in one["band_list"]][8] == "B8A"
    wrong = run("sentinell")
    assert (
        wrong.returncode == 2 and wrong.stderr.startswith("error: unknown sensor") and "sentinel2_msi" in wrong.stderr
    )
