"""Windows of a raster through rasterio (extra ``geo``): bands of one file, or the pages of one TIFF as bands.

rasterio counts bands from 1 and reads ``[c, h, w]``.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.limits import LINKED_FILES, refuse_linked, refuse_unpacked, switched_on
from specfm.scene import Geo

log = logging.getLogger(__name__)

_DRIVERS = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff"),
    b"EHFA_HEADER_TAG": "HFA",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
}

KEPT_BYTES = 512 << 20  # of a cube of pages, up to which it is read whole


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
        with open_raster(path) as raster:
            self.shape = (raster.height, raster.width, len(bands))
            kinds = {raster.dtypes[band - 1] for band in bands}
            if len(kinds) > 1:
                raise SpecfmError(
                    f"{path}: its bands have different types ({', '.join(sorted(kinds))}); write them in one type"
                )
            stored = stored_type(kinds.pop())
            self.dtype = stored if mask is None else np.promote_types(stored, np.float32)

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        from rasterio.windows import Window

        wanted = (self.bands if bands is None else self.bands[bands]).tolist()
        out = np.empty((len(rows), len(cols), len(wanted)), self.dtype)
        # a step skips whole rows on reading and columns afterwards
        blocks = [(0, rows.start, len(rows))] if rows.step == 1 else [(i, row, 1) for i, row in enumerate(rows)]
        width = cols[-1] + 1 - cols[0]
        with open_raster(self.path) as raster:
            for at, row, height in blocks:
                window = Window(cols[0], row, width, height)
                with pixels_of(self.path):
                    part = raster.read(wanted, window=window)
                    kept = self._kept(raster, window)
                out[at : at + height] = part[:, :, :: cols.step].transpose(1, 2, 0)
                if kept is not None:
                    out[at : at + height][kept[:, :: cols.step] == 0] = np.nan
        return out

    def _kept(self, raster: Any, window: Any) -> NDArray[Any] | None:
        """The mask of a window, zero where nothing was measured."""
        if self.mask is None:
            return None
        return np.asarray(raster.read(self.mask, window=window) if self.mask else raster.read_masks(1, window=window))


def in_order(pages: Iterable[str]) -> tuple[str, ...]:
    """GDAL's names of the pages of a TIFF (``GTIFF_DIR:10:a.tif``) by their numbers: rasterio sorts them as text."""
    return tuple(sorted(pages, key=lambda page: int(page.split(":", 2)[1])))


class PageSource:
    """Pages of one TIFF, all of one size and type with one band each, as a cube ``[H, W, C]``.

    To find a page GDAL walks over all before it, which takes seconds for hundreds of them. So a cube that is not large
    is read whole, and the last one read is kept.

    Args:
        path: the file.
        pages: (C,) names of its pages, as GDAL names them.
    """

    def __init__(self, path: Path, pages: tuple[str, ...]):
        self.path, self.pages = path, pages
        with open_raster(path) as raster:
            self.shape = (raster.height, raster.width, len(pages))
            self.dtype = stored_type(raster.dtypes[0])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        height, width, count = self.shape
        if height * width * count * self.dtype.itemsize <= KEPT_BYTES:
            state = self.path.stat() if self.path.exists() else None
            stamp = None if state is None else (state.st_mtime_ns, state.st_size)
            pixels_hwC = _kept_cube(self, stamp)[np.ix_(rows, cols)]
            return pixels_hwC if bands is None else pixels_hwC[..., bands]
        return self.opened(rows, cols, bands)

    def opened(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        """Read page by page."""
        from rasterio.windows import Window

        wanted = self.pages if bands is None else tuple(self.pages[band] for band in bands.tolist())
        out = np.empty((len(rows), len(cols), len(wanted)), self.dtype)
        window = Window(cols[0], rows[0], cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0])
        for index, page in enumerate(wanted):
            with open_raster(self.path, page) as raster, pixels_of(self.path):
                out[:, :, index] = raster.read(1, window=window)[:: rows.step, :: cols.step]
        return out


@lru_cache(maxsize=1)
def _kept_cube(source: PageSource, stamp: tuple[int, int] | None) -> NDArray[Any]:
    """The whole cube of a file as it was at ``stamp``."""
    height, width, _ = source.shape
    cube_HWC = source.opened(range(height), range(width), None)
    cube_HWC.flags.writeable = False
    return cube_HWC


