"""Files beside a GeoTIFF that carry its band metadata: ENVI headers, STAC-like JSON, METADATA.XML of EnMAP and DESIS.

STAC states centres and widths in micrometres. EnMAP and DESIS state nanometres, in
one element per band.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.band_lists import BandList
from specfm.readers.found import Found

log = logging.getLogger(__name__)


def read_header_beside(path: Path, found: Found) -> list[BandList]:
    """What an ENVI header beside a TIFF (``x.hdr``, ``x.tif.hdr``) states of it; scale and nodata where it is silent.

    A header of another size describes something else, and is told.
    """
    from specfm.readers.envi import find_header, read_described

    side = find_header(path)
    if side is None:
        return []
    described = read_described(side, found.source)
    if described is None:
        log.warning("%s: the header beside it, %s, has another size; it is not used", path, side.name)
        return []
    _fill_silent(found, described, side)
    if described.wavelengths is None:
        return []
    widths = None if described.fwhm is None else np.asarray(described.fwhm, np.float64)
    centre_C = np.asarray(described.wavelengths, np.float64)
    return [BandList(f"the header {side.name}", centre_C, described.units, widths, file=side)]


def read_stac(path: Path, found: Found) -> list[BandList]:
    """What ``x.stac.json``, ``x.json`` or ``x.tif.json`` says of every band: centres, widths, scale, offset, nodata.

    Extensions eo and raster, versions 1 and 2, and the ``bands`` of STAC 1.1. The asset whose ``href`` is this file is
    asked first.

    Raises:
        SpecfmError: the item is not readable, and the file itself has no other list to offer.
    """
    for name in (f"{path.stem}.stac.json", f"{path.stem}.json", f"{path.name}.json"):
        side = path.with_name(name)
        if not side.is_file():
            continue
        try:
            document = json.loads(side.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError, RecursionError) as error:
            raise SpecfmError(f"{side}: not readable as JSON ({error}); mend it or move it away") from None
        count = found.source.shape[2]
        nodes = [rows for rows in _band_rows(document, path.name) if len(rows) == count]
        for rows in nodes:
            _fill_silent(found, _stated_radiometry(rows, found), side)
        for rows in nodes:
            centres = [_get(row, "center_wavelength") for row in rows]
            if all(value is not None for value in centres):
                widths = np.array([_get(row, "full_width_half_max") for row in rows], np.float64)  # None becomes NaN
                return [BandList(f"the item {side.name}", np.array(centres, np.float64), "um", widths, file=side)]
    return []


def _fill_silent(found: Found, described: Found, side: Path) -> None:
    """Take validity, nodata, scale, offset and exposure that the file itself does not state; what differs is told."""
    if found.valid is None:
        found.valid = described.valid
    if found.nodata is None:
        found.nodata = described.nodata
    elif described.nodata is not None and not np.array_equal(found.nodata, described.nodata, equal_nan=True):
        log.info("%s: says nodata %g, the file %g; that of the file is used", side, described.nodata, found.nodata)
    silent = found.gains is None and found.scale is None and found.offset is None
    stated = described.gains is not None or described.scale is not None or described.offset is not None
    if silent:
        found.gains, found.scale, found.offset = described.gains, described.scale, described.offset
    elif stated and not _same_calibration(found, described):
        log.info("%s: says another scale or offset than the file; those of the file are used", side)
    for key, value in described.scene_fields.items():
        if found.scene_fields.get(key) is None:
            found.scene_fields[key] = value
    if found.gains is not None or found.scale is not None or found.offset is not None:
        found.scene_fields.pop("saturation", None)  # a limit of counts, and these are none


def _same_calibration(one: Found, other: Found) -> bool:
    def gains(found: Found) -> tuple[np.ndarray, np.ndarray]:
        if found.gains is not None:
            return found.gains
        alone = np.ones(found.source.shape[2])
        return alone * (1.0 if found.scale is None else found.scale), alone * (found.offset or 0.0)

    return all(np.allclose(mine, theirs) for mine, theirs in zip(gains(one), gains(other), strict=True))


def _stated_radiometry(rows: list[dict[str, Any]], found: Found) -> Found:
    """Scale, offset and nodata of all bands as a Found of their own."""
    said = Found(source=found.source, path=found.path)
    scales, offsets = ([_get(row, key) for row in rows] for key in ("scale", "offset"))
    if any(value is not None for value in (*scales, *offsets)):
        scale_C = np.array([1.0 if value is None else value for value in scales])
        said.gains = (scale_C, np.array([value or 0.0 for value in offsets]))
    nodata = {_nodata(row) for row in rows} - {None}
    if len(nodata) == 1:
        said.nodata = float(str(nodata.pop()))
    return said


def _nodata(row: dict[str, Any]) -> str | None:
    """As text, so that NaN equals NaN; STAC writes those that JSON lacks as words."""
    value = row.get("nodata", row.get("raster:nodata"))
    if isinstance(value, str):
        return value if value in ("nan", "inf", "-inf") else None
    return repr(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _band_rows(document: Any, file_name: str) -> list[list[dict[str, Any]]]:
    """Lists of bands wherever they stand in an item, those of the asset of this file first.

    The lists of one node (``eo:bands``, ``raster:bands``, ``bands``) are put together band by band; what the node says
    of all its bands (``nodata``, ``raster:scale``) goes to each.
    """
    found: list[tuple[bool, list[dict[str, Any]]]] = []

    def walk(node: Any, depth: int = 0) -> None:
        if depth > 20:
            return
        if isinstance(node, list):
            for value in node:
                walk(value, depth + 1)
        if not isinstance(node, dict):
            return
        lists = [node[key] for key in ("eo:bands", "raster:bands", "bands") if _is_rows(node.get(key))]
        own = str(node.get("href", "")).rpartition("/")[2] == file_name
        shared = {key: node[key] for key in ("nodata", "raster:scale", "raster:offset") if key in node}
        for count in dict.fromkeys(len(rows) for rows in lists):
            same = [rows for rows in lists if len(rows) == count]
            merged = [{**shared, **{k: v for rows in same for k, v in rows[i].items()}} for i in range(count)]
            found.append((own, merged))
        for key, value in node.items():
            if key not in ("eo:bands", "raster:bands", "bands"):
                walk(value, depth + 1)

    walk(document)
    return [rows for _, rows in sorted(found, key=lambda each: not each[0])]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _get(band: dict[str, Any], key: str) -> float | None:
    value = next((band[name] for name in (key, f"eo:{key}", f"raster:{key}") if name in band), None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def find_mission_xml(path: Path) -> Path | None:
    """The METADATA.XML of a mission's spectral image: ``...-SPECTRAL_IMAGE.TIF`` beside ``...-METADATA.XML``."""
    match = re.fullmatch(r"(.*)SPECTRAL_IMAGE.*", path.stem, flags=re.IGNORECASE)
    if not match:
        return None
    wanted = f"{match[1]}METADATA.XML".lower()
    return next((entry for entry in sorted(path.parent.iterdir()) if entry.name.lower() == wanted), None)


