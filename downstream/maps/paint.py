"""What maps made of embeddings share: a sample to fit on, and cells painted on the scene's own pixels.

Shapes: n cells, h w cells of a piece, D width, H W pixels, p patch side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.scene import Scene
from specfm.tiles import Compute, TilePlan, sample_cells

SAMPLE_CELLS = 10_000  # patches that a map is fitted on


def fitting_sample(
    plan: TilePlan, encode: Compute, seed: int, batch_size: int, needed: int, scenes: Sequence[Scene], purpose: str
) -> NDArray[np.float32]:
    """A random sample of valid cells ``[n, D]``.

    Raises:
        SpecfmError: fewer than ``needed`` patches have data (in all of ``scenes``).
    """
    cells_nD = sample_cells(plan, encode, SAMPLE_CELLS, seed, batch_size)
    if len(cells_nD) < needed:
        where = " and ".join(scene.where for scene in scenes)
        common = f"{where} have {len(cells_nD)} common" if len(scenes) > 1 else f"{where} has {len(cells_nD)}"
        raise SpecfmError(
            f"{common} patches with data, {purpose} needs at least {needed}; look at nodata and the values"
        )
    return cells_nD


def unit_rows(x: NDArray[Any]) -> NDArray[Any]:
    """Vectors along the last axis divided by their length (zero stays zero)."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def paint(cells_hw: NDArray[Any], first: int, patch: int, scenes: Sequence[Scene], missing: Any) -> NDArray[Any]:
    """Values of cells on the pixels they cover ``[h*p, W]``, cut at the scene's edge.

    Args:
        cells_hw: one value per cell, whole rows of cells.
        first: number of the first row of cells.
        patch: pixels along a cell.
        scenes: whose pixels must all be valid.
        missing: what stands in invalid pixels.
    """
    height, width = scenes[0].shape[:2]
    top, bottom = first * patch, min((first + len(cells_hw)) * patch, height)
    pixels_HW = cells_hw.repeat(patch, axis=0).repeat(patch, axis=1)[: bottom - top, :width]
    valid_HW = np.logical_and.reduce([scene.mask(slice(top, bottom)) for scene in scenes])
    return np.where(valid_HW, pixels_HW, missing)