@contextmanager
def open_raster(path: Path, page: str | None = None) -> Iterator[Any]:
    """Open a raster by the driver that its first bytes ask for, so that no other one (VRT, say) is ever tried.

    Args:
        path: the file.
        page: one of its pages, as GDAL names it.

    Raises:
        SpecfmError: rasterio is missing, not a readable raster (whatever GDAL raises while the block reads it), or one
            that reads files which are not called after it.
    """
    try:
        import rasterio
    except ImportError:
        raise SpecfmError(
            f"{path}: reading GeoTIFF needs rasterio; install it with: pip install 'specfm[geo]'"
        ) from None
    # an absolute path is never taken for one of GDAL's own names, such as GTIFF_DIR:2:other.tif
    whole = os.path.abspath(path)
    if whole.startswith("/vsi"):
        refuse_linked(path, "lies in one of GDAL's virtual file systems (/vsi...)")
    try:
        driver = _driver(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            raster = rasterio.open(page or whole, driver=driver)
        with raster:
            _refuse_unlike(path, whole, raster)
            yield raster
    except _gdal_errors() as error:
        if isinstance(error, SpecfmError):
            raise
        size = path.stat().st_size if path.exists() else 0
        raise SpecfmError(f"{path}: not a readable raster ({_reason(error)}; {size} bytes)") from error


def names_of(raster: Any) -> list[str | None]:
    """What a raster calls its bands; GDAL hands the names on as they are, and some writers have no UTF-8."""
    try:
        return list(raster.descriptions)
    except UnicodeDecodeError:
        log.warning("%s: the names of its bands are no UTF-8; they are not used", raster.name)
        return [None] * raster.count


def _gdal_errors() -> tuple[type[Exception], ...]:
    """What reading a damaged raster raises: errors of rasterio, those of GDAL that it lets through, and plain ones."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return (RasterioError, CPLE_BaseError, OSError, ValueError, OverflowError, MemoryError)


def _driver(path: Path) -> str | None:
    """GDAL's driver for a file by its content; None = any, where files may read others."""
    if switched_on(LINKED_FILES):
        return None
    with path.open("rb") as handle:
        start = handle.read(16)
    driver = next((name for magic, name in _DRIVERS.items() if start.startswith(magic)), None)
    if driver is None:
        raise SpecfmError(
            f"{path}: not a readable raster (no TIFF, ERDAS Imagine or JPEG 2000 by its content); other formats "
            "of GDAL can read other files, so convert it to GeoTIFF, or if you trust it say specfm --linked-files ..."
        )
    return driver


def _refuse_unlike(path: Path, whole: str, raster: Any) -> None:
    """Refuse other files than the side files of this one (x.tif.ovr, x.tfw), and blocks that no measured data need."""
    stem = Path(whole).stem.lower()
    for other in raster.files:
        if os.path.dirname(os.path.abspath(other)) != os.path.dirname(whole) or not (
            os.path.basename(other).lower().startswith(stem)
        ):
            refuse_linked(path, "reads another file, which is not called after it")
    for (rows, columns), kind in zip(raster.block_shapes, raster.dtypes, strict=True):
        refuse_unpacked(path, rows * columns * stored_type(kind).itemsize, "one of its blocks")


def _reason(error: Exception) -> str:
    """The first sentence of what GDAL says."""
    return " ".join(str(error).split())[:200]


@contextmanager
def pixels_of(path: Path) -> Iterator[None]:
    """Turn what rasterio raises while a block reads pixels into one sentence."""
    try:
        yield
    except _gdal_errors() as error:
        if isinstance(error, SpecfmError):
            raise
        raise SpecfmError(
            f"{path}: pixels cannot be read ({_reason(error)}; {path.stat().st_size} bytes); the file was cut short or "
            "damaged"
        ) from error


def stored_type(kind: str) -> np.dtype[Any]:
    """The type in which rasterio gives numbers of a type that it names; NumPy has no complex integers."""
    return np.dtype("complex64" if kind == "complex_int16" else kind)


def as_place(raster: Any) -> Geo | None:
    """Where an open raster lies, None where it does not say."""
    transform = None if raster.transform.is_identity else tuple(float(v) for v in raster.transform.to_gdal())
    if raster.crs is None and transform is None:
        return None
    return Geo(raster.crs.to_wkt() if raster.crs else None, transform)  # type: ignore[arg-type]
