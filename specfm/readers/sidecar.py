"""Files beside a GeoTIFF that carry its band metadata: STAC-like JSON and the METADATA.XML of EnMAP and DESIS.

STAC states centres and widths in micrometres (extension eo, versions 1 and 2). EnMAP and DESIS state nanometres, in
one element per band.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.found import Found


def read_stac(path: Path, found: Found) -> None:
    """Take centres and widths from ``x.stac.json``, ``x.json`` or ``x.tif.json``, if one has them for every band."""
    for name in (f"{path.stem}.stac.json", f"{path.stem}.json", f"{path.name}.json"):
        side = path.with_name(name)
        if not side.is_file():
            continue
        try:
            document = json.loads(side.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise SpecfmError(f"{side}: not readable as JSON ({error}); mend it or move it away") from None
        for bands in _band_lists(document):
            centres = [_get(band, "center_wavelength") for band in bands]
            if len(centres) == found.source.shape[2] and all(value is not None for value in centres):
                widths = [_get(band, "full_width_half_max") for band in bands]
                found.described_by = side
                found.fill(np.array(centres, np.float64), "um", np.array(widths, np.float64))  # None becomes NaN
                return


def _band_lists(node: Any) -> list[list[dict[str, Any]]]:
    """Every list under a key ``eo:bands`` or ``bands``, wherever it stands in the item."""
    lists: list[list[dict[str, Any]]] = []
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("eo:bands", "bands") and isinstance(value, list) and all(isinstance(v, dict) for v in value):
                lists.append(value)
            else:
                lists.extend(_band_lists(value))
    elif isinstance(node, list):
        for value in node:
            lists.extend(_band_lists(value))
    return lists


def _get(band: dict[str, Any], key: str) -> float | None:
    value = band.get(key, band.get(f"eo:{key}"))
    return float(value) if isinstance(value, int | float) else None


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
