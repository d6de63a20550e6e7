"""Small labelled scenes made by code, and an encoder small enough to see through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specfm.bands import BandGrid
from specfm.scene import Geo, Scene
from specfm.sensors import Sensor

SENSOR = Sensor(BandGrid(np.linspace(450, 900, 12)), quantity="surface_reflectance", name="toy")
NAMES = ("oak", "pine", "soil")


def spectra(classes: int = 3, bands: int = 12, seed: int = 0) -> np.ndarray:
    """Class-mean spectra ``[classes, bands]``."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, (classes, bands))


def patchy_labels(height: int, width: int, classes: int, rng: np.random.Generator, cell: int = 4) -> np.ndarray:
    """Labels in square cells of ``cell`` pixels, a few unlabelled."""
    coarse = rng.integers(0, classes, (-(-height // cell), -(-width // cell)))
    labels = coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width].astype(np.int32)
    labels[rng.random((height, width)) < 0.05] = -1
    return labels


def plots(count: int = 12, side: int = 12, noise: float = 0.02, seed: int = 0, sensor: Sensor = SENSOR) -> list[Scene]:
    """Independent plots, each its own group."""
    rng = np.random.default_rng([seed, 1])
    means = spectra(len(NAMES), len(sensor.bands))
    found = []
    for i in range(count):
        labels = patchy_labels(side, side, len(NAMES), rng)
        cube = means[np.maximum(labels, 0)] + noise * rng.normal(size=(side, side, len(sensor.bands)))
        name, cube = f"plot_{i}", cube.astype(np.float32)
        found.append(Scene.from_array(cube, sensor, name=name, labels_HW=labels, label_names=NAMES, group=name))
    return found


def field(height: int = 60, width: int = 72, seed: int = 0, noise: float = 0.02, cell: int = 4) -> Scene:
    """One large scene."""
    rng = np.random.default_rng([seed, 2])
    labels = patchy_labels(height, width, len(NAMES), rng, cell)
    cube = spectra()[np.maximum(labels, 0)] + noise * rng.normal(size=(height, width, 12))
    return Scene.from_array(cube.astype(np.float32), SENSOR, name="field", labels_HW=labels, label_names=NAMES)


def geo_at(row: int, col: int) -> Geo:
    """North-up ground reference of a scene whose corner is (row, col) pixels from a common origin."""
    return Geo("EPSG:32617", (500000.0 + 2.0 * col, 2.0, 0.0, 4000000.0 - 2.0 * row, 0.0, -2.0))


@dataclass
class ToyFeatures:
    """Same attributes as specfm.models.Features."""

    tokens_BND: Any
    pooled_BD: Any
    token_mask_BN: Any
    grid_hw: tuple[tuple[int, int], ...]


class ToyEncoder:
    """Tokens are patch-mean spectra times a fixed random matrix; counts the invalid pixels that it was given."""

    patch_size = 3

    def __init__(self, seed: int = 0, width: int = 16, collapse: bool = False) -> None:
        import torch

        self.num_features, self.collapse, self.invalid = width, collapse, 0
        self.config = {"toy": seed}
        self.weight = torch.randn(64, width, generator=torch.Generator().manual_seed(seed))

    def __call__(self, x_BHWC: Any, bands: Any, mask_BHW: Any) -> ToyFeatures:
        import torch

        p = self.patch_size
        b, h, w, c = x_BHWC.shape
        self.invalid += int((~mask_BHW).sum())
        weight = mask_BHW.float()[..., None]
        cut = lambda t: t.reshape(b, h // p, p, w // p, p, -1).sum((2, 4)).reshape(b, -1, t.shape[-1])
        count = cut(weight)
        tokens = (cut(x_BHWC * weight) / count.clamp_min(1)) @ self.weight[:c]
        if self.collapse:
            tokens = torch.ones_like(tokens) + 1e-7 * tokens
        valid = (count > 0).float()
        pooled = (tokens * valid).sum(1) / valid.sum(1).clamp_min(1)
        return ToyFeatures(tokens, pooled, valid[..., 0] > 0, ((h // p, w // p),))
