"""The steps of a pipeline, each kept: a stage is a released model under the digest of everything that it came from.

``OUT/stages/DIGEST/model`` is the model after a step, ``stage.json`` what the step took. Pipelines that begin alike
share stages, and a benchmark that was stopped finds those that are done.

Shapes: B windows, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from downstream.compress import magnitude
from downstream.compress.aware import Rounding
from downstream.compress.config import CompressionConfig, ModelSpec, PipelineConfig, Step
from downstream.compress.ground import Side
from downstream.compress.objectives import DeepToShallow, FromTeacher, Labels, Objective
from downstream.compress.online import Peers
from downstream.compress.structured import drop_blocks, prune_structured
from downstream.compress.train import TrainConfig, first_training, middle_of, train
from downstream.features.encoders import open_encoder
from downstream.supervised.folder import load_task, save_task
from downstream.supervised.model import HeadSpec, TaskModel
from downstream.supervised.trainer import start_from
from downstream.supervised.views import View
from specfm.config import to_dict
from specfm.digests import digest_json, state_digest
from specfm.documents import read_json
from specfm.files import atomic_write_json, staged_folder
from specfm.models import create_backbone
from specfm.models.registry import fresh_like

TAYLOR_WINDOWS = 512  # whose gradients say what matters
TAYLOR_BATCH = 64
FORMAT = 1
DROP_PATH = 0.1  # of a pretrained encoder's blocks, while it is fine-tuned


@dataclass(frozen=True)
class Stage:
    """A model after a step.

    Attributes:
        model: it, in evaluation.
        digest: of all that it came from.
        train_s: seconds spent on it, those of earlier stages included.
        sparse: least weights of it are zeros.
    """

    model: TaskModel
    digest: str
    train_s: float
    sparse: bool = False


class Pipelines:
    """Runs pipelines on one split.

    Args:
        config: of the benchmark.
        side: the split, in memory.
        folder: of the stages.
    """

    def __init__(self, config: CompressionConfig, side: Side, folder: Path) -> None:
        self.config, self.side, self.folder = config, side, folder
        self._fitted: dict[str, tuple[Any, float]] = {}
        self.seed = 1000 * (side.number + 1)

    def run(self, pipeline: PipelineConfig) -> Stage:
        """The model of a pipeline before it is written as a file.

        Raises:
            UsageError: a step that the network does not take.
            DivergedError: a loss that was not finite in several steps in a row.
        """
        spec, steps = self.config.models[pipeline.model], list(pipeline.steps)
        begins = steps[0] if steps and _trains_first(steps[0]) else None
        stage = self._first(spec, pipeline.model, begins)
        for step in steps[1:] if begins is not None else steps:
            stage = self._next(stage, spec, step)
        return stage

    def labelled(self, name: str) -> Stage:
        """A model trained on the labels."""
        return self._first(self.config.models[name], name, None)

    def _first(self, spec: ModelSpec, name: str, step: Step | None) -> Stage:
        fresh, pretrained, weights = self._make(spec, self.seed)
        made_of = {
            "format": FORMAT, "data": self.side.ground.digest, "split": self.side.split.digest, "seed": self.seed,
            "window": self.config.window, "model": to_dict(spec), "weights": weights,
            "step": None if step is None else to_dict(step), "train": to_dict(self._train_of(step, spec)),
        }  # fmt: skip
        teacher = self._teacher(step, None)
        if teacher is not None:
            made_of["teacher"] = teacher.digest

        def work() -> TaskModel:
            objective = self._objective(step, fresh, teacher, spec)
            self._begin(name if step is None else f"{name}, {step.kind}", fresh, objective, step, spec, pretrained)
            return _cut(fresh, step, objective)

        begun_s = self._fitted[str(spec.encoder)][1] if spec.fit else 0.0
        return self._kept(made_of, work, begun_s + (teacher.train_s if teacher is not None else 0.0))

    def _next(self, before: Stage, spec: ModelSpec, step: Step) -> Stage:
        if step.quantise is not None and not step.quantise.aware:
            return before
        teacher = self._teacher(step, before)
        made_of = {
            "before": before.digest, "step": to_dict(step), "train": to_dict(self._train_of(step)),
            "teacher": None if teacher is None else teacher.digest,
        }  # fmt: skip

        def work() -> TaskModel:
            if step.prune is not None:
                return self._prune(before.model, step)
            again = step.distil is not None and step.distil.teacher == "previous"
            if again:  # born again: weights of its own, of the kind that the pipeline began with
                model, pretrained, _ = self._make(spec, self.seed + 1)
                objective = self._objective(step, model, teacher, spec)
                self._begin(step.kind, model, objective, step, spec, pretrained)
                return model
            model = before.model
            objective = self._objective(step, model, teacher, spec)
            if step.quantise is not None:
                with Rounding(model):
                    self._tune(model, objective, step)
                return model
            self._tune(model, objective, step)
            return _cut(model, step, objective)

        sparse = before.sparse or (step.prune is not None and step.prune.how == "magnitude")
        return self._kept(
            made_of, work, before.train_s + (teacher.train_s if teacher not in (None, before) else 0.0), sparse
        )

    def _begin(
        self, title: str, model: TaskModel, objective: Objective, step: Step | None, spec: ModelSpec, pretrained: bool
    ) -> None:
        """Train a model that has seen no labels."""
        side, config = self.side, self._train_of(step, spec)
        unit_I = side.split.unit_N[side.split.train_I]
        first_training(title, model, objective, config, side.train, side.val, unit_I, self.seed, pretrained)

    def _prune(self, model: TaskModel, step: Step) -> TaskModel:
        asked = step.prune
        assert asked is not None
        labels = Labels(self._train_of(step).label_smoothing)
        if asked.how == "blocks":
            model = drop_blocks(model, asked.count)
            self._tune(model, labels, step)
            return model
        if asked.how == "magnitude":
            for share in magnitude.schedule(asked.ratio, asked.rounds):
                magnitude.zero_weights(model, share)
                self._tune(model, labels, step, asked.rounds)
            magnitude.settle(model)
            return model
        kept = (1 - asked.ratio) ** (1 / asked.rounds)  # equal shares of what is left, round by round
        for _ in range(asked.rounds):
            model = prune_structured(model, 1 - kept, asked.importance, self._gradient_windows(model))
            self._tune(model, labels, step, asked.rounds)
        return model

    def _tune(self, model: TaskModel, objective: Objective, step: Step, rounds: int = 1) -> None:
        if step.prune is not None and not step.prune.tune:
            return
        config = self._train_of(step)
        config = config.model_copy(update={"steps": max(config.steps // rounds, 1)})
        train(step.kind, model, objective, config, self.side.train, self.side.val, self.seed, True)

    def _gradient_windows(self, model: TaskModel) -> list[tuple[View, Tensor]]:
        rng, found = np.random.default_rng([self.seed, 31]), []
        for part in middle_of(self.side.train, model.tile):
            chosen = rng.permutation(len(part))[:TAYLOR_WINDOWS]
            for at in np.array_split(chosen, max(len(chosen) // TAYLOR_BATCH, 1)):
                found.append((part.view(at), torch.from_numpy(part.y_N[at])))
        return found

    def _teacher(self, step: Step | None, before: Stage | None) -> Stage | None:
        if step is None or step.distil is None:
            return None
        return before if step.distil.teacher == "previous" else self.labelled(step.distil.teacher)

    def _objective(self, step: Step | None, model: TaskModel, teacher: Stage | None, spec: ModelSpec) -> Objective:
        if step is None:
            return Labels(self._train_of(None, spec).label_smoothing)
        if (asked := step.distil) is not None and teacher is not None:
            return FromTeacher(
                model, teacher.model, temperature=asked.temperature, alpha=asked.alpha, hints=asked.hints,
                relational=asked.relational, attention=asked.attention,
            )  # fmt: skip
        if (together := step.online) is not None:
            ramp = round(together.ramp * self._train_of(step, spec).steps)
            return Peers(
                model, together.how, peers=together.peers, share=together.share, temperature=together.temperature,
                alpha=together.alpha, ramp_steps=ramp, seed=self.seed,
            )  # fmt: skip
        if (own := step.deep_to_shallow) is not None:
            return DeepToShallow(
                model, (own.exit,), temperature=own.temperature, alpha=own.alpha, features=own.features
            )
        return Labels(self._train_of(step).label_smoothing)

    def _train_of(self, step: Step | None, first_of: ModelSpec | None = None) -> TrainConfig:
        """How a step trains; ``first_of``: what has not been trained before."""
        asked = None if step is None else getattr(step, step.kind).train
        usual = self.config.tune if first_of is None else first_of.train or self.config.train
        return asked or usual

    def _make(self, spec: ModelSpec, seed: int) -> tuple[TaskModel, bool, str]:
        """A model that has seen no labels, whether its encoder is pretrained, and a digest of its first weights."""
        ground, tile = self.side.ground, spec.window or self.config.window
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if spec.network is not None:
                encoder: Any = create_backbone(spec.network, ground.sensor.bands, **spec.options)
                pretrained, weights = False, "-"
            else:
                source, _, pretrained = open_encoder(str(spec.encoder), "cpu")
                pretrained = pretrained and not spec.options
                weights = state_digest(source) if pretrained else "-"
                encoder = fresh_like(source, drop_path=DROP_PATH if pretrained else 0.0, **spec.options)
            head = HeadSpec("pooled", dropout=0.0, pooling=spec.pooling)
            model = TaskModel(encoder, "classification", ground.samples.label_names, tile, head, level="sample")
        if pretrained:
            start_from(model, self._fit(source, spec)[0] if spec.fit else source, weights=True, library=False)
        return model, pretrained, weights

    def _fit(self, source: Any, spec: ModelSpec) -> tuple[Any, float]:
        """An encoder fitted to the scene, once for all pipelines, and the seconds that it took."""
        name = str(spec.encoder)
        if name not in self._fitted:
            began = time.process_time()
            self._fitted[name] = source.fit(self.side.ground.scenes), time.process_time() - began
        return self._fitted[name]

    def _kept(
        self, made_of: dict[str, Any], work: Callable[[], TaskModel], earlier_s: float, sparse: bool = False
    ) -> Stage:
        """The stage made of this, read where it is kept, else worked out and kept."""
        digest = digest_json(made_of)
        place = self.folder / digest
        if not (place / "stage.json").is_file():
            began = time.process_time()
            model = work()
            spent = time.process_time() - began
            with staged_folder(place) as temporary:
                save_task(model, temporary / "model", {"pipeline": made_of})
                held = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
                told = {"train_s": round(earlier_s + spent, 2), "held": held, "of": made_of}
                atomic_write_json(temporary / "stage.json", told)
        told = read_json(place / "stage.json")
        model = load_task(place / "model")
        for name in told["held"]:  # a stem that was whitened in pretraining
            model.get_parameter(name).requires_grad_(False)
        return Stage(model, digest, float(told["train_s"]), sparse)


def _trains_first(step: Step) -> bool:
    """Whether a step trains a model that has seen no labels."""
    if step.distil is not None:
        return step.distil.teacher != "previous"
    return step.online is not None or step.deep_to_shallow is not None


def _cut(model: TaskModel, step: Step | None, objective: nn.Module) -> TaskModel:
    if step is not None and step.deep_to_shallow is not None and isinstance(objective, DeepToShallow):
        return objective.shallow(model, step.deep_to_shallow.exit)
    return model


def calibration_inputs(side: Side, model: TaskModel, count: int, batch: int = 64) -> list[dict[str, NDArray[Any]]]:
    """Windows of the training side as a deployed file takes them, batch by batch."""
    rng, found = np.random.default_rng([side.number, 37]), []
    for part in middle_of(side.train, model.tile):
        chosen = rng.permutation(len(part))[:count]
        found += [deployed_inputs(part.view(at)) for at in _batches(chosen, batch)]
    return found


def deployed_inputs(view: View) -> dict[str, NDArray[Any]]:
    """A view as a deployed file takes it."""
    given = {"x_BHWC": view.x_BHWC.numpy().astype(np.float32)}
    return given if view.mask_BHW is None else given | {"mask_BHW": view.mask_BHW.numpy().astype(bool)}


def _batches(chosen: NDArray[Any], batch: int) -> Sequence[NDArray[Any]]:
    return [chosen[start : start + batch] for start in range(0, len(chosen), batch)]
