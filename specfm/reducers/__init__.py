"""Fewer bands, or mixtures of them, in place of all: what a curriculum starts from.

``base.py`` says what a reducer is, ``physical.py`` has those whose bands have wavelengths, ``components.py`` those that
are fitted to training pixels.
"""

from specfm.reducers.base import Reducer, Reduction, bands_of
from specfm.reducers.components import Fitted, Principal
from specfm.reducers.moments import Moments
from specfm.reducers.physical import Listed, Merge, Regions, Uniform, Window

PHYSICAL: dict[str, type[Reducer]] = {"merge": Merge, "window": Window, "uniform": Uniform, "regions": Regions}

__all__ = [
    "PHYSICAL", "Fitted", "Listed", "Merge", "Moments", "Principal", "Reducer", "Reduction", "Regions", "Uniform",
    "Window", "bands_of",
]  # fmt: skip
