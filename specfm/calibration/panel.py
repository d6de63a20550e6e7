"""How bright the white reference truly is: a panel reflects 99 % or 50 % of the light, in every band its own share.

Shapes: C bands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.errors import SpecfmError
from specfm.tables import number, read_table

BRIGHTEST = 1.5  # no panel reflects more; larger numbers are meant as percent


def panel_reflectance(stated: float | Path, bands: BandGrid) -> NDArray[np.float64]:
    """Reflectance of a white reference panel in every band, (C,), 0..1.

    Args:
        stated: a number for all bands, or a CSV file with the columns ``wavelength_nm`` and ``reflectance``, which is
            interpolated to the band centres.
        bands: of the scan; those marked bad need no value.

    Raises:
        SpecfmError: not a share, no such file or column, or a file that does not reach from the first usable band to
            the last.
    """
    if not isinstance(stated, Path):
        _refuse_no_share("the reflectance of the white reference", np.array([stated], np.float64))
        return np.full(len(bands), float(stated))
    nm, share = _table(stated)
    centres = bands.wavelengths_nm
    used = bands.valid & np.isfinite(centres)
    low, high = (float(edge(centres[used])) if used.any() else float(nm[0]) for edge in (np.min, np.max))
    if low < nm[0] or high > nm[-1]:
        raise SpecfmError(
            f"{stated}: covers {nm[0]:g}-{nm[-1]:g} nm and the scan {low:g}-{high:g} nm; give the reflectance of the "
            "panel over all bands of the scan, or mark the others bad (bad_bands)"
        )
    return np.where(used, np.interp(np.where(used, centres, low), nm, share), 1.0)


def _table(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wavelengths in rising order and the share at each."""
    columns, rows = read_table(path, ("wavelength_nm", "reflectance"), comments=True)
    if not {"wavelength_nm", "reflectance"} <= set(columns) or not rows:
        raise SpecfmError(f"{path}: needs the columns wavelength_nm and reflectance, and a row for each wavelength")
    try:
        pairs = np.array([[number(row["wavelength_nm"]), number(row["reflectance"])] for row in rows])
    except (TypeError, ValueError) as error:
        raise SpecfmError(f"{path}: {error}; the columns wavelength_nm and reflectance hold numbers only") from None
    nm, share = pairs[np.argsort(pairs[:, 0], kind="stable")].T
    if not np.isfinite(nm).all() or (np.diff(nm) == 0).any():
        raise SpecfmError(f"{path}: every row of wavelength_nm must be another number; mend the table")
    _refuse_no_share(str(path), share)
    return nm, share


def _refuse_no_share(where: str, share: NDArray[np.float64]) -> None:
    wrong = share[~((share > 0) & (share <= BRIGHTEST))]
    if len(wrong):
        raise SpecfmError(
            f"{where} must be a share above 0 and up to {BRIGHTEST:g}, not {wrong[0]:g}; write 50 % as 0.5"
        )
