"""A whole benchmark on a toy field: the table's figures are those of the files, and what is done is not done again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import specfm
from downstream.compress import stages as stages_room
from downstream.compress.config import CompressionConfig
from downstream.compress.ground import open_ground
from downstream.compress.measure import multiplications
from downstream.compress.train import middle_of, tiles_of
from downstream.report.compression import HEADINGS, best, lines, markdown, sections
from downstream.supervised.folder import load_task
from specfm.config import load_config
from specfm.deploy.runtime import Deployed
from specfm.errors import UsageError
from specfm.models.mixtures import fit_mixtures
from tests.downstream.tasks.toys import field_card

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch_pruning")
TRAIN = {"steps": 12, "batch": 16, "lr": 3e-3}


def written(folder: Path, pipelines: dict[str, Any], **changes: Any) -> Path:
    """A configuration of small networks on a toy field."""
    config = {
        "name": "toy", "scenes": [{"card": str(field_card(folder / "data")), "split": "block", "block": 6}],
        "models": {
            "mlp": {"network": "small:mlp", "window": 1, "options": {"options": {"width": 8}}},
            "cnn": {"network": "small:cnn2d", "options": {"options": {"width": 8, "depth": 1}}},
            "encoder": {"encoder": "random:nano:3", "options": {"dim": 12, "depth": 2, "heads": 2, "content": False}},
        },
        "pipelines": pipelines, "reference": next(iter(pipelines)), "seeds": 1, "window": 3, "train": TRAIN,
        "tune": {**TRAIN, "steps": 4}, "draws": 20, "rounds": 1, **changes,
    }  # fmt: skip
    path = folder / "compression.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


SHORT: dict[str, Any] = {
    "cnn": {"model": "cnn"},
    "taught": {"model": "mlp", "steps": [{"distil": {"teacher": "cnn"}}]},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(configuration, folder of the finished benchmark)."""
    folder = tmp_path_factory.mktemp("compress")
    path = written(folder, SHORT)
    specfm.compress(path, out=folder / "out")
    return path, folder / "out"


@pytest.mark.slow
def test_the_table_is_of_the_files(done: tuple[Path, Path]) -> None:
    path, out = done
    config = load_config(path, CompressionConfig)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["cnn", "taught", "majority class"]
    cost = rows[1]["compression"]
    (file,) = (out / "files").glob("*taught-0.onnx")
    assert cost["bytes"] == file.stat().st_size and cost["stored"] == "file" and cost["peak_bytes"] > 0
    assert set(cost["latency_ms"]) == {"1x1", "1x2", "64x1", "64x2"} and cost["pixels_per_s"] > 0
    ground = open_ground(config.scenes[0], 3, 1)
    side = ground.side(0)
    cell = json.loads(next((out / "cells").glob("*taught-0-*.json")).read_text())
    model = load_task(out / "stages" / cell["stage"] / "model")
    right = np.concatenate([
        model(part.view(np.arange(len(part)))).argmax(1).numpy() == part.y_N
        for part in stages_room.middle_of(side.test, 1)
    ])  # fmt: skip
    assert rows[1]["oa"]["mean"] == pytest.approx(right.mean(), abs=1e-6)
    assert rows[0]["compression"]["oa_difference"] == 0 and rows[1]["leakage"]["overlap_share"] == 0
    text = (out / "compression.md").read_text()
    assert text == markdown(config.name, rows) and "| taught |" in text and list(out.glob("pareto-*.png"))
    assert all(len(line) == len(HEADINGS) for line in lines(rows))
    (shown,) = sections(rows)
    assert shown["lines"] == lines(rows) and shown["figure"].startswith("data:image/svg")
    assert Deployed(file).facts.classes == ("soil", "grass", "water")


