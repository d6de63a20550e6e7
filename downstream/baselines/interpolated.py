"""What a table of cameras with different bands does without an encoder: spectra put on one list of 256, then PCA.

*By index* stretches the band numbers of every camera over the list, whatever their wavelengths: band 1 is band 1. *By
wavelength* interpolates to centres that are the same for all; beyond a camera's range its outermost band is held. Both
are baselines, the first because it is done.

Shapes: N samples, B batch, H W window pixels, C bands of a scene, K bands of the common list, D components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from downstream.features.extract import FeatureSet, iterate_windows
from downstream.splits.samples import Samples

if TYPE_CHECKING:
    from specfm.bands import BandGrid
    from specfm.scene import Scene

COUNT = 256
By = Literal["index", "wavelength"]


def common_list(scenes: Sequence[Scene], count: int = COUNT) -> NDArray[np.float64]:
    """Evenly spaced centres over all that any of the scenes sees, nm."""
    seen = np.concatenate([s.sensor.bands.wavelengths_nm[s.sensor.bands.valid] for s in scenes])
    return np.linspace(seen.min(), seen.max(), count)


def onto(grid: BandGrid, centres_K: NDArray[np.float64], by: By) -> NDArray[np.float32]:
    """matrix_CK from the bands of ``grid`` to the list; unusable bands are not drawn on."""
    valid = np.flatnonzero(grid.valid)
    if by == "index":
        target_K, source = np.linspace(0, len(valid) - 1, len(centres_K)), np.arange(len(valid), dtype=float)
    else:
        valid = valid[np.argsort(grid.wavelengths_nm[valid], kind="stable")]
        target_K, source = centres_K, grid.wavelengths_nm[valid]
    matrix_CK = np.zeros((len(grid), len(centres_K)), np.float32)
    matrix_CK[valid] = np.stack([np.interp(target_K, source, unit) for unit in np.eye(len(valid))])
    return matrix_CK


def patch_spectra(scenes: Sequence[Scene], samples: Samples, centres_K: NDArray[np.float64], by: By) -> FeatureSet:
    """Mean spectra of the valid pixels of every sample's window, in physical units, on the common list."""
    matrix_of = {id(scene): onto(scene.sensor.bands, centres_K, by) for scene in scenes}
    found_NK = np.empty((len(samples), len(centres_K)), np.float32)
    for part in iterate_windows(scenes, samples, samples.window):
        sensor, matrix_CK = part.scene.sensor, matrix_of[id(part.scene)]
        used_C = matrix_CK.any(1)  # bad bands may hold anything, also infinities
        weight_BHW = part.mask_BHW.astype(np.float32)
        x_BHWC = np.where(part.mask_BHW[..., None], part.x_BHWC[..., used_C], np.float32(0))
        mean_BC = x_BHWC.sum((1, 2)) / np.maximum(weight_BHW.sum((1, 2)), 1)[:, None]
        physical_BC = mean_BC * np.float32(sensor.scale) + np.float32(sensor.offset)
        found_NK[part.ids_B] = physical_BC @ matrix_CK[used_C]
    return FeatureSet(found_NK, samples, f"{len(centres_K)} bands by {by}")


def components(fit_MK: NDArray[np.floating], X_NK: NDArray[np.floating], count: int = 30) -> NDArray[np.float32]:
    """(N, D) scores on the first principal components of other spectra."""
    from sklearn.decomposition import PCA

    pca = PCA(min(count, *fit_MK.shape), svd_solver="full").fit(np.asarray(fit_MK, np.float64))
    return pca.transform(np.asarray(X_NK, np.float64)).astype(np.float32)
