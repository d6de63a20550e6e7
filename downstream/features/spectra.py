"""Raw spectra of labelled windows, which every encoder must beat: of the pixel, the patch and the window, on one grid.

Shape suffixes: N samples, B batch, HW window pixels, C bands of a scene, K bands of the common grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from downstream.features.extract import FeatureSet, iterate_windows
from downstream.splits.samples import Samples
from specfm.bands import BandGrid
from specfm.progress import progress

if TYPE_CHECKING:
    from specfm.scene import Scene


SAME_NM = 0.01  # two bands are one if neither their centres nor their widths differ by more
FINE = 0.5  # a band narrower than this share of the source's own is a point on its spectrum, no average over it


class CommonGrid(NamedTuple):
    """Where the spectra of several scenes are compared.

    Attributes:
        bands: its bands.
        matrices: ``[C, K]`` of each scene, from its bands to the grid.
        resampled: False where every band of the grid is a band of every scene.
    """

    bands: BandGrid
    matrices: list[np.ndarray]
    resampled: bool


def common_grid(scenes: Sequence[Scene]) -> CommonGrid | None:
    """The grid that all ``scenes`` can be taken to; None without a common range, or where their quantities or
    pretreatments differ.

    Scenes of one band list keep their common valid bands. Others are seen through the bands of the scene with the
    fewest in the range that all cover (:func:`seen_through`).
    """
    if len({scene.sensor.pretreatment for scene in scenes}) > 1:
        return None
    grids = [scene.sensor.bands for scene in scenes]
    same = all(
        len(g) == len(grids[0]) and np.allclose(g.wavelengths_nm, grids[0].wavelengths_nm, atol=0.5) for g in grids
    )
    if same:
        keep_C = np.logical_and.reduce([g.valid for g in grids])
        matrix_CK = np.eye(len(keep_C), dtype=np.float32)[:, keep_C]
        return CommonGrid(grids[0].subset(keep_C), [matrix_CK] * len(scenes), False) if keep_C.any() else None
    if len({scene.sensor.quantity for scene in scenes}) > 1 or not all(g.valid.any() for g in grids):
        return None
    low = max(g.wavelengths_nm[g.valid].min() for g in grids)
    high = min(g.wavelengths_nm[g.valid].max() for g in grids)
    with np.errstate(invalid="ignore"):
        inside = [np.flatnonzero(g.valid & (g.wavelengths_nm >= low) & (g.wavelengths_nm <= high)) for g in grids]
    fewest = min(range(len(grids)), key=lambda i: len(inside[i]))
    if not len(inside[fewest]):
        return None
    own = inside[fewest][np.argsort(grids[fewest].wavelengths_nm[inside[fewest]], kind="stable")]
    target = grids[fewest].subset(own)
    return CommonGrid(target, [seen_through(grid, target) for grid in grids], True)


def seen_through(grid: BandGrid, target: BandGrid) -> np.ndarray:
    """matrix_CK from the valid bands of ``grid`` to the bands of ``target``, as well as the two grids tell.

    A band that both have is kept. Else a band of known width averages over its response
    (:meth:`specfm.BandGrid.resample`), unless it is much narrower than the bands of ``grid`` there or lies outside
    them; all others are interpolated linearly by centre, ends held constant.
    """
    valid = np.flatnonzero(grid.valid)
    valid = valid[np.argsort(grid.wavelengths_nm[valid], kind="stable")]
    centre_C, centre_K = grid.wavelengths_nm[valid], target.wavelengths_nm
    found_CK = np.stack([np.interp(centre_K, centre_C, unit) for unit in np.eye(len(valid))])
    nearest_K = np.abs(centre_C[:, None] - centre_K).argmin(0)
    width_C, width_K = grid.fwhm_nm[valid][nearest_K], target.fwhm_nm
    both_unknown = ~np.isfinite(width_C) & ~np.isfinite(width_K)
    same_K = (np.abs(centre_C[nearest_K] - centre_K) <= SAME_NM) & (
        both_unknown | (np.abs(width_C - width_K) <= SAME_NM)
    )
    wide_K = np.isfinite(width_K) & ~same_K
    wide_K &= width_K >= FINE * np.nan_to_num(grid.effective_fwhm_nm[valid][nearest_K])
    if wide_K.any():
        seen, matrix_KC = grid.subset(valid).resample(target.subset(wide_K))
        where_K = np.flatnonzero(wide_K)[seen.valid]
        found_CK[:, where_K] = matrix_KC[seen.valid].T
    found_CK[:, same_K] = np.eye(len(valid))[:, nearest_K[same_K]]
    matrix_CK = np.zeros((len(grid), len(target)), np.float32)
    matrix_CK[valid] = found_CK
    return matrix_CK


class Spectra(NamedTuple):
    """Spectra of one set of samples, each over another support.

    Attributes:
        pixel: of the labelled pixel.
        mean: mean over the valid pixels of the window.
        patch: mean over those of the square about the labelled pixel; None where it is one pixel. Where nothing is
            valid there, as in the middle of a ring seen whole, pixel and patch are the valid pixel nearest to it.
    """

    pixel: FeatureSet
    mean: FeatureSet
    patch: FeatureSet | None = None


def spectra(
    scenes: Sequence[Scene], window: int, samples: Samples, grid: CommonGrid | None = None, patch: int = 1
) -> Spectra | None:
    """Raw spectra in physical units.

    Args:
        scenes: scenes of the samples.
        window: side, pixels.
        samples: which windows.
        grid: where to compare them, if not on the scenes' own common grid.
        patch: side of the square about the labelled pixel, at most the window: that of an encoder's patch. In an odd
            window it is what the token of that pixel sees; in an even one the token lies half a patch aside at most.

    Returns:
        None where the scenes have no common band grid (see ``common_grid``). ``info`` of each holds the window, whether
        spectra were resampled, the bands, and of the patch its side.
    """
    common = common_grid(scenes) if grid is None else grid
    if common is None:
        return None
    matrix_of = {id(scene): matrix for scene, matrix in zip(scenes, common.matrices, strict=True)}
    half, patch = window // 2, min(patch, window)
    low = half - patch // 2
    support = {"pixel": slice(half, half + 1), "mean": slice(None), "patch": slice(low, low + patch)}
    found = {
        name: np.empty((len(samples), len(common.bands)), np.float32)
        for name in support
        if name != "patch" or patch > 1
    }
    with progress("raw spectra", len(samples)) as advance:
        for part in iterate_windows(scenes, samples, window, batch=256):
            sensor, matrix_CK = part.scene.sensor, matrix_of[id(part.scene)]
            used_C = matrix_CK.any(1)  # bad bands may hold anything, also infinities
            x_BHWC = part.x_BHWC[..., used_C] * np.float32(sensor.scale) + np.float32(sensor.offset)
            for name, array_NK in found.items():
                weight_Bhw = part.mask_BHW[:, support[name], support[name]].astype(np.float32)
                total_B1 = weight_Bhw.sum((1, 2))[:, None]
                sum_BC = np.einsum("bhwc,bhw->bc", x_BHWC[:, support[name], support[name]], weight_Bhw)
                mean_BC = sum_BC / np.maximum(total_B1, 1)
                if not total_B1.all():
                    mean_BC = np.where(total_B1 > 0, mean_BC, _nearest_valid(x_BHWC, part.mask_BHW))
                array_NK[part.ids_B] = mean_BC @ matrix_CK[used_C] if common.resampled else mean_BC
            advance(len(part.ids_B))
    for array in found.values():
        np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    info = {"window": window, "resampled": common.resampled, "bands": common.bands, "patch": patch}

    def made(name: str, title: str) -> FeatureSet:
        return FeatureSet(found[name], samples, title, info)

    about = made("patch", f"{patch}x{patch} mean") if patch > 1 else None
    return Spectra(made("pixel", "pixel spectrum"), made("mean", "mean spectrum"), about)


def _nearest_valid(x_BHWC: np.ndarray, mask_BHW: np.ndarray) -> np.ndarray:
    """x_BC: the spectrum of each window's valid pixel nearest to the middle one; zeros without any."""
    side = mask_BHW.shape[1]
    away_HW = np.hypot(*(np.indices((side, side)) - side // 2))
    nearest_B = np.where(mask_BHW, away_HW, np.inf).reshape(len(mask_BHW), -1).argmin(1)
    found_BC = x_BHWC.reshape(len(x_BHWC), side * side, -1)[np.arange(len(x_BHWC)), nearest_B]
    return np.where(np.any(mask_BHW, axis=(1, 2))[:, None], found_BC, 0)
