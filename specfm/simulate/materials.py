"""Materials with known reflectance spectra, defined by code on a fine wavelength grid.

A spectrum is a smooth continuum through a few knots, cut by Gaussian absorption features (chlorophyll, liquid water,
iron, clay, carbonate, cellulose), and varies within its class along three directions: brightness, depth of features,
slope. The numbers are plausible, not measured. Some materials differ in one feature only: telling them apart is work.

Shapes: L fine wavelengths, K materials, V directions of variation.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from specfm.errors import UsageError

FINE_NM = np.arange(340.0, 2601.0, 1.0)
VARIATIONS = 3  # brightness, feature depth, slope
BRIGHTNESS, DEPTH, SLOPE = 0.12, 0.22, 0.10  # one standard deviation of each, relative
LOWEST, HIGHEST = 0.002, 0.98


class SceneMaterial(Protocol):
    """What a simulated scene is made of: a name, where its spectra are known, their mean and variations."""

    @property
    def name(self) -> str:
        """Name of the class in the scene's labels."""
        ...

    @property
    def range_nm(self) -> tuple[float, float]:
        """Lowest and highest wavelength at which it is known."""
        ...

    def basis(self) -> NDArray[np.float64]:
        """(1 + V, L): the mean spectrum on ``FINE_NM`` and its change per standard deviation of each variation."""
        ...


Knots = tuple[tuple[float, float], ...]
Feature = tuple[float, float, float]  # centre nm, sigma nm, depth (optical)

LEAF_WATER: tuple[Feature, ...] = (
    (970, 28, 0.08),
    (1195, 38, 0.15),
    (1455, 55, 0.85),
    (1935, 70, 1.25),
    (2520, 160, 0.9),
)
CHLOROPHYLL: tuple[Feature, ...] = ((435, 40, 0.9), (495, 25, 0.45), (640, 28, 0.5), (676, 18, 0.9))
CELLULOSE: tuple[Feature, ...] = ((1490, 45, 0.12), (1780, 60, 0.08), (2100, 55, 0.28), (2310, 45, 0.2))
SOIL_WATER: tuple[Feature, ...] = ((1415, 30, 0.10), (1915, 40, 0.22))
IRON: tuple[Feature, ...] = ((490, 45, 0.22), (660, 60, 0.06), (885, 75, 0.14))
CLAY: tuple[Feature, ...] = ((2205, 22, 0.22),)
CARBONATE: tuple[Feature, ...] = ((2335, 28, 0.20),)


