"""Which of several band lists of one file holds: the finer one, where they agree; a contradiction is told.

A file may state its bands in more than one place: tags of the bands, tags of the whole file, a header or an item beside
it, the names of the bands. They are offered here in the order of precedence. The first one holds, unless a later list
agrees with it (each centre within the rounding of the coarser list, or within the range that a name states) and is
finer: precision beats place. Lists that do not agree are named in one warning, with the largest difference.

Shapes: C bands.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.bands import nm_per_unit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BandList:
    """Centres as one place states them.

    Attributes:
        place: for messages.
        file: that holds it, None = the cube's own.
        centres_C: as written, in ``units`` (None = it does not say); None where widths alone are stated.
        half_ranges_C: half the ranges that names state, in the same units; None where centres were stated.
        fwhm_C: widths.
        fwhm_units: their units; None where they are those of the centres.
    """

    place: str
    centres_C: NDArray[np.float64] | None
    units: str | None
    fwhm_C: NDArray[np.float64] | None = None
    fwhm_units: str | None = None
    half_ranges_C: NDArray[np.float64] | None = None
    file: Path | None = None

    @property
    def step(self) -> float:
        """The last digit that the centres are written to, in their units: .1 for 450.3, 1 for 450."""
        assert self.centres_C is not None
        known = self.centres_C[np.isfinite(self.centres_C)]
        for digits in range(9):
            if np.allclose(known, np.round(known, digits), rtol=0, atol=1e-9):
                return 10.0**-digits
        return 1e-9

    def in_nm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """(centres, how far the true centres may lie from them) in nm; None where the units are not known."""
        if self.units is None or self.centres_C is None:
            return None
        factor = nm_per_unit(self.units)
        if factor is None:
            return None  # unknown, which whoever builds the grid refuses; or wavenumbers, whose last digit has no width
        loose_C = np.full(len(self.centres_C), self.step / 2) if self.half_ranges_C is None else self.half_ranges_C
        return self.centres_C * factor, loose_C * factor


def choose(path: Path, lists: Sequence[BandList]) -> BandList | None:
    """The list that holds, of those that a file offers in the order of precedence; None without any.

    A list without units gives way to one that has them.
    """
    offered = sorted((each for each in lists if each.centres_C is not None), key=lambda each: each.units is None)
    if not offered:
        return None
    held = offered[0]
    for other in offered[1:]:
        mine, theirs = held.in_nm(), other.in_nm()
        if mine is None or theirs is None:
            continue
        gap_C = np.abs(mine[0] - theirs[0])
        loose_C = np.maximum(mine[1], theirs[1]) + 1e-6
        known_C = (mine[0] > 0) & (theirs[0] > 0)  # zero stands for a bad band in some lists
        if (gap_C <= loose_C)[known_C].all():
            if theirs[1].max() < mine[1].max():
                log.info("%s: wavelengths of %s, which are finer than those of %s", path, other.place, held.place)
                held = other
        else:
            log.warning(
                "%s: wavelengths of %s and of %s contradict each other by up to %.4g nm; those of %s are used (say "
                "--wavelengths file.csv if they are wrong)",
                path, held.place, other.place, float(gap_C[known_C].max()), held.place,
            )  # fmt: skip
    return held


def widths_of(held: BandList, lists: Sequence[BandList]) -> tuple[Any, str | None]:
    """(FWHM, their units where these are not those of ``held``): of the list that holds, else of the first with any."""
    for each in (held, *lists):
        if each.fwhm_C is not None:
            units = each.fwhm_units or each.units
            return each.fwhm_C, None if units == held.units else units
    return None, None
