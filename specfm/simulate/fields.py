"""Smooth random fields and the map of materials they draw. Shapes: H rows, W columns, K materials."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smooth_field(rng: np.random.Generator, shape_HW: tuple[int, int], scale: float) -> NDArray[np.float64]:
    """(H, W) Gaussian field of mean 0 and deviation 1 that varies over about ``scale`` pixels."""
    from scipy.ndimage import gaussian_filter

    noise_HW = rng.standard_normal(shape_HW)
    field_HW = gaussian_filter(noise_HW, scale, mode="wrap") if scale > 0 else noise_HW
    return (field_HW - field_HW.mean()) / max(float(field_HW.std()), 1e-12)


def material_map(rng: np.random.Generator, shape_HW: tuple[int, int], count: int, scale: float) -> NDArray[np.int32]:
    """(H, W) blobs of ``count`` materials, about ``scale`` pixels wide: the largest of K smooth fields wins.

    Each material's field is lifted until it covers at least about half its even share, so that none is missing.
    """
    fields_KHW = np.stack([smooth_field(rng, shape_HW, scale) for _ in range(count)])
    lift_K = np.zeros(count)
    for _ in range(60):
        map_HW = (fields_KHW + lift_K[:, None, None]).argmax(0)
        share_K = np.bincount(map_HW.ravel(), minlength=count) / map_HW.size
        if share_K.min() >= 0.5 / count:
            break
        lift_K += 0.3 * (1 / count - share_K) * count * 0.5
    return map_HW.astype(np.int32)


def abundances(map_HW: NDArray[np.int32], count: int, blur: float) -> NDArray[np.float32]:
    """(H, W, K) shares that sum to 1: the map seen through a point spread of ``blur`` pixels (0 = pure pixels)."""
    from scipy.ndimage import gaussian_filter

    pure_KHW = (map_HW[None] == np.arange(count)[:, None, None]).astype(np.float32)
    if blur > 0:
        pure_KHW = np.stack([gaussian_filter(share_HW, blur, mode="nearest") for share_HW in pure_KHW])
    pure_KHW /= pure_KHW.sum(0, keepdims=True)
    return np.ascontiguousarray(pure_KHW.transpose(1, 2, 0))


def blobs(map_HW: NDArray[np.int32]) -> NDArray[np.int64]:
    """(H, W) number of the connected blob of one material that a pixel lies in, from 0."""
    from scipy.ndimage import label

    numbers_HW = np.zeros(map_HW.shape, np.int64)
    used = 0
    for value in np.unique(map_HW):
        found_HW, count = label(map_HW == value)
        numbers_HW[found_HW > 0] = found_HW[found_HW > 0] + used - 1
        used += count
    return numbers_HW