@dataclass(frozen=True)
class Material:
    """A named reflectance spectrum: ``knots`` (nm, reflectance) of the continuum and ``features`` that cut into it."""

    name: str
    knots: Knots
    features: tuple[Feature, ...]

    @property
    def range_nm(self) -> tuple[float, float]:
        """All of the fine wavelengths."""
        return float(FINE_NM[0]), float(FINE_NM[-1])

    def reflectance(self, variation: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(L,) reflectance on ``FINE_NM``.

        Args:
            variation: (V,) standard normal coordinates of brightness, feature depth and slope; None = the class mean.
        """
        from scipy.interpolate import PchipInterpolator

        brightness, depth, slope = np.zeros(VARIATIONS) if variation is None else variation
        nm, level = np.array(self.knots).T
        continuum_L = PchipInterpolator(nm, level)(np.clip(FINE_NM, nm[0], nm[-1]))
        absorbed_L = np.zeros_like(FINE_NM)
        for centre, sigma, optical_depth in self.features:
            absorbed_L += optical_depth * np.exp(-0.5 * ((FINE_NM - centre) / sigma) ** 2)
        tilt_L = 1 + SLOPE * slope * (FINE_NM - FINE_NM.mean()) / (FINE_NM[-1] - FINE_NM[0])
        spectrum_L = continuum_L * tilt_L * np.exp(BRIGHTNESS * brightness - absorbed_L * np.exp(DEPTH * depth))
        return np.clip(spectrum_L, LOWEST, HIGHEST)

    def basis(self) -> NDArray[np.float64]:
        """(1 + V, L): the mean spectrum and its change per standard deviation of each variation."""
        steps = 0.5 * np.eye(VARIATIONS)
        slopes = [self.reflectance(step) - self.reflectance(-step) for step in steps]
        return np.stack([self.reflectance(), *slopes])


_GREEN: Knots = ((340, 0.09), (420, 0.16), (555, 0.22), (650, 0.22), (690, 0.24), (725, 0.42), (765, 0.54))
_LEAF: Knots = (*_GREEN, (1100, 0.56), (1300, 0.52), (1650, 0.42), (2200, 0.30), (2600, 0.2))
_STRAW: Knots = ((340, 0.09), (500, 0.17), (700, 0.29), (900, 0.38), (1300, 0.47), (1800, 0.44), (2600, 0.3))
_SOIL: Knots = (
    (340, 0.06),
    (450, 0.11),
    (600, 0.20),
    (800, 0.28),
    (1100, 0.35),
    (1700, 0.43),
    (2150, 0.42),
    (2600, 0.36),
)
_SAND: Knots = ((340, 0.14), (450, 0.24), (600, 0.37), (900, 0.47), (1500, 0.56), (2600, 0.52))
_DARK: Knots = ((340, 0.05), (500, 0.075), (800, 0.105), (1300, 0.14), (1800, 0.165), (2600, 0.17))
_GREY: Knots = ((340, 0.14), (450, 0.22), (700, 0.30), (1200, 0.35), (1800, 0.36), (2600, 0.30))
_RED: Knots = (
    (340, 0.05),
    (500, 0.08),
    (560, 0.12),
    (610, 0.27),
    (720, 0.36),
    (1000, 0.40),
    (1700, 0.47),
    (2600, 0.42),
)
_BLUE: Knots = (
    *((340, 0.10), (440, 0.30), (480, 0.33), (560, 0.16), (650, 0.09), (760, 0.20)),
    *((900, 0.45), (1600, 0.5), (2600, 0.38)),
)
_WATER: Knots = ((340, 0.035), (480, 0.055), (560, 0.05), (680, 0.02), (740, 0.009), (900, 0.004), (2600, 0.0025))
_PLANT: tuple[Feature, ...] = (*CHLOROPHYLL, *LEAF_WATER)


def _scaled(knots: Knots, factor: float) -> Knots:
    return tuple((nm, factor * level) for nm, level in knots)


def _deeper(features: tuple[Feature, ...], factor: float) -> tuple[Feature, ...]:
    return tuple((centre, sigma, factor * depth) for centre, sigma, depth in features)


_ALL = (
    Material("broadleaf", _LEAF, _PLANT),
    # grass: less water and chlorophyll than broadleaf, otherwise the same plant
    Material("grass", _LEAF, _deeper(_PLANT, 0.65)),
    Material("conifer", _scaled(_LEAF, 0.63), (*_deeper(CHLOROPHYLL, 1.15), *_deeper(LEAF_WATER, 1.3), *CELLULOSE)),
    Material("dry_grass", _STRAW, CELLULOSE),
    Material("dark_soil", _scaled(_SOIL, 0.5), (*SOIL_WATER, (490, 45, 0.08))),
    # clay_soil and carbonate_soil share continuum and iron; they differ beyond 2.1 um only
    Material("clay_soil", _SOIL, (*SOIL_WATER, *IRON, *CLAY)),
    Material("carbonate_soil", _SOIL, (*SOIL_WATER, *IRON, *CARBONATE)),
    Material("sand", _SAND, (*SOIL_WATER, (870, 80, 0.05))),
    Material("asphalt", _DARK, ((2310, 25, 0.05),)),
    # tar roofing: asphalt with a hydrocarbon band at 1.73 um
    Material("tar_roof", _scaled(_DARK, 0.85), ((1730, 22, 0.14), (2310, 25, 0.14))),
    Material("concrete", _GREY, (*SOIL_WATER, *CARBONATE)),
    Material("red_tile", _RED, ((530, 30, 0.25), (870, 60, 0.22), (1915, 40, 0.1))),
    Material("blue_metal", _BLUE, ((1730, 25, 0.12), (2310, 30, 0.18))),
    Material("water", _WATER, ()),
)
MATERIALS: dict[str, SceneMaterial] = {material.name: material for material in _ALL}


def get_materials(
    given: Sequence[str | SceneMaterial] | None = None, named: Mapping[str, SceneMaterial] = MATERIALS
) -> list[SceneMaterial]:
    """Materials as they are or by name (all named ones by default), in the order asked for.

    Args:
        given: materials, or names out of ``named``.
        named: those that have a name.

    Raises:
        UsageError: an unknown or repeated name.
    """
    if given is None:
        return list(named.values())
    found: list[SceneMaterial] = []
    for each in given:
        if isinstance(each, str) and each not in named:
            near = difflib.get_close_matches(each, named, n=3, cutoff=0.4) or list(named)
            raise UsageError(f"unknown material {each!r}; did you mean {' or '.join(near)}?")
        found.append(named[each] if isinstance(each, str) else each)
    names = [material.name for material in found]
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"name each material once, at least one; got {', '.join(names) or 'none'}")
    return found
