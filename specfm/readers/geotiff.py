"""GeoTIFF through rasterio (extra ``geo``): what its tags and the files beside it state; windows of it are read later.

Wavelengths are looked for, in this order, in each band's tags (GDAL's IMAGERY domain, the ENVI domain, the default
domain), in the dataset's tags (ENVI and default domain; an ``.aux.xml`` beside the file is merged in by GDAL), in an
ENVI header and in a STAC-like JSON beside the file, in the bands' names (only with a unit in them);
``specfm.readers.band_lists`` says which of several lists holds. Scale, offset and nodata of the TIFF win over those of
the files beside it. A mission's METADATA.XML beats them all in what it says of bands, mission and level; its gains give
way to a calibration that the TIFF states. Pixels that the file masks (a mask of its own, or a band
of transparency) are NaN. A TIFF of several pages of one band each is a cube of as many bands. rasterio counts bands
from 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.band_lists import BandList, choose, widths_of
from specfm.readers.exposure import state_exposure
from specfm.readers.found import Found
from specfm.readers.names import from_names, says_wavelength
from specfm.readers.raster_source import PageSource, RasterSource, as_place, in_order, names_of, open_raster
from specfm.readers.raster_tags import items, lists_of_bands, lists_of_file, radiometry, tags_of
from specfm.readers.sidecar import fill_silent, read_header_beside, read_mission_xml
from specfm.readers.stac import read_stac

log = logging.getLogger(__name__)


def read_geotiff(path: Path, supplied: Callable[[], int | None] = lambda: None) -> Found:
    """Open a raster and collect its band metadata; no pixel is read.

    Args:
        path: the file.
        supplied: tells how many bands the user's own list has, None = there is no such list.

    Raises:
        SpecfmError: rasterio is missing, the file is unreadable, or its pages are no bands of one cube.
    """
    with open_raster(path) as raster:
        if raster.count == 1 and len(raster.subdatasets) > 1:
            return _read_pages(path, in_order(raster.subdatasets), supplied)
        band_tags = [tags_of(raster, index) for index in range(1, raster.count + 1)]
        dataset_tags = tags_of(raster)
        alpha = _transparency(raster, band_tags, dataset_tags, supplied)
        if alpha:
            log.warning(
                "%s: band %d is marked as transparency; it masks pixels and is no band of the cube (if it was "
                "measured, supply a list with a row for it too, write the file with photometric=minisblack, or tag the "
                "band with its wavelength)",
                path, alpha,
            )  # fmt: skip
        bands = np.array([band for band in range(1, raster.count + 1) if band != alpha], np.int64)
        found = Found(RasterSource(path, bands, alpha or _own_mask(raster)), path, name=path.stem)
        found.state_nodata([raster.nodatavals[band - 1] for band in bands])
        _place(raster, found)
        scales, offsets = ([stated[band - 1] for band in bands] for stated in (raster.scales, raster.offsets))
        _calibration(scales, offsets, found)
        band_tags = [band_tags[band - 1] for band in bands]
        own = names_of(raster)
        names = [own[band - 1] for band in bands]
    radiometry(band_tags, dataset_tags, found)
    state_exposure(found, dataset_tags, path)
    lists, problem = lists_of_file(dataset_tags, found)
    return _with_bands(found, [*lists_of_bands(band_tags, dataset_tags, found), *lists], names, problem, supplied)


def _read_pages(path: Path, pages: tuple[str, ...], supplied: Callable[[], int | None]) -> Found:
    """A TIFF whose pages are the bands of one cube.

    Raises:
        SpecfmError: pages of several bands, sizes or types.
    """
    kinds, names, page_tags, dataset_tags = set(), [], [], dict[str, str]()
    nodata: list[float | None] = []
    scales: list[float] = []
    offsets: list[float] = []
    for page in pages:
        with open_raster(path, page) as raster:
            kinds.add((raster.count, raster.height, raster.width, raster.dtypes[0]))
            tags = tags_of(raster)
            names.append(names_of(raster)[0] or tags.get("tifftag pagename") or tags.get("tifftag imagedescription"))
            page_tags.append({**tags, **tags_of(raster, 1)})
            dataset_tags = dataset_tags or tags  # what only the first page says is said of the file
            nodata.append(raster.nodatavals[0])
            scales.append(raster.scales[0])
            offsets.append(raster.offsets[0])
    if len(kinds) > 1 or next(iter(kinds))[0] != 1:
        listed = ", ".join(f"{high}x{wide} {kind}, bands {count}" for count, high, wide, kind in sorted(kinds))
        raise SpecfmError(
            f"{path}: this TIFF has {len(pages)} pages ({listed}), which are no bands of one cube; write the bands of "
            "the cube into one page, or as pages of one size and type (gdal_translate with GTIFF_DIR:n:FILE takes one "
            "page out)"
        )
    found = Found(source=PageSource(path, pages), path=path, name=path.stem)
    found.state_nodata(nodata)
    _calibration(scales, offsets, found)
    with open_raster(path, pages[0]) as raster:
        _place(raster, found)
    log.info("%s: its %d pages are read as the bands of one cube, in their order", path, len(pages))
    radiometry(page_tags, dataset_tags, found)
    state_exposure(found, dataset_tags, path)
    lists, problem = lists_of_file(dataset_tags, found)
    return _with_bands(found, lists, names, problem, supplied)


def _with_bands(
    found: Found,
    lists: list[BandList],
    names: list[str | None],
    problem: str | None,
    supplied: Callable[[], int | None],
) -> Found:
    """Take the list that holds, of those in the file (``lists``), beside it and in the bands' ``names``.

    Raises:
        SpecfmError: the only list has a ``problem``, and the user supplies none.
    """
    lists += read_header_beside(found.path, found, supplied)
    item, said = read_stac(found.path, found, needed=not any(each.centres_C is not None for each in lists))
    fill_silent(found, said, said.path)
    lists += [] if item is None else [item]
    named = from_names("the names of its bands", names)
    held = choose(found.path, [*lists, named] if named is not None else lists)
    if held is not None:
        found.wavelengths, found.units, found.described_by = held.centres_C, held.units, held.file
        found.fwhm, found.fwhm_units = widths_of(held, lists)
    read_mission_xml(found.path, found)
    if found.wavelengths is None and problem is not None and supplied() is None:
        raise SpecfmError(f"{found.path}: {problem}; mend the tag, or supply the list with --wavelengths file.csv")
    return found


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
        or len(items(dataset_tags, "wavelength")) == raster.count
        or says_wavelength(names_of(raster)[band - 1])
        or (silent and supplied() == raster.count)
    )
    return None if measured else band


def _calibration(scales: Sequence[float], offsets: Sequence[float], found: Found) -> None:
    """Scale and offset of each band as GDAL keeps them; 1 and 0 are no statement."""
    scale_C, offset_C = np.asarray(scales, np.float64), np.asarray(offsets, np.float64)
    if (scale_C != 1).any() or (offset_C != 0).any():
        found.gains, found.calibrated_by = (scale_C, offset_C), found.path


def _own_mask(raster: Any) -> int | None:
    """0 where the file keeps a mask of its own beside its bands (inside it or as .msk), else None."""
    from rasterio.enums import MaskFlags

    flags = raster.mask_flag_enums[0]
    return 0 if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags else None


def _place(raster: Any, found: Found) -> None:
    found.geo, crs = as_place(raster), raster.crs
    transform = None if found.geo is None else found.geo.transform
    if crs and crs.is_projected and transform is not None:
        metres = crs.linear_units_factor[1]
        area = abs(transform[1] * transform[5] - transform[2] * transform[4])
        found.gsd_m = float(area**0.5 * metres) or None
