"""Training of a model on windows in memory by any objective, and its accuracy.

Shapes: N windows, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from downstream.compress.objectives import Objective
from downstream.protocols.classifier import WindowTraining, start_from_probe
from downstream.protocols.windows import LabelledWindows, Windows, in_batches
from downstream.supervised.model import TaskModel
from specfm.config import Strict
from specfm.engine.config import OptimConfig, Positive, RunConfig
from specfm.engine.loop import run_task
from specfm.engine.optimizer import adamw, share_of_lr
from specfm.engine.task import StepResult
from specfm.models.backbone import Backbone
from specfm.models.mixtures import fit_mixtures

PROBE_WINDOWS = 4000  # that a head starts from, at most


class TrainConfig(Strict):
    """How a model is trained on the labels, or a student on its teacher."""

    steps: Positive = Field(default=600, description="optimiser steps at most")
    batch: Positive = Field(default=64, description="windows a step")
    lr: float = Field(default=2e-3, gt=0, description="peak learning rate")
    layer_decay: float = Field(default=0.75, gt=0, le=1, description="of the rate, block by block, when fine-tuning")
    weight_decay: float = Field(default=0.05, ge=0, description="decoupled decay of matrices")
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="share of a label spread over all classes, where labels alone are learnt"
    )
    patience: Positive = Field(default=200, description="steps without a better validation accuracy before it stops")


class Compressing(WindowTraining):
    """A model learns windows by an objective, whose own networks are trained along.

    Args:
        title: of the progress display.
        model: it is trained.
        objective: what it minimises.
        config: steps and optimiser.
        train: windows as wide as any network of the objective sees.
        val: windows as wide as the model sees.
        seed: of order and turns.
        fine: the model has been trained: its first weights count, and the rate falls towards its first blocks.
    """

    def __init__(
        self, title: str, model: TaskModel, objective: Objective, config: TrainConfig, train: Sequence[Windows],
        val: Sequence[Windows], seed: int, fine: bool,
    ) -> None:  # fmt: skip
        optim = OptimConfig(lr=config.lr, weight_decay=config.weight_decay, warmup_steps=max(config.steps // 10, 1))
        run = RunConfig(out="", steps=config.steps, optim=optim)
        share = share_of_lr(config.layer_decay, len(model.encoder.blocks)) if fine else None
        super().__init__(
            title, model, run, train, val, np.random.default_rng([seed, 23]), batch_size=config.batch,
            patience=config.patience, class_weights="none", first=fine,
        )  # fmt: skip
        self.objective = objective.to(model.device)
        self.modules = nn.ModuleDict({"model": model, "objective": objective})
        lr_share = None if share is None else lambda name: share(name) if name.startswith("model.") else 1.0
        self.optimizer = adamw(self.modules, optim.lr, optim.weight_decay, optim.betas, model.device, lr_share)

    def compute(self, number: int, batch: Sequence[LabelledWindows]) -> StepResult:  # type: ignore[override]
        """The objective on the one part of a batch."""
        self.modules.train()
        (part,) = batch
        device = self.world.device
        y_B = part.labels.to(device)
        loss, scores_BK = self.objective(self.model, part.views[0], y_B, number)
        loss.backward()
        return StepResult(loss.detach(), {"train_oa": float((scores_BK.argmax(1) == y_B).float().mean())})


def middle_of(parts: Sequence[Windows], side: int) -> list[Windows]:
    """Windows cut down to what a model of a smaller window sees."""
    found = []
    for part in parts:
        first = part.x_NHWC.shape[1] // 2 - side // 2
        rows = slice(first, first + side)
        found.append(replace(part, x_NHWC=part.x_NHWC[:, rows, rows], mask_NHW=part.mask_NHW[:, rows, rows]))
    return found


def train(
    title: str, model: TaskModel, objective: Objective, config: TrainConfig, train: Sequence[Windows],
    val: Sequence[Windows], seed: int, fine: bool,
) -> int:  # fmt: skip
    """Train a model in place; it ends with the weights that were best on validation.

    Args:
        title: of the progress display.
        model: it is trained.
        objective: what it minimises.
        config: how.
        train: the widest windows.
        val: likewise.
        seed: of everything that is drawn.
        fine: the model has been trained before.

    Returns:
        The steps done.

    Raises:
        DivergedError: the loss was not finite in several steps in a row.
    """
    devices: list[Any] = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        task = Compressing(title, model, objective, config, train, middle_of(val, model.tile), seed, fine)
        outcome = run_task(task)
    model.eval()
    return outcome.done


def first_training(
    title: str, model: TaskModel, objective: Objective, config: TrainConfig, train_parts: Sequence[Windows],
    val: Sequence[Windows], unit_I: np.ndarray, seed: int, pretrained: bool,
) -> int:  # fmt: skip
    """Train a model that has never seen labels; an encoder starts from the linear probe of its frozen features.

    Args:
        title: of the progress display.
        model: it is trained.
        objective: what it minimises.
        config: how.
        train_parts: the widest windows.
        val: likewise.
        unit_I: group or block of the training samples.
        seed: of everything that is drawn.
        pretrained: its encoder is.

    Returns:
        The steps done.
    """
    own, looked = middle_of(train_parts, model.tile), middle_of(val, model.tile)
    if pretrained:
        start_from_probe(model, _some(own, seed), looked, unit_I, seed, "none")
    elif isinstance(model.encoder, Backbone):
        model.encoder.fit_statistics(tiles_of(own))
        if model.encoder.mix_KC is not None:  # noise is told by neighbours, whom a model of one pixel does not see
            fit_mixtures(model.encoder, tiles_of(train_parts))
    return train(title, model, objective, config, train_parts, val, seed, pretrained)


def tiles_of(parts: Sequence[Windows]) -> Iterator[tuple[Any, ...]]:
    """(x_BHWC, bands, mask_BHW) of all windows, some at a time."""
    for part in parts:
        for at in np.array_split(np.arange(len(part)), -(-len(part) // 256)):
            view = part.view(at)
            yield view.x_BHWC, view.bands, view.mask_BHW


def _some(parts: Sequence[Windows], seed: int) -> list[Windows]:
    """At most :data:`PROBE_WINDOWS` of them."""
    share = min(1.0, PROBE_WINDOWS / max(sum(len(part) for part in parts), 1))
    rng = np.random.default_rng([seed, 29])
    found = []
    for part in parts:
        keep = np.sort(rng.permutation(len(part))[: max(1, round(share * len(part)))])
        found.append(Windows(part.sensor, *(getattr(part, n)[keep] for n in ("x_NHWC", "mask_NHW", "y_N", "id_N"))))
    return found


def classes_of(model: TaskModel, parts: Sequence[Windows], count: int) -> np.ndarray:
    """Class of every window in the order of its sample, by the model itself."""
    found_N = np.zeros(count, np.int64)
    for part in middle_of(parts, model.tile):
        scores = in_batches(model, model, part)
        found_N[part.id_N] = torch.cat(scores).argmax(1).cpu().numpy()
    return found_N
