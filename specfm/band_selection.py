"""Which bands of a sensor are used: a text (``uniform:20``) or mapping (``{uniform: 20}``) for shards, runs, probes.

=================== =================================================================================================
rgb                 the bands nearest to 650, 550 and 450 nm, in this order
sample:1-9,40       these bands by their 1-based numbers (as in dataset cards), in this order
uniform:20          20 usable bands evenly spaced in nm over the sensor's range
regions             4 bands evenly spaced in nm within each region that the sensor sees; ``regions:n``: n of each
regions:blue,red    every usable band of these regions (:data:`REGIONS`)
window:400-700      every usable band of a range in nm
importance:20       the 20 bands that tell most of the pixels' first 20 principal components
pca:20              20 principal components in place of bands: no wavelengths, so not for encoders that are told them
=================== =================================================================================================

Scenes with the chosen bands only: :mod:`specfm.selected_scene`.

Shapes: C bands of a sensor, K chosen ones, M pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.limits import excess

RGB_NM = (650.0, 550.0, 450.0)
RGB_WITHIN_NM = 40.0  # a band farther away is another colour
# [from, to) nm. Ultraviolet to near infrared as the 408-band specimen scans are divided (there to 809 nm).
REGIONS: dict[str, tuple[float, float]] = {
    "uv": (300.0, 400.0),
    "blue": (400.0, 480.0),
    "green": (480.0, 550.0),
    "red": (550.0, 650.0),
    "nir": (650.0, 1000.0),
    "swir1": (1000.0, 1800.0),
    "swir2": (1800.0, 2600.0),
}
PER_REGION = 4
FORMS = "rgb, sample:1-9,40, uniform:N, regions, regions:N, regions:blue,red, window:LOW-HIGH, importance:N or pca:N"
NO_COMPONENTS = (
    "pca makes components without wavelengths, which {what}; choose bands instead: importance:N takes those that tell "
    "most of the first N components, uniform:N and regions keep the range"
)


@dataclass(frozen=True)
class BandSelection:
    """A choice of bands that any sensor can be asked for.

    Attributes:
        kind: first word of the text.
        count: of bands (of each region, of components), where the kind has one.
        numbers: 1-based, of kind ``sample``.
        names: of regions.
        window_nm: of kind ``window``.
    """

    kind: str
    count: int | None = None
    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    window_nm: tuple[float, float] | None = None

    @classmethod
    def parse(cls, given: Any) -> BandSelection:
        """Read a text or a mapping of one key (see the module).

        Raises:
            UsageError: neither, or a value that its kind cannot have.
        """
        if isinstance(given, BandSelection):
            return given
        kind, value = _kind_and_value(given)
        if kind == "rgb" and value is None:
            return cls(kind)
        if kind == "sample" and value is not None:
            return cls(kind, numbers=_numbers(value))
        if kind in ("uniform", "importance", "pca") and (count := _count(value)) is not None:
            return cls(kind, count)
        if kind == "window" and (ends := _ends(value)) is not None:
            return cls(kind, window_nm=ends)
        if kind == "regions":
            if value is None or (count := _count(value)) is not None:
                return cls(kind, PER_REGION if value is None else count)
            names = tuple(str(name).strip().lower() for name in _listed(value))
            if unknown := [name for name in names if name not in REGIONS]:
                raise UsageError(f"unknown region {unknown[0]!r} of bands; one of {', '.join(REGIONS)}")
            return cls(kind, names=tuple(dict.fromkeys(names)))
        raise UsageError(f"bands are chosen by {FORMS}, not {given!r}")

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        if self.window_nm is not None:
            value = f"{self.window_nm[0]:.10g}-{self.window_nm[1]:.10g}"
        else:
            value = ",".join(map(str, self.numbers or self.names)) or str(self.count or "")
        return f"{self.kind}:{value}" if value else self.kind

    @property
    def is_fitted(self) -> bool:
        """Whether it depends on pixels, not on wavelengths alone."""
        return self.kind in ("importance", "pca")

    def indices(self, bands: BandGrid, pixels_MC: NDArray[Any] | None = None, where: str = "") -> NDArray[np.int64]:
        """0-based indices (K,) into ``bands``; in the order asked for (rgb, sample), else in that of the grid.

        Args:
            bands: of the sensor. Unusable ones are chosen by ``sample`` only.
            pixels_MC: physical values that ``importance`` is fitted on; training data.
            where: begins the message of an error.

        Raises:
            UsageError: the sensor does not have what is asked for, components are asked for, pixels are missing.
        """
        usable = np.flatnonzero(bands.valid)
        centres = bands.wavelengths_nm[usable]
        begin = f"{where}: " if where else ""
        if not len(usable):
            raise UsageError(f"{begin}no band is usable, so none can be chosen")
        if self.kind == "sample":
            return self._sampled(len(bands), begin)
        if self.kind == "rgb":
            return usable[_colours(centres, begin)]
        if self.kind == "uniform":
            return usable[_evenly(centres, self.count or 1, begin)]
        if self.kind == "window":
            assert self.window_nm is not None
            low, high = self.window_nm
            found = usable[(centres >= low) & (centres <= high)]
            if not len(found):
                raise UsageError(
                    f"{begin}no usable band lies in {low:g}-{high:g} nm; the sensor sees {span_text(centres)}"
                )
            return found
        if self.kind == "regions":
            return np.sort(np.concatenate([usable[place] for place in self._by_region(centres, begin)]))
        if self.kind == "importance":
            if pixels_MC is None:
                raise UsageError(f"{begin}bands by importance are fitted on pixels; give some of the training data")
            return usable[_important(np.asarray(pixels_MC)[:, usable], self.count or 1, begin)]
        raise UsageError(begin + NO_COMPONENTS.format(what="leave no bands to choose"))

    def _sampled(self, count: int, begin: str) -> NDArray[np.int64]:
        if max(self.numbers) > count:
            raise UsageError(f"{begin}there is no band {max(self.numbers)} among {count} (1-based numbers)")
        return np.array(self.numbers, np.int64) - 1

    def _by_region(self, centres: NDArray[np.float64], begin: str) -> list[NDArray[np.int64]]:
        found = []
        for name in self.names or tuple(REGIONS):
            low, high = REGIONS[name]
            inside = np.flatnonzero((centres >= low) & (centres < high))
            if not len(inside):
                if self.names:
                    raise UsageError(
                        f"{begin}no usable band lies in {name}, {low:g}-{high:g} nm; {span_text(centres)} do"
                    )
                continue
            few = inside if self.count is None else inside[_evenly(centres[inside], min(self.count, len(inside)), "")]
            found.append(few)
        if not found:
            raise UsageError(f"{begin}no region of {', '.join(REGIONS)} lies in {span_text(centres)}; choose by window")
        return found


# a key of a configuration: text or mapping, kept as text
BandsText = Annotated[str, BeforeValidator(lambda given: str(BandSelection.parse(given)))]


def _kind_and_value(given: Any) -> tuple[str, Any]:
    if isinstance(given, Mapping) and len(given) == 1:
        kind, value = next(iter(given.items()))
        return str(kind).lower(), None if value is True else value
    if isinstance(given, str):
        kind, _, value = given.strip().partition(":")
        return kind.strip().lower(), value.strip() or None
    raise UsageError(f"bands are chosen by {FORMS}, not {given!r}")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else str(value).split(",")


def _numbers(value: Any) -> tuple[int, ...]:
    numbers: list[int] = []
    for piece in _listed(value):
        match = re.fullmatch(r"\s*([0-9]{1,12})\s*(?:-\s*([0-9]{1,12})\s*)?", str(piece))
        first, last = (0, 0) if match is None else (int(match[1]), int(match[2] or match[1]))
        if first < 1 or last < first:
            raise UsageError(f"bands to sample are 1-based numbers and ranges such as 1-9,40, not {piece!r}")
        if words := excess("bands", last):
            raise UsageError(f"bands to sample go up to {last}; {words}")
        numbers += range(first, last + 1)
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"bands to sample name a band twice: {value!r}")
    return tuple(numbers)


def _count(value: Any) -> int | None:
    whole = re.fullmatch(r"\d+", str(value).strip()) if not isinstance(value, bool | list | tuple) else None
    return int(whole[0]) if whole and int(whole[0]) >= 1 else None


def _ends(value: Any) -> tuple[float, float] | None:
    pieces = value if isinstance(value, list | tuple) else str(value).split("-")
    try:
        low, high = (float(piece) for piece in pieces)
    except (TypeError, ValueError):
        return None
    return (low, high) if low <= high else None


def span_text(centres: NDArray[np.float64]) -> str:
    """From where to where, for a message."""
    return f"{centres.min():.0f}-{centres.max():.0f} nm"


def _colours(centres: NDArray[np.float64], begin: str) -> NDArray[np.int64]:
    gap_3K = np.abs(np.array(RGB_NM)[:, None] - centres)
    near_3 = gap_3K.argmin(1)
    if gap_3K.min(1).max() > RGB_WITHIN_NM or len(set(near_3.tolist())) < 3:
        raise UsageError(
            f"{begin}no bands near {', '.join(f'{nm:g}' for nm in RGB_NM)} nm for red, green and blue; the sensor sees "
            f"{span_text(centres)} (sample:I,J,K takes any three)"
        )
    return near_3


def _evenly(centres: NDArray[np.float64], count: int, begin: str) -> NDArray[np.int64]:
    """Places (count,) of distinct bands nearest to evenly spaced wavelengths; ends included, one band is the middle."""
    if count > len(centres):
        raise UsageError(f"{begin}{count} bands are asked for, {len(centres)} are usable")
    low, high = centres.min(), centres.max()
    left = np.ones(len(centres), bool)
    for target in np.linspace(low, high, count) if count > 1 else [(low + high) / 2]:
        left[np.where(left, np.abs(centres - target), np.inf).argmin()] = False
    return np.flatnonzero(~left)


def _important(pixels_MK: NDArray[Any], count: int, begin: str) -> NDArray[np.int64]:
    """Bands from which the first ``count`` principal components are told best.

    Of all bands only some can be told apart by the size of their loadings, since neighbours load alike: pivoting takes
    the largest one, then the largest of what it does not tell (QR with column pivoting of the loadings, each component
    times its deviation; Golub and Van Loan, Matrix Computations, 5.5.7: subset selection).
    """
    from scipy.linalg import qr

    spectra_MK = np.asarray(pixels_MK, np.float64)
    spectra_MK = spectra_MK[np.isfinite(spectra_MK).all(1)]
    if count > min(len(spectra_MK) - 1, spectra_MK.shape[1]):
        raise UsageError(
            f"{begin}{count} bands by importance need more than {count} pixels and as many bands; there are "
            f"{len(spectra_MK)} and {spectra_MK.shape[1]}"
        )
    _, deviation, axes_KK = np.linalg.svd(spectra_MK - spectra_MK.mean(0), full_matrices=False)
    _, _, order_K = qr(deviation[:count, None] * axes_KK[:count], mode="economic", pivoting=True)
    return np.sort(order_K[:count]).astype(np.int64)
