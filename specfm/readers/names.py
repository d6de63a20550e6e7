"""Wavelengths in the names of bands: ``band 8 (0.46 Micrometers)``, ``Blue (465-515 nm)``, ``490 nm (fwhm 50 nm)``.

What is left where a tool kept the names of bands but not their wavelengths. A range means its middle; it is no FWHM,
since nobody says where its ends were taken. A name that can be read in two ways is not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from specfm.bands import MIN_NM, to_nm
from specfm.readers.band_lists import BandList

_NUMBER = r"\d+(?:[.,]\d+)?"
_UNIT = r"(?:nm|[uµμ]m|nanomet(?:er|re)s?|micromet(?:er|re)s?|microns?)\b"
_TO = r"(?:-|[\u2010-\u2015\u2212~]|\.{2,3}|\u2026|\bto\b|\band\b|\bbis\b)"
_WIDTH_WORD = r"(?:fwhm|bandwidth|band\s+width|width|bw)"
_BEFORE = r"(?<![\w.,])"  # a number begins here: not the end of another one or of a word
_WIDTHS = (
    re.compile(rf"{_WIDTH_WORD}\s*(?:of\b|[:=])?\s*(?P<width>{_NUMBER})\s*(?P<unit>{_UNIT})", re.IGNORECASE),
    re.compile(rf"{_BEFORE}(?P<width>{_NUMBER})\s*(?P<unit>{_UNIT})\s*{_WIDTH_WORD}\b", re.IGNORECASE),
)
_RANGE = re.compile(
    rf"{_BEFORE}(?P<low>{_NUMBER})\s*(?P<unit1>{_UNIT})?\s*{_TO}\s*(?P<high>{_NUMBER})\s*(?P<unit2>{_UNIT})",
    re.IGNORECASE,
)
_BARE_RANGE = re.compile(
    rf"(?:^|[(\[])\s*(?P<low>{_NUMBER})\s*{_TO}\s*(?P<high>{_NUMBER})\s*(?:$|[)\]])", re.IGNORECASE
)
_AROUND = re.compile(
    rf"{_BEFORE}(?P<centre>{_NUMBER})\s*(?P<unit1>{_UNIT})?\s*(?:±|\+/-|\+-)\s*{_NUMBER}\s*(?P<unit2>{_UNIT})",
    re.IGNORECASE,
)
_SINGLE = re.compile(rf"{_BEFORE}(?P<centre>{_NUMBER})\s*(?P<unit>{_UNIT})", re.IGNORECASE)
_JOINED = re.compile(r"\d\s*/\s*$")  # 490/20 nm: a filter's centre and width, or two wavelengths
_COUNTED = re.compile(r"(?:\b(?:band|channel|ch|bd|no|nr|number)\.?|#)\s*$", re.IGNORECASE)


class _Said(NamedTuple):
    """What one name says; ``low`` and ``high`` are equal where it is no range."""

    low: float
    high: float
    unit: str | None
    width: float | None  # FWHM in the same unit


def says_wavelength(name: str | None) -> bool:
    """Whether the name of a band states a wavelength with its unit."""
    said = _read(name or "", None)
    return said is not None and said.unit is not None


def from_names(place: str, names: Sequence[str | None]) -> BandList | None:
    """Centres, ranges and FWHM that the names of all bands state; None where a name states nothing clear.

    Units are None where the names are ranges without a unit, ``B1 (490 - 510)``.
    """
    said = [_read(name or "", band) for band, name in enumerate(names, 1)]
    known = [each for each in said if each is not None]
    if not known or len(known) < len(said):
        return None
    units = {None if each.unit is None else _length(each.unit) for each in known}
    if len(units) > 1 and None in units:
        return None
    unit = known[0].unit
    factors = np.ones(len(known))
    if len(units) > 1:  # nanometres for some bands, micrometres for others
        factors = np.array([to_nm([1.0], str(each.unit))[0] for each in known])
        unit = "nm"
    low, high = (np.array([getattr(each, end) for each in known]) * factors for end in ("low", "high"))
    half_C = (high - low) / 2 if (low < high).all() else None
    widths = [each.width for each in known]
    width_C = None if any(width is None for width in widths) else np.array(widths, np.float64) * factors
    return BandList(place, (low + high) / 2, unit, width_C, half_ranges_C=half_C)


def _length(unit: str) -> float:
    return float(to_nm([1.0], unit)[0])


def _read(name: str, band: int | None) -> _Said | None:
    """What a name says; ``band`` is the number of its band, from 1, which may stand in its name."""
    width = None
    found = next((match for match in (pattern.search(name) for pattern in _WIDTHS) if match), None)
    if found:
        width = _number(found["width"]), found["unit"]
        name = name[: found.start()] + " " + name[found.end() :]
    said = _centre(name, band)
    if said is None or width is None:
        return said
    if said.unit is None or width[0] is None or _length(said.unit) != _length(width[1]):
        return said
    return said._replace(width=width[0])


def _centre(name: str, band: int | None) -> _Said | None:
    found = _RANGE.search(name) or _BARE_RANGE.search(name)
    if found:
        return _range(name, found, band)
    found = _AROUND.search(name)
    if found:
        centre = _number(found["centre"])
        same = found["unit1"] is None or _length(found["unit1"]) == _length(found["unit2"])
        return None if centre is None or not same else _Said(centre, centre, found["unit2"], None)
    singles = list(_SINGLE.finditer(name))
    if len(singles) != 1 or _JOINED.search(name[: singles[0].start()]):
        return None
    centre = _number(singles[0]["centre"])
    return None if centre is None else _Said(centre, centre, singles[0]["unit"], None)


def _range(name: str, found: re.Match[str], band: int | None) -> _Said | None:
    parts = found.groupdict()
    low, high, unit = _number(found["low"]), _number(found["high"]), parts.get("unit2")
    if low is None or high is None or _SINGLE.search(name[: found.start()] + " " + name[found.end() :]):
        return None
    if unit is not None and parts["unit1"] is None:
        # "Band 8 - 842 nm", "8 - 842 nm": a number of the band before its wavelength
        if _COUNTED.search(name[: found.start()]) or low * to_nm([1.0], unit)[0] < MIN_NM:
            return _Said(high, high, unit, None)
        if band is not None and found["low"] in (str(band), str(band - 1)):
            return None
    alike = parts.get("unit1") is None or _length(str(parts["unit1"])) == _length(str(unit))
    return _Said(low, high, unit, None) if low < high and alike else None


def _number(text: str) -> float | None:
    """A number, with a comma as decimal sign where it can be nothing else (``1,450`` may be a thousand)."""
    if "," in text:
        whole, part = text.split(",")
        if len(part) == 3 and whole != "0":
            return None
        text = f"{whole}.{part}"
    return float(text)
