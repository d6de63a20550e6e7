"""What the trained rows train: an encoder with a linear head on its pooled features; its best state by validation.

Shape suffixes: M training windows, N windows, B batch, HW window pixels, C bands, D pooled features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from downstream.features.pooling import pool, pooling_parts
from downstream.features.standardise import Standardiser
from downstream.protocols.linear import linear_probe
from downstream.protocols.logistic import fit_grid
from specfm.sensors import Sensor

HEAD_ITERATIONS = 500  # of the probe that the head starts from, which need not converge


@dataclass(frozen=True)
class Windows:
    """Windows of one sensor in memory, with their classes and the group or block of each."""

    sensor: Sensor
    x_NHWC: np.ndarray
    mask_NHW: np.ndarray
    y_N: np.ndarray
    unit_N: np.ndarray


class Classifier(nn.Module):
    """Encoder, pooling, and a linear head on features that are standardised where the head comes from a probe."""

    mean_D: Tensor
    factor_D: Tensor

    def __init__(self, encoder: Any, pooling: str, window: int, classes: int):
        super().__init__()
        self.encoder, self.pooling, self.window = encoder, pooling, window
        width = len(pooling_parts(pooling)) * int(encoder.num_features)
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("factor_D", torch.ones(width))
        self.head = nn.Linear(width, classes)

    def features(self, x_BHWC: np.ndarray, mask_BHW: np.ndarray, sensor: Sensor) -> Tensor:
        """Pooled features ``[B, D]`` as a frozen probe takes them."""
        device = self.mean_D.device
        x, mask = (torch.from_numpy(np.ascontiguousarray(view)).to(device) for view in (x_BHWC, mask_BHW))
        found: Tensor = pool(self.encoder(x, sensor, mask), self.pooling, self.window, int(self.encoder.patch_size))
        return found

    def forward(self, x_BHWC: np.ndarray, mask_BHW: np.ndarray, sensor: Sensor) -> Tensor:
        """logit_BK."""
        found: Tensor = self.head((self.features(x_BHWC, mask_BHW, sensor) - self.mean_D) * self.factor_D)
        return found

    def start_from_probe(self, train: Sequence[Windows], val: Sequence[Windows], seed: int) -> None:
        """Set the head to the linear probe of the frozen features, its strength chosen on ``val`` (or inside train)."""
        (x_MD, y_M), (x_ND, y_N) = self._frozen(train), self._frozen(val)
        unit_M = np.concatenate([part.unit_N for part in train])
        chosen = linear_probe(x_MD, y_M, x_ND, y_N, x_MD[:1], train_group_M=unit_M, seed=seed)
        scale = Standardiser(x_MD)
        fit = fit_grid(scale(x_MD), y_M, (chosen.C,), max_iter=HEAD_ITERATIONS)
        with torch.no_grad():
            self.mean_D.copy_(torch.from_numpy(scale.mean_D))
            self.factor_D.copy_(torch.from_numpy(scale.factor_D))
            # classes that this split does not train on never win
            self.head.weight.zero_()
            self.head.bias.fill_(-20.0)
            self.head.weight[fit.classes_K] = fit.weight_GKP[0, :, :-1].to(self.head.weight)
            self.head.bias[fit.classes_K] = fit.weight_GKP[0, :, -1].to(self.head.bias)

    def predict(self, part: Windows, batch: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """(class, its probability) of every window."""
        found = [p.float().softmax(1).max(1) for p in self._batches(self, part, batch)]
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        return torch.cat([f[1] for f in found]).cpu().numpy(), torch.cat([f[0] for f in found]).cpu().numpy()

    def _frozen(self, parts: Sequence[Windows]) -> tuple[np.ndarray, np.ndarray]:
        features = [f.float().cpu().numpy() for part in parts for f in self._batches(self.features, part)]
        labels = [part.y_N for part in parts]
        width = len(self.mean_D)
        return (
            np.concatenate(features) if features else np.zeros((0, width), np.float32),
            np.concatenate(labels) if labels else np.zeros(0, np.int64),
        )

    def _batches(self, call: Any, part: Windows, batch: int = 256) -> list[Tensor]:
        self.eval()
        with torch.inference_mode():
            return [
                call(part.x_NHWC[i : i + batch], part.mask_NHW[i : i + batch], part.sensor)
                for i in range(0, len(part.y_N), batch)
            ]


class Best:
    """The weights with the best validation accuracy so far.

    Args:
        patience: steps without a better one before training has gone stale.
    """

    def __init__(self, patience: int):
        self.patience, self.accuracy = patience, float("nan")
        self._step, self._state = 0, dict[str, Tensor]()

    def look(self, model: Classifier, val: Sequence[Windows], step: int) -> None:
        """Measure ``model`` and keep it if it is better."""
        right = np.concatenate([model.predict(part)[0] == part.y_N for part in val])
        if not self._state or right.mean() > self.accuracy:
            self._state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            self.accuracy, self._step = float(right.mean()), step

    def stale(self, step: int) -> bool:
        """True if the best is long ago."""
        return bool(self._state) and step - self._step >= self.patience

    def restore(self, model: Classifier) -> None:
        """Take up the best weights, if any were kept."""
        if self._state:
            model.load_state_dict(self._state)
