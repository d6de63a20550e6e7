"""Readers: one call opens any supported cube, by what the file holds and not by its extension alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specfm.bands import BandGrid
from specfm.errors import SpecfmError
from specfm.limits import LINKED_FILES, excess, refuse_unpacked, switched_on
from specfm.plugins import Plugin, plugins
from specfm.readers.found import Found
from specfm.scene import Scene
from specfm.sensors import Sensor

__all__ = ["find_cube", "read_scene"]

_ARCHIVES = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}
_OTHER = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"HEAD74": "ERDAS 7.4", b"CDF": "NetCDF 3"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GDAL = (b"EHFA_HEADER_TAG", b"\0\0\0\x0cjP  ")  # ERDAS Imagine, JPEG 2000: rasterio reads them as well
_HDF = b"\x89HDF\r\n\x1a\n"


def read_scene(
    path: str | Path,
    *,
    variable: str | None = None,
    layout: str | None = None,
    sensor: Sensor | BandGrid | str | None = None,
    wavelengths: str | Path | None = None,
    units: str | None = None,
    quantity: str | None = None,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    name: str | None = None,
) -> Scene:
    """Open a cube; no pixel is read yet.

    ENVI (header or data file), GeoTIFF, MATLAB v5 and v7.3, HDF5 / NetCDF 4 and ``.npy`` are told apart by their
    content; readers of other packages (:mod:`specfm.plugins`) are asked about what is none of these. Wavelengths come
    from the file; where it is silent from ``wavelengths`` or ``sensor`` (logged); else the file is refused. Units are
    never guessed.

    Args:
        path: data or header file.
        variable: name of the cube in a MATLAB or HDF5 file; None = the only one that fits.
        layout: axes of a MATLAB, HDF5 or npy array: ``HWC`` (default), ``CHW``, ``HCW``, ``bands_by_pixels:HxW``
            (MATLAB column-major, as unmixing scenes are stored) or ``spectra`` (N x C, read as (N, 1, C)).
        sensor: a Sensor, its bands or the name of a known one, for what the file does not say.
        wavelengths: CSV file with columns band, centre_nm, fwhm_nm, for a file without wavelengths.
        units: unit of the file's wavelengths where it does not say it (nm, um, cm-1).
        quantity: what the numbers are, where the file is silent or wrong; wins over the file.
        scale: likewise, over gains of single bands too.
        offset: likewise, over offsets of single bands too.
        nodata: stored value that means "not measured"; wins over the file.
        name: name of the scene; None = the file's.

    Raises:
        SpecfmError: unreadable, cut short, inconsistent, without wavelengths; the message names file and remedy.
    """
    path = Path(path)
    from specfm.readers.resolve import resolve_sensor, supplied_count

    found = find_cube(path, variable, layout, lambda: supplied_count(sensor, wavelengths))
    if found.class_names is not None:
        raise SpecfmError(f"{path}: is a map of classes, not a cube; name it under 'labels' in a dataset card")
    scale, offset = found.settle(scale, offset, nodata)
    return Scene(
        source=found.source,
        sensor=resolve_sensor(found, sensor, wavelengths, units, quantity, scale, offset),
        name=name or found.name or path.stem,
        path=found.path,
        geo=found.geo,
        nodata=found.nodata,
        labels_HW=found.labels_HW,
        label_names=found.label_names,
        **found.scene_fields,
    )


def find_cube(
    path: Path, variable: str | None, layout: str | None, supplied: Callable[[], int | None] = lambda: None
) -> Found:
    """The cube of a file and what the file states, before it is decided what its sensor is.

    The reader is chosen by the first bytes, then by a header beside the file. Arguments and errors as those of
    :func:`read_scene`; ``supplied``: number of bands of the list that the user supplies, None without one.
    """
    found = _open(path, variable, layout, supplied)
    _refuse_absurd(found)
    return found


def _refuse_absurd(found: Found) -> None:
    """Refuse what no instrument measures before anything of its size is made: no pixel, no band, or far too much.

    Raises:
        SpecfmError: it is one of these; the message names the file.
    """
    shape = found.source.shape
    if min(shape) < 1:
        raise SpecfmError(f"{found.path}: the cube is {'x'.join(map(str, shape))}; it holds nothing")
    if words := excess("bands", shape[2]):
        raise SpecfmError(f"{found.path}: the cube has {shape[2]} bands; {words}")
    if not switched_on(LINKED_FILES):  # whose numbers lie elsewhere
        refuse_unpacked(found.path, math.prod(shape) * found.source.dtype.itemsize, "the cube")


def _open(path: Path, variable: str | None, layout: str | None, supplied: Callable[[], int | None]) -> Found:
    """Choose the reader by the first bytes, then by a header beside the file."""
    try:
        path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no path that a file can have"
        shown = path if len(str(path)) < 300 else f"{str(path)[:60]}..."
        told = "no such file" if isinstance(error, FileNotFoundError) else f"{reason[0].lower()}{reason[1:]}"
        raise SpecfmError(f"{shown}: {told}; give the path of a data or header file") from None
    if path.is_dir():
        raise SpecfmError(f"{path}: is a folder; name the data or header file in it")
    try:
        with path.open("rb") as handle:
            start = handle.read(1024)
    except OSError as error:
        raise SpecfmError(f"{path}: cannot be read ({error.strerror})") from error
    options: dict[str, Any] = {"variable": variable, "layout": layout}
    if start.startswith(b"MATLAB 5.0"):
        from specfm.readers.matlab import read_matlab

        return read_matlab(path, hdf=False, **options, supplied=supplied)
    if start.startswith(b"MATLAB 7.3"):
        from specfm.readers.matlab import read_matlab

        return read_matlab(path, hdf=True, **options, supplied=supplied)
    if start.startswith(_HDF):
        from specfm.readers.hdf import read_hdf

        return read_hdf(path, **options, supplied=supplied)
    if start.startswith(b"\x93NUMPY"):
        from specfm.readers.npy import read_npy

        _only_layout(path, "npy", variable)
        return read_npy(path, layout, supplied)
    if start.startswith((*_TIFF, *_GDAL)):
        from specfm.readers.geotiff import read_geotiff

        _no_options(path, "GeoTIFF", variable, layout)
        return read_geotiff(path, supplied)
    from specfm.readers.envi import find_header, read_envi

    text = start.lstrip(b"\xef\xbb\xbf \r\n\t")
    if (text.startswith(b"ENVI") and path.suffix.lower() != ".sli") or path.suffix.lower() == ".hdr":
        _no_options(path, "ENVI", variable, layout)
        return read_envi(path, supplied=supplied)
    header = find_header(path)
    if header is not None:
        _no_options(path, "ENVI", variable, layout)
        return read_envi(path, header, supplied)
    for magic, kind in {**_ARCHIVES, **_OTHER}.items():
        if start.startswith(magic):
            advice = "unpack it first" if magic in _ARCHIVES else "convert it to ENVI or GeoTIFF"
            raise SpecfmError(f"{path}: is a {kind} file, which is not read; {advice}")
    if path.stat().st_size == 0:
        raise SpecfmError(f"{path}: is empty (0 bytes)")
    for brought in plugins("specfm.readers").values():
        if (held := _read_by(brought, path, start)) is not None:
            _no_options(path, brought.name, variable, layout)
            return held
    raise SpecfmError(
        f"{path}: neither ENVI, GeoTIFF, MATLAB, HDF5 nor npy by its content, and no header {path.name}.hdr or "
        f"{path.stem}.hdr lies beside it"
    )


def _read_by(brought: Plugin, path: Path, start: bytes) -> Found | None:
    """What the reader of another package made of a file; None where the file is not of its kind.

    Raises:
        PluginError: it does not do what a reader does.
        SpecfmError: as the reader itself raises them.
    """
    reader = brought.load()
    try:
        if not reader.sniff(path, start):
            return None
        held = reader.read(path)
    except SpecfmError:
        raise
    except Exception as error:  # of code that is not ours
        raise brought.failed(f"cannot read {path} ({type(error).__name__}: {error})") from error
    if not isinstance(held, Found):
        raise brought.failed(f"gives {type(held).__name__} for {path}, not specfm.readers.found.Found")
    return held


def _no_options(path: Path, kind: str, variable: str | None, layout: str | None) -> None:
    _only_layout(path, kind, variable)
    if layout is not None:
        raise SpecfmError(f"{path}: is {kind}, whose axes are known; leave out layout")


def _only_layout(path: Path, kind: str, variable: str | None) -> None:
    if variable is not None:
        raise SpecfmError(f"{path}: is {kind}, which has no variables; leave out variable={variable!r}")
