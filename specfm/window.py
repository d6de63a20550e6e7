"""A rectangle of a scene with its mask: what labelled windows, tiles of maps and training crops are cut from.

Shapes: H W pixels of the rectangle, C bands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specfm.scene import Scene


def read_window(
    scene: Scene, row: int, col: int, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Stored values ``[H, W, C]`` as float32 and which pixels are valid ``[H, W]``, from (row, col) on.

    The rectangle may reach beyond the scene, where values are 0 and nothing is valid. A pixel is judged by its usable
    bands; values of invalid ones are as stored.
    """
    cube_HWC = np.zeros((height, width, scene.shape[2]), np.float32)
    mask_HW = np.zeros((height, width), bool)
    r0, r1 = max(row, 0), min(row + height, scene.shape[0])
    c0, c1 = max(col, 0), min(col + width, scene.shape[1])
    if r1 > r0 and c1 > c0:
        stored = scene.read(slice(r0, r1), slice(c0, c1))
        inside = (slice(r0 - row, r1 - row), slice(c0 - col, c1 - col))
        cube_HWC[inside] = stored
        usable_C = scene.sensor.bands.valid
        mask_HW[inside] = scene.mask_of(stored if usable_C.all() else stored[..., usable_C])
    return cube_HWC, mask_HW
