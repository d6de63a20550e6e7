"""STAC items beside a GeoTIFF: wavelengths (extension eo), scale, offset and nodata (extension raster) of its bands.

STAC states centres and widths in micrometres. Versions before 1.1 keep them in lists ``eo:bands`` and ``raster:bands``,
1.1 in one list ``bands`` with prefixed keys; what all bands share may stand at their asset. An item may describe
several files: the asset whose ``href`` is this file counts. C = bands of the cube.
"""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from specfm.documents import read_json
from specfm.errors import SpecfmError
from specfm.readers.band_lists import BandList
from specfm.readers.found import Found

log = logging.getLogger(__name__)

Bands = list[dict[str, Any]]
_LISTS = ("eo:bands", "raster:bands", "bands")
_READ = (
    *("eo:center_wavelength", "center_wavelength", "eo:full_width_half_max", "full_width_half_max"),
    *("raster:scale", "scale", "raster:offset", "offset", "nodata", "raster:nodata"),
)  # keys that hold numbers
_SHARED = ("nodata", "raster:scale", "raster:offset")  # may be said once for all bands


def read_stac(path: Path, found: Found, needed: bool) -> tuple[BandList | None, Found]:
    """What ``x.stac.json``, ``x.json`` or ``x.tif.json`` says of every band.

    Args:
        path: the data file.
        found: what it states itself; changed in place.
        needed: the file has no other list to offer.

    Returns:
        The list of its bands, and scale, offset and nodata as a Found of their own.

    Raises:
        SpecfmError: the item is not readable and it is ``needed``.
    """
    said = Found(source=found.source, path=path)
    side, document = _load(path, needed)
    rows = None if side is None else _rows(document, path, found.source.shape[2])
    if side is None or not rows:
        return None, said
    said.path = side
    _note_unread(side, rows)
    scales, offsets = ([_number(row, f"raster:{key}", key) for row in rows] for key in ("scale", "offset"))
    if any(value is not None for value in (*scales, *offsets)):
        scale_C = np.array([1.0 if value is None else value for value in scales])
        said.calibrated_by = side
        said.gains = (scale_C, np.array([value or 0.0 for value in offsets]))
    said.state_nodata([_number(row, "nodata", "raster:nodata") for row in rows])
    centres = [_centre(row) for row in rows]
    if any(centre is None for centre in centres):
        return None, said
    widths = [_number(row, "eo:full_width_half_max", "full_width_half_max") for row in rows]
    width_C = None if all(width is None for width in widths) else np.array(widths, np.float64)  # None becomes NaN
    return BandList(f"the item {side.name}", np.array(centres, np.float64), "um", width_C, file=side), said


def _load(path: Path, needed: bool) -> tuple[Path | None, Any]:
    for name in (f"{path.stem}.stac.json", f"{path.stem}.json", f"{path.name}.json"):
        side = path.with_name(name)
        if not side.is_file():
            continue
        try:
            return side, read_json(side)
        except (OSError, ValueError) as error:
            if needed:
                raise SpecfmError(f"{side}: not readable as JSON ({error}); mend it or move it away") from None
    return None, None


def _rows(document: Any, path: Path, count: int) -> Bands | None:
    """One dictionary for each of ``count`` bands, all lists joined; None where nothing clear is said of so many."""
    fitting = [rows for rows in _candidates(document, path) if len(rows) == count]
    told = [rows for rows in fitting if any(_told(row) for row in rows)]
    if not told:
        return None
    if any([_told(row) for row in rows] != [_told(row) for row in told[0]] for rows in told):
        log.warning(
            "%s: the STAC item beside it describes several files of %d bands and none of its href is this file; it is "
            "not used (write the file's name as href of its asset)",
            path, count,
        )  # fmt: skip
        return None
    return told[0]


def _candidates(document: Any, path: Path) -> list[Bands]:
    """Descriptions of bands that may be this file's: of the asset that is this file, else of everything in the item."""
    if not isinstance(document, dict):
        return []
    properties = document.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    assets = document.get("assets")
    assets = [each for each in assets.values() if isinstance(each, dict)] if isinstance(assets, dict) else []
    own = [asset for asset in assets if _is_href(asset.get("href"), path)]
    rows = [joined for asset in own or assets if (joined := _joined(asset, properties))]
    return rows or [joined for node in _nodes(document) if (joined := _joined(node, {}))]


def _is_href(href: Any, path: Path) -> bool:
    try:
        return isinstance(href, str) and PurePosixPath(unquote(urlsplit(href).path)).name == path.name
    except ValueError:  # no address at all (https://[host/a.tif)
        return False


def _nodes(node: Any, depth: int = 0) -> list[dict[str, Any]]:
    """Every dictionary in a document, to a depth no item has."""
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) and depth < 20 else ()
    inner = [each for value in inside for each in _nodes(value, depth + 1)] if depth < 20 else []
    return [node, *inner] if isinstance(node, dict) else inner


def _joined(asset: dict[str, Any], properties: dict[str, Any]) -> Bands:
    """The bands of an asset: its lists side by side, what it leaves out from the item's properties."""
    lists: dict[str, Bands] = {}
    for key in _LISTS:
        stated = asset.get(key)
        whole = properties.get(key)
        if isinstance(stated, list) and stated and all(isinstance(each, int) for each in stated):
            # numbers of rows in the item's list, as STAC 0.6 has it
            stated = [whole[each] for each in stated if isinstance(whole, list) and -1 < each < len(whole)]
        if stated is None:
            stated = whole
        if isinstance(stated, list) and stated and all(isinstance(each, dict) for each in stated):
            lists[key] = stated
    if not lists:
        return []
    count = len(next((lists[key] for key in _LISTS if key in asset and key in lists), next(iter(lists.values()))))
    shared = {key: where[key] for where in (properties, asset) for key in _SHARED if key in where}
    rows: Bands = [dict(shared) for _ in range(count)]
    for key, stated in lists.items():
        for row, band in zip(rows, stated, strict=False) if len(stated) == count else ():
            prefix = "raster:" if key == "raster:bands" else ""
            row.update({f"{prefix}{k}" if k in ("scale", "offset") else k: v for k, v in band.items()})
    return rows


def _told(row: dict[str, Any]) -> tuple[str, ...]:
    """What is read of a band, written out so that NaN equals NaN, or () where nothing is."""
    told = (_centre(row), *(_number(row, f"raster:{key}", key) for key in ("scale", "offset", "nodata")))
    return tuple(map(repr, told)) if any(value is not None for value in told) else ()


def _centre(row: dict[str, Any]) -> float | None:
    return _number(row, "eo:center_wavelength", "center_wavelength")


def _number(row: dict[str, Any], *keys: str) -> float | None:
    """The first of these keys, as a number; STAC writes NaN and infinities as words, some tools write all as text."""
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _note_unread(side: Path, rows: Bands) -> None:
    """Say what the bands state where a number is needed and that is none."""
    told = {f"{key} = {str(row[key])[:20]}": None for row in rows for key in _READ if row.get(key) is not None
            and _number(row, key) is None}  # fmt: skip
    if told:
        log.warning("%s: what is no number is not used: %s", side, "; ".join([*told][:4]) + "; ..." * (len(told) > 4))
