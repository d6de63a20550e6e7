"""Dense features of a whole scene in memory: one feature per patch, with coordinates.

Shapes: H W pixels, C bands, h w patches, D width. Files larger than memory: ``specfm embed`` streams the same tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.errors import SpecfmError
from specfm.models.patches import sample_level
from specfm.scene import Scene
from specfm.sensors import Sensor

if TYPE_CHECKING:
    from specfm.models.encoder import Encoder

LEVEL_PIXELS = 200_000  # pixels that the scene's level is estimated from


@dataclass(frozen=True)
class DenseFeatures:
    """Features of a scene.

    Attributes:
        features_hwD: float32, NaN where a patch has no valid pixel.
        rows_h, cols_w: pixel coordinates of the patch centres in the scene.
        x_w, y_h: map coordinates of the centres, None without a (north-up) geo reference.
    """

    features_hwD: np.ndarray
    rows_h: np.ndarray
    cols_w: np.ndarray
    x_w: np.ndarray | None = None
    y_h: np.ndarray | None = None


def scene_level(scene: Scene) -> float:
    """Mean magnitude (physical) over the scene's valid pixels and bands, from an even sample of its rows."""
    height, width, _ = scene.shape
    rows = np.unique(np.linspace(0, height - 1, max(1, min(height, LEVEL_PIXELS // max(width, 1)))).astype(int))
    bands = BandTensors.from_sensors(scene.sensor)
    total, count = 0.0, 0
    for row in rows:
        window = (slice(int(row), int(row) + 1), slice(None))
        mask = np.asarray(scene.mask(*window))
        if mask.any():
            cube = np.ascontiguousarray(scene.read(*window)).astype(np.float32)
            level = sample_level(torch.from_numpy(cube)[None], bands, torch.from_numpy(mask)[None])
            total, count = total + float(level) * int(mask.sum()), count + int(mask.sum())
    return total / count if count else 1.0


@torch.inference_mode()
def embed_scene(
    encoder: Encoder,
    scene: Scene | np.ndarray,
    sensor: Sensor | BandGrid | None = None,
    *,
    tile: int = 0,
    level: str = "scene",
    batch_size: int = 32,
) -> DenseFeatures:
    """Embed every patch of a scene.

    The scene is cut into square tiles of ``tile`` pixels (default 8 patches), laid edge to edge; each is encoded by
    itself, so a patch sees its own tile only.

    Args:
        scene: a Scene, or an (H, W, C) array with its ``sensor``.
        level: ``scene`` divides by one level for the whole scene (no seams), ``sample`` by each tile's own.

    Raises:
        SpecfmError: an array without a sensor, an unknown ``level``, a tile that the patch size does not divide, or
            tiles of a list of spectra.
    """
    if isinstance(scene, np.ndarray):
        if sensor is None:
            raise SpecfmError("an array does not say what was measured; pass sensor= (a Sensor or BandGrid)")
        scene = Scene.from_array(scene, sensor if isinstance(sensor, Sensor) else Sensor(sensor))
    elif sensor is not None:
        raise SpecfmError("a Scene carries its own sensor; use scene.replace(sensor=...) to change it")
    if level not in ("scene", "sample"):
        raise SpecfmError(f"unknown level {level!r}; choose scene or sample")
    p = encoder.patch_size
    side = tile or 8 * p
    if side % p:
        raise SpecfmError(f"tile {side} is not a multiple of the patch size {p}")
    scene.refuse_tiles(side, side)
    height, width, _ = scene.shape
    grid_h, grid_w, step = -(-height // p), -(-width // p), side // p
    out = np.full((grid_h, grid_w, encoder.num_features), np.nan, np.float32)
    fixed = scene_level(scene) if level == "scene" and encoder.level != "none" else None
    bands = BandTensors.from_sensors(scene.sensor)
    corners = [(r, c) for r in range(0, height, side) for c in range(0, width, side)]
    for start in range(0, len(corners), batch_size):
        chosen = corners[start : start + batch_size]
        cubes, masks = zip(*(_tile(scene, r, c, side) for r, c in chosen), strict=True)
        level_B = None if fixed is None else torch.full((len(chosen),), fixed, device=encoder.device)
        features = encoder(torch.from_numpy(np.stack(cubes)), bands, torch.from_numpy(np.stack(masks)), level_B=level_B)
        tokens = torch.where(features.token_mask_BN[..., None], features.tokens_BND, torch.nan)
        for (r, c), block in zip(chosen, tokens.unflatten(1, (step, step)).float().cpu().numpy(), strict=True):
            target = out[r // p : r // p + step, c // p : c // p + step]
            target[:] = block[: target.shape[0], : target.shape[1]]
    rows_h, cols_w = np.arange(grid_h) * p + (p - 1) / 2, np.arange(grid_w) * p + (p - 1) / 2
    x_w = y_h = None
    if scene.geo is not None and scene.geo.transform is not None:
        x0, dx, shear_x, y0, shear_y, dy = scene.geo.transform
        if shear_x == 0 and shear_y == 0:
            x_w, y_h = x0 + (cols_w + 0.5) * dx, y0 + (rows_h + 0.5) * dy
    return DenseFeatures(out, rows_h, cols_w, x_w, y_h)


def _tile(scene: Scene, row: int, col: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """One tile as float32 stored values and its pixel mask, padded with invalid pixels past the scene's edge."""
    window = (slice(row, min(row + side, scene.shape[0])), slice(col, min(col + side, scene.shape[1])))
    cube = scene.read(*window).astype(np.float32)
    mask = np.asarray(scene.mask(*window))
    pad = ((0, side - cube.shape[0]), (0, side - cube.shape[1]))
    return np.pad(cube, (*pad, (0, 0))), np.pad(mask, pad)
