"""What a curriculum saves and costs: ``python -m tests.benchmarks.curriculum --out DIR [--cards indian_pines,salinas_a]
[--backbones timm:resnet34,ours] [--splits random_pixels,block] [--seeds 3] [--steps 600] [--budgets 1,0.5,0.25]``.

For each backbone, card, split and seed: the full schedule; a curriculum at each budget (share of the steps), at the
first one also with other reducers (``--also``); and the full schedule cut to the time that each of these curricula
took, with a learning rate schedule of its own (``--mixtures``: at the first one also on minimum noise fractions of the
training windows in place of bands, since a network may owe to whitened inputs what a curriculum seems to give).
Accuracy is that of the test side along the way (a fixed part of it, for the curve) and at the end (all of it, or a
fixed part); nothing is chosen by it, and nothing is validated. Beside them stand classics of the spectra of single
pixels, of the same split. Times are of training alone: fitting of statistics and components, measuring of costs, data,
forward, backward, update. On a CPU they are processor seconds, so that a busy machine does not spoil them.

DIR gets ``results.jsonl`` (one row a run, written as it ends; a second call goes on), ``table.md`` and ``curves.png``.
A split by ``random_pixels`` leaks: windows of test pixels overlap those of training. It is there because published
tables use it.

Shapes: I samples, K classes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from downstream.results.metrics import confusion_matrix, scores
from downstream.splits.split import Split
from downstream.tasks.config import FinetuneConfig
from downstream.tasks.data import Part
from downstream.tasks.evaluate import predict_samples
from downstream.tasks.finetune import members, prepare
from downstream.tasks.simple import pixel_features, pixel_predictions
from downstream.tasks.train import Finetuning, Member, TaskData
from specfm.config import build_config
from specfm.engine.distributed import start
from specfm.engine.loop import run_task
from tests.benchmarks.curriculum_report import SPECTRA, write_report

CLASSICS = ("linear", "knn5")
OURS = "ours"
# of splits by blocks: classes that stand in fewer blocks cannot stand on both sides of a guard
BLOCKS: dict[str, dict[str, int]] = {"indian_pines": {"block": 9, "min_groups": 6}}
BACKBONES = ("timm:resnet34", "timm:convnext_tiny", "timm:vit_tiny_patch16_224", OURS)


class Watched(Finetuning):
    """A training in memory that tests itself along the way and keeps the time of its steps.

    Args:
        every: steps between points of the curve. most: test samples of a point.
    """

    def __init__(self, config: FinetuneConfig, member: Member, data: TaskData, source: Any, every: int, most: int):
        super().__init__(config, member, data, source, start(config.device), None)  # type: ignore[arg-type]
        self.every, self.spent_s, self.curve = every, 0.0, list[dict[str, float]]()
        self.few_I = some(self.split.test_I, most)
        self.clock = time.perf_counter if self.world.device.type == "cuda" else time.process_time

    def start(self, done: int) -> None:
        began = self.clock()
        super().start(done)
        self.begun_s = self.spent_s = self.clock() - began

    def batches(self, done: int) -> Iterator[list[Part]]:
        inner = super().batches(done)
        while True:
            self._began = self.clock()
            yield next(inner)

    def columns(self, number: int, result: Any, bad: bool) -> dict[str, Any]:
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()
        self.spent_s += self.clock() - self._began
        return super().columns(number, result, bad)

    def due(self, number: int) -> bool:
        return False

    def observe(self, number: int, last: bool) -> dict[str, Any]:
        if number % self.every == 0 or last:
            found = scores(self.confusion(self.few_I))
            point = {"step": number, "s": self.spent_s} | {k: float(found[k]) for k in ("oa", "aa", "kappa")}
            self.curve.append(point)
        return {}

    def release(self, done: int) -> None:
        """Nothing is kept."""

    def confusion(self, ids_I: np.ndarray) -> np.ndarray:
        """Of the test samples, as the model stands."""
        found = predict_samples(self.model, self.data.places, self.data.samples, ids_I, self.config.evaluation.batch)
        true_I = np.searchsorted(self.classes, self.data.samples.y_N[ids_I])
        return confusion_matrix(true_I, found.argmax(1), len(self.classes))


def some(test_I: np.ndarray, most: int) -> np.ndarray:
    """A fixed part of the test samples; all of them where they are not more (or ``most`` is 0)."""
    return np.sort(np.random.default_rng(0).permutation(test_I)[: most or None])


def settings(args: argparse.Namespace, backbone: str, card: str, split: str) -> FinetuneConfig:
    """The full schedule of one comparison."""
    ours = backbone == OURS
    values: dict[str, Any] = {
        "out": "-", "task": "classification", "steps": args.steps, "device": args.device, "controls": [],
        "data": {"card": card, "tile": args.tile, "batch": args.batch, "class_weights": "none",
                 "crops": {"rare": 0.0, "boundary": 0.0}},
        "split": {"rule": split, "seeds": args.seeds, "test_share": args.test_share, "val_share": 0.05,
                  **(BLOCKS.get(card, {}) if split == "block" else {})},
        "head": {"pooling": "concat" if ours else "mean", "dropout": 0.0},
        "optim": {"lr": args.lr, "warmup_steps": max(args.steps // 20, 1), "layer_decay": 1.0, "head_lr": 1.0,
                  "drop_path": 0.0},
    }  # fmt: skip
    if ours:
        values["model"] = {"size": "nano", "patch_size": 3}
    else:
        values["encoder"] = backbone
        values["model"] = {"options": {"stride": 3} if "vit" in backbone else {"stride": args.stride}}
    return build_config(values, FinetuneConfig, "the benchmark")


def staged(args: argparse.Namespace, config: FinetuneConfig, budget: float, reducer: str) -> FinetuneConfig:
    """The same through a curriculum that takes a share of the steps."""
    curriculum: dict[str, Any] = {
        "reducer": "merge" if config.encoder is None else reducer, "stages": args.stages, "budget": budget,
        "start_bands": args.start_bands, "start_size": args.start_size,
        "window": "crop" if config.encoder is None else args.window, "repeats": args.repeats,
    }  # fmt: skip
    return _with(config, curriculum=curriculum, steps=config.steps, warmup=max(round(config.steps * budget / 20), 1))


def _with(
    config: FinetuneConfig, steps: int, warmup: int, curriculum: dict[str, Any] | None = None, mixtures: int = 0
) -> FinetuneConfig:
    values = config.model_dump() | {"steps": steps, "curriculum": curriculum}
    values["optim"] = values["optim"] | {"warmup_steps": warmup}
    if mixtures:
        options = values["model"]["options"] | {"mixtures": mixtures}
        values["model"] = values["model"] | {"options": options}
    return build_config(values, FinetuneConfig, "the benchmark")


def run(
    args: argparse.Namespace, config: FinetuneConfig, member: Member, data: TaskData, source: Any
) -> dict[str, Any]:
    """Train and test once."""
    steps = round(config.steps * (config.curriculum.budget if config.curriculum else 1))
    began = time.perf_counter()
    task = Watched(config, member, data, source, max(steps // args.points, 1), args.curve_samples)
    run_task(task)
    conf_KK = task.confusion(some(task.split.test_I, args.test_samples))
    plan = None if task.curriculum is None or task.curriculum.plan is None else task.curriculum.state()["curriculum"]
    return {
        "steps": task.config.steps, "train_s": task.spent_s, "begin_s": task.begun_s,
        "samples": len(task.split.train_I), **told(conf_KK, task.classes, data),
        "curve": task.curve, "plan": plan, "wall_s": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in task.model.parameters()),
    }  # fmt: skip


def told(conf_KK: np.ndarray, classes: Sequence[int], data: TaskData) -> dict[str, Any]:
    """What a row says of a confusion matrix."""
    found = scores(conf_KK)
    recall_K = np.diagonal(conf_KK) / np.maximum(conf_KK.sum(1), 1)
    names = [data.samples.label_names[c] for c in classes]
    return {
        **{key: float(found[key]) for key in ("oa", "aa", "kappa", "macro_f1")},
        "recall": dict(zip(names, recall_K.round(5).tolist(), strict=True)),
        "support": dict(zip(names, conf_KK.sum(1).astype(int).tolist(), strict=True)),
    }


def classic(args: argparse.Namespace, split: Split, data: TaskData, protocol: str) -> dict[str, Any]:
    """A simple model of the spectra of single pixels, of the same training side."""
    began = time.process_time()
    pixels = pixel_features(data.places, data.samples)
    assert pixels is not None, "the scenes of a card of the benchmark share their bands"
    predicted_I = pixel_predictions(pixels, split, protocol, "none")
    seen_I = np.isin(split.test_I, some(split.test_I, args.test_samples))
    classes = np.unique(data.samples.y_N[split.train_I])
    true_I = data.samples.y_N[split.test_I]
    conf_KK = confusion_matrix(*(np.searchsorted(classes, y_I[seen_I]) for y_I in (true_I, predicted_I)), len(classes))
    spent_s = time.process_time() - began
    return {"steps": 0, "train_s": spent_s, "samples": len(split.train_I), **told(conf_KK, classes.tolist(), data)}


class Log:
    """Rows of runs, one file; a run that is there is not done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.rows = [json.loads(line) for line in lines if line.endswith("}")]  # not one that was cut off

    def find(self, **about: Any) -> dict[str, Any] | None:
        return next((row for row in self.rows if all(row.get(key) == value for key, value in about.items())), None)

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
        about = f"{row['card']} {row['split']} {row['backbone']} seed {row['seed']} {row['arm']}"
        print(
            f"{about}: {row['steps']} steps, {row['train_s']:.1f} s, OA {row['oa']:.4f}, AA {row['aa']:.4f}", flush=True
        )
        return row


