"""Several scenes at a glance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

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
