"""Scenes with known classes, and task models whose heads are fitted to them in a second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

import specfm
from downstream.supervised.model import CHANGE_NAMES, HeadSpec, TaskModel
from downstream.supervised.views import View
from specfm.scene import Geo, Scene
from specfm.sensors import Sensor

GEO = Geo("EPSG:32617", (500000.0, 2.0, 0.0, 4000000.0, 0.0, -2.0))
NAMES = ("water", "grass", "soil, dry")


def make_labels(shape: tuple[int, int], classes: int = 3, seed: int = 0, size: int = 12) -> NDArray[np.int64]:
    """Patches of irregular outline, about ``size`` pixels across."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=shape), size / 2, mode="wrap") for _ in range(classes)]
    return np.stack(fields).argmax(0)


def sensor_of(bands: int, name: str | None = None) -> Sensor:
    return Sensor(specfm.BandGrid(np.linspace(450, 950, bands)), quantity="surface_reflectance", name=name)


def make_scene(labels_HW: NDArray[np.int64], bands: int = 12, seed: int = 1, noise: float = 0.03) -> Scene:
    """Smooth spectra per class, seen by a sensor of any number of bands, with noise; lies somewhere on the ground."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, bands)
    spectra = np.stack([0.4 + 0.25 * np.sin(3 * x * (k + 1) + k) for k in range(labels_HW.max() + 1)])
    cube = spectra[labels_HW] * (1 + noise * rng.normal(size=(*labels_HW.shape, bands)))
    return Scene.from_array(
        cube.astype(np.float32), sensor_of(bands), name="field", geo=GEO, labels_HW=labels_HW.astype(np.int32)
    )


def make_encoder(patch: int = 3, depth: int = 2, seed: int = 0) -> specfm.Encoder:
    torch.manual_seed(seed)
    return specfm.create_encoder("nano", patch_size=patch, dim=48, depth=depth, heads=3).eval()


def fitted_model(scenes: Sequence[Scene], tile: int = 24, patch: int = 3, steps: int = 60) -> TaskModel:
    """A segmentation model of one scene's labels, or a change model of two scenes' (where their labels differ)."""
    change = len(scenes) == 2
    names = CHANGE_NAMES if change else NAMES
    model = TaskModel(make_encoder(patch), "change" if change else "segmentation", names, tile, HeadSpec(dropout=0.0))
    rng = np.random.default_rng(0)
    height, width = scenes[0].shape[:2]
    corners = [(int(rng.integers(height - tile + 1)), int(rng.integers(width - tile + 1))) for _ in range(24)]
    windows = [(slice(r, r + tile), slice(c, c + tile)) for r, c in corners]
    labels = scenes[0].labels_HW
    assert labels is not None
    if change:
        labels = (labels != scenes[1].labels_HW).astype(np.int32)
    wanted = torch.from_numpy(np.stack([labels[w] for w in windows])).long()
    views = [View(torch.from_numpy(np.stack([s.read(*w) for w in windows])), s.sensor) for s in scenes]
    model.fit_standardiser(*([view] for view in views))
    with torch.no_grad():
        maps, _ = model.token_maps(*views)
    optimiser = torch.optim.Adam(model.head.parameters(), lr=0.05)
    for _ in range(steps):
        scores = torch.nn.functional.interpolate(model.head(maps), size=(tile, tile), mode="bilinear")
        loss = torch.nn.functional.cross_entropy(scores, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()
