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
from downstream.features.extract import progress_bar
from downstream.features.standardise import Standardiser
from downstream.protocols.options import TrainOptions
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from specfm.errors import UsageError

if TYPE_CHECKING:
    from downstream.protocols.windows import Windows
    from downstream.supervised.model import TaskModel
    from specfm.scene import Scene

HEAD_ITERATIONS = 500  # of the probe that the head starts from, which need not converge
CHECK_EVERY = 10  # steps between two looks at validation, at least; an epoch where that is longer


@dataclass(frozen=True)
class Trained:
    """A trained encoder with its head, and how training ended."""

    model: TaskModel
    steps: int
    validation_oa: float

    def predict(self, scenes: Sequence[Scene], samples: Samples, ids_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(predicted_N, confidence_N) of the samples ``ids_I``, their windows read from ``scenes``."""
        from downstream.protocols.windows import classify, windows_of

        predicted_N, confidence_N = np.zeros(len(ids_I), np.int64), np.zeros(len(ids_I), np.float32)
        for part in windows_of(scenes, samples, ids_I, self.model.tile):
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

    from downstream.protocols.classifier import Best
    from downstream.protocols.windows import Epochs, by_sensor, windows_of
    from downstream.supervised.model import HeadSpec, TaskModel
    from downstream.tasks.train import depth_of, lr_share
    from specfm.checkpoint import has_whitened_stem
    from specfm.engine.optimizer import adamw, clip_gradients, set_lr
    from specfm.engine.schedule import warmup_cosine

    options = options or TrainOptions()
    device = encoder_device(encoder)
    title = f"{'fine-tune' if pretrained else 'from scratch'}, split {split.seed}"
    rng = np.random.default_rng([split.seed, 17])
    train_I, val_I = (_thinned(samples, ids_I, options.most, rng) for ids_I in (split.train_I, split.val_I))
    train, val = (by_sensor(windows_of(scenes, samples, ids_I, window)) for ids_I in (train_I, val_I))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(rng.integers(2**31)))
        head = HeadSpec("pooled", dropout=0.0, pooling=pooling)
        names = samples.label_names
        fresh = _fresh(encoder, options.drop_path)
        model = TaskModel(fresh, "classification", names, window, head, level="sample").to(device)
        if pretrained:
            model.encoder.load_state_dict(encoder.state_dict())
            if encoder.aligned:
                model.encoder.library = encoder.library
            if has_whitened_stem(encoder.card):
                for name, parameter in model.encoder.named_parameters():
                    parameter.requires_grad_(depth_of(name, len(encoder.blocks)) > 0)
            start_from_probe(model, train, val, split.unit_N[train_I], split.seed)
        share = lr_share(options.layer_decay, len(encoder.blocks)) if pretrained else None
        modules = nn.ModuleDict({"model": model})
        optimizer = adamw(modules, options.lr, options.weight_decay, (0.9, 0.98), device, share)
        best = Best(options.patience)
        if pretrained and val:
            best.look(model, val, 0)
        step, looked = 0, 0
        progress, task = progress_bar(title, options.steps)
        epochs = Epochs(train, options.batch, rng)
        with progress:
            while step < options.steps and not (epochs.at_end and best.stale(step)):
                model.train()
                (part,) = epochs()
                logit_BK = model(*part.views)
                loss = nn.functional.cross_entropy(logit_BK, part.labels.to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                clip_gradients(model.parameters(), 1.0)
                set_lr(optimizer, warmup_cosine(step, options.steps, options.steps // 10, options.lr))
                optimizer.step()
                step += 1
                progress.advance(task)
                if val and ((epochs.at_end and step - looked >= CHECK_EVERY) or step == options.steps):
                    best.look(model, val, step)
                    looked = step
        best.restore(model)
    return Trained(model, step, best.accuracy)


def start_from_probe(
    model: TaskModel, train: Sequence[Windows], val: Sequence[Windows], unit_I: np.ndarray, seed: int
) -> None:
    """Set the head to the linear probe of the frozen features, its strength chosen on ``val`` (or inside train).

    Args:
        model: with a pooled head. unit_I: group or block of the samples that ``train`` holds.
    """
    import torch

    from downstream.protocols.linear import linear_probe
    from downstream.protocols.logistic import fit_grid
    from downstream.protocols.windows import in_batches

    def frozen(parts: Sequence[Windows]) -> tuple[np.ndarray, np.ndarray]:
        features = [f.cpu().numpy() for part in parts for f in in_batches(model, model.pooled, part)]
        none = np.zeros((0, model.standardise.mean_LD.shape[1]), np.float32)
        return np.concatenate([none, *features]), np.concatenate([np.zeros(0, np.int64), *(part.y_N for part in parts)])

    (x_MD, y_M), (x_ND, y_N) = frozen(train), frozen(val)
    unit_M = np.concatenate([unit_I[part.id_N] for part in train])
    chosen = linear_probe(x_MD, y_M, x_ND, y_N, x_MD[:1], train_group_M=unit_M, seed=seed)
    scale = Standardiser(x_MD)
    fit = fit_grid(scale(x_MD), y_M, (chosen.C,), max_iter=HEAD_ITERATIONS)
    score = model.head.score
    with torch.no_grad():
        model.standardise.take(0, scale)
        # classes that this split does not train on never win
        score.weight.zero_()
        score.bias.fill_(-20.0)
        score.weight[fit.classes_K] = fit.weight_GKP[0, :, :-1].to(score.weight)
        score.bias[fit.classes_K] = fit.weight_GKP[0, :, -1].to(score.bias)


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
