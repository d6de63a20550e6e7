"""Small shards and scenes with known content.

Shapes: N samples, H W window or scene, C bands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.scene import Scene
from specfm.sensors import Sensor
from specfm.shards import ShardWriter


def sensor(channels: int, first_nm: float = 400.0, **fields: Any) -> Sensor:
    """A reflectance sensor with ``channels`` bands."""
    grid = BandGrid(np.linspace(first_nm, first_nm + 1600, channels), np.full(channels, 10.0))
    return Sensor(grid, "surface_reflectance", 1e-4, **fields)


def samples(
    count: int, side: int = 5, channels: int = 7, dtype: str = "int16", seed: int = 0, holes: bool = True
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """x_NHWC and mask_NHW (all True without ``holes``)."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 10000, (count, side, side, channels)).astype(dtype)
    mask = rng.random((count, side, side)) > 0.05 if holes else np.ones((count, side, side), bool)
    return x, mask


def write_shard(
    path: Path,
    count: int = 40,
    side: int = 5,
    channels: int = 7,
    dtype: str = "int16",
    codec: str = "none",
    domain: str = "a",
    holes: bool = True,
    seed: int = 0,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Write a shard in two blocks; returns what is in it."""
    x, mask = samples(count, side, channels, dtype, seed, holes)
    with ShardWriter(
        path,
        (side, side),
        sensor(channels),
        dtype,
        domain,
        codec,
        count=count,
        label_names=("p", "q"),
        scene_names=["s"],
    ) as shard:
        half = count // 2
        for rows in (slice(0, half), slice(half, count)):
            number = np.arange(count)[rows]
            shard.add(
                x[rows],
                mask[rows],
                label=number % 2,
                group=number // 4,
                instance_id=number // 2,
                origin=np.stack([number, number * 2], 1),
            )
    return x, mask


def ramp_scene(height: int = 20, width: int = 24, channels: int = 6, **fields: Any) -> Scene:
    """Every pixel and band has its own value, so that a misplaced window shows."""
    cube = np.arange(1, height * width * channels + 1).reshape(height, width, channels).astype("int32")
    return Scene.from_array(cube, sensor(channels), **{"name": "ramp", "domain": "ramp", **fields})
