"""What bands make of a spectrum on the fine grid, and bands of sensors that nobody has built.

Shapes: C bands of a sensor, L fine wavelengths (``GRID_NM``), F steps of 1 nm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.simulate.spectra import GRID_NM

FEWEST_BANDS = 3
COVERED = 0.95  # of a band's response must lie where spectra are known
NARROWEST_NM = 1.5  # a response narrower than the steps would fall between them


@dataclass(frozen=True, eq=False)
class Responses:
    """How a sensor sees spectra that are known in a range.

    Attributes:
        bands: ``valid`` is False too where the range does not cover a band.
        matrix_CL: float32 compressed rows; ``matrix_CL @ spectrum_L`` is exact for what is straight between fine
            wavelengths; rows of valid bands sum to 1, others are empty.
        centre_nm_C: float32, filled with any value where a band is not valid.
        width_nm_C: likewise.
    """

    bands: BandGrid
    matrix_CL: Any
    centre_nm_C: NDArray[np.float32]
    width_nm_C: NDArray[np.float32]


@lru_cache(maxsize=512)
def responses(bands: BandGrid, low_nm: float, high_nm: float) -> Responses:
    """Gaussian responses of ``bands`` within a range; kept, since a matrix takes some milliseconds."""
    from scipy.sparse import csr_array

    steps_F = np.arange(low_nm, high_nm + 0.5, 1.0)
    target = bands
    narrow = np.nan_to_num(bands.effective_fwhm_nm, nan=NARROWEST_NM) < NARROWEST_NM
    if narrow.any():
        width_nm = np.where(narrow, NARROWEST_NM, bands.effective_fwhm_nm)
        target = BandGrid(bands.wavelengths_nm, width_nm, bands.valid)
    seen, matrix_CF = BandGrid(steps_F, np.ones_like(steps_F)).resample(target, min_coverage=COVERED)
    place_F = (steps_F - GRID_NM[0]) / (GRID_NM[1] - GRID_NM[0])
    left_F = np.clip(place_F.astype(int), 0, len(GRID_NM) - 2)
    share_F, index_F = place_F - left_F, np.arange(len(steps_F))
    line_FL = csr_array(
        (
            np.concatenate([1 - share_F, share_F]),
            (np.concatenate([index_F, index_F]), np.concatenate([left_F, left_F + 1])),
        ),
        shape=(len(steps_F), len(GRID_NM)),
    )
    matrix_CF[matrix_CF < 1e-6 * matrix_CF.max(1, keepdims=True).clip(1e-12)] = 0
    matrix_CL = csr_array(matrix_CF / matrix_CF.sum(1, keepdims=True).clip(1e-12)) @ line_FL
    matrix_CL.eliminate_zeros()
    usable = BandGrid(bands.wavelengths_nm, bands.fwhm_nm, seen.valid)
    middle = float(GRID_NM.mean())
    return Responses(
        usable,
        csr_array(matrix_CL, dtype=np.float32),
        np.where(seen.valid, bands.wavelengths_nm, middle).astype(np.float32),
        np.where(seen.valid, target.effective_fwhm_nm, 10.0).astype(np.float32),
    )


def draw_sensor(low_nm: float, high_nm: float, rng: np.random.Generator) -> BandGrid:
    """Evenly spaced bands of 3 to 20 nm over most of a range with up to three gaps, of about that width."""
    while True:
        step_nm, gaps = rng.uniform(3, 20), rng.integers(0, 4)
        margin_nm = min(60.0, 0.05 * (high_nm - low_nm))
        centre_nm = np.arange(low_nm + rng.uniform(0, margin_nm), high_nm - rng.uniform(0, margin_nm), step_nm)
        for start_nm, width_nm in zip(rng.uniform(low_nm, high_nm, gaps), rng.uniform(10, 120, gaps), strict=True):
            centre_nm = centre_nm[(centre_nm < start_nm) | (centre_nm > start_nm + width_nm)]
        if len(centre_nm) >= FEWEST_BANDS:
            return BandGrid(centre_nm, np.full(len(centre_nm), step_nm * rng.uniform(0.8, 1.5)))
