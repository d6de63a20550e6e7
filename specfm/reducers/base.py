"""What a reducer is: from the bands of a sensor to k of them, or k mixtures; and how it is applied to cubes.

Every reducer is a linear map of the usable bands. Those that keep wavelengths (``physical``) return metadata of the new
bands, so an encoder that reads metadata keeps working; the others serve networks with a fixed stem.

Shapes: B samples, H W pixels, C bands, K bands after, G = 1 or B band grids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from specfm.bands import F64, BandGrid
from specfm.batch import FILLER_NM, BandTensors
from specfm.errors import UsageError

FEWEST = 3  # never fewer bands than this, where there are as many: wider ones would say nothing


@dataclass(frozen=True)
class Reduction:
    """How the bands of one grid are reduced.

    Attributes:
        matrix_KC: ``reduced = matrix_KC @ spectrum``; zero in the columns of unusable bands.
        bands: what the K bands are; None where they are mixtures without a wavelength.
    """

    matrix_KC: F64
    bands: BandGrid | None


class Reducer(ABC):
    """Fewer bands; one class a kind. ``physical``: what comes out has wavelengths and values in the units of a cube."""

    physical = True

    def __init__(self) -> None:
        self._planned: dict[tuple[str, int], Reduction] = {}

    @abstractmethod
    def plan(self, bands: BandGrid, k: int) -> Reduction:
        """The reduction of a grid to k bands, at most the usable ones; the same at every call.

        Raises:
            UsageError: the reducer does not fit the grid.
        """

    def reduce(self, x_BHWC: Tensor, bands: BandTensors, k: float) -> tuple[Tensor, BandTensors]:
        """Reduced cubes and their metadata; scale and offset hold for them as before.

        Args:
            x_BHWC: as stored, any dtype. What is not finite in a usable band makes its pixel not finite.
            bands: G = 1 or B.
            k: how many bands, or (up to 1) which share of each grid's usable ones; see :func:`bands_of`.

        Returns:
            x_BHWK float32, padded to the widest where grids differ, and metadata of as many rows.

        Raises:
            UsageError: the reducer gives no wavelengths, or does not fit a grid.
        """
        if not self.physical:
            raise UsageError(
                "these components have no wavelengths, so an encoder that reads bands cannot use them; use merge"
            )
        found = [self._reduction(grid, k) for grid in grids_of(bands)]
        width = max(len(each.matrix_KC) for each in found)
        matrix_GKC = torch.zeros(len(found), width, x_BHWC.shape[-1], device=x_BHWC.device)
        reduced = []
        for g, each in enumerate(found):
            assert each.bands is not None
            rows, columns = each.matrix_KC.shape
            matrix_GKC[g, :rows, :columns] = torch.from_numpy(each.matrix_KC)
            reduced.append(each.bands)
        told = BandTensors.from_sensors(reduced, width).to(x_BHWC.device)
        new = bands.replace(
            wavelengths_nm_GC=told.wavelengths_nm_GC, fwhm_nm_GC=told.fwhm_nm_GC, valid_GC=told.valid_GC
        )
        usable_BHWC = torch.where(bands.valid_GC[:, None, None], x_BHWC.to(torch.float32), 0.0)
        return usable_BHWC @ matrix_GKC.mT[:, None], new

    def _reduction(self, bands: BandGrid, k: float) -> Reduction:
        usable = int(bands.valid.sum())
        if not usable:
            return Reduction(np.zeros((1, len(bands))), BandGrid([np.nan], valid=[False]))
        key = (bands.digest, bands_of(k, usable))
        if key not in self._planned:
            self._planned[key] = self.plan(bands, key[1])
        return self._planned[key]


def bands_of(k: float, usable: int) -> int:
    """How many of ``usable`` bands: k itself, or (up to 1) that share of them, at least :data:`FEWEST`."""
    return min(max(round(k if k > 1 else k * usable), FEWEST), usable)


def grids_of(bands: BandTensors) -> list[BandGrid]:
    """The grid of each row, padding included (as unusable bands)."""
    lists = (bands.wavelengths_nm_GC, bands.fwhm_nm_GC, bands.valid_GC)
    nm_GC, fwhm_GC, valid_GC = (each.cpu().numpy() for each in lists)
    return [
        BandGrid(np.where(valid, nm, FILLER_NM), fwhm, valid)
        for nm, fwhm, valid in zip(nm_GC, fwhm_GC, valid_GC, strict=True)
    ]


def in_order(bands: BandGrid) -> np.ndarray:
    """Numbers (from 0) of the usable bands, by rising wavelength."""
    usable = np.flatnonzero(bands.valid)
    return usable[np.argsort(bands.wavelengths_nm[usable], kind="stable")]


def spread(count: int, k: int) -> np.ndarray:
    """k of ``count`` places, evenly spread, the middle one for k = 1."""
    return np.floor((np.arange(k) + 0.5) * count / k).astype(np.int64)


def allocate(sizes: list[int], k: int) -> list[int]:
    """How many of k places each of several parts gets: as even as their sizes allow, larger ones first.

    Args:
        sizes: of the parts; none gets more than its size.
        k: at most their sum.
    """
    given = [0] * len(sizes)
    for _ in range(k):
        free = [i for i, size in enumerate(sizes) if given[i] < size]
        best = min(free, key=lambda i: (given[i], -sizes[i]))
        given[best] += 1
    return given
