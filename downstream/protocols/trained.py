"""Rows for encoders that are trained on the labels: fine-tuned from a checkpoint, or from scratch.

A short supervised training of the encoder with a linear head on its pooled features, under the same split as every
other row: AdamW with a warm-up and a cosine, layer-wise decay of the learning rate and drop path when fine-tuning,
early stop on validation (where a k-shot split has none, the number of steps is fixed and the last weights are used).
Fine-tuning starts from the linear probe of the frozen features (Kumar et al., ICLR 2022): a random head would first
distort features that a few hundred windows cannot mend. The test windows are read once, after training. Not the tool
for a real task: that is ``specfm finetune``.

Shape suffixes: N samples, M training samples, B batch, HW window pixels, C bands, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.encoders import encoder_device
from downstream.protocols.options import TrainOptions
from downstream.protocols.weights import ClassWeights
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from specfm.errors import UsageError
from specfm.selected_scene import for_encoder

if TYPE_CHECKING:
    from downstream.supervised.model import TaskModel
    from specfm.engine.config import RunConfig
    from specfm.scene import Scene

REMEDY = "leave finetune out of --protocol and pass --no-scratch"


@dataclass(frozen=True)
class Trained:
    """A trained encoder with its head, and how training ended."""

    model: TaskModel
    steps: int
    validation_score: float

    def predict(self, scenes: Sequence[Scene], samples: Samples, ids_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(predicted_N, confidence_N) of the samples ``ids_I``, their windows read from ``scenes``."""
        from downstream.protocols.windows import classify, windows_of

        predicted_N, confidence_N = np.zeros(len(ids_I), np.int64), np.zeros(len(ids_I), np.float32)
        seen = [for_encoder(self.model.encoder, scene) for scene in scenes]
        for part in windows_of(seen, samples, ids_I, self.model.tile):
            predicted_N[part.id_N], confidence_N[part.id_N] = classify(self.model, part)
        return predicted_N, confidence_N


def train_on(
    encoder: Any,
    scenes: Sequence[Scene],
    samples: Samples,
    split: Split,
    *,
    pretrained: bool,
    window: int,
    pooling: str = "concat",
    options: TrainOptions | None = None,
    class_weights: ClassWeights = "balanced",
) -> Trained:
    """Train on the training side of ``split`` and stop by its validation side; nothing of its test side is read.

    Args:
        encoder: gives the architecture, and the first weights where ``pretrained``; it is not changed.
        scenes: scenes of the samples.
        samples: labelled windows.
        split: which of them train and validate.
        pretrained: start from the encoder's weights (fine-tune) or from fresh ones (from scratch).
        window: side of the windows, pixels.
        pooling: of the encoder's tokens (``downstream.features.pooling``).
        options: see ``TrainOptions``.
        class_weights: how much each class counts, in the loss and on validation (:mod:`.weights`).

    Raises:
        UsageError: an encoder without a config, which cannot be built again.
    """
    import torch

    from downstream.protocols.classifier import WindowTraining, start_from_probe
    from downstream.protocols.windows import by_sensor, windows_of
    from downstream.supervised.model import HeadSpec, TaskModel
    from downstream.supervised.trainer import start_from
    from specfm.engine.guard import DivergedError
    from specfm.engine.loop import run_task
    from specfm.engine.optimizer import share_of_lr

    options = options or TrainOptions()
    device = encoder_device(encoder)
    rng = np.random.default_rng([split.seed, 17])
    train_I, val_I = (_thinned(samples, ids_I, options.most, rng) for ids_I in (split.train_I, split.val_I))
    seen = [for_encoder(encoder, scene) for scene in scenes]
    train, val = (by_sensor(windows_of(seen, samples, ids_I, window)) for ids_I in (train_I, val_I))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(rng.integers(2**31)))
        fresh, head = _fresh(encoder, options.drop_path), HeadSpec("pooled", dropout=0.0, pooling=pooling)
        model = TaskModel(fresh, "classification", samples.label_names, window, head, level="sample").to(device)
        start_from(model, encoder, weights=pretrained, library=pretrained)
        if pretrained:
            start_from_probe(model, train, val, split.unit_N[train_I], split.seed, class_weights)
        title = f"{'fine-tune' if pretrained else 'from scratch'}, split {split.seed}"
        share = share_of_lr(options.layer_decay, len(encoder.blocks)) if pretrained else None
        task = WindowTraining(
            title, model, _run_config(options), train, val, rng, batch_size=options.batch, patience=options.patience,
            class_weights=class_weights, lr_share=share, first=pretrained,
        )  # fmt: skip
        try:
            outcome = run_task(task)
        except DivergedError:
            raise DivergedError(
                f"{title}: loss or gradient was not finite in several steps in a row; {REMEDY}"
            ) from None
    return Trained(model, outcome.done, task.stop.best[1])


def _run_config(options: TrainOptions) -> RunConfig:
    from specfm.engine.config import OptimConfig, RunConfig

    optim = OptimConfig(lr=options.lr, weight_decay=options.weight_decay, warmup_steps=options.steps // 10)
    return RunConfig(out="", steps=options.steps, optim=optim)


def _fresh(encoder: Any, drop_path: float) -> Any:
    from specfm.models import fresh_like

    try:
        return fresh_like(encoder, drop_path=drop_path)
    except (AttributeError, TypeError, UsageError):
        raise UsageError(f"this encoder cannot be built again from its config; {REMEDY}") from None


def _thinned(samples: Samples, ids_I: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    if len(ids_I) <= most:
        return ids_I
    share = most / len(ids_I)
    parts = [rng.permutation(ids_I[samples.y_N[ids_I] == c]) for c in np.unique(samples.y_N[ids_I])]
    return np.sort(np.concatenate([p[: max(1, round(share * len(p)))] for p in parts]))
