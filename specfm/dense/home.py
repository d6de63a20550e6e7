"""Spectra of the scenes that an encoder is fitted to, by which other sensors are aligned to the one that saw them.

Where a stem is fitted to an acquisition, what other sensors tell should be put as *its* sensor would have told it, and
nothing says better how than the very spectra of the acquisition. They are drawn anew (:mod:`specfm.library`).

Shapes: B windows, H W pixels, C bands, M spectra.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.library import FEWEST_BANDS, MOST_SPECTRA, Library, redrawn
from specfm.sensors import QUANTITIES, Sensor

log = logging.getLogger(__name__)
MEASURED = 5000  # spectra that are looked at, over all scenes
ALL_DIRECTIONS = 256  # more than a scene has: what a sensor cannot see is filled in by the finest of what it can


class HomeSpectra:
    """Collects spectra of one sensor.

    Args:
        windows: about how many will be shown in all.
    """

    def __init__(self, windows: int) -> None:
        self._every = max(1, -(-windows // MEASURED))
        self._shown = 0
        self._sensor: Sensor | None = None
        self._parts_MC: list[NDArray[np.float64]] = []

    def add(self, sensor: Sensor, x_BHWC: NDArray[np.float32], mask_BHW: NDArray[np.bool_], patch: int) -> None:
        """Take in the mean spectrum of the middle patch of windows where all its pixels are valid."""
        if sensor.pretreatment:
            return  # other sensors' bands average light, not what was made of it
        self._sensor = self._sensor or sensor
        first = -self._shown % self._every
        self._shown += len(x_BHWC)
        row, col = ((side - patch) // 2 for side in x_BHWC.shape[1:3])
        rows, cols = slice(row, row + patch), slice(col, col + patch)
        x_BPC = x_BHWC[first :: self._every, rows, cols].astype(np.float64).reshape(-1, patch * patch, x_BHWC.shape[3])
        valid_C = sensor.bands.valid
        with np.errstate(invalid="ignore", over="ignore"):
            spectra_BC = x_BPC.mean(1)[:, valid_C] * sensor.scale + sensor.offset
        good_B = mask_BHW[first :: self._every, rows, cols].all((1, 2)) & (np.abs(spectra_BC) < 1e12).all(1)
        self._parts_MC.append(spectra_BC[good_B])

    def library(self) -> Library | None:
        """None where the sensor has fewer than 50 usable bands, or what was shown is too little or too much alike."""
        if self._sensor is None or int(self._sensor.bands.valid.sum()) < FEWEST_BANDS:
            return None
        bands, valid_C = self._sensor.bands, self._sensor.bands.valid
        drawn_LC = redrawn(np.concatenate(self._parts_MC), bands.weights[valid_C], MOST_SPECTRA, ALL_DIRECTIONS)
        if drawn_LC is None:
            return None
        grid = BandGrid(bands.wavelengths_nm[valid_C], bands.fwhm_nm[valid_C])
        quantity = -1 if self._sensor.quantity is None else QUANTITIES.index(self._sensor.quantity)
        return Library(
            float(grid.wavelengths_nm.min()),
            drawn_LC.astype(np.float32),
            np.full(len(drawn_LC), quantity, np.int64),
            self._sensor.replace(bands=grid, scale=1.0, offset=0.0),
        )
