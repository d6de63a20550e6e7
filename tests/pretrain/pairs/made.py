"""Shards of scenes with a known map of materials, cut into dense windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from specfm import BandGrid, Sensor
from specfm.shards import ShardReader, ShardWriter

BANDS, SIDE, STRIPE, WINDOW = 12, 36, 12, 3


def spectra_of(materials: int, bands: int = BANDS) -> np.ndarray:
    wavelengths = np.linspace(420, 2400, bands)
    centre = np.linspace(700, 1900, materials)
    return 0.2 + 0.5 * np.exp(-(((wavelengths - centre[:, None]) / 300.0) ** 2))


def write_plots(
    path: Path,
    plots: int = 3,
    materials: int = 3,
    seed: int = 0,
    domain: str = "field",
    groups: list[str] | None = None,
    bands: int = BANDS,
    window: int = WINDOW,
    stride: int = WINDOW,
) -> Path:
    """Plots of ``SIDE`` pixels in three stripes of materials, each under its own light; windows side by side."""
    rng, materials = np.random.default_rng(seed), SIDE // STRIPE
    sensor = Sensor(BandGrid(np.linspace(420, 2400, bands)), quantity="surface_reflectance", scale=1e-4, name=domain)
    names = groups or [f"plot {number}" for number in range(plots)]
    starts = np.arange(0, SIDE - window + 1, stride)
    origin = np.stack(np.meshgrid(starts, starts, indexing="ij"), -1).reshape(-1, 2)
    known = {name: number + 100 for number, name in enumerate(dict.fromkeys(names))}
    count = plots * len(origin)
    with ShardWriter(
        path, (window, window), sensor, "int16", domain, count=count, label_names=tuple("abcdefgh"[:materials]),
        scene_names=tuple(f"{path.stem} {number}" for number in range(plots)),
        group_names={value: name for name, value in known.items()},
    ) as shard:  # fmt: skip
        for number in range(plots):
            kind_HW = np.tile(np.arange(SIDE) // STRIPE % materials, (SIDE, 1))
            light = 1 + 0.02 * rng.normal(size=bands)
            cube = spectra_of(materials, bands)[kind_HW] * light + rng.normal(0, 0.01, (SIDE, SIDE, bands))
            windows = np.stack([cube[r : r + window, c : c + window] for r, c in origin])
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


def copied(
    reader: ShardReader, path: Path, x_NHWC: np.ndarray, mask_NHW: np.ndarray, recipe: dict[str, Any] | None = None
) -> Path:
    """A shard of the same samples with other values, masks or recipe."""
    with ShardWriter(
        path, reader.window, reader.sensor, str(reader.dtype), reader.domain, count=len(reader),
        label_names=reader.label_names, scene_names=reader.scene_names, group_names=reader.group_names, recipe=recipe,
    ) as shard:  # fmt: skip
        shard.add(
            x_NHWC, mask_NHW, label=reader.label_N, group=reader.group_N, instance_id=reader.instance_id_N,
            origin=reader.origin_N2, scene_id=reader.scene_id_N,
        )  # fmt: skip
    return path
