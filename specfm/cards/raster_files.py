"""Rasters that belong to a scene (labels, groups, masks), from any file that holds one number per pixel.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import math
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.grids import Grid
from specfm.limits import refuse_unpacked
from specfm.readers.npy import npy_header
from specfm.scene import Geo

IMAGES = (".bmp", ".png", ".gif")


@dataclass(frozen=True)
class RasterFile:
    """An array with what its file states of it.

    Attributes:
        path: the file.
        array: as stored; axes in MATLAB order for ``.mat``, band axis of rasters last.
        geo: where it lies, None where the file does not say.
        nodata: its value for pixels without data.
        class_names: of a class map, by code.
        colours: it is a picture, whose numbers are colours.
    """

    path: Path
    array: NDArray[Any]
    geo: Geo | None = None
    nodata: float | None = None
    class_names: tuple[str, ...] = ()
    colours: bool = False

    @property
    def grid(self) -> Grid | None:
        """Its grid, None for an array that is no image (flat, or several bands by pixels)."""
        height_width = self.array.shape[:2]
        return Grid(str(self.path), height_width, self.geo) if len(height_width) == 2 else None


def read_raster(path: Path, variable: str | None = None) -> RasterFile:
    """Read one array with what its file says of it.

    From ``.mat`` (v5 or v7.3), ``.npy``, ``.npz``, ``.h5``, an image, a GeoTIFF or an ENVI raster.

    Args:
        path: the file.
        variable: its name inside the file; may be left out where the file holds one array only.

    Raises:
        SpecfmError: missing file, missing or ambiguous variable, or a format that is not known.
    """
    if not path.is_file():
        raise SpecfmError(f"{path} does not exist; the card's labels or groups need it")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return RasterFile(path, _read_numpy(path, variable))
    if suffix == ".mat":
        from specfm.readers.matlab import load_variable

        if variable is None:
            raise SpecfmError(f"{path}: name the array to take labels from with 'variable'")
        return RasterFile(path, load_variable(path, variable))
    if suffix in (".h5", ".hdf5", ".he5"):
        return RasterFile(path, _read_hdf(path, variable))
    if suffix in IMAGES:
        return _read_image(path)
    if suffix in (".tif", ".tiff"):
        return _read_tiff(path)
    return _read_envi(path)


def _choose(path: Path, variable: str | None, names: list[str]) -> str:
    if variable is None and len(names) == 1:
        return names[0]
    if variable is None:
        raise SpecfmError(f"{path} holds several arrays ({', '.join(names[:8])}); name one with 'variable'")
    if variable not in names:
        raise SpecfmError(f"{path} has no array {variable!r}; it has {', '.join(names[:8])}")
    return variable


def _read_numpy(path: Path, variable: str | None) -> NDArray[Any]:
    """An array of numbers, refused where its header asks for far more than the file holds; never a pickle."""
    try:
        with ExitStack() as stack:
            if path.suffix.lower() == ".npy" or not is_zipfile(path):
                handle: IO[bytes] = stack.enter_context(path.open("rb"))
            else:
                archive = stack.enter_context(ZipFile(path))
                members = {name.removesuffix(".npy"): name for name in archive.namelist()}
                handle = stack.enter_context(archive.open(members[_choose(path, variable, list(members))]))
            shape, fortran, dtype = npy_header(handle)
            count = math.prod(shape)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, not numbers")
            refuse_unpacked(path, count * dtype.itemsize, "its array")
            data = handle.read(count * dtype.itemsize)
            if len(data) < count * dtype.itemsize:
                raise ValueError("it was cut short")
            return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except (OSError, EOFError, ValueError, RuntimeError, BadZipFile, zlib.error) as error:
        if isinstance(error, SpecfmError):
            raise
        raise SpecfmError(f"{path} cannot be read as an array ({error}); write it again with numpy.save") from None


def _read_hdf(path: Path, variable: str | None) -> NDArray[Any]:
    import h5py

    from specfm.readers.hdf_attributes import stored_kind
    from specfm.readers.hdf_common import numbers, open_hdf

    def is_array(item: Any) -> bool:
        return isinstance(item, h5py.Dataset) and item.shape is not None and stored_kind(item) in "biuf"

    with open_hdf(path) as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if is_array(item) else None)
        return numbers(file[_choose(path, None if variable is None else variable.strip("/"), found)])


def _read_image(path: Path) -> RasterFile:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return RasterFile(path, np.asarray(image), colours=image.mode not in ("1", "L", "P", "I", "I;16", "F"))
    except Image.DecompressionBombError as error:
        raise SpecfmError(f"{path}: too large an image to be unpacked ({error}); save it as .npy or GeoTIFF") from None
    except (OSError, SyntaxError, ValueError) as error:  # PIL's word for a PNG with a wrong chunk
        raise SpecfmError(f"{path} cannot be read as an image ({error}); write it anew") from None


def _read_tiff(path: Path) -> RasterFile:
    from rasterio.enums import ColorInterp

    from specfm.readers.raster_source import as_place, open_raster, pixels_of, stored_type

    with open_raster(path) as raster:
        kinds = {stored_type(kind).itemsize for kind in raster.dtypes}
        refuse_unpacked(path, raster.count * raster.height * raster.width * max(kinds), "its raster")
        with pixels_of(path):
            array = np.moveaxis(raster.read(), 0, -1)
        fills = {repr(value): value for value in raster.nodatavals}
        if len(fills) > 1:  # each band has its own
            own = np.array([np.nan if value is None else value for value in raster.nodatavals])
            array = np.where(array == own, np.nan, array)
        return RasterFile(
            path,
            array,
            geo=as_place(raster),
            nodata=raster.nodatavals[0] if len(fills) == 1 else None,
            colours=ColorInterp.red in raster.colorinterp and raster.count > 1,
        )


def _read_envi(path: Path) -> RasterFile:
    from specfm.readers.envi import find_header, read_envi

    header = path if path.suffix.lower() == ".hdr" else find_header(path)
    if header is None:
        raise SpecfmError(
            f"{path}: labels of this kind are not known (no .hdr beside it); use .mat, .npz, .tif or ENVI"
        )
    found = read_envi(path, None if header == path else header)
    height, width, _ = found.source.shape
    array = found.source.read(range(height), range(width), None)
    return RasterFile(path, array, found.geo, found.nodata, found.class_names or ())
