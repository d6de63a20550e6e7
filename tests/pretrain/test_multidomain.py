"""The multi-domain study, short: every stage, what is kept apart, what the table holds; and refusals.

Shapes: H W of a scan, N patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from downstream.results.files import read_rows
from pretrain import multidomain
from pretrain.lab_scans import STRIDE, TRAY_BELOW, WINDOW, masked, real_scans, shard
from pretrain.multidomain import StudyOptions, run_study
from specfm.calibration import calibrate
from specfm.cli import app
from specfm.errors import UsageError
from specfm.shards import ShardSet
from specfm.simulate.lab_materials import DOMAINS
from specfm.simulate.laboratory import PANEL, simulate_scan

SMALL = ("steps=2", "data.global_batch=16", "data.domains_per_batch=2", "whiten.batches=1", "optim.warmup_steps=1",
         "model.options={dim: 48, depth: 1, heads: 1, code_width: 32}")  # fmt: skip


@pytest.fixture(scope="module")
def few(request: pytest.FixtureRequest) -> None:
    """Three of the seven domains, one of each number of bands."""
    kept = {name: DOMAINS[name] for name in ("grapes", "sugar", "paper")}
    patch = pytest.MonkeyPatch()
    patch.setattr("specfm.simulate.lab_materials.DOMAINS", kept)
    request.addfinalizer(patch.undo)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, few: None) -> tuple[Path, list[dict[str, Any]], str]:
    """Its folder, its rows and what the command printed."""
    out = tmp_path_factory.mktemp("study") / "out"
    words = ["multidomain", *SMALL, "--pretrain-scans", "1", "--scans", "3", "--size", "96", "--seeds", "1"]
    told = CliRunner().invoke(app, [*words, "--init-seeds", "1", "--real", "none", "--out", str(out)])
    assert told.exit_code == 0, told.output
    return out, read_rows(out / "results.jsonl"), " ".join(told.output.split())


@pytest.mark.slow
def test_every_comparison_is_in_the_table(study) -> None:
    out, rows, said = study
    kinds = {(row["data"], row["split"]) for row in rows}
    assert kinds == {(f"lab scans by {label}", rule) for label in ("material", "domain") for rule in multidomain.RULES}
    methods = {
        "pretrained",
        "whitened, not trained",
        "random-init",
        "256 bands by index, PCA-30",
        "256 bands by wavelength, PCA-30",
    }
    for kind in kinds:
        found = {(r["method"], r["protocol"]) for r in rows if (r["data"], r["split"]) == kind}
        assert {(method, p) for method in methods for p in ("knn1", "knn20", "linear")} <= found
        assert ("majority class", "-") in found
    assert (out / "pc1_pc2.png").read_bytes().startswith(b"\x89PNG")
    for expected in ("[5/5] probes by material and by domain", "leaky", "scans", "by index", "rows in"):
        assert expected in said


@pytest.mark.slow
def test_scans_are_kept_apart_and_the_leaky_split_says_so(study) -> None:
    _, rows, _ = study
    for row in rows:
        assert row["leaky"] == (row["split"] == "random_pixels")
        assert (row["leakage"]["overlap_share"] > 0) == row["leaky"]
        assert len(row["classes"]) == (9 if "material" in row["data"] else 3)
        if row["kind"] == "encoder":
            assert row["seen"] != "scene seen"  # other scans than those of pretraining


@pytest.mark.slow
def test_shards_hold_patches_of_pretraining_scans_without_background(study) -> None:
    out, _, _ = study
    shards = ShardSet([out / "shards"])
    assert sorted(shards.domain_names) == ["grapes", "paper", "sugar"]
    for reader in shards.readers:
        assert list(reader.scene_names) == [f"{reader.domain}_00"] and tuple(reader.window) == (WINDOW, WINDOW)
        x_NHWC, mask_NHW = reader.read(np.arange(len(reader)))
        level_NHW = x_NHWC.mean(-1)
        assert level_NHW[mask_NHW].min() > TRAY_BELOW and 0 < (~mask_NHW).mean() < 0.5
        assert reader.sensor.quantity == "surface_reflectance"


@pytest.mark.parametrize("name", ["sugar", "archaeology"])
def test_masks_are_the_objects_and_labels_the_patches(name: str) -> None:
    scan = simulate_scan(DOMAINS[name], (128, 128), 0)
    scene = calibrate(scan.scene, scan.white, scan.dark, None, PANEL)
    kept = masked(scene, TRAY_BELOW)
    assert kept is not None and kept.labels_HW is not None and scene.labels_HW is not None
    mask_HW, truth_HW = kept.mask(), scene.labels_HW >= 0
    assert (mask_HW & truth_HW).sum() / (mask_HW | truth_HW).sum() > 0.9
    rows, cols = np.nonzero(kept.labels_HW >= 0)
    assert len(rows) > 15 and set(rows % STRIDE) == set(cols % STRIDE) == {0}
    for row, col in zip(rows, cols, strict=True):
        window = np.s_[row - WINDOW // 2 : row + WINDOW // 2, col - WINDOW // 2 : col + WINDOW // 2]
        assert mask_HW[window].mean() >= 0.5 and mask_HW[row, col]
        inside = scene.labels_HW[window]
        assert kept.labels_HW[row, col] == np.bincount(inside[inside >= 0]).argmax()
    black = scene.replace(source=type(scan.scene.source)(np.full(scene.shape, 100, np.int16)))
    assert masked(black, TRAY_BELOW) is None


@pytest.mark.slow
def test_a_real_scan_joins_pretraining(data_root: Path, tmp_path: Path, study) -> None:
    from specfm.readers import read_scene

    out, _, _ = study
    seen = [read_scene(out / "objects" / "grapes_00.h5", name="grapes_00")]
    real = real_scans("corn_kernel", 24)
    said = shard(seen, real, [tmp_path / "a", tmp_path / "b"], crop=24)
    (reader,) = ShardSet([tmp_path / "b"]).readers
    assert f"{len(reader)} of corn_kernel" in said and len(reader) > 10
    assert reader.domain == "lab" and tuple(reader.window) == (28, 28) and reader.shape[-1] == 580


def test_a_real_scan_that_is_not_there_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECFM_DATA", str(tmp_path / "nothing"))
    told = CliRunner().invoke(app, ["multidomain", "--out", str(tmp_path / "out")])
    said = " ".join(told.output.split())
    assert told.exit_code == 1 and "lab_corn_kernel" in said and "give --real none" in said, said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_earlier_study_and_wrong_options_are_refused(study, tmp_path: Path) -> None:
    out, _, _ = study
    with pytest.raises(UsageError, match="scans exists; choose another --out"):
        run_study(out, StudyOptions(real=None))
    for options, why in ((StudyOptions(scans=2), "at least 3"), (StudyOptions(size=40), "at least 64 pixels")):
        with pytest.raises(UsageError, match=why):
            run_study(tmp_path / "x", options)
    with pytest.raises(UsageError, match="stepz"):
        run_study(tmp_path / "x", StudyOptions(real=None), overrides=["stepz=3"])
    assert not (tmp_path / "x").exists()
