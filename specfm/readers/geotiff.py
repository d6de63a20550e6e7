"""GeoTIFF through rasterio (extra ``geo``): windows of it, and band metadata wherever its writer put them.

Band metadata are looked for, in this order, in each band's tags (GDAL's IMAGERY domain, the ENVI domain, the default
domain), in the dataset's tags (ENVI and default domain; an ``.aux.xml`` beside the file is merged in by GDAL), in a
STAC-like JSON beside the file, in the bands' names (only with a unit in them); what one place leaves open is taken from
the next. A mission's METADATA.XML beats them all. Pixels that the file masks (a mask of its own, or a band of
transparency) are NaN. rasterio counts bands from 1 and reads ``[c, h, w]``.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.readers.found import Found
from specfm.readers.sidecar import read_mission_xml, read_stac
from specfm.scene import Geo

log = logging.getLogger(__name__)

_NO_UNITS = ("", "unknown")
_NAMED_BAND = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)\s*(nm|um|µm|nanomet(?:er|re)s?|micromet(?:er|re)s?)\b", re.IGNORECASE
)


class RasterSource:
    """Bands of a raster as a cube ``[H, W, C]``; the file is opened for each read, so it can cross processes.

    Args:
        path: the file.
        bands: (C,) numbers of its bands, from 1.
        mask: number of a band that is zero where nothing was measured, 0 = the mask that the file keeps beside its
            bands, None = it has neither. Masked pixels are NaN, so integers are then read as floating-point numbers.
    """

    def __init__(self, path: Path, bands: NDArray[np.int64], mask: int | None):
        self.path, self.bands, self.mask = path, bands, mask
        with _open(path) as raster:
            self.shape = (raster.height, raster.width, len(bands))
            kinds = {raster.dtypes[band - 1] for band in bands}
            if len(kinds) > 1:
                raise SpecfmError(
                    f"{path}: its bands have different types ({', '.join(sorted(kinds))}); write them in one type"
                )
            stored = np.dtype(kinds.pop())
            self.dtype = stored if mask is None else np.promote_types(stored, np.float32)

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        import rasterio
        from rasterio.windows import Window

        wanted = (self.bands if bands is None else self.bands[bands]).tolist()
        out = np.empty((len(rows), len(cols), len(wanted)), self.dtype)
        # a step skips whole rows on reading and columns afterwards
        blocks = [(0, rows.start, len(rows))] if rows.step == 1 else [(i, row, 1) for i, row in enumerate(rows)]
        width = cols[-1] + 1 - cols[0]
        with _open(self.path) as raster:
            for at, row, height in blocks:
                window = Window(cols[0], row, width, height)
                try:
                    part = raster.read(wanted, window=window)
                    kept = self._kept(raster, window)
                except rasterio.errors.RasterioIOError as error:
                    size = self.path.stat().st_size
                    raise SpecfmError(
                        f"{self.path}: pixels cannot be read ({error}; {size} bytes); the file was cut short or damaged"
                    ) from error
                out[at : at + height] = part[:, :, :: cols.step].transpose(1, 2, 0)
                if kept is not None:
                    out[at : at + height][kept[:, :: cols.step] == 0] = np.nan
        return out

    def _kept(self, raster: Any, window: Any) -> NDArray[Any] | None:
        """The mask of a window, zero where nothing was measured."""
        if self.mask is None:
            return None
        return np.asarray(raster.read(self.mask, window=window) if self.mask else raster.read_masks(1, window=window))


def read_geotiff(path: Path, supplied: Callable[[], int | None] = lambda: None) -> Found:
    """Open a raster and collect its band metadata; no pixel is read.

    Args:
        path: the file.
        supplied: tells how many bands the user's own list has, None = there is no such list.

    Raises:
        SpecfmError: rasterio is missing, or the file is unreadable.
    """
    with _open(path) as raster:
        band_tags = [_tags(raster, index) for index in range(1, raster.count + 1)]
        dataset_tags = _tags(raster)
        alpha = _transparency(raster, band_tags, dataset_tags, supplied)
        if alpha:
            log.warning(
                "%s: band %d is marked as transparency; it masks pixels and is no band of the cube (if it was "
                "measured, supply a list with a row for it too, write the file with photometric=minisblack, or tag the "
                "band with its wavelength)",
                path, alpha,
            )  # fmt: skip
        bands = np.array([band for band in range(1, raster.count + 1) if band != alpha], np.int64)
        found = Found(source=RasterSource(path, bands, alpha or _own_mask(raster)), path=path, name=path.stem)
        _place(raster, found)
        _calibration(raster, bands, found)
        band_tags = [band_tags[band - 1] for band in bands]
        descriptions = [raster.descriptions[band - 1] for band in bands]
    _from_bands(band_tags, found)
    _from_dataset(dataset_tags, found)
    if found.wavelengths is None:
        read_stac(path, found)
    if found.wavelengths is None:
        _from_descriptions(descriptions, found)
    read_mission_xml(path, found)
    return found


def _open(path: Path):  # type: ignore[no-untyped-def]
    try:
        import rasterio
    except ImportError:
        raise SpecfmError(
            f"{path}: reading GeoTIFF needs rasterio; install it with: pip install 'specfm[geo]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            return rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise SpecfmError(f"{path}: not a readable raster ({error}; {path.stat().st_size} bytes)") from error


def _transparency(
    raster: Any,
    band_tags: list[dict[str, str]],
    dataset_tags: dict[str, str],
    supplied: Callable[[], int | None],
) -> int | None:
    """The band of transparency, or None.

    A band with a wavelength was measured, whatever its mark: GDAL marks the fourth of four uint8 bands unasked. Where
    the file states no wavelengths, a supplied list with a row for every band gives it one.
    """
    from rasterio.enums import ColorInterp

    if ColorInterp.alpha not in raster.colorinterp or raster.count == 1:
        return None
    band = raster.colorinterp.index(ColorInterp.alpha) + 1
    tags = band_tags[band - 1]
    keys = ("wavelength", "central wavelength um")
    silent = not any(key in stated for key in keys for stated in (dataset_tags, *band_tags))
    measured = (
        any(key in tags for key in keys)
        or len(_items(dataset_tags, "wavelength")) == raster.count
        or _NAMED_BAND.search(raster.descriptions[band - 1] or "")
        or (silent and supplied() == raster.count)
    )
    return None if measured else band


def _own_mask(raster: Any) -> int | None:
    """0 where the file keeps a mask of its own beside its bands (inside it or as .msk), else None."""
    from rasterio.enums import MaskFlags

    flags = raster.mask_flag_enums[0]
    return 0 if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags else None


def _place(raster: Any, found: Found) -> None:
    transform = None if raster.transform.is_identity else tuple(float(v) for v in raster.transform.to_gdal())
    crs = raster.crs
    if crs is None and transform is None:
        return
    found.geo = Geo(crs.to_wkt() if crs else None, transform)  # type: ignore[arg-type]
    if crs and crs.is_projected and transform is not None:
        metres = crs.linear_units_factor[1]
        area = abs(transform[1] * transform[5] - transform[2] * transform[4])
        found.gsd_m = float(area**0.5 * metres) or None


def _calibration(raster: Any, bands: NDArray[np.int64], found: Found) -> None:
    nodata = {raster.nodatavals[band - 1] for band in bands} - {None}
    if len(nodata) > 1:
        raise SpecfmError(f"{found.path}: its bands have different nodata values ({sorted(nodata)}); write one for all")
    found.nodata = nodata.pop() if nodata else None
    scale_C, offset_C = (np.asarray(list_, np.float64)[bands - 1] for list_ in (raster.scales, raster.offsets))
    if (scale_C != 1).any() or (offset_C != 0).any():
        found.gains = (scale_C, offset_C)


def _tags(raster: Any, band: int = 0) -> dict[str, str]:
    """Tags of the dataset or a band under lower-case keys with spaces; the more specific domain wins."""
    merged: dict[str, str] = {}
    spaces = set(raster.tag_namespaces(band) if band else raster.tag_namespaces())
    for space in (None, "ENVI", "IMAGERY"):
        if space is None or space in spaces:
            tags = raster.tags(band, ns=space) if band else raster.tags(ns=space)
            merged.update({key.lower().replace("_", " "): value for key, value in tags.items()})
    return merged


def _from_bands(band_tags: list[dict[str, str]], found: Found) -> None:
    """Centres, widths and good bands from tags of the bands, in micrometres by their name or in units of their own."""

    def column(key: str, needed: bool = True) -> list[float] | None:
        if not (all if needed else any)(key in tags for tags in band_tags):
            return None
        return [_number(tags.get(key, "nan"), found) for tags in band_tags]

    good = column("bbl")
    units = {tags.get("wavelength units", tags.get("wavelength unit", "")).strip() for tags in band_tags}
    found.fill(column("central wavelength um"), "um", column("fwhm um", needed=False))
    found.fill(
        column("wavelength"),
        _units(" / ".join(sorted(units))),
        column("fwhm", needed=False),
        None if good is None else np.asarray(good) != 0,
    )


def _from_dataset(tags: dict[str, str], found: Found) -> None:
    """The same as lists in tags of the whole file; the units may stand here alone."""
    units, good = _units(tags.get("wavelength units", "")), _numbers(tags, "bbl", found)
    if found.units is None:
        found.units = units
    found.fill(
        _numbers(tags, "wavelength", found),
        units,
        _numbers(tags, "fwhm", found),
        None if good is None else np.asarray(good) != 0,
    )


def _from_descriptions(descriptions: list[str | None], found: Found) -> None:
    """``band 8 (0.46 Micrometers)``: what is left where a tool kept the names of an ENVI file but not its tags."""
    matches = [_NAMED_BAND.search(text or "") for text in descriptions]
    if all(matches) and len({match[2].lower() for match in matches if match}) == 1:
        found.fill([float(match[1]) for match in matches if match], matches[0][2] if matches[0] else None)


def _units(text: str) -> str | None:
    return None if text.strip().lower() in _NO_UNITS else text.strip()


def _items(tags: dict[str, str], key: str) -> list[str]:
    text = tags.get(key, "").strip().strip("{}").replace(";", ",")
    return [item for item in text.split(",") if item.strip()]


def _numbers(tags: dict[str, str], key: str, found: Found) -> list[float] | None:
    values = [_number(item, found) for item in _items(tags, key)]
    if not values or len(values) == found.source.shape[2]:
        return values or None
    problem = f"tag {key!r} has {len(values)} values but the file has {found.source.shape[2]} bands"
    if found.wavelengths is None:
        raise SpecfmError(f"{found.path}: {problem}")
    # left over from before bands were taken out; the tags of the bands themselves hold
    log.warning("%s: %s; it is not used", found.path, problem)
    return None


def _number(text: str, found: Found) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecfmError(f"{found.path}: a band tag holds {text.strip()!r}, which is not a number") from None
