"""Minimum noise fraction: what unlabelled pixels of the scene itself teach about its noise, the classic to beat.

Green et al. 1988 (doi 10.1109/36.3001): components of the spectrum in order of signal over noise, not of variance. The
noise is half the covariance of the differences between neighbouring pixels (right and lower), as ground changes slowly
and noise does not. Scores have unit noise variance, so distances between them count in noise.

Nothing here sees a label. What ``fit_splits`` gives has seen no test pixel either: both covariances come from the
windows of the samples that a split trains on, and the guard band of the splits keeps test pixels out of those
(``downstream.splits.split``; leaky rules apart). What ``fit_scenes`` gives has seen all pixels of the scenes, as an
encoder that is fitted to them has, and stands beside that.

Shape suffixes: S splits, N samples, P pixels, HW scene pixels, K bands of the common grid, D components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from downstream.features.spectra import CommonGrid, common_grid
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from specfm.errors import SpecfmError
from specfm.progress import progress

if TYPE_CHECKING:
    from specfm.scene import Scene

DAMPING = (
    1e-3  # of every band's noise variance, on the diagonal: few or dependent differences leave no direction at zero
)
STRIP_BYTES = 2**26


class NoNeighbours(SpecfmError):
    """Too few neighbouring pixels to estimate noise from; the message is a clause for a notice."""


@dataclass(frozen=True)
class NoiseFraction:
    """Fitted components: ``basis_KD`` scaled to unit noise variance, by falling ratio of signal to noise variance."""

    mean_K: np.ndarray
    basis_KD: np.ndarray
    ratio_D: np.ndarray

    def scores(self, X_NK: np.ndarray) -> np.ndarray:
        """Scores ``[N, D]`` float32 of spectra ``[N, K]``."""
        return ((np.asarray(X_NK, np.float64) - self.mean_K) @ self.basis_KD).astype(np.float32)


@dataclass
class Moments:
    """Sums over the pixels that one split may look at: of spectra, of their squares, and of neighbours' differences."""

    pixels: int
    sum_K: np.ndarray
    square_KK: np.ndarray
    pairs: int
    difference_KK: np.ndarray

    @classmethod
    def empty(cls, bands: int) -> Moments:
        """Nothing summed yet."""
        return cls(0, np.zeros(bands), np.zeros((bands, bands)), 0, np.zeros((bands, bands)))

    def add_pixels(self, x_PK: np.ndarray) -> None:
        """Spectra, float64."""
        self.pixels += len(x_PK)
        self.sum_K += x_PK.sum(0)
        self.square_KK += x_PK.T @ x_PK

    def add_differences(self, d_PK: np.ndarray) -> None:
        """Differences of neighbours, float64."""
        self.pairs += len(d_PK)
        self.difference_KK += d_PK.T @ d_PK


def solve(moments: Moments, components: int = 30, damping: float = DAMPING) -> NoiseFraction:
    """The components of largest signal-to-noise ratio.

    Args:
        moments: of at least two pixels and one pair.
        components: at most so many, and at most as many as there are bands.
        damping: added to the noise covariance, in shares of each band's own noise variance.
    """
    from scipy.linalg import eigh

    mean_K = moments.sum_K / moments.pixels
    signal_KK = moments.square_KK / moments.pixels - np.outer(mean_K, mean_K)
    noise_KK = moments.difference_KK / (2 * moments.pairs)
    own_K = np.diag(noise_KK)
    floor = 1e-9 * own_K.mean() or 1.0  # a band that never changes has no noise of its own
    noise_KK = noise_KK + np.diag(damping * own_K + floor)
    bands = len(mean_K)
    keep = min(components, bands)
    ratio_D, basis_KD = eigh(signal_KK, noise_KK, subset_by_index=[bands - keep, bands - 1])
    return NoiseFraction(mean_K, basis_KD[:, ::-1], ratio_D[::-1])


def fit_splits(
    scenes: Sequence[Scene], window: int, samples: Samples, splits: Sequence[Split], components: int = 30,
    grid: CommonGrid | None = None,
) -> list[NoiseFraction]:  # fmt: skip
    """One fit per split, on the valid pixels in the windows of its training and validation samples.

    Pairs of neighbours lie in one window; a pixel or pair in several windows counts once. Every scene is read once for
    all splits, a strip of rows at a time. Spectra are those of ``downstream.features.spectra``: physical units,
    bands taken to the common grid, or to ``grid``.

    Raises:
        NoNeighbours: windows of one pixel, or fewer pairs than bands in some split.
        SpecfmError: no common grid.
    """
    common = common_grid(scenes) if grid is None else grid
    if common is None:
        raise SpecfmError("the scenes have no common quantity and band range; fit them apart")
    if window < 2:
        raise NoNeighbours("windows of 1 pixel hold no neighbours to tell noise from signal")
    bands = len(common.bands)
    moments_S = [Moments.empty(bands) for _ in splits]
    with progress("noise of neighbours", len(scenes)) as advance:
        for index, (scene, matrix_CK) in enumerate(zip(scenes, common.matrices, strict=True)):
            side = window if scene.neighbours else 1
            views = _views(moments_S, scene.shape[:2], index, side, samples, splits)
            _add_scene(views, scene, matrix_CK, common.resampled)
            advance()
    fewest = min(moments.pairs for moments in moments_S)
    if fewest < bands:
        raise NoNeighbours(f"the training windows of a split hold {fewest} pairs of neighbours for {bands} bands")
    return [solve(moments, components) for moments in moments_S]


