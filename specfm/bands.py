"""Band grids: where on the wavelength axis a sensor looks, how wide, and how much of the axis each band stands for.

Shapes: C bands of a grid, K bands after merging or resampling. Wavelengths and widths are nanometres throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.digests import digest_parts
from specfm.errors import SpecfmError

SIGMA_PER_FWHM = 1.0 / 2.3548200450309493  # Gaussian: FWHM = 2 sqrt(2 ln 2) sigma
GAP_CAP_FWHM = 3.0  # a half-cell reaches at most this many FWHM from its centre, so that gaps are not filled
MIN_NM, MAX_NM = 150.0, 100_000.0  # vacuum UV to far infrared; micrometre lists fall below, so they are caught

_NM_PER_UNIT = {
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micrometer", "micrometers", "micrometre", "micrometres"), 1000.0),
    **dict.fromkeys(("micron", "microns"), 1000.0),
}
_WAVENUMBER = {"cm-1", "cm^-1", "1/cm", "wavenumber", "wavenumbers"}

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


class UnitsError(SpecfmError):
    """Wavelengths that do not fit their units; ``likely`` = the unit (nm, um) they look like, or None."""

    def __init__(self, message: str, likely: str | None):
        super().__init__(message)
        self.likely = likely


def nm_per_unit(units: str) -> float | None:
    """Nanometres in one ``units`` of length; None for an unknown one and for wavenumbers."""
    return _NM_PER_UNIT.get(_spelling(units))


class BandGrid:
    """The bands of one sensor: centres, widths and which of them are usable. Immutable; order is kept, never sorted.

    Args:
        wavelengths_nm: (C,) band centres in nm. Zero or NaN is allowed only where ``valid`` is False.
        fwhm_nm: (C,) full widths at half maximum in nm; NaN, 0 or None where unknown.
        valid: (C,) True where the band is usable (ENVI ``bbl`` = 1); None means all.

    Raises:
        SpecfmError: wrong length, NaN centre in a usable band, or values that look like another unit.
    """

    def __init__(self, wavelengths_nm: ArrayLike, fwhm_nm: ArrayLike | None = None, valid: ArrayLike | None = None):
        centres_C = _vector(wavelengths_nm, "wavelengths")
        count = len(centres_C)
        fwhm_C = np.full(count, np.nan) if fwhm_nm is None else _vector(fwhm_nm, "FWHM")
        valid_C = np.ones(count, bool) if valid is None else np.asarray(valid).astype(bool).ravel()
        for name, vector in (("FWHM", fwhm_C), ("valid", valid_C)):
            if len(vector) != count:
                raise SpecfmError(f"{count} wavelengths but {len(vector)} {name} values; give one per band")
        fwhm_C[fwhm_C == 0] = np.nan
        centres_C[~valid_C & ~(np.isfinite(centres_C) & (centres_C >= MIN_NM) & (centres_C <= MAX_NM))] = np.nan
        _check_centres(centres_C, valid_C)
        _check_fwhm(centres_C[valid_C], fwhm_C[valid_C])
        fwhm_C[~(fwhm_C > 0)] = np.nan  # whatever an unusable band says about its width is dropped
        for vector in (centres_C, fwhm_C, valid_C):
            vector.setflags(write=False)
        self.wavelengths_nm: F64 = centres_C
        self.fwhm_nm: F64 = fwhm_C
        self.valid: Bool = valid_C

    @classmethod
    def from_units(
        cls, values: ArrayLike, units: str, fwhm: ArrayLike | None = None, valid: ArrayLike | None = None
    ) -> BandGrid:
        """Build a grid from a list in ``units`` (nm, um / micrometers / microns, cm-1); ``fwhm`` is in the same units.

        Raises:
            SpecfmError: ``units`` is not known (it is never guessed) or the values do not fit it.
        """
        centres_nm_C = to_nm(values, units)
        return cls(centres_nm_C, None if fwhm is None else widths_to_nm(fwhm, units, centres_nm_C), valid)

    def __len__(self) -> int:
        return len(self.wavelengths_nm)

    def __repr__(self) -> str:
        usable = self.wavelengths_nm[self.valid]
        span = f"{usable.min():.1f}-{usable.max():.1f} nm" if len(usable) else "no usable band"
        return f"BandGrid({len(self)} bands, {int(self.valid.sum())} usable, {span})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BandGrid) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def weights(self) -> F64:
        """(C,) quadrature weights: each usable band's share of the wavelength axis; they sum to 1, 0 where unusable.

        A band's cell reaches half-way to its nearest usable neighbours, each half capped at 3 FWHM (unknown FWHM: 3
        times the median spacing), the outermost halves mirrored; bands of equal centre share one cell equally.
        """
        left_C, right_C, ties_C = self._half_cells
        cell_C = np.where(self.valid, (left_C + right_C) / np.maximum(ties_C, 1), 0.0)
        total = cell_C.sum()
        if total > 0:
            return cell_C / total
        return self.valid / max(int(self.valid.sum()), 1)  # a single centre: nothing to weigh against

    @cached_property
    def effective_fwhm_nm(self) -> F64:
        """(C,) FWHM, with the median spacing standing in where it is unknown (NaN if there is no spacing either)."""
        return np.where(np.isfinite(self.fwhm_nm), self.fwhm_nm, _median_spacing(self.wavelengths_nm[self.valid]))

    @cached_property
    def _half_cells(self) -> tuple[F64, F64, NDArray[np.int64]]:
        """Per band: capped distance to the cell's left and right edge (nm) and the number of bands at its centre."""
        centres_C = np.where(self.valid, self.wavelengths_nm, np.inf)
        order = np.sort(centres_C[self.valid])
        first = np.searchsorted(order, centres_C, side="left")
        past = np.searchsorted(order, centres_C, side="right")
        padded = np.concatenate(([-np.inf], order, [np.inf]))
        with np.errstate(invalid="ignore"):
            left_C = (centres_C - padded[first]) / 2
            right_C = (padded[past + 1] - centres_C) / 2
        left_C, right_C = (
            np.where(np.isfinite(left_C), left_C, right_C),
            np.where(np.isfinite(right_C), right_C, left_C),
        )
        cap_C = GAP_CAP_FWHM * np.where(np.isfinite(self.effective_fwhm_nm), self.effective_fwhm_nm, np.inf)
        left_C = np.where(self.valid & np.isfinite(left_C), np.minimum(left_C, cap_C), 0.0)
        right_C = np.where(self.valid & np.isfinite(right_C), np.minimum(right_C, cap_C), 0.0)
        return left_C, right_C, np.where(self.valid, past - first, 0)

    def subset(self, index: ArrayLike) -> BandGrid:
        """Keep the bands of an integer index or boolean mask, in the order given.

        Raises:
            SpecfmError: see :func:`band_index`, or no band is left.
        """
        chosen = band_index(index, len(self))
        if not len(chosen):
            raise SpecfmError("no band is left of the grid; keep at least one")
        return BandGrid(self.wavelengths_nm[chosen], self.fwhm_nm[chosen], self.valid[chosen])

    def merge(self, groups: Sequence[ArrayLike]) -> tuple[BandGrid, F64]:
        """Average groups of bands into virtual bands whose centre and FWHM stay physical.

        Within a group the usable bands are weighted by their quadrature weight a_c; the virtual band has centre
        ``sum a lam`` and the variance of the mixture ``sum a (sigma^2 + (lam - centre)^2)``. A group without a usable
        band becomes an unusable band; a group of one keeps its FWHM as it is, unknown included.

        Returns:
            The merged grid and matrix_KC with ``spectrum_K = matrix_KC @ spectrum_C``.

        Raises:
            SpecfmError: no group, see :func:`band_index`, or a band twice in one group.
        """
        if not len(groups):
            raise SpecfmError("no group of bands to merge; give at least one")
        matrix_KC = np.zeros((len(groups), len(self)))
        centre_K, fwhm_K = np.full(len(groups), np.nan), np.full(len(groups), np.nan)
        for k, group in enumerate(groups):
            members = band_index(group, len(self))
            if len(np.unique(members)) < len(members):
                raise SpecfmError(f"group {k} of bands to merge, {members.tolist()}, names a band twice")
            members = members[self.valid[members]]
            if not len(members):
                continue
            share = self.weights[members] / self.weights[members].sum()
            matrix_KC[k, members] = share
            centre_K[k] = share @ self.wavelengths_nm[members]
            if len(members) == 1:
                fwhm_K[k] = self.fwhm_nm[members[0]]
                continue
            sigma = np.nan_to_num(self.effective_fwhm_nm[members]) * SIGMA_PER_FWHM
            variance = share @ (sigma**2 + (self.wavelengths_nm[members] - centre_K[k]) ** 2)
            fwhm_K[k] = np.sqrt(variance) / SIGMA_PER_FWHM
        return BandGrid(centre_K, fwhm_K, np.isfinite(centre_K)), matrix_KC

    def resample(self, target: BandGrid, min_coverage: float = 0.5) -> tuple[BandGrid, F64]:
        """See this grid's spectra through another sensor's bands, with Gaussian responses.

        The weight of source band c in target band k is the integral of the target's Gaussian over the cell of c. A
        target band of which less than ``min_coverage`` is covered by cells becomes unusable, with a zero row.

        Returns:
            The target grid (``valid`` narrowed) and matrix_KC; rows of usable bands sum to 1.
        """
        from scipy.special import ndtr

        left_C, right_C, ties_C = self._half_cells
        sigma_K = target.effective_fwhm_nm * SIGMA_PER_FWHM
        if not np.all(sigma_K[target.valid] > 0):
            raise SpecfmError("cannot resample to a single band of unknown FWHM; give the target's fwhm_nm")
        usable_KC = target.valid[:, None] & self.valid[None]
        with np.errstate(invalid="ignore"):
            offset_KC = np.where(usable_KC, self.wavelengths_nm[None] - target.wavelengths_nm[:, None], 0.0)
            scale_K1 = np.where(target.valid, sigma_K, 1.0)[:, None]
            mass_KC = ndtr((offset_KC + right_C) / scale_K1) - ndtr((offset_KC - left_C) / scale_K1)
        mass_KC = np.where(usable_KC, mass_KC / np.maximum(ties_C, 1), 0.0)
        covered_K = mass_KC.sum(1)
        keep_K = covered_K >= min_coverage
        matrix_KC = np.where(keep_K[:, None], mass_KC / np.maximum(covered_K, 1e-12)[:, None], 0.0)
        return BandGrid(target.wavelengths_nm, target.fwhm_nm, target.valid & keep_K), matrix_KC

    @cached_property
    def digest(self) -> str:
        """16 hex digits that name this grid: centres and widths to 1e-6 nm, and the usable bands."""
        lists = (np.round(np.nan_to_num(v, nan=-1.0) * 1e6).astype("<i8") for v in (self.wavelengths_nm, self.fwhm_nm))
        return digest_parts([*lists, self.valid.astype(np.uint8)])

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe description (unknown values are None)."""
        return {
            "wavelengths_nm": _jsonable(self.wavelengths_nm),
            "fwhm_nm": _jsonable(self.fwhm_nm),
            "valid": [bool(v) for v in self.valid],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BandGrid:
        """Inverse of :meth:`to_dict`."""
        return cls(data["wavelengths_nm"], data.get("fwhm_nm"), data.get("valid"))


def band_index(bands: ArrayLike | slice, count: int, where: str = "") -> NDArray[np.int64]:
    """(k,) 0-based indices of bands given as integers (negative ones count from the end), a boolean mask or a slice.

    Args:
        bands: which, in the order wanted; none is allowed.
        count: C.
        where: begins the message of an error.

    Raises:
        SpecfmError: an index that does not exist, a mask of another length, or what is neither.
    """
    index = np.arange(count)[bands] if isinstance(bands, slice) else np.asarray(bands)
    if index.dtype == bool:
        if index.shape != (count,):
            raise SpecfmError(f"{where}a band mask has one entry per band ({count}), got shape {index.shape}")
        index = np.flatnonzero(index)
    if index.size == 0:
        return np.empty(0, np.int64)
    if index.dtype.kind not in "iu" or index.ndim > 1:
        raise SpecfmError(f"{where}bands are given as a list of integers, a mask or a slice; got {bands!r}")
    index = np.atleast_1d(index).astype(np.int64)
    index = np.where(index < 0, index + count, index)
    if index.min() < 0 or index.max() >= count:
        raise SpecfmError(f"{where}band index {bands!r} lies outside 0..{count - 1} (Python counts bands from 0)")
    return index


def to_nm(values: ArrayLike, units: str) -> F64:
    """Wavelengths (C,) in nm from a list in ``units``; whether they are sensible is not asked.

    Raises:
        SpecfmError: ``units`` is not known.
    """
    centres_C = _vector(values, "wavelengths")
    if _spelling(units) not in _WAVENUMBER:
        return centres_C * _factor(units)
    with np.errstate(divide="ignore"):
        return 1e7 / centres_C


def widths_to_nm(fwhm: ArrayLike, units: str, centres_nm: F64) -> F64:
    """Widths (C,) in nm from a list in ``units``, of bands at ``centres_nm`` (C,), which wavenumbers need.

    Raises:
        SpecfmError: ``units`` is not known, or (for wavenumbers) the lists differ in length.
    """
    fwhm_C = _vector(fwhm, "FWHM")
    if _spelling(units) not in _WAVENUMBER:
        return fwhm_C * _factor(units)
    if len(fwhm_C) != len(centres_nm):
        raise SpecfmError(f"{len(centres_nm)} wavelengths but {len(fwhm_C)} FWHM values; give one per band")
    with np.errstate(invalid="ignore"):
        return fwhm_C * centres_nm**2 / 1e7  # d(lambda) = lambda^2 / 1e7 d(wavenumber)


def _factor(units: str) -> float:
    try:
        return _NM_PER_UNIT[_spelling(units)]
    except KeyError:
        raise SpecfmError(f"unknown wavelength unit {units!r}; give nm, um or cm-1 (units are never guessed)") from None


def _spelling(units: str) -> str:
    """A unit as the tables above write it; files also write ``[nm]`` and ``(nm)``."""
    return units.strip().strip("[]()").strip().lower()


def _vector(values: ArrayLike, name: str) -> F64:
    try:
        raw = [np.nan if v is None else v for v in values] if isinstance(values, list | tuple) else values
        vector = np.array(raw, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise SpecfmError(f"{name} must be a list of numbers ({error})") from None
    if not len(vector):
        raise SpecfmError(f"the list of {name} is empty; give one value per band")
    return vector


def _check_centres(centres_C: F64, valid_C: NDArray[np.bool_]) -> None:
    centres = centres_C[valid_C]
    if not np.all(np.isfinite(centres)):
        bad = int(np.flatnonzero(valid_C & ~np.isfinite(centres_C))[0]) + 1
        raise SpecfmError(
            f"wavelength of band {bad} of {len(centres_C)} (from 1) is not a number; mark the band bad or mend it"
        )
    if len(centres) and (centres.min() < MIN_NM or centres.max() > MAX_NM):
        low, high = centres.min(), centres.max()
        hint, likely = "", None
        for looks, unit, factor in (("micrometres", "um", 1e3), ("nanometres", "nm", 1e-3)):
            if low * factor >= 100 and high * factor <= 1e5:
                hint, likely = f" (they look like {looks})", unit
        raise UnitsError(
            f"wavelengths {low:g}-{high:g} nm are outside {MIN_NM:g}-{MAX_NM:g} nm{hint}; check their units", likely
        )


def _check_fwhm(centres: F64, fwhm: F64) -> None:
    known = np.isfinite(fwhm)
    if not known.any():
        return
    if np.any(fwhm[known] < 0) or np.any(np.isinf(fwhm)):
        raise SpecfmError("FWHM must be positive; use 0 or NaN where it is unknown")
    if np.any(fwhm[known] > centres[known]):
        raise SpecfmError(f"FWHM up to {fwhm[known].max():g} nm exceeds its band centre; check the FWHM units")
    spacing, width = _median_spacing(centres), float(np.median(fwhm[known]))
    # A comb this sparse is no instrument: micrometre widths beside nanometre centres are 1,000 times too narrow.
    if width < 1.0 and spacing > 100 * width:
        raise SpecfmError(f"FWHM near {width:g} nm at {spacing:g} nm spacing looks like micrometres; check its units")


def _median_spacing(centres: F64) -> float:
    """Median distance between neighbouring distinct centres (nm); NaN for fewer than two."""
    distinct = np.unique(centres[np.isfinite(centres)])
    return float(np.median(np.diff(distinct))) if len(distinct) > 1 else float("nan")


def _jsonable(vector: F64) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in vector]