def read_mission_xml(path: Path, found: Found) -> None:
    """Take band centres, widths, gains and offsets, mission and level from a METADATA.XML beside the image.

    It beats the tags of the TIFF: the mission's own statement is the more complete one.
    """
    side = find_mission_xml(path)
    if side is None:
        return
    text = side.read_text(encoding="utf-8", errors="replace")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SpecfmError(f"{side}: declares XML entities, which mission metadata never do; not read")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise SpecfmError(f"{side}: not readable as XML ({error}); copy it again") from None
    bands = [node for node in root.iter() if any(_tag(child) == "wavelengthCenterOfBand" for child in node)]
    if not bands:
        return
    rows = [{_tag(child): (child.text or "").strip() for child in node} for node in bands]
    count = found.source.shape[2]
    if len(rows) > count and path.stem.upper().endswith(("_VNIR", "_SWIR")):
        # EnMAP L1B: one description, an image per detector; VNIR bands stand first
        rows = rows[:count] if path.stem.upper().endswith("_VNIR") else rows[-count:]
    if len(rows) != count:
        raise SpecfmError(f"{side}: describes {len(rows)} bands but {path.name} has {count}")
    found.wavelengths = _column(side, rows, "wavelengthCenterOfBand")
    found.units, found.described_by = "nm", side
    found.fwhm = _column(side, rows, "FWHMOfBand") or _column(side, rows, "wavelengthWidthOfBand")
    found.fwhm_units = None
    gains = _column(side, rows, "GainOfBand") or _column(side, rows, "gainOfBand")
    offsets = _column(side, rows, "OffsetOfBand") or _column(side, rows, "offsetOfBand")
    if gains and found.gains is None:  # else the TIFF states the same calibration itself
        found.gains = (np.asarray(gains), np.asarray(offsets or np.zeros(count)))
    mission = next((node.text for node in root.iter() if _tag(node) == "mission" and node.text), None)
    level = next((node.text for node in root.iter() if _tag(node) == "level" and node.text), "") or ""
    found.sensor_name = mission.strip() if mission else None
    if re.fullmatch(r"L?1.*", level.strip()):
        found.level, found.quantity = "L1", "radiance"
    elif re.fullmatch(r"L?2.*", level.strip()):
        found.level, found.quantity = "L2", "surface_reflectance"


def _tag(node: ElementTree.Element) -> str:
    return node.tag.rsplit("}", 1)[-1]


def _column(side: Path, rows: list[dict[str, str]], key: str) -> list[float] | None:
    if not all(row.get(key) for row in rows):
        return None
    try:
        return [float(row[key]) for row in rows]
    except ValueError:
        raise SpecfmError(f"{side}: {key} holds something else than numbers") from None
