"""Tags of a raster: band lists and radiometry, under the spellings that tools have for them.

Shapes: C bands.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.band_lists import BandList
from specfm.readers.found import Found
from specfm.readers.unused import note_unused

log = logging.getLogger(__name__)

_NO_UNITS = ("", "unknown")
_NODATA = ("data ignore value", "nodata", "no data value", "nodata value", "missing value", "fillvalue")
_SCALE = ("scale factor", "scale")
_OFFSET = ("add offset", "offset")


def tags_of(raster: Any, band: int = 0) -> dict[str, str]:
    """Tags of the dataset or a band under lower-case keys with spaces; the more specific domain wins."""
    merged: dict[str, str] = {}
    spaces = set(raster.tag_namespaces(band) if band else raster.tag_namespaces())
    for space in (None, "ENVI", "IMAGERY"):
        if space is None or space in spaces:
            tags = raster.tags(band, ns=space) if band else raster.tags(ns=space)
            merged.update({key.lower().replace("_", " ").strip(): value for key, value in tags.items()})
    return merged


def radiometry(tags: dict[str, str], found: Found) -> None:
    """Nodata, scale and offset in tags of the file, or of all its bands alike, where its own fields are silent.

    ``reflectance scale factor`` divides, as in ENVI; ``scale factor`` and ``add offset`` are those of netCDF.
    """
    used = set()
    keys = [key for key in _NODATA if key in tags]
    if keys and found.nodata is None and found.fills_C is None:
        found.nodata, *more = dict.fromkeys(_number(tags[key], found) for key in keys)
        found.fills = tuple(more)
        used.update(keys)
    if found.gains is None and "reflectance scale factor" in tags:
        factor = _number(tags["reflectance scale factor"], found)
        if not factor > 0:
            raise SpecfmError(f"{found.path}: reflectance scale factor must be positive, got {factor:g}; mend the tag")
        found.scale = 1.0 / factor
        used.add("reflectance scale factor")
    elif found.gains is None:
        scale, offset = (next((key for key in keys if key in tags), None) for keys in (_SCALE, _OFFSET))
        # a number above 1 may be meant to divide: it is named and not used
        if scale is not None and 0 < (factor := _number(tags[scale], found)) <= 1:
            found.scale = factor
            used.add(scale)
        if offset is not None and (scale is None or scale in used):
            found.offset = _number(tags[offset], found)
            used.add(offset)
    note_unused(found.path, tags, used)


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
