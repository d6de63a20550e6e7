"""One fine-tuning: a method on one split, by the trainer of ``downstream.supervised``, kept in a run folder.

Shapes: B tiles, T tile side, K classes, I sample ids. Crops, dropout and schedule are functions of seed and step, so
a resumed run continues bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from downstream.features.fit import fit_facts
from downstream.results import metrics
from downstream.results.runs import Kind
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from downstream.supervised.curriculum import ViewCurriculum
from downstream.supervised.folder import load_task, save_task, task_release
from downstream.supervised.model import HeadSpec, TaskModel
from downstream.supervised.trainer import Supervised, start_from
from downstream.supervised.views import to_device
from downstream.tasks.config import FinetuneConfig, Mode
from downstream.tasks.data import Crops, Part, Place, label_rasters
from downstream.tasks.evaluate import best_threshold, predict_samples
from specfm.config import differences, digest, to_dict
from specfm.digests import state_digest
from specfm.engine.checkpointing import Checkpointer, read_tensors
from specfm.engine.curriculum import shortened
from specfm.engine.distributed import World
from specfm.engine.optimizer import optimizer_tensors, restore_optimizer, share_of_lr
from specfm.engine.run_folder import RunFolder
from specfm.engine.task import Snapshot
from specfm.errors import UsageError
from specfm.models.backbone import AnyEncoder, Backbone
from specfm.models.mixtures import fit_mixtures
from specfm.models.registry import fresh_like
from specfm.scene import Scene

STANDARDISE_BATCHES = 8
FIT_TILES = 512  # that the statistics and components of a backbone are fitted to
SCORES = {"classification": "aa", "segmentation": "miou", "change": "f1_changed"}


@dataclass(frozen=True)
class Member:
    """What is trained: a method on one split.

    Attributes:
        method: name in the table.
        protocol: name in the table.
        pretrained: start from the encoder of ``init``, else from random weights.
        mode: what of the encoder is trained.
        number: of the split; also sets the seed.
    """

    method: str
    protocol: str
    pretrained: bool
    mode: Mode
    number: int

    @property
    def kind(self) -> Kind:
        """What its rows are of."""
        if self.pretrained:
            return "encoder"
        return "twin" if self.mode == "frozen" else "scratch"

    @property
    def folder(self) -> str:
        """Name of the member's run folder."""
        return f"{'init' if self.pretrained else 'random'}-{self.mode}-{self.number}"


@dataclass(frozen=True)
class TaskData:
    """Scenes, samples and splits of a fine-tuning; ``digest`` is over all that they hold."""

    places: list[Place]
    samples: Samples
    splits: list[Split]
    digest: str

    def classes(self, number: int) -> tuple[int, ...]:
        """Classes of a split, as indices into the samples' names."""
        return tuple(self.splits[number].classes)


def make_model(config: FinetuneConfig, source: AnyEncoder, member: Member, names: Sequence[str]) -> TaskModel:
    """The model before its first step; random weights come from the seed and the split's number alone.

    Args:
        config: the fine-tuning.
        source: the encoder of ``init`` (its weights are copied), or a random one that only gives the architecture.
        member: the method.
        names: of the classes.

    Raises:
        UsageError: a head that does not fit, more blocks to train than there are.
    """
    depth, head = len(source.blocks), config.head
    layers = head.layers
    if layers is None:
        spread = sorted({round((i + 1) * depth / 4) - 1 for i in range(4)})
        layers = (-1,) if head.kind == "linear" else tuple(i for i in spread if i >= 0)
    spec = HeadSpec(head.kind, layers, head.channels, head.dropout, head.fusion, head.pooling)
    drop_path = config.optim.drop_path if member.mode != "frozen" else 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * config.seed + member.number)
        encoder = fresh_like(source, drop_path=drop_path)
        model = TaskModel(encoder, config.task, names, config.data.tile, spec, level=config.data.level)
    if member.mode == "partial" and config.train_blocks > depth:
        raise UsageError(f"train_blocks {config.train_blocks} is more than the encoder's {depth} blocks")
    aligned = member.pretrained or member.mode == "frozen"  # what is learnt from scratch has seen no aligned token
    held = {"frozen": depth + 1, "partial": depth - config.train_blocks, "full": -1}[member.mode]
    start_from(model, source, weights=member.pretrained, library=aligned, held=held)
    return model


def member_inputs(data: TaskData, member: Member, source: AnyEncoder) -> dict[str, str]:
    """Digests of what a member is trained from, which a resumed fine-tuning must find unchanged."""
    return {"data": data.digest, "split": data.splits[member.number].digest, "encoder": state_digest(source)}


