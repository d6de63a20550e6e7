"""Labelled windows in memory: read once, drawn epoch by epoch, classified in batches.

Shape suffixes: N windows, B batch, I sample ids, HW window pixels, C bands, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from downstream.features.extract import iterate_windows
from downstream.splits.samples import Samples
from downstream.supervised.model import TaskModel
from downstream.supervised.views import TURNS, View, turned_batch, turns_about_its_middle
from specfm.scene import Scene
from specfm.sensors import Sensor

BATCH = 256  # windows read, or classified, at once


@dataclass(frozen=True)
class Windows:
    """Windows of one sensor with their classes, and the sample each of them is of."""

    sensor: Sensor
    x_NHWC: np.ndarray
    mask_NHW: np.ndarray
    y_N: np.ndarray
    id_N: np.ndarray

    def __len__(self) -> int:
        return len(self.y_N)

    def view(self, chosen: Sequence[int] | np.ndarray, turns: int = 0) -> View:
        """The chosen windows, all turned alike."""
        alike = [turns] * len(chosen)
        x, mask = (turned_batch((a[i] for i in chosen), alike) for a in (self.x_NHWC, self.mask_NHW))
        return View(x, self.sensor, mask)


@dataclass(frozen=True)
class LabelledWindows:
    """A batch: windows of one sensor, turned alike, and their classes."""

    views: list[View]
    labels: Tensor


def windows_of(scenes: Sequence[Scene], samples: Samples, ids_I: np.ndarray, window: int) -> Iterator[Windows]:
    """The windows of the samples ``ids_I``, at most ``BATCH`` at once; ``id_N`` are positions in ``ids_I``."""
    chosen = samples.take(ids_I)
    for part in iterate_windows(scenes, chosen, window, batch=BATCH):
        yield Windows(part.scene.sensor, part.x_BHWC, part.mask_BHW, chosen.y_N[part.ids_B], part.ids_B)


def by_sensor(parts: Iterator[Windows]) -> list[Windows]:
    """All windows of one sensor in one part."""
    found: dict[str, list[Windows]] = {}
    for part in parts:
        found.setdefault(part.sensor.digest, []).append(part)

    def together(parts: list[Windows], name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    names = ("x_NHWC", "mask_NHW", "y_N", "id_N")
    return [Windows(parts[0].sensor, *(together(parts, name) for name in names)) for parts in found.values()]


class Epochs:
    """Batches without end, each epoch over all windows in a new order; windows have no up, so batches are turned.

    Args:
        parts: one per sensor; a batch is of one of them.
        batch: windows at most.
        rng: of every draw.

    Attributes:
        at_end: whether the last batch given ended an epoch.
    """

    def __init__(self, parts: Sequence[Windows], batch: int, rng: np.random.Generator) -> None:
        self.parts, self.batch, self.rng = parts, batch, rng
        self._left: list[tuple[Windows, np.ndarray]] = []
        self.at_end = True

    def __call__(self) -> list[LabelledWindows]:
        """The next batch."""
        if self.at_end:
            self._left = self._drawn()
        part, chosen_B = self._left.pop(0)
        self.at_end = not self._left
        turns, mirrored = int(self.rng.integers(TURNS // 2)), self.rng.random() < 0.5
        if mirrored:
            turns = TURNS // 2 + (turns + 2) % 4
        if not turns_about_its_middle(part.x_NHWC.shape[1]):
            turns = 0
        return [LabelledWindows([part.view(chosen_B, turns)], torch.from_numpy(part.y_N[chosen_B]))]

    def _drawn(self) -> list[tuple[Windows, np.ndarray]]:
        batches = []
        for part in self.parts:
            order = self.rng.permutation(len(part))
            batches += [(part, order[i : i + self.batch]) for i in range(0, len(order), self.batch)]
        return [batches[i] for i in self.rng.permutation(len(batches)).tolist()]


def in_batches(model: TaskModel, call: Callable[[View], Tensor], part: Windows) -> list[Tensor]:
    """What ``call`` says of the windows, ``BATCH`` at once; ``model`` is put into evaluation mode."""
    model.eval()
    with torch.inference_mode():
        ids_N = range(len(part))
        return [call(part.view(ids_N[i : i + BATCH])).float() for i in range(0, len(part), BATCH)]


def classify(model: TaskModel, part: Windows) -> tuple[np.ndarray, np.ndarray]:
    """(class, its probability) of every window."""
    found = [scores_BK.softmax(1).max(1) for scores_BK in in_batches(model, model, part)]
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    return torch.cat([f.indices for f in found]).cpu().numpy(), torch.cat([f.values for f in found]).cpu().numpy()
