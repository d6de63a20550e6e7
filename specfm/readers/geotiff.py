"""GeoTIFF through rasterio (extra ``geo``): windows of it, and band metadata wherever its writer put them.

Band metadata are looked for, in this order, in each band's tags (GDAL's IMAGERY domain, the ENVI domain, the default
domain), in the dataset's tags (ENVI and default domain; an ``.aux.xml`` beside the file is merged in by GDAL), in a
STAC-like JSON beside the file, in the bands' names (only with a unit in them); a mission's METADATA.XML beats them all.
rasterio counts bands from 1 and reads ``[c, h, w]``.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.readers.found import Found
from specfm.readers.sidecar import read_mission_xml, read_stac
from specfm.scene import Geo

_NOT_A_BAND_LIST = ("", "unknown")
_NAMED_BAND = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)\s*(nm|um|µm|nanomet(?:er|re)s?|micromet(?:er|re)s?)\b", re.IGNORECASE
)


class RasterSource:
    """All bands of a raster as a cube ``[H, W, C]``; the file is opened for each read, so it can cross processes."""

    def __init__(self, path: Path):
        self.path = path
        with _open(path) as raster:
            self.shape = (raster.height, raster.width, raster.count)
            kinds = set(raster.dtypes)
            if len(kinds) > 1:
                raise SpecfmError(
                    f"{path}: its bands have different types ({', '.join(sorted(kinds))}); write them in one type"
                )
            self.dtype = np.dtype(raster.dtypes[0])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        import rasterio
        from rasterio.windows import Window

        wanted = None if bands is None else (np.asarray(bands) + 1).tolist()
        count = self.shape[2] if wanted is None else len(wanted)
        out = np.empty((len(rows), len(cols), count), self.dtype)
        # a step skips whole rows on reading and columns afterwards
        blocks = [(0, rows.start, len(rows))] if rows.step == 1 else [(i, row, 1) for i, row in enumerate(rows)]
        width = cols[-1] + 1 - cols[0]
        with _open(self.path) as raster:
            for at, row, height in blocks:
                try:
                    part = raster.read(wanted, window=Window(cols[0], row, width, height))
                except rasterio.errors.RasterioIOError as error:
                    size = self.path.stat().st_size
                    raise SpecfmError(
                        f"{self.path}: pixels cannot be read ({error}; {size} bytes); the file was cut short or damaged"
                    ) from error
                out[at : at + height] = part[:, :, :: cols.step].transpose(1, 2, 0)
        return out


def read_geotiff(path: Path) -> Found:
    """Open a raster and collect its band metadata; no pixel is read.

    Raises:
        SpecfmError: rasterio is missing, or the file is unreadable.
    """
    found = Found(source=RasterSource(path), path=path, name=path.stem)
    with _open(path) as raster:
        _place(raster, found)
        _calibration(raster, found)
        band_tags = [_tags(raster, index) for index in range(1, raster.count + 1)]
        dataset_tags = _tags(raster)
        descriptions = raster.descriptions
    _from_bands(band_tags, found)
    if found.wavelengths is None:
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


def _calibration(raster: Any, found: Found) -> None:
    nodata = {value for value in raster.nodatavals if value is not None}
    if len(nodata) > 1:
        raise SpecfmError(f"{found.path}: its bands have different nodata values ({sorted(nodata)}); write one for all")
    found.nodata = nodata.pop() if nodata else None
    scale_C, offset_C = np.asarray(raster.scales, np.float64), np.asarray(raster.offsets, np.float64)
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
    if all("central wavelength um" in tags for tags in band_tags):
        found.wavelengths = [_number(tags["central wavelength um"], found) for tags in band_tags]
        found.units = "um"
        if any("fwhm um" in tags for tags in band_tags):
            found.fwhm = [_number(tags.get("fwhm um", "nan"), found) for tags in band_tags]
    elif all("wavelength" in tags for tags in band_tags):
        found.wavelengths = [_number(tags["wavelength"], found) for tags in band_tags]
        units = {tags.get("wavelength units", tags.get("wavelength unit", "")).strip() for tags in band_tags}
        found.units = " / ".join(sorted(units)) or None
        if any("fwhm" in tags for tags in band_tags):
            found.fwhm = [_number(tags.get("fwhm", "nan"), found) for tags in band_tags]
    if all("bbl" in tags for tags in band_tags):
        found.valid = [_number(tags["bbl"], found) != 0 for tags in band_tags]


def _from_descriptions(descriptions: tuple[str | None, ...], found: Found) -> None:
    """``band 8 (0.46 Micrometers)``: what is left where a tool kept the names of an ENVI file but not its tags."""
    matches = [_NAMED_BAND.search(text or "") for text in descriptions]
    if all(matches) and len({match[2].lower() for match in matches if match}) == 1:
        found.wavelengths = [float(match[1]) for match in matches if match]
        found.units = matches[0][2] if matches[0] else None


def _from_dataset(tags: dict[str, str], found: Found) -> None:
    found.wavelengths = _numbers(tags, "wavelength", found)
    found.fwhm = _numbers(tags, "fwhm", found) if found.wavelengths is not None else None
    units = tags.get("wavelength units", "").strip()
    found.units = None if units.lower() in _NOT_A_BAND_LIST else units
    good = _numbers(tags, "bbl", found)
    if good is not None:
        found.valid = np.asarray(good) != 0


def _numbers(tags: dict[str, str], key: str, found: Found) -> list[float] | None:
    text = tags.get(key, "").strip().strip("{}").strip()
    if not text:
        return None
    values = [_number(item, found) for item in text.replace(";", ",").split(",") if item.strip()]
    if len(values) != found.source.shape[2]:
        raise SpecfmError(
            f"{found.path}: tag {key!r} has {len(values)} values but the file has {found.source.shape[2]} bands"
        )
    return values


def _number(text: str, found: Found) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecfmError(f"{found.path}: a band tag holds {text.strip()!r}, which is not a number") from None