class Finetuning(Supervised):
    """One member of a fine-tuning, kept in a run folder.

    Args:
        config: of the whole fine-tuning.
        member: which part of it.
        data: scenes, samples, splits.
        source: the encoder of ``init``.
        world: this process.
        folder: of this member.
    """

    config: FinetuneConfig
    folder: RunFolder

    def __init__(
        self,
        config: FinetuneConfig,
        member: Member,
        data: TaskData,
        source: AnyEncoder,
        world: World,
        folder: RunFolder,
    ) -> None:
        config = shortened(config, config.curriculum)
        self.member, self.data, self.split = member, data, data.splits[member.number]
        self.classes = data.classes(member.number)
        self.inputs = member_inputs(data, member, source)
        self.pretraining = dict(source.card) if member.pretrained else {}
        names = [data.samples.label_names[c] for c in self.classes]
        model = make_model(config, source, member, names).to(world.device)
        if config.fit and member.kind == "twin":  # as the encoder that it is compared with
            model.encoder.card = fit_facts(source)
            model.encoder.fit([scene for place in data.places for scene in place.dates])
            self.pretraining = dict(model.encoder.card)
        rasters = label_rasters(data.places, data.samples, self.split.train_I, self.classes)
        seed, optim = 1000 * config.seed + member.number, config.optim
        self.crops = Crops(data.places, rasters, len(self.classes), config.model_copy(update={"seed": seed}))
        super().__init__(
            f"{member.method} {member.protocol} {member.number + 1}/{len(data.splits)}", model, config, world, folder,
            batch_size=config.data.batch, patience=config.evaluation.patience * config.checkpoint.every,
            lr_share=share_of_lr(optim.layer_decay, len(model.encoder.blocks), optim.head_lr),
            weight_K=self.crops.class_weights(config.data.class_weights), frozen=member.mode == "frozen", seed=seed,
        )  # fmt: skip
        self.curriculum = None
        if config.curriculum is not None:
            self.curriculum = ViewCurriculum(config.curriculum, config.steps, model, self.optimizer, seed)

    def start(self, done: int) -> None:
        """A new run fits what follows from training tiles: statistics of a backbone's bands and mixtures of them, the
        curriculum's stages, and the standardisation of the head's input."""
        if done:
            return
        encoder, device = self.model.encoder, self.world.device
        if isinstance(encoder, Backbone):
            many = -(-FIT_TILES // self.batch_size)
            views = [view for step in range(many) for part in self.crops(step) for view in part.views]
            if not self.member.pretrained:
                encoder.fit_statistics((view.x_BHWC, view.bands, view.mask_BHW) for view in views)
            if self.curriculum is not None:
                self.curriculum.fit(views)
            elif encoder.mix_KC is not None and not self.member.pretrained:
                fit_mixtures(encoder, ((view.x_BHWC, view.bands, view.mask_BHW) for view in views))
        parts = [part for step in range(STANDARDISE_BATCHES) for part in self.crops(step)]
        dates = [[to_device(view, device) for view in views] for views in zip(*(p.views for p in parts), strict=True)]
        # an untrained network with batch norm has no statistics to be evaluated by yet; a frozen one never gets others
        untrained = isinstance(encoder, Backbone) and not self.member.pretrained
        with self._noise(0):
            if untrained and self.frozen:
                self.model.settle_batch_norm(*dates)
            self.model.train(untrained and not self.frozen)
            self.model.fit_standardiser(*dates)
        if self.curriculum is not None:
            self.curriculum.begin(self, self.crops(0))

    def batches(self, done: int) -> Iterator[list[Part]]:
        batches = map(self.crops, count(done))
        return batches if self.curriculum is None else self.curriculum.batches(batches, done)

    def columns(self, number: int, result: Any, bad: bool) -> dict[str, Any]:
        return {} if self.curriculum is None else self.curriculum.columns(number)

    def stale(self) -> bool:
        """Evaluations that bring nothing end a run in the last stage of its curriculum only."""
        last = 0 if self.curriculum is None or self.curriculum.plan is None else self.curriculum.plan.last_begins
        return super().stale() and self.stop.history[-1][0] - last >= self.stop.patience

    def due(self, number: int) -> bool:
        """Where a checkpoint is written, so that an interrupted run sees the same evaluations."""
        config = self.config
        return len(self.split.val_I) > 0 and (number % config.checkpoint.every == 0 or number == config.steps)

    def validate(self) -> tuple[float, dict[str, Any]]:
        config, ids_I = self.config, self.split.val_I
        probabilities_IK = predict_samples(
            self.model, self.data.places, self.data.samples, ids_I, config.evaluation.batch
        )
        true_I = np.searchsorted(self.classes, self.data.samples.y_N[ids_I])
        if config.task == "change":
            self.model.threshold, score = best_threshold(probabilities_IK[:, 1], true_I == 1)
            return score, {"val/f1_changed": score, "val/threshold": self.model.threshold}
        confusion = metrics.confusion_matrix(true_I, probabilities_IK.argmax(1), len(self.classes))
        found = {f"val/{k}": float(v) for k, v in metrics.scores(confusion).items()}
        return found[f"val/{SCORES[config.task]}"], found

    def snapshot(self, number: int, row: dict[str, Any]) -> Snapshot:
        history = self.stop.history
        scored = history and history[-1][0] == number
        state = {
            "config": to_dict(self.config), "member": self.member.folder, **self.inputs,
            "history": history, "score": history[-1][1] if scored else None,
        }  # fmt: skip
        tensors = optimizer_tensors(self.optimizer, self.modules)
        if self.curriculum is not None:
            state |= self.curriculum.state()
            tensors |= self.curriculum.tensors()
        card = self.card(number)
        return Snapshot(task_release(self.model, card).publish, tensors, state)

    def restore(self, checkpoint: Path, state: dict[str, Any]) -> None:
        if any(state.get(key, ours) != ours for key, ours in self.inputs.items()):
            raise UsageError(
                f"the labelled data, their split or the encoder of init have changed since {checkpoint} was written; "
                "choose another out"
            )
        tensors = read_tensors(checkpoint)
        if self.curriculum is not None:
            self.curriculum.restore(state, tensors, int(state["step"]))
        saved = load_task(checkpoint / "model")
        ours = json.loads(json.dumps(self.model.config()))
        theirs = json.loads(json.dumps(saved.config()))
        ours["task"].pop("threshold"), theirs["task"].pop("threshold")
        if differing := differences(theirs, ours):
            raise UsageError(f"{checkpoint} holds another model than the configuration ({', '.join(differing)} differ)")
        self.model.load_state_dict(saved.state_dict())
        self.model.threshold = saved.threshold
        restore_optimizer(self.optimizer, self.modules, tensors)
        self.stop.history = state["history"]

    def release(self, done: int) -> None:
        """``model/``: the checkpoint that was best on validation (the last one without validation)."""
        if self.folder.model.exists():
            return
        checkpoints = Checkpointer(self.folder.checkpoints)
        best = checkpoints.best() or checkpoints.newest_valid()
        assert best is not None  # the last step saved one
        save_task(load_task(best), self.folder.model)

    def card(self, number: int) -> dict[str, Any]:
        """What the model says about its training."""
        from specfm import __version__

        scenes = [scene for place in self.data.places for scene in place.dates]
        return {
            "trained_by": f"specfm {__version__} finetune",
            "task": self.config.task,
            "init": self.config.init if self.member.pretrained else "random",
            "mode": self.member.mode,
            "steps": number,
            "seed": self.seed,
            "scenes": sorted({s.name for s in scenes}),
            "sensors": sorted({s.sensor.name or s.sensor.digest for s in scenes}),
            "domains": sorted({s.domain for s in scenes}),
            "bands": None if self.config.data.bands is None else _taken(self.config.data.bands, scenes),
            "quantities": sorted({s.sensor.quantity for s in scenes if s.sensor.quantity}),
            "pretreatment": list(scenes[0].sensor.pretreatment),
            "objects_alone": all(s.objects_alone for s in scenes),
            "split": self.split.digest,
            "data": self.data.digest,
            "config_digest": digest(self.config),
            "pretraining": self.pretraining,
        }

    def describe(self, batch: list[Part], result: Any) -> dict[str, Any]:
        return {"tiles": [[self.data.places[part.place].scene.name, list(map(list, part.corners))] for part in batch]}

    def memory_advice(self, number: int, batch: list[Part]) -> str:
        return f"out of memory at step {number} with {self.config.data.batch} tiles; lower data.batch or data.tile"


def _taken(selection: str, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Which bands a selection took, for :func:`specfm.selected_scene.selected_again`."""
    lists = (scene.sensor.bands.wavelengths_nm.tolist() for scene in scenes)
    distinct = dict.fromkeys(tuple(nm for nm in centres if nm == nm) for centres in lists)  # no number: unusable
    return {"selection": selection, "wavelengths_nm": [list(centres) for centres in distinct]}
