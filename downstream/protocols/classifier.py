"""A classifier of windows in memory, trained under a split for a row of a probe: its task, and the head it starts from.

Shape suffixes: M training windows, N windows, I sample ids, D pooled features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downstream.features.standardise import Standardiser
from downstream.protocols.linear import linear_probe
from downstream.protocols.logistic import fit_grid
from downstream.protocols.weights import ClassWeights, weighted_accuracy, weights_of_classes, weights_of_samples
from downstream.protocols.windows import Epochs, LabelledWindows, Windows, classify, in_batches
from downstream.supervised.model import TaskModel
from downstream.supervised.trainer import Supervised
from specfm.engine.config import RunConfig
from specfm.engine.distributed import World

HEAD_ITERATIONS = 500  # of the probe that the head starts from, which need not converge
CHECK_EVERY = 10  # steps between two looks at validation, at least; an epoch where that is longer


class WindowTraining(Supervised):
    """A model learns windows epoch by epoch, kept in memory alone; in the end it has its best weights by validation.

    It draws in the order of the run from ``rng`` and torch's random state: it is short and never taken up again.

    Args:
        title: of the progress display.
        model: classifies windows; it is trained.
        config: steps, optimiser, guard.
        train: windows, a part per sensor.
        val: windows likewise; without them all steps are done and the last weights stay.
        rng: of order and turns.
        batch_size: windows a step.
        patience: steps.
        class_weights: how much each class counts, in the loss and on validation (:mod:`.weights`).
        lr_share: of the learning rate, by parameter name.
        first: the model counts before its first step.
    """

    def __init__(
        self, title: str, model: TaskModel, config: RunConfig, train: Sequence[Windows], val: Sequence[Windows],
        rng: np.random.Generator, *, batch_size: int, patience: int, class_weights: ClassWeights,
        lr_share: Callable[[str], float] | None = None, first: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            title, model, config, World(0, 1, model.device), None, batch_size=batch_size, patience=patience,
            lr_share=lr_share, weight_K=_class_weights(model, train, class_weights),
        )  # fmt: skip
        self.val, self.first, self.class_weights = val, first, class_weights
        self.epochs = Epochs(train, batch_size, rng)
        self._best: dict[str, Tensor] = {}
        self._number = 0

    def start(self, done: int) -> None:
        if self.first and self.val:
            self.look(0)

    def batches(self, done: int) -> Iterator[list[LabelledWindows]]:
        while True:
            self._number += 1
            yield self.epochs()

    def due(self, number: int) -> bool:
        looked = self.stop.history[-1][0] if self.stop.history else 0
        return bool(self.val) and (
            number == self.config.steps or (self.epochs.at_end and number - looked >= CHECK_EVERY)
        )

    def validate(self) -> tuple[float, dict[str, Any]]:
        said_N = np.concatenate([classify(self.model, part)[0] for part in self.val])
        true_N = np.concatenate([part.y_N for part in self.val])
        return float(weighted_accuracy(true_N, said_N, self.class_weights)), {}

    def on_better(self) -> None:
        self._best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def stale(self) -> bool:
        """Patience runs out between two epochs, whether or not validation was looked at there."""
        return self.epochs.at_end and self.stop.stale(self._number)

    def release(self, done: int) -> None:
        """The best weights, if validation found any."""
        if self._best:
            self.model.load_state_dict(self._best)


def start_from_probe(
    model: TaskModel, train: Sequence[Windows], val: Sequence[Windows], unit_I: np.ndarray, seed: int,
    class_weights: ClassWeights,
) -> None:  # fmt: skip
    """Set a pooled head to the linear probe of the frozen features, its strength chosen on ``val`` (or inside train).

    Args:
        model: its head is set.
        train: windows, a part per sensor.
        val: windows likewise; may be empty.
        unit_I: group or block of the samples that ``train`` holds.
        seed: of folds inside train.
        class_weights: how much each class counts (:mod:`.weights`).
    """
    (x_MD, y_M), (x_ND, y_N) = _frozen(model, train), _frozen(model, val)
    unit_M = np.concatenate([unit_I[part.id_N] for part in train])
    chosen = linear_probe(x_MD, y_M, x_ND, y_N, x_MD[:1], train_group_M=unit_M, seed=seed, class_weights=class_weights)
    scale = Standardiser(x_MD)
    weight_M = weights_of_samples(y_M, class_weights)
    fit = fit_grid(scale(x_MD), y_M, (chosen.C,), weight_M=weight_M, max_iter=HEAD_ITERATIONS)
    model.standardise.take(0, scale)
    weight, bias = model.head.parameters()
    with torch.no_grad():
        # classes that this split does not train on never win
        weight.zero_()
        bias.fill_(-20.0)
        weight[fit.classes_K] = fit.weight_GKP[0, :, :-1].to(weight)
        bias[fit.classes_K] = fit.weight_GKP[0, :, -1].to(bias)


def _class_weights(model: TaskModel, parts: Sequence[Windows], how: ClassWeights) -> Tensor:
    counts_K = np.bincount(np.concatenate([part.y_N for part in parts]), minlength=model.classes)
    return torch.from_numpy(weights_of_classes(counts_K, how)).float()


def _frozen(model: TaskModel, parts: Sequence[Windows]) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features ``[N, D]`` and classes of all windows."""
    found = [x_BD.cpu().numpy() for part in parts for x_BD in in_batches(model, model.pooled, part)]
    none_0D = np.zeros((0, model.standardise.mean_LD.shape[1]), np.float32)
    y_N = np.concatenate([np.zeros(0, np.int64), *(part.y_N for part in parts)])
    return np.concatenate([none_0D, *found]), y_N
