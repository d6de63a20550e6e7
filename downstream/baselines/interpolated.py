"""What a table of cameras with different bands does without an encoder: spectra put on one list of 256 (then PCA).

*By index* stretches the band numbers of every camera over the list, whatever their wavelengths: band 1 is band 1. *By
wavelength* interpolates to centres that are the same for all; beyond a camera's range its outermost band is held. Both
are baselines, the first because it is done.

Shapes: C bands of a scene, K bands of the common list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from downstream.features.extract import FeatureSet
from downstream.features.spectra import CommonGrid, spectra
from downstream.splits.samples import Samples
from specfm.bands import BandGrid

if TYPE_CHECKING:
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
    matrices = [onto(scene.sensor.bands, centres_K, by) for scene in scenes]
    found = spectra(scenes, samples.window, samples, CommonGrid(BandGrid(centres_K), matrices, True))
    assert found is not None  # the list is given
    return replace(found.mean, name=f"{len(centres_K)} bands by {by}")
