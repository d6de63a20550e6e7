"""Several scenes at a glance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import specfm
from specfm.cli import app


@pytest.fixture
def card(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number, side in enumerate((10, 11, 10, 3)):
        cube = rng.integers(10, 30, (20, 20, 4))
        cube[2 : 2 + side, 3 : 3 + side] += 500
        np.save(tmp_path / f"moth_{number}.npy", cube.astype(np.uint16))
    (tmp_path / "species.csv").write_text("scan,species\nmoth_0,a\nmoth_1,b\nmoth_2,b\n")
    keys = {
        "name": "moths", "domain": "lab", "path": "*.npy", "layout": "HWC", "linear_nm": [500, 800, 4],
        "object": {"threshold": "otsu", "smallest_px": 4}, "label_names": ["a", "b"],
        "labels": {"table": {"path": "species.csv", "key": "scan", "value": "species", "match": "{stem}"}},
    }  # fmt: skip
    (tmp_path / "moths.yaml").write_text(yaml.safe_dump(keys))
    return tmp_path / "moths.yaml"


def test_scenes_that_stand_out_are_named_at_the_end(card: Path, tmp_path: Path) -> None:
    out = CliRunner().invoke(app, ["inspect", str(card)]).output
    told = out[out.index("4 scenes") :]
    assert "  4 bands, 500-800 nm, uint16: 4" in told
    assert "objects on 2.2% to 30.2% of pixels" in told
    assert "unlike the others, look at their pictures (--quicklook): moths/moth_3 (2.2%)" in told
    assert "labels: a in 1, b in 2" in told and "without any label: moths/moth_3" in told
    assert "suspicious in 4: the file does not say what was measured" in told
    alone = CliRunner().invoke(app, ["inspect", str(tmp_path / "moth_0.npy"), "--quantity", "dn"]).output
    assert "1 scenes" not in alone


def test_several_paths_are_told_one_after_the_other(card: Path, tmp_path: Path) -> None:
    header = "ENVI\nsamples = 4\nlines = 2\nbands = 3\ndata type = 2\ninterleave = bip\nwavelength units = nm\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.hdr").write_text(header + "wavelength = {500, 600, 700}\n")
        (tmp_path / f"{name}.raw").write_bytes(np.arange(24, dtype="<i2").tobytes())
    (tmp_path / "c.hdr").write_text(header)
    paths = [str(tmp_path / name) for name in ("a.hdr", "a.raw", "b.hdr", "b.raw", "c.hdr")]
    done = CliRunner().invoke(app, ["inspect", *paths, "--quicklook", str(tmp_path / "pictures")])
    assert done.exit_code == 0, done.output
    assert "\n2 scenes\n  3 bands, 500-700 nm, int16: 2" in done.output
    assert "not read: " in done.output and "c.hdr" in done.output
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["a.png", "b.png"]
    done = CliRunner().invoke(app, ["inspect", *paths, "--quicklook", str(tmp_path / "one.png")])
    assert done.exit_code == 2 and "is one picture" in done.output
    assert [row["scene"]["name"] for row in specfm.inspect(paths[:3]).rows] == ["a", "b"]
    assert len(specfm.inspect([paths[0], card]).rows) == 5
