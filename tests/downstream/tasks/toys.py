"""Small scenes and pairs of scenes whose labels the spectra give away, as cards on disk, and an encoder to fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from downstream.tasks.config import FinetuneConfig
from specfm import BandGrid, Sensor
from specfm.config import build_config
from specfm.scene import Scene

SMALL = {"size": "nano", "patch_size": 3, "options": {"dim": 48, "depth": 2, "heads": 3, "code_width": 32}}
FINE = Sensor(BandGrid(np.linspace(450, 2400, 24)), quantity="surface_reflectance", name="fine", gsd_m=5.0)
COARSE = Sensor(
    BandGrid([480, 560, 660, 830, 1650, 2200], [60, 60, 60, 120, 200, 200]), "surface_reflectance", name="coarse"
)
PEAKS_NM = (600.0, 900.0, 1700.0, 2150.0)
NAMES = ("soil", "grass", "water", "roof")


def reflectance(labels_HW: np.ndarray, sensor: Sensor, rng: np.random.Generator, noise: float = 0.01) -> np.ndarray:
    """float32 cube ``[H, W, C]``: every class has its own peak."""
    nm = sensor.bands.wavelengths_nm
    means = 0.2 + 0.5 * np.exp(-(((nm[None] - np.array(PEAKS_NM)[:, None]) / 250) ** 2))
    return (means[labels_HW] + rng.normal(0, noise, (*labels_HW.shape, len(nm)))).astype(np.float32)


def blocks(height: int, width: int, cell: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Classes in squares of ``cell`` pixels, every class about as often."""
    rows, cols = -(-height // cell), -(-width // cell)
    coarse = rng.permutation(np.arange(rows * cols) % classes).reshape(rows, cols)
    return coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]


def write_card(
    folder: Path, name: str, cubes: dict[str, np.ndarray], labels_HW: np.ndarray, task: str, **part: Any
) -> Path:
    """A card of .npy cubes (one part each) and one label raster; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "labels.npy", labels_HW.astype(np.int64))
    names = list(NAMES[: int(labels_HW.max()) + 1]) if task != "change" else ["unchanged", "changed"]
    lines = [f"name: {name}", "domain: toy", f"task: {task}", "wavelength_trust: high", "quantity: surface_reflectance"]
    lines += [f"label_names: [{', '.join(names)}]", "labels: {path: labels.npy, unlabelled: [-1]}"]
    lines += [f"{key}: {value}" for key, value in part.items()] + ["parts:"]
    for number, (stem, cube) in enumerate(cubes.items()):
        np.save(folder / f"{stem}.npy", cube)
        sensor = FINE if cube.shape[2] == len(FINE.bands) else COARSE
        with open(folder / f"{stem}.csv", "w", encoding="utf-8") as handle:
            handle.write("band,centre_nm,fwhm_nm\n")
            for i, centre in enumerate(sensor.bands.wavelengths_nm):
                handle.write(f"{i + 1},{centre:.3f},\n")
        lines.append(f"  - {{path: {stem}.npy, wavelengths: {stem}.csv, date: 200{number}-05-03}}")
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def field_card(folder: Path, side: int = 48, seed: int = 0, shuffled: bool = False) -> Path:
    """One scene of three classes in cells of 6 pixels; ``shuffled`` labels say nothing about the spectra."""
    rng = np.random.default_rng([seed, 1])
    labels = blocks(side, side, 6, 3, rng)
    cube = reflectance(labels, FINE, rng)
    if shuffled:
        labels = rng.permutation(labels.reshape(-1)).reshape(labels.shape)
    return write_card(folder, "field", {"scene": cube}, labels, "classification")


def pair_card(folder: Path, side: int = 48, seed: int = 0, after: Sensor = FINE) -> Path:
    """Two dates: cells of 6 pixels of two classes, a third of which became water; the second date through ``after``."""
    rng = np.random.default_rng([seed, 2])
    before = blocks(side, side, 6, 2, rng)
    changed = blocks(side, side, 6, 3, rng) == 0
    later = np.where(changed, 2, before)
    cubes = {"before": reflectance(before, FINE, rng), "later": reflectance(later, after, rng)}
    return write_card(folder, "pair", cubes, changed.astype(int), "change", group="one")


def config(out: Path, card: Path, task: str, **sections: Any) -> FinetuneConfig:
    """A short run on a small encoder, without controls."""
    values: dict[str, Any] = {
        "out": str(out), "task": task, "steps": 60, "device": "cpu", "model": SMALL, "controls": [],
        "data": {"card": str(card), "tile": 6, "batch": 8},
        "split": {"rule": "block", "seeds": 1, "block": 8},
        "optim": {"lr": 1e-3, "warmup_steps": 5}, "checkpoint": {"every": 20},
    }  # fmt: skip
    for key, value in sections.items():
        values[key] = (
            {**values[key], **value} if isinstance(value, dict) and isinstance(values.get(key), dict) else value
        )
    return build_config(values, FinetuneConfig, "the test")


def scene(labels_HW: np.ndarray, sensor: Sensor = FINE, seed: int = 0, **fields: Any) -> Scene:
    """A labelled scene in memory."""
    cube = reflectance(np.maximum(labels_HW, 0), sensor, np.random.default_rng(seed))
    names = NAMES[: int(labels_HW.max()) + 1]
    return Scene.from_array(cube, sensor, labels_HW=labels_HW.astype(np.int32), label_names=names, **fields)
