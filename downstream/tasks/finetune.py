"""A whole fine-tuning: a method and its controls on every split, tested once each, ending in rows, a table and a map.

out/config.yaml, out/results.jsonl, out/map.png, out/model    what the user asked for (the method on the first split)
out/runs/init-full-0/ ...                                     one training each: metrics, checkpoints, model, test.json

Shapes: I sample ids, U resampling units, K classes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from downstream.baselines.classics import majority_predict
from downstream.features.encoders import random_encoder
from downstream.features.extract import FeatureSet
from downstream.results.files import write_rows
from downstream.results.leakage import leakage_score
from downstream.results.runs import Kind, Runs
from downstream.supervised.folder import load_task, save_task
from downstream.supervised.trainer import unsettled
from downstream.tasks import simple
from downstream.tasks.config import FinetuneConfig, Mode
from downstream.tasks.data import Place, content_digest, make_samples, open_places, seen_by
from downstream.tasks.evaluate import predict_samples
from downstream.tasks.rows import task_rows
from downstream.tasks.train import Finetuning, Member, TaskData, make_model, member_inputs
from specfm.config import differences, read_yaml, to_dict
from specfm.documents import read_json
from specfm.engine import distributed
from specfm.engine.distributed import World
from specfm.engine.guard import StopSignals, Watchdog
from specfm.engine.loop import run_task
from specfm.engine.run_folder import RunFolder
from specfm.errors import UsageError
from specfm.files import atomic_write_json
from specfm.library import same_bands
from specfm.models import create_backbone
from specfm.models.backbone import AnyEncoder, side_multiple

log = logging.getLogger(__name__)
TEST, RESULTS, PICTURE = "test.json", "results.jsonl", "map.png"
# A resumed fine-tuning may run elsewhere, or be recorded otherwise; nothing else may change.
MAY_CHANGE = ("out", "device", "wandb", "tensorboard", "guard")


def load_source(config: FinetuneConfig, places: Sequence[Place]) -> tuple[AnyEncoder, str]:
    """The encoder of ``init`` and its name, fitted where asked; a random one gives the architecture of ``model`` or
    ``encoder``.

    Raises:
        UsageError: a network of timm for scenes of several sensors, one that cannot be built or fitted.
    """
    source, name = _unfitted(config, places)
    if config.fit:
        source.fit([scene for place in places for scene in place.dates])
    return source, name


def _unfitted(config: FinetuneConfig, places: Sequence[Place]) -> tuple[AnyEncoder, str]:
    if config.encoder is not None:
        bands = [scene.sensor.bands for place in places for scene in place.dates]
        if not all(same_bands(bands[0], each) for each in bands):
            raise UsageError(
                f"{config.encoder} serves one list of bands, and scenes of {config.data.card} have several; choose "
                "some by data.scenes, or leave encoder out"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            try:
                return create_backbone(config.encoder, bands[0], **config.model.options).eval(), "random"
            except TypeError as error:
                raise UsageError(f"model.options: {config.encoder} does not take these ({error})") from None
    if config.init == "random":
        model = config.model
        return random_encoder(
            model.size, config.seed, embedding=model.embedding, patch_size=model.patch_size, **model.options
        ), "random"
    from specfm.checkpoint import load

    return load(config.init), Path(config.init).resolve().name


def members(config: FinetuneConfig, name: str, splits: int) -> list[Member]:
    """The method on every split, then its controls, without doing the same thing twice."""
    head = f"{config.head.kind} head"
    label: dict[Mode, str] = {
        "frozen": f"frozen + {head}",
        "partial": f"last {config.train_blocks} blocks + {head}",
        "full": f"all + {head}",
    }
    pretrained = config.init != "random"
    kinds = [(name if pretrained else _untrained(config, config.mode), pretrained, config.mode)]
    if "scratch" in config.controls:
        kinds.append((_untrained(config, "full"), False, "full"))
    if "frozen" in config.controls:
        kinds.append((_untrained(config, "frozen"), False, "frozen"))
    unique = list(dict.fromkeys(kinds))
    return [Member(method, label[mode], own, mode, number) for method, own, mode in unique for number in range(splits)]


def _untrained(config: FinetuneConfig, mode: Mode) -> str:
    word = "random-init" if mode == "frozen" else "from-scratch"
    return word if config.encoder is None else f"{config.encoder} {word}"


def prepare(config: FinetuneConfig) -> tuple[TaskData, AnyEncoder, str]:
    """Everything that can be refused before a folder is touched.

    Raises:
        SpecfmError: no labels, labels that do not fit, classes too small to split, two dates of different extent, a
            folder that holds no encoder.
        UsageError: a split file of other data.
    """
    places = open_places(config)
    source, name = load_source(config, places)
    places = [seen_by(source, place, config.data.level) for place in places]
    unit = side_multiple(source)
    if config.data.tile % unit:
        near = max(unit, round(config.data.tile / unit) * unit)
        raise UsageError(f"data.tile {config.data.tile} is not a multiple of the encoder's patch of {unit}; try {near}")
    samples, splits = make_samples(places, config)
    data = TaskData(places, samples, splits, content_digest(places, samples))
    for member in members(config, name, 1):
        make_model(config, source, member, [samples.label_names[c] for c in data.classes(0)])
    return data, source, name


def finetune(config: FinetuneConfig, resume: bool = False) -> Path:
    """Run (or continue) a fine-tuning and return its folder.

    A stop signal ends it in order: a checkpoint, and a ``REQUEUE`` file; ``resume`` then continues exactly.

    Raises:
        UsageError: the folder exists (without ``resume``), is of another configuration or in use; see `prepare`.
        NoCheckpointError: nothing valid to resume from (exit code 3), as in pretraining.
        DivergedError: as in pretraining (exit code 4).
    """
    with distributed.joined(config.device) as world:
        if world.size > 1:
            raise UsageError("specfm finetune runs in one process; start it without torchrun")
        folder = RunFolder(config.out)
        if resume:
            _refuse_other(folder, config)
        else:
            folder.refuse_existing()
        data, source, name = prepare(config)
        with ExitStack() as stack:
            folder.open(resume)
            stack.callback(folder.close)
            folder.write_config(config, 0 if resume else None)
            listed = members(config, name, len(data.splits))
            with StopSignals() as signals:
                for member in listed:
                    folder.check_lock()
                    done = _train(config, member, data, source, world, folder, resume, signals)
                    if signals.received is not None:
                        folder.ask_requeue(done, signals.received)
                        return folder.path
            folder.check_lock()
            _conclude(config, listed, data, source, name, folder)
        return folder.path


def _refuse_other(folder: RunFolder, config: FinetuneConfig) -> None:
    if not folder.config.is_file():
        return
    differing = [
        key for key in differences(read_yaml(folder.config), to_dict(config)) if key.split(".")[0] not in MAY_CHANGE
    ]
    if differing:
        raise UsageError(
            f"{folder.path} was made by another configuration ({', '.join(differing)} differ); choose another out"
        )


def _train(
    config: FinetuneConfig, member: Member, data: TaskData, source: AnyEncoder, world: World, top: RunFolder,
    resume: bool, signals: StopSignals,
) -> int:  # fmt: skip
    """Train and test one member, unless that is done; returns the steps done. A stop signal leaves it untested."""
    folder = RunFolder(top.path / "runs" / member.folder)
    report = folder.path / TEST
    inputs = member_inputs(data, member, source)
    if report.is_file():
        told = read_json(report)
        if told.get("inputs", inputs) != inputs:
            raise UsageError(
                f"the labelled data, their split or the encoder of init have changed since {report} was written; "
                "choose another out"
            )
        return int(told["steps"])
    began = time.perf_counter()
    task = Finetuning(config, member, data, source, world, folder)
    outcome = run_task(task, resume and folder.path.exists(), signals)
    if outcome.finished:
        top.check_lock()
        _test(config, task, report, began)
    return outcome.done


def _test(config: FinetuneConfig, task: Finetuning, report: Path, began: float) -> None:
    """Read the test side of a split, once, and write what was found."""
    data, member, split = task.data, task.member, task.split
    model = load_task(task.folder.model, str(task.world.device))
    with Watchdog(config.guard.stall_s, task.folder.stacks) as watchdog:
        watchdog.stage("test")
        found = predict_samples(model, data.places, data.samples, split.test_I, config.evaluation.batch)
    chosen = model.decide(found).clip(0)
    runs = Runs(member.kind, member.method, member.protocol)
    confidence = np.take_along_axis(found, chosen[:, None], 1)[:, 0]
    runs.record(data.samples, split, np.asarray(task.classes)[chosen], time.perf_counter() - began, confidence)
    atomic_write_json(report, {
        "inputs": task.inputs, "confusion": runs.conf_SUKK[0].astype(int).tolist(),
        "calibration": runs.calibration_SUI3[0].tolist(),
        "threshold": model.threshold, "validation": task.stop.history, "steps": model.card["steps"],
        "wall_s": round(runs.wall_s, 3),
    })  # fmt: skip


def _controls(
    config: FinetuneConfig, data: TaskData, source: AnyEncoder, name: str, pixels: FeatureSet | None
) -> list[Runs]:
    """Simple models and the trivial one, on the same splits."""
    found: list[Runs] = []

    def run(kind: Kind, method: str, protocol: str, predict: Any) -> None:
        runs = Runs(kind, method, protocol)
        for split in data.splits:
            began = time.perf_counter()
            predicted = predict(split)
            runs.record(data.samples, split, predicted, time.perf_counter() - began)
        found.append(runs)

    if "simple" in config.controls:
        if pixels is not None:
            classic = partial(simple.pixel_predictions, pixels, class_weights=config.data.class_weights)
            for protocol in simple.CLASSICS:
                method = f"PCA-{simple.PCA} of {pixels.name}" if protocol == "knn5" else pixels.name
                run("baseline", method, protocol, lambda split, p=protocol: classic(split, p))
        if config.task == "change":

            def distances(kind: Kind, method: str, protocol: str, maps: Sequence[np.ndarray]) -> None:
                run(kind, method, protocol, lambda split: simple.distance_predictions(maps, data.samples, split))

            for method, maps in simple.spectral_maps(data.places).items():
                distances("baseline", method, "threshold", maps)
            # a row of the encoder, as its frozen features decide it
            own: tuple[Kind, str] = (
                ("twin", _untrained(config, "frozen")) if config.init == "random" else ("encoder", name)
            )
            distances(*own, "feature distance", simple.feature_maps(data.places, source.eval(), config.data.tile))
    y = data.samples.y_N
    run("majority", "majority class", "-", lambda split: majority_predict(y[split.fit_I], len(split.test_I)))
    return found


def _conclude(
    config: FinetuneConfig, listed: Sequence[Member], data: TaskData, source: AnyEncoder, name: str, folder: RunFolder
) -> None:
    """Rows, the released model, the picture; nothing is done twice."""
    if (folder.path / RESULTS).is_file():
        return
    trained: dict[tuple[str, str, str], Runs] = {}
    doubts: dict[str, list[str]] = {}
    for member in listed:
        path = folder.path / "runs" / member.folder
        report = read_json(path / TEST)
        said = member.kind, member.method, member.protocol
        runs = trained.setdefault(said, Runs(*said))
        runs.conf_SUKK.append(np.asarray(report["confusion"], np.float64))
        runs.calibration_SUI3.append(np.asarray(report["calibration"], np.float64))
        runs.splits.append(data.splits[member.number])
        runs.wall_s += report["wall_s"]
        if why := unsettled(report["validation"]):
            doubts.setdefault(why, []).append(f"{member.method} {member.protocol}")
    pixels = simple.pixel_features(data.places, data.samples)
    leaks = [leakage_score(split, data.samples, None if pixels is None else pixels.X_ND) for split in data.splits]
    all_runs = [*trained.values(), *_controls(config, data, source, name, pixels)]
    notices = [
        f"{', '.join(dict.fromkeys(who))}: {why}, so training may not have converged; give more steps than "
        f"steps={config.steps}"
        for why, who in doubts.items()
    ]
    rows = task_rows(config, all_runs, listed[0], source, data, leaks, notices)
    first = folder.path / "runs" / listed[0].folder
    if not folder.model.exists():
        save_task(load_task(first), folder.model)
    from downstream.tasks.picture import draw_maps

    draw_maps(load_task(folder.model, "cpu"), data, folder.path / PICTURE, config.evaluation.batch)
    write_rows(folder.path / RESULTS, rows)
