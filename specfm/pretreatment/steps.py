"""What a user may ask for: a list of pretreatments by name, in the order in which they are done.

==================  ================================================================================================
``snv``             standard normal variate (Barnes, Dhanoa & Lister 1989, doi 10.1366/0003702894202201): of every
                    spectrum by itself ``(x - mean(x)) / deviation(x)`` over its bands, deviation with C - 1
``continuum``       divided by the upper convex hull (:mod:`specfm.pretreatment.continuum`)
``sg0 sg1 sg2``     Savitzky-Golay smoothing, first and second derivative (per nm, per nm^2), of 11 bands and degree 2;
                    ``sg1:15`` takes 15 bands, ``sg1:40nm`` the bands of 40 nm, ``sg1:15:3`` a polynomial of degree 3
==================  ================================================================================================

Shapes: N spectra, C bands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment.continuum import remove_continuum
from specfm.pretreatment.savitzky_golay import filter_matrix

WINDOW, DEGREE = 11, 2
_SAVITZKY_GOLAY = re.compile(r"sg([012])(?::(\d+(?:\.\d+)?)(nm)?)?(?::(\d+))?")
GRAMMAR = "snv, continuum, sg0, sg1 or sg2 (with a window: sg1:15 bands, sg1:40nm; with a degree: sg1:15:3)"


@dataclass(frozen=True)
class Step:
    """One pretreatment.

    Attributes:
        kind: ``snv``, ``continuum`` or ``sg``.
        derivative: of ``sg``: 0, 1 or 2.
        window: of ``sg``: bands, or nanometres where ``in_nm``.
        degree: of the polynomial.
    """

    kind: str
    derivative: int = 0
    window: float = WINDOW
    in_nm: bool = False
    degree: int = DEGREE

    @classmethod
    def parse(cls, text: str) -> Step:
        """A step by its name.

        Raises:
            UsageError: no such step, or a window or degree that cannot be.
        """
        word = text.strip().lower()
        if word in ("snv", "continuum"):
            return cls(word)
        found = _SAVITZKY_GOLAY.fullmatch(word)
        if found is None:
            raise UsageError(f"unknown pretreatment {text!r}; give {GRAMMAR}")
        derivative, in_nm = int(found[1]), found[3] is not None
        window, degree = float(found[2] or WINDOW), int(found[4] or DEGREE)
        if not derivative <= degree <= 6:
            raise UsageError(f"pretreatment {text!r}: the degree of the polynomial is {derivative} to 6")
        if not in_nm and (window != int(window) or window % 2 == 0 or window <= degree):
            raise UsageError(f"pretreatment {text!r}: a window is an odd number of bands above the degree {degree}")
        if window <= 0:
            raise UsageError(f"pretreatment {text!r}: a window is wider than 0 nm")
        return cls("sg", derivative, window, in_nm, degree)

    def __str__(self) -> str:
        if self.kind != "sg":
            return self.kind
        return f"sg{self.derivative}:{self.window:g}{'nm' if self.in_nm else ''}:{self.degree}"

    def narrowed(self, bands: BandGrid) -> BandGrid:
        """The bands after the step: unusable where it has no value.

        Raises:
            SpecfmError: no band is left, or too few for a spectrum to have a shape.
        """
        if self.kind != "sg":
            least = {"snv": 2, "continuum": 3}[self.kind]
            if bands.valid.sum() < least:
                raise SpecfmError(f"pretreatment {self} needs {least} bands, not {bands.valid.sum()}; leave it out")
            return bands
        valid_C = bands.valid.copy()
        valid_C[valid_C] = _filter(self, bands)[1]
        if not valid_C.any():
            raise SpecfmError(
                f"pretreatment {self} needs {self.degree + 1} bands side by side, which {bands!r} nowhere has; leave "
                "it out"
            )
        return BandGrid(bands.wavelengths_nm, bands.fwhm_nm, valid_C)

    def apply(self, x_Nc: NDArray[np.floating[Any]], bands: BandGrid) -> NDArray[np.floating[Any]]:
        """Spectra of the usable bands alone, finite -> the same; NaN where the step has no value."""
        if self.kind == "continuum":
            return remove_continuum(x_Nc, bands.wavelengths_nm[bands.valid])
        if self.kind == "snv":
            return _standard_normal_variate(x_Nc)
        matrix_cc, usable_c = _filter(self, bands)
        return np.where(usable_c, np.asarray(x_Nc, np.float64) @ matrix_cc, np.nan)


def parse_steps(texts: Sequence[str], done: Sequence[str] = ()) -> tuple[Step, ...]:
    """Steps by their names, in order; ``done``: those that the spectra went through before.

    Raises:
        UsageError: no such step, or an order that makes no sense.
    """
    steps = tuple(Step.parse(text) for text in texts)
    before: list[Step] = []
    for step in (*map(Step.parse, done), *steps):
        centred = [each for each in before if each.kind == "snv" or each.derivative]
        if step.kind == "continuum" and centred:
            raise UsageError(
                f"pretreatment continuum after {centred[0]}: a continuum is one of measured values, which are "
                "positive; put it first"
            )
        if step.kind != "sg" and step in before:
            raise UsageError(f"pretreatment {step} is asked for twice; give it once")
        before.append(step)
    return steps


def pretreat_spectra(
    x_NC: NDArray[np.floating[Any]], bands: BandGrid, steps: Sequence[Step | str]
) -> tuple[NDArray[np.float32], BandGrid]:
    """Pretreat spectra, each by itself.

    Args:
        x_NC: physical values; bands that are not usable may hold anything.
        bands: of the spectra.
        steps: in order, as :class:`Step` or by name.

    Returns:
        spectra_NC float32 and their bands, fewer of them usable where a filter has no value. NaN stands in unusable
        bands, and in all bands of a spectrum that has a value that is not finite, or no deviation to divide by (snv).

    Raises:
        UsageError: see :func:`parse_steps`.
        SpecfmError: too few bands, or for a filter none that lie side by side.
    """
    known = parse_steps([str(step) for step in steps])
    x_NC = np.asarray(x_NC)
    found_NC = np.full(x_NC.shape, np.nan, np.float32)
    given_C = np.flatnonzero(bands.valid)
    good_I = np.flatnonzero(np.isfinite(x_NC[:, given_C]).all(1))
    x_Ic: NDArray[Any] = x_NC[np.ix_(good_I, given_C)]
    for step in known:
        after = step.narrowed(bands)
        x_Ic = step.apply(x_Ic, bands)[:, after.valid[bands.valid]]
        bands = after
    found_NC[np.ix_(good_I, np.flatnonzero(bands.valid))] = x_Ic
    return found_NC, bands


def _standard_normal_variate(x_Nc: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    x_Nc = np.asarray(x_Nc, np.float64)
    if x_Nc.shape[1] < 2:
        return np.full(x_Nc.shape, np.nan)  # one band deviates from nothing
    centred_Nc = x_Nc - x_Nc.mean(1, keepdims=True)
    deviation_N1 = centred_Nc.std(1, ddof=1, keepdims=True)
    level_N1 = np.abs(x_Nc).max(1, keepdims=True)
    varies_N1 = deviation_N1 > 1e-9 * level_N1  # below it there is rounding alone
    return np.divide(centred_Nc, deviation_N1, out=np.full(x_Nc.shape, np.nan), where=varies_N1)


@lru_cache(maxsize=32)
def _filter(step: Step, bands: BandGrid) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of the usable bands of a grid; made once for all reads of a scene."""
    return filter_matrix(bands.wavelengths_nm[bands.valid], step.derivative, step.window, step.in_nm, step.degree)
