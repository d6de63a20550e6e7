"""Materials of simulated scenes out of libraries of measured spectra: a class is a material.

Shapes: L fine wavelengths of scenes (``FINE_NM``), V directions of variation, N spectra of a class.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specfm.errors import UsageError
from specfm.simulate.materials import FINE_NM, LOWEST, VARIATIONS
from specfm.simulate.spectra import GRID_NM, MaterialSpectra, read_library

FEWEST_SPECTRA = VARIATIONS + 2


@dataclass(frozen=True, eq=False)
class MeasuredMaterial:
    """The mean spectrum of a class and the directions in which its spectra vary most, in their standard deviations.

    Attributes:
        name: of the class.
        range_nm: where its spectra are known.
        basis_BL: (1 + V, L), as :meth:`basis` gives it; beyond the range the values at its ends.
    """

    name: str
    range_nm: tuple[float, float]
    basis_BL: NDArray[np.float64]

    def basis(self) -> NDArray[np.float64]:
        """(1 + V, L): the mean and its change per standard deviation of each variation."""
        return self.basis_BL


def measured_materials(library: str, names: Sequence[str] | None = None) -> list[MeasuredMaterial]:
    """Classes of a library (see :mod:`specfm.simulate.spectra`) as materials.

    Args:
        library: name, folder, file or card.
        names: of classes, or their ends (``soil`` for ``bare.soil``); None: all that have five spectra.

    Raises:
        UsageError: unknown library or class, a name that fits several classes, a class of fewer than five spectra.
    """
    spectra = read_library(library)
    low_nm, high_nm = spectra.range_nm
    whole_N = whole(spectra)
    counts = np.bincount(spectra.class_N[whole_N], minlength=len(spectra.classes))
    if names is None:
        chosen = [index for index, count in enumerate(counts) if count >= FEWEST_SPECTRA]
    else:
        chosen = [_class(spectra, name, library) for name in names]
    for index in chosen:
        if counts[index] < FEWEST_SPECTRA:
            raise UsageError(
                f"{library}: {spectra.classes[index]} has {counts[index]} spectra over {low_nm:g}-{high_nm:g} nm; a "
                f"material that varies takes {FEWEST_SPECTRA}"
            )
    return [
        MeasuredMaterial(
            spectra.classes[index],
            (low_nm, high_nm),
            _basis(spectra.spectra_NL[whole_N & (spectra.class_N == index)], low_nm, high_nm),
        )
        for index in chosen
    ]


def whole(spectra: MaterialSpectra) -> NDArray[np.bool_]:
    """(N,) True for spectra that are known all over the library's range."""
    low_nm, high_nm = spectra.range_nm
    return np.asarray(spectra.known_NL[:, (low_nm <= GRID_NM) & (high_nm >= GRID_NM)].all(1))


def _class(spectra: MaterialSpectra, name: str, library: str) -> int:
    found = [i for i, known in enumerate(spectra.classes) if name == known or known.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    near = [spectra.classes[i] for i in found] or difflib.get_close_matches(name, spectra.classes, n=3, cutoff=0.3)
    raise UsageError(
        f"{library} has {'several classes' if found else 'no class'} {name!r}; name one of "
        f"{', '.join(near or spectra.classes[:8])}"
    )


def _basis(spectra_NL: NDArray[np.float32], low_nm: float, high_nm: float) -> NDArray[np.float64]:
    mean_L = spectra_NL.mean(0, dtype=np.float64)
    _, size_V, turn_VL = np.linalg.svd(spectra_NL - mean_L, full_matrices=False)
    deviations_VL = (size_V[:, None] * turn_VL)[:VARIATIONS] / np.sqrt(len(spectra_NL) - 1)
    inside = (low_nm <= GRID_NM) & (high_nm >= GRID_NM)
    rows = np.concatenate([np.maximum(mean_L, LOWEST)[None], deviations_VL])[:, inside]
    return np.stack([np.interp(FINE_NM, GRID_NM[inside], row) for row in rows])
