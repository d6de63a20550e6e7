"""Reducers whose bands have wavelengths: merged, or chosen from those that there are.

Shapes: C bands, K bands after. All orders are those of rising wavelength, whatever the order of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specfm.band_selection import REGIONS
from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.reducers.base import Reducer, Reduction, allocate, in_order, spread

GAP = 3.0  # neighbours further apart than so many median spacings are not merged (bands removed for water vapour)
# nm; what lies before the first region and beyond the last counts as a region each
REGION_EDGES_NM = sorted({edge for region in REGIONS.values() for edge in region})


class Merge(Reducer):
    """Adjacent bands averaged into k virtual bands with merged centre and FWHM (:meth:`specfm.bands.BandGrid.merge`).

    Groups hold about as many bands each, and reach over no gap in the grid unless k is smaller than the number of
    pieces between gaps.
    """

    def plan(self, bands: BandGrid, k: int) -> Reduction:
        order = in_order(bands)
        steps = np.diff(bands.wavelengths_nm[order])
        usual = np.median(steps) if len(steps) else 0.0
        pieces = np.split(order, np.flatnonzero(steps > GAP * usual) + 1) if usual > 0 else [order]
        if k < len(pieces):
            pieces = [order]
        places = _in_proportion([len(piece) for piece in pieces], k)
        groups = [group for piece, many in zip(pieces, places, strict=True) for group in np.array_split(piece, many)]
        merged, matrix_KC = bands.merge(groups)
        return Reduction(matrix_KC, merged)


class Window(Reducer):
    """k contiguous bands around the middle of the list; larger windows hold smaller ones."""

    def plan(self, bands: BandGrid, k: int) -> Reduction:
        order = in_order(bands)
        first = (len(order) - k) // 2
        return _chosen(bands, order[first : first + k])


class Uniform(Reducer):
    """Every n-th band, so that k are left."""

    def plan(self, bands: BandGrid, k: int) -> Reduction:
        order = in_order(bands)
        return _chosen(bands, order[spread(len(order), k)])


class Regions(Reducer):
    """Some of each region of the spectrum (:data:`specfm.band_selection.REGIONS`), as evenly as the bands allow."""

    def plan(self, bands: BandGrid, k: int) -> Reduction:
        order = in_order(bands)
        region = np.digitize(bands.wavelengths_nm[order], REGION_EDGES_NM)
        parts = [order[region == r] for r in np.unique(region)]
        given = allocate([len(part) for part in parts], k)
        picked = [part[spread(len(part), many)] for part, many in zip(parts, given, strict=True) if many]
        return _chosen(bands, np.concatenate(picked))


class Listed(Reducer):
    """The first k of a list of bands, the most important first.

    Args:
        numbers: of the bands, from 1, as people count them.

    Raises:
        UsageError: no band, a number below 1, or one twice.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
            raise UsageError(f"a list of bands holds each band once, counted from 1; got {list(numbers)}")
        self.numbers = np.asarray(numbers, np.int64)

    def plan(self, bands: BandGrid, k: int) -> Reduction:
        if self.numbers.max() > len(bands):
            raise UsageError(f"band {self.numbers.max()} of the list does not exist in a sensor of {len(bands)} bands")
        usable = self.numbers[bands.valid[self.numbers - 1]] - 1
        if not len(usable):
            raise UsageError("no band of the list is usable in this sensor; list others")
        return _chosen(bands, usable[:k])


def _chosen(bands: BandGrid, index: np.ndarray) -> Reduction:
    matrix_KC = np.zeros((len(index), len(bands)))
    matrix_KC[np.arange(len(index)), index] = 1.0
    return Reduction(matrix_KC, bands.subset(index))


def _in_proportion(sizes: list[int], k: int) -> list[int]:
    """k places over parts by their sizes, at least one each (largest remainders first)."""
    exact = np.asarray(sizes) * (k / sum(sizes))
    given = np.maximum(np.floor(exact).astype(int), 1)
    while given.sum() < k:
        room = np.where(given < np.asarray(sizes), exact - given, -np.inf)
        given[int(room.argmax())] += 1
    while given.sum() > k:
        spare = np.where(given > 1, given - exact, -np.inf)
        given[int(spare.argmax())] -= 1
    return [int(n) for n in given]
