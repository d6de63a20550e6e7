"""Tags of a raster: band lists and radiometry, under the spellings that tools have for them.

Shapes: C bands.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.readers.band_lists import BandList
from specfm.readers.found import Found
from specfm.readers.unused import note_unused

log = logging.getLogger(__name__)

_NO_UNITS = ("", "unknown")
_NODATA = ("data ignore value", "nodata", "no data value", "nodata value", "missing value", "fillvalue")
_SCALE = ("scale factor", "scale")
_OFFSET = ("add offset", "offset")
_DIVIDES = "reflectance scale factor"


def tags_of(raster: Any, band: int = 0) -> dict[str, str]:
    """Tags of the dataset or a band under lower-case keys with spaces; the more specific domain wins."""
    merged: dict[str, str] = {}
    spaces = set(raster.tag_namespaces(band) if band else raster.tag_namespaces())
    for space in (None, "ENVI", "IMAGERY"):
        if space is None or space in spaces:
            tags = raster.tags(band, ns=space) if band else raster.tags(ns=space)
            merged.update({key.lower().replace("_", " ").strip(): value for key, value in tags.items()})
    return merged


def radiometry(band_tags: list[dict[str, str]], file_tags: dict[str, str], found: Found) -> None:
    """Nodata, scale and offset in tags of each band, or of the file for all, where the file's own fields are silent.

    ``reflectance scale factor`` divides, as in ENVI; ``scale factor`` and ``add offset`` are those of netCDF. What is
    no number, or may mean another thing (a scale above 1, an ``offset`` alone), is named and not used.
    """
    stated = [{**file_tags, **tags} for tags in band_tags]
    used: set[str] = set()
    if found.nodata is None and found.fills_C is None:
        used |= _nodata(stated, found)
    if found.gains is None:
        used |= _calibration(stated, found)
    values: dict[str, dict[str, None]] = {}
    for tags in stated:
        for key, text in tags.items():
            values.setdefault(key, {})[text] = None
    note_unused(found.path, {key: " / ".join(each) for key, each in values.items()}, used)


def _nodata(stated: list[dict[str, str]], found: Found) -> set[str]:
    """Take the values that mean "not measured"; which keys were used."""
    used, alike = set(), []
    for key in _NODATA:
        values = [_plain_number(tags.get(key)) for tags in stated]
        known = [value for value in values if value is not None]
        if not known or any(key in tags and value is None for tags, value in zip(stated, values, strict=True)):
            continue
        if len(known) == len(values) and len({repr(value) for value in known}) == 1:
            alike += known[:1]
        elif found.fills_C is None:  # one list is kept of values that differ between bands
            found.state_nodata(values)
        else:
            continue
        used.add(key)
    if alike:
        found.nodata, *more = {repr(value): value for value in alike}.values()
        found.fills = tuple(more)
    return used


def _calibration(stated: list[dict[str, str]], found: Found) -> set[str]:
    """Take scale and offset, of all bands alike or of each; which keys were used."""
    count = len(stated)

    def column(key: str, silent: float) -> NDArray[np.float64] | None:
        """(C,) numbers, ``silent`` where a band says nothing; None where none does or one is no number."""
        if not any(key in tags for tags in stated):
            return None
        values = [_plain_number(tags.get(key, repr(silent))) for tags in stated]
        return None if None in values else np.array(values, np.float64)

    used = set()
    scale_C, offset_C = np.ones(count), np.zeros(count)
    if (factor_C := column(_DIVIDES, 1.0)) is not None:
        if not (factor_C > 0).all():
            wrong = factor_C[~(factor_C > 0)][0]
            raise SpecfmError(f"{found.path}: reflectance scale factor must be positive, got {wrong:g}; mend the tag")
        scale_C = 1.0 / factor_C
        used.add(_DIVIDES)
    else:
        scale = next((key for key in _SCALE if any(key in tags for tags in stated)), None)
        # a number above 1 may be meant to divide
        if scale and (column_C := column(scale, 1.0)) is not None and ((column_C > 0) & (column_C <= 1)).all():
            scale_C = column_C
            used.add(scale)
        offset = next((key for key in _OFFSET if any(key in tags for tags in stated)), None)
        trusted = scale in used or (scale is None and offset == _OFFSET[0])
        if offset and trusted and (column_C := column(offset, 0.0)) is not None:
            offset_C = column_C
            used.add(offset)
    if not used:
        return used
    found.calibrated_by = found.path
    if (scale_C == scale_C[0]).all() and (offset_C == offset_C[0]).all():
        found.scale = float(scale_C[0])
        found.offset = float(offset_C[0]) if used & set(_OFFSET) else None
    else:
        found.gains = (scale_C, offset_C)
    return used


def _plain_number(text: str | None) -> float | None:
    """A number, None where the text is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def lists_of_bands(band_tags: list[dict[str, str]], file_tags: dict[str, str], found: Found) -> list[BandList]:
    """What the tags of the bands state, in micrometres by their name or in units of their own or of the file."""

    def column(key: str, needed: bool = True) -> np.ndarray | None:
        if not (all if needed else any)(key in tags for tags in band_tags):
            return None
        return np.array([_number(tags.get(key, "nan"), found) for tags in band_tags])

    good = column("bbl")
    if found.valid is None and good is not None:
        found.valid = good != 0
    place, lists = "the tags of its bands", []
    if (centre_C := column("central wavelength um")) is not None:
        lists.append(BandList(place, centre_C, "um", column("fwhm um", needed=False)))
    if (centre_C := column("wavelength")) is not None:
        said = {tags.get("wavelength units", tags.get("wavelength unit", "")).strip() for tags in band_tags}
        units = _units(" / ".join(sorted(said))) or _units(file_tags.get("wavelength units", ""))
        lists.append(BandList(place, centre_C, units, column("fwhm", needed=False)))
    return lists


def lists_of_file(tags: dict[str, str], found: Found) -> tuple[list[BandList], str | None]:
    """What lists in the tags of the whole file state, and what is wrong with one of another length."""
    problem, count = None, found.source.shape[2]
    columns: dict[str, np.ndarray | None] = {}
    for key in ("wavelength", "fwhm", "bbl"):
        values = [_number(item, found) for item in items(tags, key)]
        if values and len(values) != count:  # left over from before bands were taken out, say
            problem = f"tag {key!r} has {len(values)} values but the file has {count} bands"
            log.warning("%s: %s; it is not used", found.path, problem)
        columns[key] = np.array(values) if len(values) == count else None
    if found.valid is None and columns["bbl"] is not None:
        found.valid = columns["bbl"] != 0
    if columns["wavelength"] is None and columns["fwhm"] is None:
        return [], problem
    units = _units(tags.get("wavelength units", ""))
    return [BandList("the tags of the file", columns["wavelength"], units, columns["fwhm"])], problem


def items(tags: dict[str, str], key: str) -> list[str]:
    """The items of a list in a tag, with or without braces; empty where there is no such tag."""
    text = tags.get(key, "").strip().strip("{}").replace(";", ",")
    return [item for item in text.split(",") if item.strip()]


def _units(text: str) -> str | None:
    return None if text.strip().lower() in _NO_UNITS else text.strip()


def _number(text: str, found: Found) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecfmError(f"{found.path}: a band tag holds {text.strip()!r}, which is not a number") from None
