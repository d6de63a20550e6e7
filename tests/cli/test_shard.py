"""`specfm shard`: masks of the background."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm.cli import app
from tests.readers import make


def samples(folder: Path, mask: Path) -> int:
    """How many windows of one pixel are no background."""
    scan = make.envi(folder, make.cube((4, 6, 3), "u2"))
    options = ["--out", folder / "out", "--window", "1", "--stride", "1", "--background-mask", mask]
    ran = CliRunner().invoke(app, ["shard", str(scan), *map(str, options), "--dry-run", "--json", "--min-valid", "1"])
    assert ran.exit_code == 0, ran.stderr
    return sum(row["samples"] for row in json.loads(ran.stdout)["shards"])


def test_no_data_of_a_background_mask_is_no_background(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), np.float32)
    mask[0] = 1
    mask[1, 1], mask[1, 2] = 255, np.nan
    np.save(tmp_path / "m.npy", mask)
    assert samples(tmp_path, tmp_path / "m.npy") == 24 - 6 - 1
    pytest.importorskip("rasterio")
    path = make.tiff(tmp_path / "m.tif", mask[..., None], nodata=255)
    assert samples(tmp_path, path) == 24 - 6


def test_text_is_no_mask(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.full((4, 6), "x"))
    scan = make.envi(tmp_path, make.cube((4, 6, 3), "u2"))
    options = ["--out", str(tmp_path / "out"), "--background-mask", str(tmp_path / "m.npy")]
    ran = CliRunner().invoke(app, ["shard", str(scan), *options])
    assert ran.exit_code == 1 and "m.npy: holds <U1, where real numbers are needed" in ran.stderr


def test_what_the_folder_holds_after_scenes_were_appended(tmp_path: Path) -> None:
    said = []
    for number, more in enumerate(([], ["--append"])):
        scan = make.envi(tmp_path, make.cube((4, 6, 3), "u2"), name=f"scan_{number}.dat")
        options = ["--out", str(tmp_path / "out"), "--window", "2", "--stride", "2", "--domain", f"d{number}", *more]
        ran = CliRunner().invoke(app, ["shard", str(scan), *options])
        assert ran.exit_code == 0, ran.stderr
        said.append(ran.stdout)
    assert f"6 samples in {tmp_path / 'out'}" in said[1]
    assert "the folder now holds 12 samples in 2 shards" in said[1] and "now holds" not in said[0]
