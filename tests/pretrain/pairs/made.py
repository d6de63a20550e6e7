"""Shards of scenes with a known map of materials, cut into dense windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from specfm import BandGrid, Sensor
from specfm.shards import ShardWriter

BANDS, SIDE, STRIPE, WINDOW = 12, 36, 12, 3


def spectra_of(materials: int) -> np.ndarray:
    wavelengths = np.linspace(420, 2400, BANDS)
    centre = np.linspace(700, 1900, materials)
    return 0.2 + 0.5 * np.exp(-(((wavelengths - centre[:, None]) / 300.0) ** 2))


def write_plots(
    path: Path,
    plots: int = 3,
    materials: int = 3,
    seed: int = 0,
    domain: str = "field",
    groups: list[str] | None = None,
) -> Path:
    """Plots of ``SIDE`` pixels in three stripes of materials, each under its own light; windows side by side."""
    rng, materials = np.random.default_rng(seed), SIDE // STRIPE
    sensor = Sensor(BandGrid(np.linspace(420, 2400, BANDS)), quantity="surface_reflectance", scale=1e-4, name=domain)
    names = groups or [f"plot {number}" for number in range(plots)]
    starts = np.arange(0, SIDE - WINDOW + 1, WINDOW)
    origin = np.stack(np.meshgrid(starts, starts, indexing="ij"), -1).reshape(-1, 2)
    known = {name: number + 100 for number, name in enumerate(dict.fromkeys(names))}
    count = plots * len(origin)
    with ShardWriter(
        path, (WINDOW, WINDOW), sensor, "int16", domain, count=count, label_names=tuple("abcdefgh"[:materials]),
        scene_names=tuple(f"{path.stem} {number}" for number in range(plots)),
        group_names={value: name for name, value in known.items()},
    ) as shard:  # fmt: skip
        for number in range(plots):
            kind_HW = np.tile(np.arange(SIDE) // STRIPE % materials, (SIDE, 1))
            light = 1 + 0.02 * rng.normal(size=BANDS)
            cube = spectra_of(materials)[kind_HW] * light + rng.normal(0, 0.01, (SIDE, SIDE, BANDS))
            windows = np.stack([cube[r : r + WINDOW, c : c + WINDOW] for r, c in origin])
            shard.add(
                np.clip(windows / 1e-4, 0, 32767).astype(np.int16),
                np.ones(windows.shape[:3], bool),
                label=kind_HW[origin[:, 0] + 1, origin[:, 1] + 1],
                group=np.full(len(origin), known[names[number]]),
                instance_id=np.arange(len(origin)) + 1000 * number,
                origin=origin,
                scene_id=np.full(len(origin), number),
            )
    return path
