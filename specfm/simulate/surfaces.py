"""Surfaces to be looked at: patches of library materials with smooth shares and edges, and what surrounds them.

Shapes: N samples, P pixels of a window, K materials of a window, L fine wavelengths, M spectra of all libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.simulate.draws import FIELD_SCALES, Draws
from specfm.simulate.responses import FEWEST_BANDS
from specfm.simulate.spectra import GRID_NM, MaterialSpectra, joined

KINDS = 3  # classes of material in a window at most; each has two spectra, which share its patch smoothly
MATERIALS, LAYOUT = 1, 2  # streams of random numbers
FEWEST_SPECTRA = 20
NEEDED = 0.5  # of a sensor's bands must be covered


@dataclass(frozen=True)
class Pool:
    """Spectra that are known in all of a range, class by class.

    Attributes:
        range_nm: low and high.
        index: into the spectra of all libraries, sorted by class.
        chance: cumulative; a class weighs the square root of its size.
        first: index of the first spectrum of the class of each spectrum.
        size: how many that class has.
    """

    range_nm: tuple[float, float]
    index: NDArray[np.int64]
    chance: NDArray[np.float64]
    first: NDArray[np.int64]
    size: NDArray[np.int64]

    def draw(self, u_N: NDArray[np.float64]) -> NDArray[np.int64]:
        """(N,) places in ``index``."""
        return np.minimum(np.searchsorted(self.chance, u_N, side="right"), len(self.index) - 1)

    def alike(self, place_N: NDArray[np.int64], u_N: NDArray[np.float64]) -> NDArray[np.int64]:
        """(N,) places of any spectrum of the same class."""
        return self.first[place_N] + np.minimum((u_N * self.size[place_N]).astype(np.int64), self.size[place_N] - 1)

    def sees(self, bands: BandGrid) -> bool:
        """Whether enough of a sensor's bands lie where the spectra are known."""
        reach_nm = np.nan_to_num(bands.effective_fwhm_nm)
        low_nm, high_nm = self.range_nm
        inside = (bands.wavelengths_nm - reach_nm >= low_nm) & (bands.wavelengths_nm + reach_nm <= high_nm)
        count = int(bands.valid.sum())
        return int((inside & bands.valid).sum()) >= max(min(FEWEST_BANDS, count), NEEDED * count, 1)


@dataclass(frozen=True)
class Surfaces:
    """N windows before any light.

    Attributes:
        reflectance_NKL: float32, of the materials.
        weights_NPK: float32, share of a material in a pixel times its brightness there.
        around_NL: float32, mean reflectance of what scatters into the window.
    """

    reflectance_NKL: NDArray[np.float32]
    weights_NPK: NDArray[np.float32]
    around_NL: NDArray[np.float32]


class Ground:
    """Makes surfaces of the spectra of libraries.

    Args:
        libraries: at least one.
        side: of a window, pixels.
        siblings: samples in a row that share their layout and differ in what they are made of, so that the layout does
            not tell them apart.

    Raises:
        UsageError: too few spectra.
    """

    def __init__(self, libraries: Sequence[MaterialSpectra], side: int, siblings: int) -> None:
        self.side, self.siblings = side, siblings
        self.libraries = tuple(library.name for library in libraries)
        # equal names in two libraries stay two classes
        named = [
            replace(library, classes=tuple(f"{number} {name}" for name in library.classes))
            for number, library in enumerate(libraries)
        ]
        self.spectra = joined(" + ".join(self.libraries), named)
        ranges = dict.fromkeys(library.range_nm for library in libraries)
        self.pools = [pool for each in ranges if len((pool := self._pool(each)).index) >= FEWEST_SPECTRA]
        if not self.pools:
            raise UsageError(
                f"{', '.join(self.libraries)}: fewer than {FEWEST_SPECTRA} spectra cover one range; name more libraries"
            )

    def _pool(self, range_nm: tuple[float, float]) -> Pool:
        inside_L = (range_nm[0] <= GRID_NM) & (range_nm[1] >= GRID_NM)
        index = np.flatnonzero(self.spectra.known_NL[:, inside_L].all(1))
        index = index[np.argsort(self.spectra.class_N[index], kind="stable")]
        _, first, inverse, size = np.unique(
            self.spectra.class_N[index], return_index=True, return_inverse=True, return_counts=True
        )
        chance = np.cumsum(1 / np.sqrt(size[inverse]))  # sqrt(n) over n spectra
        return Pool(range_nm, index, chance / chance[-1] if len(index) else chance, first[inverse], size[inverse])

    def pools_for(self, *sensors: BandGrid) -> list[Pool]:
        """Those whose range enough of the bands of all sensors lie in."""
        return [pool for pool in self.pools if all(pool.sees(bands) for bands in sensors)]

    def make(self, pool: Pool, seed: int, step: int, numbers: Sequence[int]) -> Surfaces:
        """The surfaces of some samples of a step."""
        draws = Draws(seed, MATERIALS, step, numbers)
        spectra_ML, chosen = self.spectra.spectra_NL, []
        for _ in range(KINDS):
            place_N = pool.draw(draws.uniform())
            for place in (place_N, pool.alike(place_N, draws.uniform())):
                bright_N = np.exp(0.1 * draws.normal())
                chosen.append(spectra_ML[pool.index[place]] * bright_N[:, None].astype(np.float32))
        reflectance_NKL = np.stack(chosen, axis=1)
        beyond_NL = spectra_ML[pool.index[pool.draw(draws.uniform())]]
        weights_NPK = self._layout(seed, step, numbers)
        mean_N1K = np.full((1, weights_NPK.shape[1]), 1 / weights_NPK.shape[1], np.float32) @ weights_NPK
        near_N1 = draws.between(0.3, 1.0)[:, None].astype(np.float32)
        around_NL = near_N1 * (mean_N1K @ reflectance_NKL)[:, 0] + (1 - near_N1) * beyond_NL
        return Surfaces(reflectance_NKL, weights_NPK, np.minimum(around_NL, np.float32(1)))

    def _layout(self, seed: int, step: int, numbers: Sequence[int]) -> NDArray[np.float32]:
        """weights_NPK: the higher field of a class wins, sharply or softly; its two spectra share by another field."""
        families, back = np.unique(np.array(numbers) // self.siblings, return_inverse=True)
        draws = Draws(seed, LAYOUT, step, families.tolist())
        scale_N = draws.integer(len(FIELD_SCALES))
        # from mixed everywhere to edges; raised by so much that the first class often fills the window
        sharp_N = draws.between(0.7, 20.0, log=True)
        heights, halves = [], []
        for kind in range(KINDS):
            lift_N = draws.normal() - 0.7 * kind
            field_NHW = draws.window(self.side, scale_N) + lift_N[:, None, None]
            heights.append(field_NHW * sharp_N[:, None, None])
            halves.append(1 / (1 + np.exp(-2 * draws.window(self.side, scale_N).astype(np.float64))))
        height_NHWK = np.stack(heights, axis=-1)
        share_NHWK = np.exp(height_NHWK - height_NHWK.max(-1, keepdims=True))
        share_NHWK /= share_NHWK.sum(-1, keepdims=True)
        half_NHWK = np.stack(halves, axis=-1)
        texture_N = draws.between(0.01, 0.12, log=True)[:, None, None, None]
        rough_NHW = draws.window(self.side, draws.integer(2))
        share_NHWK *= np.exp(texture_N * rough_NHW[..., None])
        both = np.stack([share_NHWK * half_NHWK, share_NHWK * (1 - half_NHWK)], axis=-1)
        return both.reshape(len(families), self.side**2, 2 * KINDS).astype(np.float32)[back]