def compare(args: argparse.Namespace, log: Log, backbone: str, card: str, split: str) -> None:
    """Every arm of one backbone, card and split."""
    full = settings(args, backbone, card, split)
    data, source, name = prepare(full)
    about = {"backbone": backbone, "card": card, "split": split, "asked": asked(args)}
    for member in members(full, name, args.seeds):
        mine = about | {"seed": member.number}

        def arm(
            name: str, config: FinetuneConfig, network: Any = source, member: Member = member, mine: Any = mine
        ) -> Any:
            row = mine | {"arm": name}
            return log.find(**row) or log.add(row | run(args, config, member, data, network))

        for protocol in CLASSICS:
            row = mine | {"backbone": SPECTRA, "arm": protocol}
            if log.find(**row) is None:
                log.add(row | classic(args, data.splits[member.number], data, protocol))
        whole = arm("full", full)
        a_step_s = (whole["train_s"] - whole["begin_s"]) / whole["steps"]
        for budget in args.budgets:
            row = arm(f"curriculum {budget:g}", staged(args, full, budget, args.reducer))
            steps = round((row["train_s"] - whole["begin_s"]) / a_step_s)
            if 1 <= steps < full.steps:
                arm(f"same time as {budget:g}", _with(full, steps, max(steps // 20, 1)))
                if args.mixtures and backbone != OURS and budget == args.budgets[0]:
                    closed = _with(full, steps, max(steps // 20, 1), mixtures=args.mixtures)
                    arm(f"same time as {budget:g}, {args.mixtures} mixtures", closed, prepare(closed)[1])
        for reducer in args.also:
            arm(f"curriculum {args.budgets[0]:g}, {reducer}", staged(args, full, args.budgets[0], reducer))


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What makes runs comparable."""
    keys = [
        "steps",
        "tile",
        "batch",
        "lr",
        "stride",
        "test_share",
        "reducer",
        "stages",
        "start_bands",
        "start_size",
        "window",
        "repeats",
        "test_samples",
    ]
    return {key: getattr(args, key) for key in keys}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])  # type: ignore[union-attr]

    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    made.add_argument("--out", type=Path, required=True, help="folder of results; a second call goes on")
    made.add_argument(
        "--backbones", type=words, default=words("timm:resnet34,timm:convnext_tiny,timm:vit_tiny_patch16_224,ours")
    )
    made.add_argument("--cards", type=words, default=words("indian_pines,salinas_a"))
    made.add_argument("--splits", type=words, default=words("random_pixels,block"))
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--steps", type=int, default=600, help="of the full schedule")
    made.add_argument("--budgets", type=lambda text: [float(word) for word in words(text)], default=[1.0, 0.5, 0.25])
    made.add_argument("--tile", type=int, default=9, help="side of a window, pixels")
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--lr", type=float, default=1e-3)
    made.add_argument("--stride", type=int, default=1, help="of the stem of a convolutional network")
    made.add_argument("--test-share", type=float, default=0.5)
    made.add_argument("--reducer", default="pca", help="of the networks of timm (ours: merge)")
    made.add_argument("--mixtures", type=int, default=0, help="also the cut schedule on so many noise fractions")
    made.add_argument("--also", type=words, default=[], help="other reducers, at the first budget: ica,factors,merge")
    made.add_argument("--stages", type=yaml.safe_load, default=4, help="a number, or a list as in a configuration")
    made.add_argument("--start-bands", type=float, default=0.15)
    made.add_argument("--start-size", type=float, default=0.55)
    made.add_argument("--window", default="shrink", choices=("crop", "shrink"), help="how windows get smaller")
    made.add_argument("--repeats", type=int, default=3, help="steps timed at each stage before the first")
    made.add_argument("--test-samples", type=int, default=0, help="of the final test, drawn once; 0: all")
    made.add_argument("--points", type=int, default=12, help="of a curve")
    made.add_argument("--curve-samples", type=int, default=1500, help="test samples of a point of the curve")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return made.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    args = arguments(given)
    log = Log(args.out / "results.jsonl")
    for card in args.cards:
        for split in args.splits:
            for backbone in args.backbones:
                compare(args, log, backbone, card, split)
                write_report(log.rows, args.out)
    print((args.out / "table.md").read_text())


if __name__ == "__main__":
    main()