def fit_scenes(scenes: Sequence[Scene], components: int = 30, grid: CommonGrid | None = None) -> NoiseFraction:
    """One fit on all valid pixels of the scenes, of whatever side of a split, read a strip of rows at a time.

    Raises:
        NoNeighbours: lists of spectra, or fewer pairs of neighbours than bands.
        SpecfmError: no common grid.
    """
    common = common_grid(scenes) if grid is None else grid
    if common is None:
        raise SpecfmError("the scenes have no common quantity and band range; fit them apart")
    moments = Moments.empty(len(common.bands))
    for scene, matrix_CK in zip(scenes, common.matrices, strict=True):
        if scene.neighbours:
            every_HW = np.ones(scene.shape[:2], bool)
            _add_scene([_View(moments, every_HW, every_HW, every_HW)], scene, matrix_CK, common.resampled)
    if moments.pairs < len(common.bands):
        named = scenes[0].where if len(scenes) == 1 else "the scenes"
        raise NoNeighbours(f"{named} hold {moments.pairs} pairs of neighbours for {len(common.bands)} bands")
    return solve(moments, components)


@dataclass(frozen=True)
class _View:
    """What one split may look at in one scene: its windows' pixels, and those with a right or lower neighbour there."""

    moments: Moments
    pixel_HW: np.ndarray
    right_HW: np.ndarray
    lower_HW: np.ndarray

    def add(self, x_HWK: np.ndarray, good_HW: np.ndarray, rows: slice, cols: slice) -> None:
        """Take in the valid ones of a strip: ``x_HWK`` and ``good_HW`` may have a row more than ``rows``."""
        count = rows.stop - rows.start
        self.moments.add_pixels(x_HWK[:count][self.pixel_HW[rows, cols] & good_HW[:count]])
        r, c = np.nonzero(self.right_HW[rows, cols][:, :-1] & good_HW[:count, :-1] & good_HW[:count, 1:])
        self.moments.add_differences(x_HWK[r, c + 1] - x_HWK[r, c])
        r, c = np.nonzero(self.lower_HW[rows, cols][: len(good_HW) - 1] & good_HW[:-1][:count] & good_HW[1:][:count])
        self.moments.add_differences(x_HWK[r + 1, c] - x_HWK[r, c])


def _views(
    moments_S: Sequence[Moments], shape: tuple[int, int], index: int, window: int, samples: Samples,
    splits: Sequence[Split],
) -> list[_View]:  # fmt: skip
    """One per split that has training windows in scene ``index``."""
    found = []
    for moments, split in zip(moments_S, splits, strict=True):
        corner_N2 = samples.rc_N2[split.fit_I[samples.scene_N[split.fit_I] == index]] - window // 2
        if len(corner_N2):
            pixel_HW, right_HW, lower_HW = (
                covered(corner_N2, shape, side)
                for side in ((window, window), (window, window - 1), (window - 1, window))
            )
            found.append(_View(moments, pixel_HW, right_HW, lower_HW))
    return found


def _add_scene(views: Sequence[_View], scene: Scene, matrix_CK: np.ndarray, resampled: bool) -> None:
    """Read a scene once, a strip of rows at a time, into the moments of all views."""
    if not views:
        return
    used_C = np.flatnonzero(matrix_CK.any(axis=1))  # bad bands may hold anything, also infinities
    wanted_HW = np.asarray(np.stack([view.pixel_HW for view in views]).any(axis=0))
    rows, columns = (np.flatnonzero(wanted_HW.any(axis)) for axis in (1, 0))
    cols, end = slice(int(columns[0]), int(columns[-1]) + 1), int(rows[-1]) + 1
    step = max(1, STRIP_BYTES // ((cols.stop - cols.start) * 8 * len(used_C)))
    for low in range(int(rows[0]), end, step):
        own = slice(low, min(low + step, end))
        part = slice(own.start, min(own.stop + 1, scene.shape[0]))  # a row more, for the lower neighbours
        x_HWK = scene.read(part, cols)[..., used_C].astype(np.float32)
        x_HWK = x_HWK * np.float32(scene.sensor.scale) + np.float32(scene.sensor.offset)
        if resampled:
            x_HWK = x_HWK @ matrix_CK[used_C]
        good_HW = np.asarray(scene.mask(part, cols) & np.isfinite(x_HWK).all(axis=-1))
        x_HWK = np.where(good_HW[..., None], x_HWK, 0).astype(np.float64)
        for view in views:
            view.add(x_HWK, good_HW, own, cols)


def covered(corner_N2: np.ndarray, shape: tuple[int, int], side: tuple[int, int]) -> np.ndarray:
    """Which pixels of a scene lie in one of the rectangles: bool ``[H, W]``.

    Args:
        corner_N2: first row and column of each, possibly outside the scene.
        shape: of the scene.
        side: rows and columns of the rectangles.
    """
    ends = np.array(shape)
    low_N2, high_N2 = np.clip(corner_N2, 0, ends), np.clip(corner_N2 + np.array(side), 0, ends)
    step_HW = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    for r_N, c_N, sign in (
        (low_N2[:, 0], low_N2[:, 1], 1), (high_N2[:, 0], high_N2[:, 1], 1),
        (low_N2[:, 0], high_N2[:, 1], -1), (high_N2[:, 0], low_N2[:, 1], -1),
    ):  # fmt: skip
        np.add.at(step_HW, (r_N, c_N), sign)
    return np.asarray(step_HW.cumsum(0).cumsum(1)[:-1, :-1] > 0)
