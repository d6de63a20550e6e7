"""What lies on the tray of a laboratory scanner: spectra of seven domains, three materials each, and how they look.

Plausible, not measured; materials of one domain differ in pigment, water, sugar, starch or mineral features, as their
kinds do. Written as :mod:`specfm.simulate.materials` writes those of the ground: knots of a continuum, features in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.simulate.materials import (
    CARBONATE,
    CELLULOSE,
    CHLOROPHYLL,
    CLAY,
    IRON,
    LEAF_WATER,
    Feature,
    Knots,
    Material,
    SceneMaterial,
)

TRAY = Material("tray", ((340, 0.03), (900, 0.035), (2600, 0.05)), ())  # black felt
_OIL: tuple[Feature, ...] = (
    (1210, 25, 0.10),
    (1725, 22, 0.22),
    (1762, 18, 0.16),
    (2308, 20, 0.22),
    (2348, 18, 0.18),
)
_SUGAR: tuple[Feature, ...] = ((985, 30, 0.05), (1435, 9, 0.30), (1540, 60, 0.20), (2080, 50, 0.45), (2320, 30, 0.25))
_CAFFEINE: tuple[Feature, ...] = ((1665, 14, 0.10), (2140, 25, 0.12), (2250, 20, 0.10))
_ANTHOCYANIN: tuple[Feature, ...] = ((545, 45, 1.3), (1190, 30, 0.05))
_APATITE: tuple[Feature, ...] = (
    (970, 20, 0.04),
    (1430, 16, 0.08),
    (1690, 20, 0.08),
    (2050, 30, 0.12),
    (2180, 25, 0.12),
)
_LIGNIN: tuple[Feature, ...] = ((1420, 30, 0.14), (1680, 25, 0.16), (2270, 25, 0.14))
_MOIST: tuple[Feature, ...] = tuple((centre, sigma, 0.2 * depth) for centre, sigma, depth in LEAF_WATER)
_COPPER: tuple[Feature, ...] = ((800, 120, 0.9), (2260, 20, 0.12), (2360, 20, 0.14))

_BEAN: Knots = ((340, 0.08), (450, 0.14), (600, 0.30), (800, 0.48), (1100, 0.56), (1700, 0.52), (2600, 0.36))
_ROAST: Knots = ((340, 0.05), (600, 0.07), (750, 0.12), (1000, 0.28), (1400, 0.42), (1900, 0.40), (2600, 0.30))
_BERRY: Knots = ((340, 0.12), (450, 0.20), (560, 0.38), (700, 0.42), (900, 0.50), (1300, 0.45), (2600, 0.30))
_BURNT: Knots = ((340, 0.10), (500, 0.16), (600, 0.36), (800, 0.46), (1300, 0.52), (2600, 0.48))
_WHITE: Knots = ((340, 0.45), (420, 0.72), (600, 0.84), (1000, 0.86), (1700, 0.72), (2600, 0.45))
_BROWN: Knots = ((340, 0.12), (450, 0.20), (600, 0.45), (800, 0.66), (1100, 0.74), (1700, 0.62), (2600, 0.38))
_BARK: Knots = ((340, 0.08), (500, 0.13), (700, 0.26), (900, 0.38), (1300, 0.46), (1800, 0.42), (2600, 0.28))
_STONE: Knots = ((340, 0.10), (500, 0.16), (800, 0.19), (1300, 0.22), (2600, 0.22))


def _times(features: tuple[Feature, ...], factor: float) -> tuple[Feature, ...]:
    return tuple((centre, sigma, factor * depth) for centre, sigma, depth in features)


def _dimmed(knots: Knots, factor: float) -> Knots:
    return tuple((nm, factor * level) for nm, level in knots)


@dataclass(frozen=True, eq=False)
class Domain:
    """One collection of scans.

    Attributes:
        name: of the domain.
        grid: bands of its camera.
        materials: what is scanned, side by side in lots.
        radius: of an object, pixels; None: sheets that fill their lot.
        gloss: share of objects with a highlight.
        relief: how much darker an object's rim is than its top.
        camera: name of the camera.
        least: side that a scan must have, pixels.
    """

    name: str
    grid: BandGrid
    materials: tuple[SceneMaterial, ...]
    radius: float | None
    gloss: float = 0.0
    relief: float = 0.4
    camera: str = ""
    least: int = 48

    @property
    def bands(self) -> int:
        """How many its camera has."""
        return len(self.grid)

    @property
    def range_nm(self) -> tuple[float, float]:
        """Its lowest and highest centre."""
        return float(self.grid.wavelengths_nm.min()), float(self.grid.wavelengths_nm.max())


def _even(bands: int, low_nm: float, high_nm: float) -> BandGrid:
    """Bands from centre to centre, as wide as 1.3 steps."""
    step = (high_nm - low_nm) / (bands - 1)
    return BandGrid([low_nm + step * i for i in range(bands)], [1.3 * step] * bands)


_COFFEE = (
    Material("arabica_green", _BEAN, (*_OIL, *_times(_CAFFEINE, 0.6), *_times(LEAF_WATER, 0.25))),
    Material("robusta_green", _BEAN, (*_times(_OIL, 0.6), *_times(_CAFFEINE, 1.6), *_times(LEAF_WATER, 0.25))),
    Material("roasted", _ROAST, (*_times(_OIL, 1.3), *_times(_CAFFEINE, 0.8))),
)
_GRAPES = (
    Material("white_ripe", _BERRY, (*_times(CHLOROPHYLL, 0.25), *_times(LEAF_WATER, 1.2))),
    Material("red_ripe", _dimmed(_BERRY, 0.9), (*_ANTHOCYANIN, *_times(CHLOROPHYLL, 0.1), *_times(LEAF_WATER, 1.2))),
    Material("mouldy", _dimmed(_BERRY, 0.8), (*_times(_ANTHOCYANIN, 0.25), (470, 60, 0.35), *_times(LEAF_WATER, 0.7))),
)
_POTTERY = (
    Material("earthenware", _BURNT, (*_times(IRON, 1.2), *_times(CLAY, 0.6))),
    Material("marl", _BURNT, (*_times(IRON, 0.7), *CARBONATE)),
    Material("terra_sigillata", _dimmed(_BURNT, 0.85), (*_times(IRON, 2.2), (530, 25, 0.3), *_times(CLAY, 0.3))),
)
_SUGARS = (
    Material("refined", _WHITE, _SUGAR),
    Material("raw_cane", _BROWN, (*_SUGAR, *_times(LEAF_WATER, 0.06))),
    Material("starch_mixed", _dimmed(_WHITE, 0.97), (*_times(_SUGAR, 0.55), (1200, 30, 0.05), (2100, 40, 0.18))),
)
_PAPERS = (
    Material("rag", _dimmed(_WHITE, 0.9), (*CELLULOSE, *_times(LEAF_WATER, 0.08))),
    Material("wood_pulp", _dimmed(_WHITE, 0.82), (*CELLULOSE, *_LIGNIN, *_times(LEAF_WATER, 0.08))),
    Material("coated", _dimmed(_WHITE, 0.95), (*_times(CELLULOSE, 0.6), *_times(CLAY, 0.6), *_times(CARBONATE, 0.6))),
)
_FINDS = (
    Material("bone", _dimmed(_WHITE, 0.75), (*_APATITE, (420, 60, 0.5), *_times(LEAF_WATER, 0.05))),
    Material("flint", _STONE, ((1415, 20, 0.05), (1910, 30, 0.08), (2220, 30, 0.05))),
    Material("bronze", _dimmed(_BURNT, 0.8), (*_COPPER, (480, 40, 0.1))),
)
_TWIGS = (
    Material("birch_bark", _dimmed(_BARK, 1.5), (*CELLULOSE, *_times(LEAF_WATER, 0.2))),
    Material("pine_bark", _BARK, (*CELLULOSE, *_LIGNIN, *_times(IRON, 0.6), *_times(LEAF_WATER, 0.25))),
    Material("lichen", _dimmed(_BARK, 1.3), (*_times(CHLOROPHYLL, 0.35), *_times(CELLULOSE, 0.4), *_MOIST)),
)
_ALL = (
    Domain("coffee", _even(256, 935.0, 1700.0), _COFFEE, 6.0),
    Domain("grapes", _even(160, 400.0, 1000.0), _GRAPES, 8.0, gloss=0.6),
    Domain("pottery", _even(256, 400.0, 1000.0), _POTTERY, 15.0, relief=0.25),
    Domain("sugar", _even(256, 935.0, 1700.0), _SUGARS, None, relief=0.0),
    Domain("paper", _even(288, 950.0, 2500.0), _PAPERS, None, relief=0.0),
    Domain("archaeology", _even(256, 400.0, 1000.0), _FINDS, 12.0, gloss=0.1),
    Domain("branches", _even(160, 400.0, 1000.0), _TWIGS, 9.0, relief=0.5),
)
DOMAINS: dict[str, Domain] = {domain.name: domain for domain in _ALL}
LAB_MATERIALS: dict[str, SceneMaterial] = {each.name: each for domain in _ALL for each in domain.materials}


def get_domains(names: tuple[str, ...] | None = None) -> list[Domain]:
    """Domains by name, all of them without names.

    Raises:
        UsageError: an unknown one.
    """
    if names is None:
        return list(DOMAINS.values())
    for name in names:
        if name not in DOMAINS:
            raise UsageError(f"unknown domain {name!r}; one of {', '.join(DOMAINS)}")
    return [DOMAINS[name] for name in dict.fromkeys(names)]
