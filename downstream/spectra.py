"""Raw spectra of labelled windows, which every encoder must beat: of the pixel and of the window, on one band grid.

Shape suffixes: N samples, B batch, HW window pixels, C bands of a scene, K bands of the common grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from downstream.features import FeatureSet, iterate_windows, progress_bar
from downstream.samples import Samples

if TYPE_CHECKING:
    from specfm.bands import BandGrid
    from specfm.scene import Scene


class CommonGrid(NamedTuple):
    """Where the spectra of several scenes are compared.

    Attributes:
        centre_nm_K: its bands.
        matrices: ``[C, K]`` of each scene, from its bands to the grid.
        interpolated: False where every band of the grid is a band of every scene.
    """

    centre_nm_K: np.ndarray
    matrices: list[np.ndarray]
    interpolated: bool


def common_grid(scenes: Sequence[Scene]) -> CommonGrid | None:
    """The grid that all ``scenes`` can be taken to; None without a common range, or where their quantities differ.

    Scenes of one band list keep their common valid bands. Others are interpolated linearly at the centres of the
    scene with the fewest bands in the range that all cover.
    """
    grids = [scene.sensor.bands for scene in scenes]
    same = all(
        len(g) == len(grids[0]) and np.allclose(g.wavelengths_nm, grids[0].wavelengths_nm, atol=0.5) for g in grids
    )
    if same:
        keep_C = np.logical_and.reduce([g.valid for g in grids])
        matrix_CK = np.eye(len(keep_C), dtype=np.float32)[:, keep_C]
        return CommonGrid(grids[0].wavelengths_nm[keep_C], [matrix_CK] * len(scenes), False)
    if len({scene.sensor.quantity for scene in scenes}) > 1:
        return None
    usable = [np.sort(g.wavelengths_nm[g.valid]) for g in grids]
    if not all(map(len, usable)):
        return None
    low, high = max(u[0] for u in usable), min(u[-1] for u in usable)
    centre_K = np.array(min(([c for c in u if low <= c <= high] for u in usable), key=len))
    if not len(centre_K):
        return None
    return CommonGrid(centre_K, [interpolation(grid, centre_K) for grid in grids], True)


def interpolation(grid: BandGrid, centre_nm_K: np.ndarray) -> np.ndarray:
    """matrix_CK that interpolates the valid bands of ``grid`` linearly by wavelength; ends are held constant."""
    matrix_CK = np.zeros((len(grid), len(centre_nm_K)), np.float32)
    valid = np.flatnonzero(grid.valid)
    valid = valid[np.argsort(grid.wavelengths_nm[valid], kind="stable")]
    for i, unit in zip(valid, np.eye(len(valid)), strict=True):
        matrix_CK[i] = np.interp(centre_nm_K, grid.wavelengths_nm[valid], unit)
    return matrix_CK


def spectra(
    scenes: Sequence[Scene], window: int, samples: Samples, grid: CommonGrid | None = None
) -> tuple[FeatureSet, FeatureSet] | None:
    """Raw spectra in physical units: of the labelled pixel, and the mean over the valid pixels of the window.

    Args:
        scenes: scenes of the samples. window: side, pixels. samples: which windows.
        grid: where to compare them, if not on the scenes' own common grid.

    Returns:
        (pixel, mean), or None where the scenes have no common band grid (see ``common_grid``).
    """
    common = common_grid(scenes) if grid is None else grid
    if common is None:
        return None
    matrix_of = {id(scene): matrix for scene, matrix in zip(scenes, common.matrices, strict=True)}
    pixel_NK = np.empty((len(samples), len(common.centre_nm_K)), np.float32)
    mean_NK = np.empty_like(pixel_NK)
    half = window // 2
    progress, task = progress_bar("raw spectra", len(samples))
    with progress:
        for part in iterate_windows(scenes, samples, window, batch=256):
            sensor, matrix_CK = part.scene.sensor, matrix_of[id(part.scene)]
            used_C = matrix_CK.any(1)  # bad bands may hold anything, also infinities
            x_BHWC = part.x_BHWC[..., used_C] * np.float32(sensor.scale) + np.float32(sensor.offset)
            x_BHWK = x_BHWC @ matrix_CK[used_C] if common.interpolated else x_BHWC
            weight_BHW = part.mask_BHW.astype(np.float32)
            pixel_NK[part.ids_B] = x_BHWK[:, half, half]
            total = np.maximum(weight_BHW.sum((1, 2)), 1)[:, None]
            mean_NK[part.ids_B] = np.einsum("bhwk,bhw->bk", x_BHWK, weight_BHW) / total
            progress.advance(task, len(part.ids_B))
    for array in (pixel_NK, mean_NK):
        np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    info = {"window": window, "interpolated": common.interpolated}
    return FeatureSet(pixel_NK, samples, "pixel spectrum", info), FeatureSet(mean_NK, samples, "mean spectrum", info)
