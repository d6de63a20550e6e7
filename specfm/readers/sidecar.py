"""Files beside a GeoTIFF that describe it: ENVI headers, METADATA.XML of EnMAP and DESIS (STAC: ``stac.py``).

EnMAP and DESIS state nanometres, in one element per band.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from specfm.errors import SpecfmError
from specfm.limits import excess
from specfm.readers.band_lists import BandList
from specfm.readers.found import Found

log = logging.getLogger(__name__)


def read_header_beside(path: Path, found: Found, supplied: Callable[[], int | None] = lambda: None) -> list[BandList]:
    """What an ENVI header beside a TIFF (``x.hdr``, ``x.tif.hdr``) states of it; scale and nodata where it is silent.

    A header of another size describes something else, and is told.

    Args:
        path: the data file.
        found: what it states itself; changed in place.
        supplied: length of the list of bands that the user supplies, None without one.

    Raises:
        SpecfmError: a list of the header has another length than the cube, and none is supplied.
    """
    from specfm.readers.envi import find_header, read_described

    side = find_header(path)
    if side is None:
        return []
    described = read_described(side, found.source, supplied)
    if described is None:
        log.warning("%s: the header beside it, %s, has another size; it is not used", path, side.name)
        return []
    fill_silent(found, described, side)
    if described.wavelengths is None:
        return []
    widths = None if described.fwhm is None else np.asarray(described.fwhm, np.float64)
    centre_C = np.asarray(described.wavelengths, np.float64)
    where = f"the header {side.name}"
    return [BandList(where, centre_C, described.units, widths, described.fwhm_units, file=side)]


def fill_silent(found: Found, described: Found, side: Path) -> None:
    """Take validity, nodata, scale, offset and exposure that the file itself does not state; what differs is told."""
    if found.valid is None:
        found.valid = described.valid
    if not _states_nodata(found):
        found.nodata, found.fills, found.fills_C = described.nodata, described.fills, described.fills_C
    elif _states_nodata(described) and not _same_nodata(found, described):
        log.info("%s: says another nodata value than the file; that of the file is used", side)
    if found.saturation is None:
        found.saturation = described.saturation
    if not found.is_scaled:
        found.gains, found.scale, found.offset = described.gains, described.scale, described.offset
        found.calibrated_by = side
    elif described.is_scaled and not _same_calibration(found, described):
        log.info("%s: says another scale or offset than the file; those of the file are used", side)
    for key, value in described.scene_fields.items():
        if found.scene_fields.get(key) is None:
            found.scene_fields[key] = value


def _states_nodata(found: Found) -> bool:
    return found.nodata is not None or found.fills_C is not None


def _same_nodata(one: Found, other: Found) -> bool:
    """Whether two places name the same values, of each band or of all (NaN equals NaN)."""

    def fills_NC(found: Found) -> np.ndarray:
        for_all = {value for value in (found.nodata, *found.fills) if value is not None}
        lists = [np.full(found.source.shape[2], value) for value in sorted(for_all, key=repr)]
        return np.array([*lists, *([] if found.fills_C is None else [found.fills_C])], np.float64)

    return np.array_equal(fills_NC(one), fills_NC(other), equal_nan=True)


def _same_calibration(one: Found, other: Found) -> bool:
    def gains(found: Found) -> tuple[np.ndarray, np.ndarray]:
        if found.gains is not None:
            return found.gains
        alone = np.ones(found.source.shape[2])
        return alone * (1.0 if found.scale is None else found.scale), alone * (found.offset or 0.0)

    return all(np.allclose(mine, theirs) for mine, theirs in zip(gains(one), gains(other), strict=True))


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
    if words := excess("header_bytes", side.stat().st_size):
        raise SpecfmError(f"{side}: is too large for mission metadata; {words}")
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
        found.gains, found.calibrated_by = (np.asarray(gains), np.asarray(offsets or np.zeros(count))), side
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
