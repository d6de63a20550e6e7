"""`specfm compress`: pipelines on scenes, each in the deployed runtime, in one table.

OUT/compression.yaml                  what was asked for
OUT/stages/DIGEST/                    models after each step (shared by pipelines that begin alike)
OUT/files/SCENE--PIPELINE-SEED.onnx   what is deployed
OUT/cells/....json                    confusions and sizes of each; OUT/costs.json: times and memory
OUT/results.jsonl, compression.md, pareto-....png

Shapes: S seeds, U resampling units, K classes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from downstream.baselines.classics import majority_predict
from downstream.benchmark.cells import one_thread
from downstream.benchmark.leaderboard import paired_difference
from downstream.compress import costs
from downstream.compress.config import CompressionConfig, PipelineConfig, SceneConfig
from downstream.compress.deployed import deploy, predicted
from downstream.compress.ground import Ground, Side, open_ground
from downstream.compress.stages import Pipelines
from downstream.report.compression import BENCHMARK, markdown, pareto, scenes_of
from downstream.results import metrics
from downstream.results.files import read_rows, write_rows
from downstream.results.rows import Comparison, EncoderFacts, result_rows
from downstream.results.runs import Kind, Runs
from specfm.config import digest, to_dict, to_yaml
from specfm.digests import digest_json
from specfm.documents import read_json
from specfm.errors import SpecfmError, UsageError
from specfm.files import atomic_write_json, atomic_write_text, refuse_closed_folder, remove_temporaries
from specfm.locks import RunLock
from specfm.progress import progress

log = logging.getLogger(__name__)
ASKED, RESULTS, TABLE = "compression.yaml", "results.jsonl", "compression.md"
FITTED = "begun with a stem fitted without labels to the scene (test ground included), or taught by what was: {}"


@dataclass(frozen=True)
class Compression:
    """A finished benchmark.

    Attributes:
        folder: of it.
        rows: of all scenes and pipelines, ready for a DataFrame; costs stand under ``compression``.
    """

    folder: Path
    rows: list[dict[str, Any]]


def run_compression(config: CompressionConfig, out: str | Path, *, resume: bool = False) -> Compression:
    """Run what is missing of a compression benchmark, time all files in turn, and put the table together.

    With ``rounds=0`` it trains alone, as long and beside whatever else it takes; ``resume`` times on a quiet machine.

    Args:
        config: scenes, models, pipelines.
        out: folder of the benchmark.
        resume: go on in a folder that has finished stages; what was made of the same inputs is kept.

    Raises:
        UsageError: ``out`` exists and ``resume`` is false, or a step that a network does not take.
        SpecfmError: no labels, classes too small to split.
    """
    out = Path(out)
    refuse_closed_folder(out)
    if not resume and out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} exists; pass --resume to go on with it, or choose another --out")
    grounds = [open_ground(scene, config.window, config.seeds) for scene in config.scenes]
    for name in ("stages", "files", "cells"):
        (out / name).mkdir(parents=True, exist_ok=True)
    with RunLock(out, wait=resume) as lock:
        for name in ("stages", "files", "cells"):
            remove_temporaries(out / name)
        atomic_write_text(out / ASKED, to_yaml(config))
        total = len(grounds) * config.seeds * len(config.pipelines)
        with progress("pipelines", total) as advance:
            for ground in grounds:
                for number in range(config.seeds):
                    _run_split(config, ground, number, out, advance)
        lock.check()
        rows: list[dict[str, Any]] = []
        for ground in grounds:
            cells = {name: _cells_of(config, ground, name, out) for name in config.pipelines}
            first = {name: found[0] for name, found in cells.items()}
            spent = costs.of_files(out, ground, first, config.rounds) if config.rounds else {}
            rows += _rows(config, ground, cells, spent)
        write_rows(out / RESULTS, rows)
        atomic_write_text(out / TABLE, markdown(config.name, rows))
        for part in scenes_of(rows):
            name = re.sub(r"[^A-Za-z0-9_.-]+", "_", part[0]["data"])
            pareto(part).savefig(out / f"pareto-{name}.png", dpi=130, metadata={"Software": None})
    return Compression(out, read_rows(out / RESULTS))


def _slug(scene: SceneConfig, name: str, number: int) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", f"{scene.title}--{name}-{number}")


def _models_of(config: CompressionConfig, name: str) -> list[str]:
    """What a pipeline begins with, and its teachers."""
    pipeline = config.pipelines[name]
    teachers = [step.distil.teacher for step in pipeline.steps if step.distil is not None]
    return [model for model in (pipeline.model, *teachers) if model in config.models]


def _cell_file(config: CompressionConfig, ground: Ground, name: str, number: int, out: Path) -> Path:
    """Where a cell is kept: by all that decides its numbers."""
    used = {model: to_dict(config.models[model]) for model in _models_of(config, name)}
    of = {
        "data": ground.digest, "split": ground.splits[number].digest, "number": number, "window": config.window,
        "pipeline": to_dict(config.pipelines[name]), "models": used,
        "train": to_dict(config.train), "tune": to_dict(config.tune),
    }  # fmt: skip
    return out / "cells" / f"{_slug(ground.config, name, number)}-{digest_json(of)}.json"


def _run_split(config: CompressionConfig, ground: Ground, number: int, out: Path, advance: Any) -> None:
    """Every pipeline on one split, as far as it is missing."""
    missing = [name for name in config.pipelines if not _cell_file(config, ground, name, number, out).is_file()]
    for _ in range(len(config.pipelines) - len(missing)):
        advance()
    if not missing:
        return
    side = ground.side(number)
    pipelines = Pipelines(config, side, out / "stages")
    for name in missing:
        try:
            with one_thread():
                body = _run_one(pipelines, config.pipelines[name], side, out / "files" / _file(ground, name, number))
        except SpecfmError as error:
            raise type(error)(f"pipeline {name} on {ground.config.title}: {error}") from None
        atomic_write_json(_cell_file(config, ground, name, number, out), body)
        log.info("%s, %s, split %d: OA %.3f", ground.config.title, name, number + 1, body["oa"])
        advance()


def _file(ground: Ground, name: str, number: int) -> str:
    return f"{_slug(ground.config, name, number)}.onnx"


def _run_one(pipelines: Pipelines, pipeline: PipelineConfig, side: Side, path: Path) -> dict[str, Any]:
    stage = pipelines.run(pipeline)
    last = pipeline.steps[-1].quantise if pipeline.steps else None
    written = deploy(stage, last, side, path)
    found_N = predicted(path, side, stage.model.tile)
    runs = Runs("scratch", "", "")
    runs.record(side.ground.samples, side.split, found_N)
    return {
        **{key: value for key, value in asdict(written).items() if key != "path"},
        "file": path.name, "stage": stage.digest, "tile": stage.model.tile, "train_s": stage.train_s,
        "oa": float(metrics.scores(runs.conf_SUKK[0].sum(0)[None])["oa"][0]),
        "confusion": runs.conf_SUKK[0].astype(int).tolist(),
    }  # fmt: skip


def _cells_of(config: CompressionConfig, ground: Ground, name: str, out: Path) -> list[dict[str, Any]]:
    return [read_json(_cell_file(config, ground, name, number, out)) for number in range(config.seeds)]


def _rows(
    config: CompressionConfig, ground: Ground, cells: dict[str, list[dict[str, Any]]], spent: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row for each pipeline, and the majority class."""
    all_runs: list[Runs] = []
    for name in config.pipelines:
        spec = config.models[config.pipelines[name].model]
        own = spec.encoder is not None and not spec.encoder.startswith("random:") and not spec.options
        kind: Kind = "encoder" if own else "scratch"
        runs = Runs(kind, name, "compressed")
        for number, cell in enumerate(cells[name]):
            runs.conf_SUKK.append(np.asarray(cell["confusion"], np.float64))
            runs.splits.append(ground.splits[number])
            runs.wall_s += cell["train_s"]
        all_runs.append(runs)
    majority, y_N = Runs("majority", "majority class", "-"), ground.samples.y_N
    for split in ground.splits:
        majority.record(ground.samples, split, majority_predict(y_N[split.fit_I], len(split.test_I)))
    notices = [ground.config.note] if ground.config.note else []
    of = Comparison(
        ground.samples, ground.splits, ground.leakage(), config.window, "concat", [-1], ground.config.title,
        ground.digest, digest(config), EncoderFacts("-", costs.machine(), "-"), config.draws, notices,
    )  # fmt: skip
    rows = result_rows([*all_runs, majority], of)
    reference = _counts(all_runs, config.reference)
    fitted = [name for name in config.pipelines if any(config.models[each].fit for each in _models_of(config, name))]
    for row in rows:
        row |= {"benchmark": BENCHMARK, "fitted": None}
    for row in rows[:-1]:
        difference, interval = paired_difference(_counts(all_runs, row["method"]), reference, "oa", draws=config.draws)
        mine = cells[row["method"]]
        if row["method"] in fitted:
            row |= {"fitted": "scenes", "notices": sorted({*row["notices"], FITTED.format(", ".join(fitted))})}
        row["compression"] = {
            "reference": config.reference,
            "numbers": int(np.median([cell["numbers"] for cell in mine])),
            "macs": int(np.median([cell["macs"] for cell in mine])),
            "bytes": int(np.median([cell["nbytes"] for cell in mine])), "stored": mine[0]["stored"],
            "train_s": round(float(np.median([cell["train_s"] for cell in mine])), 1),
            "oa_difference": round(difference, 6),
            "oa_difference_ci": [None if not np.isfinite(v) else round(v, 6) for v in (interval.low, interval.high)],
            **spent.get(row["method"], {}),
        }  # fmt: skip
    return rows


def _counts(all_runs: Sequence[Runs], name: str) -> np.ndarray:
    return np.stack(next(runs for runs in all_runs if runs.method == name).conf_SUKK)[None]
