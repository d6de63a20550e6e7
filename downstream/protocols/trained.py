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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.extract import encoder_device, iterate_windows, progress_bar
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from specfm.errors import UsageError

if TYPE_CHECKING:
    from downstream.protocols.classifier import Classifier, Windows
    from specfm.scene import Scene

TRAINED: tuple[str, ...] = ("finetune", "scratch")
CHECK_EVERY = 10  # steps between two looks at validation, at least; an epoch where that is longer


@dataclass(frozen=True)
class TrainOptions:
    """How the trained rows are trained.

    Attributes:
        steps: optimiser steps at most.
        batch: windows of one sensor per step.
        lr: peak learning rate of the head (and of everything, from scratch).
        layer_decay: when fine-tuning, the rate of a block is this share of the next deeper one's.
        drop_path: share of residual branches dropped.
        weight_decay: decoupled decay of matrices.
        patience: steps without a better validation accuracy before it stops.
        most: training windows at most, thinned class by class; they are held in memory.
    """

    steps: int = 300
    batch: int = 32
    lr: float = 1e-3
    layer_decay: float = 0.75
    drop_path: float = 0.1
    weight_decay: float = 0.05
    patience: int = 100
    most: int = 2000


@dataclass(frozen=True)
class Trained:
    """A trained encoder with its head, and how training ended."""

    model: Classifier
    window: int
    steps: int
    validation_oa: float

    def predict(self, scenes: Sequence[Scene], samples: Samples, ids_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(predicted_N, confidence_N) of the samples ``ids_I``, their windows read from ``scenes``."""
        from downstream.protocols.classifier import Windows

        predicted_N, confidence_N = np.zeros(len(ids_I), np.int64), np.zeros(len(ids_I), np.float32)
        chosen = samples.take(ids_I)
        for part in iterate_windows(scenes, chosen, self.window, batch=256):
            views = Windows(part.scene.sensor, part.x_BHWC, part.mask_BHW, chosen.y_N[part.ids_B], part.ids_B)
            predicted_N[part.ids_B], confidence_N[part.ids_B] = self.model.predict(views)
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

    Raises:
        UsageError: an encoder without a config, which cannot be built again.
    """
    import torch
    from torch import nn

    from downstream.protocols.classifier import Best, Classifier
    from specfm.checkpoint import has_whitened_stem
    from specfm.engine.optimizer import adamw, clip_gradients, depth_of, lr_share, set_lr
    from specfm.engine.schedule import warmup_cosine

    options = options or TrainOptions()
    device = encoder_device(encoder)
    title = f"{'fine-tune' if pretrained else 'from scratch'}, split {split.seed}"
    rng = np.random.default_rng([split.seed, 17])
    train, val = (
        _collect(scenes, samples, split, _thinned(samples, ids_I, options.most, rng), window)
        for ids_I in (split.train_I, split.val_I)
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(rng.integers(2**31)))
        model = Classifier(_fresh(encoder, options.drop_path), pooling, window, len(samples.label_names)).to(device)
        if pretrained:
            model.encoder.load_state_dict(encoder.state_dict())
            if encoder.aligned:
                model.encoder.library = encoder.library
            if has_whitened_stem(encoder.card):
                for name, parameter in model.encoder.named_parameters():
                    parameter.requires_grad_(depth_of(name, len(encoder.blocks)) > 0)
            model.start_from_probe(train, val, split.seed)
        share = lr_share(options.layer_decay, len(encoder.blocks)) if pretrained else None
        modules = nn.ModuleDict({"model": model})
        optimizer = adamw(modules, options.lr, options.weight_decay, (0.9, 0.98), device, share)
        best = Best(options.patience)
        if pretrained and val:
            best.look(model, val, 0)
        step, looked = 0, 0
        progress, task = progress_bar(title, options.steps)
        with progress:
            while step < options.steps and not best.stale(step):
                model.train()
                for part, chosen_B in _epoch(train, options.batch, rng):
                    logit_BK = model(*_turned(part, chosen_B, rng), part.sensor)
                    target_B = torch.as_tensor(part.y_N[chosen_B], device=device)
                    loss = nn.functional.cross_entropy(logit_BK, target_B)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    clip_gradients(model.parameters(), 1.0)
                    set_lr(optimizer, warmup_cosine(step, options.steps, options.steps // 10, options.lr))
                    optimizer.step()
                    step += 1
                    progress.advance(task)
                    if step == options.steps:
                        break
                if val and (step - looked >= CHECK_EVERY or step == options.steps):
                    best.look(model, val, step)
                    looked = step
        best.restore(model)
    return Trained(model, window, step, best.accuracy)


def _fresh(encoder: Any, drop_path: float) -> Any:
    from specfm.models import create_encoder

    config = dict(getattr(encoder, "config", None) or {})
    try:
        return create_encoder(**{**config, "drop_path": drop_path})
    except (TypeError, UsageError):
        raise UsageError(
            "this encoder cannot be built again from its config; leave finetune out of --protocol and pass --no-scratch"
        ) from None


def _thinned(samples: Samples, ids_I: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    if len(ids_I) <= most:
        return ids_I
    share = most / len(ids_I)
    parts = [rng.permutation(ids_I[samples.y_N[ids_I] == c]) for c in np.unique(samples.y_N[ids_I])]
    return np.sort(np.concatenate([p[: max(1, round(share * len(p)))] for p in parts]))


def _collect(scenes: Sequence[Scene], samples: Samples, split: Split, ids_I: np.ndarray, window: int) -> list[Windows]:
    """The windows of ``ids_I`` in memory, one part per sensor."""
    from downstream.protocols.classifier import Windows

    chosen, unit_N = samples.take(ids_I), split.unit_N[ids_I]
    found: dict[str, list[tuple[Any, ...]]] = {}
    for part in iterate_windows(scenes, chosen, window, batch=256):
        row = (part.scene.sensor, part.x_BHWC, part.mask_BHW, chosen.y_N[part.ids_B], unit_N[part.ids_B])
        found.setdefault(part.scene.sensor.digest, []).append(row)
    return [
        Windows(rows[0][0], *(np.concatenate(r) for r in list(zip(*rows, strict=True))[1:])) for rows in found.values()
    ]


def _epoch(parts: list[Windows], batch: int, rng: np.random.Generator) -> Iterator[tuple[Windows, np.ndarray]]:
    batches = []
    for part in parts:
        order = rng.permutation(len(part.y_N))
        batches += [(part, order[i : i + batch]) for i in range(0, len(order), batch)]
    for i in rng.permutation(len(batches)).tolist():
        yield batches[i]


def _turned(part: Windows, chosen_B: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The chosen windows, all flipped and turned the same way: windows have no up. Even ones and pixels stay."""
    x, mask, turns, flip = part.x_NHWC[chosen_B], part.mask_NHW[chosen_B], int(rng.integers(4)), rng.random() < 0.5
    if x.shape[1] % 2 == 0 or x.shape[1] == 1:
        return x, mask
    x, mask = np.rot90(x, turns, (1, 2)), np.rot90(mask, turns, (1, 2))
    return (x[:, ::-1], mask[:, ::-1]) if flip else (x, mask)