@pytest.mark.slow
def test_what_is_done_is_not_done_again(done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = done
    before = {each: each.stat().st_mtime_ns for each in (out / "stages").rglob("*.safetensors")}
    with pytest.raises(UsageError, match="pass --resume"):
        specfm.compress(path, out=out)
    calls = []
    real = stages_room.first_training
    monkeypatch.setattr(stages_room, "first_training", lambda *given: calls.append(given[0]) or real(*given))
    specfm.compress(path, out=out, resume=True)
    assert not calls
    more = {**SHORT, "pruned": {"model": "cnn", "steps": [{"prune": {"ratio": 0.5}}]}}
    wider = written(path.parent, more)
    found = specfm.compress(wider, out=out, resume=True)
    assert not calls and [row["method"] for row in found.rows] == ["cnn", "taught", "pruned", "majority class"]
    assert all(each.stat().st_mtime_ns == when for each, when in before.items())


@pytest.mark.slow
def test_a_killed_benchmark_ends_as_one_that_was_not(tmp_path: Path) -> None:
    steps: dict[str, list[Any]] = {
        "whole": [],
        "static": [{"quantise": {"how": "static", "calibration": "mse"}}],
        "structured": [{"prune": {"ratio": 0.5, "rounds": 2}}],
    }
    path = written(tmp_path, {name: {"model": "cnn", "steps": each} for name, each in steps.items()})
    whole = specfm.compress(path, out=tmp_path / "whole").rows
    command = [sys.executable, "-m", "specfm", "compress", str(path), "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "cut").glob("cells/*structured*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "cut" / "results.jsonl").exists()
    cut = specfm.compress(path, out=tmp_path / "cut", resume=True).rows
    assert [row["confusion"] for row in cut] == [row["confusion"] for row in whole]
    sizes = {row["method"]: row["compression"]["bytes"] for row in cut[:-1]}
    assert sizes["structured"] < sizes["whole"]


@pytest.mark.slow
def test_training_alone_is_timed_later(tmp_path: Path) -> None:
    path, out = written(tmp_path, SHORT), tmp_path / "out"
    untimed = specfm.compress(path, out=out, overrides=["rounds=0"]).rows
    assert not any("latency_ms" in row.get("compression", {}) for row in untimed) and not (out / "costs.json").exists()
    assert [line[10:17] for line in lines(untimed)] == 3 * [["-"] * 7] and "| taught |" in markdown("toy", untimed)
    timed = specfm.compress(path, out=out, resume=True).rows
    assert [row["confusion"] for row in timed] == [row["confusion"] for row in untimed]
    assert lines(timed)[1][10:17] != ["-"] * 7


def test_a_model_that_begins_fitted_keeps_its_stem_and_rows_say_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    specfm.save(specfm.create_encoder("nano", patch_size=3, dim=12, depth=1, heads=2, content=False), tmp_path / "own")
    pipelines = {"fitted": {"model": "fitted"}, "mlp": {"model": "mlp"}}
    pipelines["taught"] = {"model": "mlp", "steps": [{"distil": {"teacher": "fitted"}}]}  # type: ignore[dict-item]
    models = {"fitted": {"encoder": str(tmp_path / "own"), "fit": True}, "mlp": {"network": "small:mlp", "window": 1}}
    path = written(tmp_path, pipelines, models=models, window=6, rounds=0)
    found = {row["method"]: row for row in specfm.compress(path, out=tmp_path / "out").rows}
    said = {
        name: (row.get("fitted"), "fitted without labels" in " ".join(row["notices"])) for name, row in found.items()
    }
    yes, no = ("scenes", True), (None, False)
    assert said == {"fitted": yes, "mlp": no, "taught": yes, "majority class": no}
    config = load_config(path, CompressionConfig)
    ground = open_ground(config.scenes[0], config.window, config.seeds)
    wanted = specfm.load(tmp_path / "own").fit(ground.scenes).stem
    held = stages_room.Pipelines(config, ground.side(0), tmp_path / "out" / "stages").labelled("fitted").model
    assert torch.equal(held.encoder.stem.weight, wanted.weight) and not held.encoder.stem.weight.requires_grad


def test_mixtures_are_those_of_the_training_windows_and_travel_in_the_file(tmp_path: Path) -> None:
    models = {"mixed": {"network": "small:mlp", "window": 1, "options": {"mixtures": 3, "options": {"width": 8}}}}
    path = written(tmp_path, {"mixed": {"model": "mixed"}}, models=models, window=6, rounds=0)
    specfm.compress(path, out=tmp_path / "out")
    config = load_config(path, CompressionConfig)
    side = open_ground(config.scenes[0], config.window, config.seeds).side(0)
    held = stages_room.Pipelines(config, side, tmp_path / "out" / "stages").labelled("mixed").model.encoder
    wanted = specfm.create_backbone("small:mlp", side.ground.sensor, mixtures=3, options={"width": 8})
    wanted.fit_statistics(tiles_of(middle_of(side.train, 1)))
    fit_mixtures(wanted, tiles_of(side.train))
    assert held.mix_KC is not None and wanted.mix_KC is not None
    torch.testing.assert_close(held.mix_KC, wanted.mix_KC)
    assert not torch.equal(held.mix_KC, torch.eye(*held.mix_KC.shape))


def test_multiplications_are_counted() -> None:
    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(6, 5)

        def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
            return self.line(x_BC)

    assert multiplications(Line(), {"x_BC": torch.rand(7, 6)}) == 30


def test_the_front_is_what_none_beats() -> None:
    assert best([(1, 0.5), (2, 0.6), (3, 0.55), (2, 0.4), (4, 0.6)]) == [0, 1]
    assert best([(1, 0.5), (1, 0.5)]) == [0, 1]
