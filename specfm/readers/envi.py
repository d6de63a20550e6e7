"""ENVI cubes and spectral libraries: a text header beside a flat file (bsq, bil or bip).

``x.hdr`` pairs with ``x``, ``x.dat.hdr`` with ``x.dat``, ``x.hdr`` also with ``x`` + a usual extension. A spectral
library (``.sli``) is a scene of N rows, one column: ``(N, 1, C)``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.band_lists import BandList, choose
from specfm.readers.checked import NATIVE_ORDER, FlatSource
from specfm.readers.envi_header import EnviHeader, parse_header
from specfm.readers.exposure import described, state_exposure
from specfm.readers.found import Found
from specfm.readers.names import from_names
from specfm.readers.unused import note_unused
from specfm.scene import CubeSource, Geo

log = logging.getLogger(__name__)

USED = ("data ignore value", "reflectance scale factor", "data gain values", "data offset values")
EXTENSIONS = ("", ".dat", ".img", ".raw", ".bil", ".bip", ".bsq", ".sli", ".cub", ".bin", ".lib", ".slb")


def find_header(data: Path) -> Path | None:
    """The header of a data file: ``x.dat.hdr`` before ``x.hdr``, in any case of letters."""
    names = [data.name + ".hdr", data.stem + ".hdr"] if data.suffix else [data.name + ".hdr"]
    siblings = {entry.name.lower(): entry for entry in sorted(data.parent.iterdir(), reverse=True) if entry.is_file()}
    for name in names:
        exact = data.parent / name
        if exact.is_file():
            return exact
        if name.lower() in siblings:
            return siblings[name.lower()]
    return None


def find_data(header: Path) -> Path:
    """The data file of a header.

    Raises:
        SpecfmError: there is none, or several fit.
    """
    stem = header.with_suffix("")
    wanted = {(stem.name + extension).lower() for extension in EXTENSIONS}
    entries = [entry for entry in sorted(header.parent.iterdir()) if entry.name.lower() in wanted and entry.is_file()]
    entries = [entry for entry in entries if entry != header and find_header(entry) == header]
    exact = [entry for entry in entries if entry == stem]
    if exact:
        return exact[0]
    if not entries:
        if (raster := described_raster(header)) is not None:
            raise SpecfmError(f"{header}: describes the TIFF {raster.name} beside it; name that file instead")
        raise SpecfmError(
            f"{header}: no data file beside this header; looked for {stem.name} alone and with "
            f"{', '.join(extension for extension in EXTENSIONS if extension)}"
        )
    if len(entries) > 1:
        names = ", ".join(entry.name for entry in entries)
        raise SpecfmError(f"{header}: several data files fit this header ({names}); name the one you mean")
    return entries[0]


def described_raster(header: Path) -> Path | None:
    """The TIFF beside a header that describes it (``x.tif`` and ``x.hdr``), None where there is none."""
    stem = header.with_suffix("")
    wanted = {stem.name.lower(), f"{stem.name}.tif".lower(), f"{stem.name}.tiff".lower()}
    names = (".tif", ".tiff")
    return next(
        (e for e in sorted(header.parent.iterdir()) if e.name.lower() in wanted and e.suffix.lower() in names), None
    )


def describes_only_a_raster(header: Path) -> bool:
    """True for a header whose data file is the TIFF beside it, so that it is no cube of its own."""
    if described_raster(header) is None:
        return False
    try:
        find_data(header)
    except SpecfmError:
        return True
    return False


def read_described(
    header_path: Path, source: CubeSource, supplied: Callable[[], int | None] = lambda: None
) -> Found | None:
    """What a header says of a cube that is stored otherwise; None where it is no header or one of another size."""
    try:
        header = parse_header(header_path)
        lines, samples, bands = header.shape
    except SpecfmError:
        return None
    if (lines, samples, bands) != tuple(source.shape):
        return None
    found = Found(source=source, path=header_path)
    _spectral(header, found, supplied)
    _radiometric(header, found)
    _exposure(header, found)
    return found


def read_envi(path: Path, header_path: Path | None = None, supplied: Callable[[], int | None] = lambda: None) -> Found:
    """Open an ENVI cube named by its header or by its data file; no pixel is read.

    Args:
        path: header or data file.
        header_path: the header, where ``path`` is the data file.
        supplied: tells how many bands the user's own list has, None = there is no such list. Lists of the header that
            cannot be this cube's then give way to it.

    Raises:
        SpecfmError: header or data file missing, keys missing or odd, data file shorter than the header says.
    """
    if header_path is None:
        header_path = path
        header = parse_header(path)
        header.check()
        data = find_data(path)
        if described_raster(path) == data:
            raise SpecfmError(f"{path}: describes the TIFF {data.name} beside it; name that file instead")
    else:
        header = parse_header(header_path)
        header.check()
        data = path
    lines, samples, bands = header.shape
    if header.is_library:
        if bands != 1:
            raise SpecfmError(f"{header_path}: a spectral library has bands = 1, this one says {bands}")
        source = FlatSource(data, (lines, 1, samples), header.dtype, "HWC", header.header_offset, header_path.name)
    else:
        order = NATIVE_ORDER[header.interleave]
        source = FlatSource(data, header.shape, header.dtype, order, header.header_offset, header_path.name)
    if source.surplus:
        log.warning("%s: %d bytes more than %s describes; they are ignored", data, source.surplus, header_path.name)
    found = Found(source=source, path=data, described_by=header_path, name=data.stem)
    _spectral(header, found, supplied)
    _radiometric(header, found)
    _exposure(header, found)
    crs, transform, gsd_m = header.geo()
    if crs is not None or transform is not None:
        found.geo = Geo(crs, transform)  # type: ignore[arg-type]
    found.gsd_m = gsd_m
    if "classification" in header.fields.get("file type", "").lower():
        found.class_names = tuple(header.items("class names"))
    if header.is_library:
        names = header.items("spectra names")
        found.label_names = tuple(names) if len(names) == lines else tuple(str(i) for i in range(lines))
        found.labels_HW = np.arange(lines, dtype=np.int32)[:, None]
        found.scene_fields["neighbours"] = False
    return found


def _spectral(header: EnviHeader, found: Found, supplied: Callable[[], int | None] = lambda: None) -> None:
    count = found.source.shape[2]

    def numbers(key: str) -> list[float] | None:
        try:
            return header.numbers(key, count)
        except SpecfmError as error:
            if supplied() is None:
                raise SpecfmError(
                    f"{error}; correct the header, or supply the list with --wavelengths file.csv "
                    "(columns band, centre_nm, fwhm_nm)"
                ) from None
            log.warning("%s; it is not used", error)
            return None

    every_width = header.measure("fwhm")  # one for all bands
    centres, good = numbers("wavelength"), numbers("bbl")
    widths = numbers("fwhm") if every_width is None else [every_width] * count
    lists = []
    if centres is not None:
        lists.append(BandList("its list wavelength", np.array(centres), header.units, file=header.path))
    names = header.items("band names")
    if len(names) == count and (named := from_names("the names of its bands", names)) is not None:
        lists.append(replace(named, file=header.path))
    held = choose(header.path, lists)
    if held is not None:
        found.wavelengths, found.units = held.centres_C, held.units
        found.fwhm = held.fwhm_C if widths is None else widths
        own = header.unit_behind("fwhm") or header.units
        if widths is not None and own is not None and own != held.units:
            found.fwhm_units = own
    found.valid = None if good is None else np.asarray(good) != 0
    sensor = header.fields.get("sensor type", "").strip()
    found.sensor_name = None if sensor.lower() in ("", "unknown") else sensor


def _exposure(header: EnviHeader, found: Found) -> None:
    state_exposure(found, {key: header.plain(key) for key in header.fields}, header.path)
    state_exposure(found, described(header.fields.get("description", "")), header.path)


def _radiometric(header: EnviHeader, found: Found) -> None:
    count = found.source.shape[2]
    _nodata(header, found)
    note_unused(header.path, header.fields, USED)
    factor = header.number("reflectance scale factor")
    if factor is not None:
        if not factor > 0:
            raise SpecfmError(f"{header.path}: reflectance scale factor must be positive, got {factor}")
        found.scale = 1.0 / factor
    gains, offsets = header.numbers("data gain values", count), header.numbers("data offset values", count)
    if gains is None and offsets is None:
        return
    gain_C = np.ones(count) if gains is None else np.asarray(gains)
    offset_C = np.zeros(count) if offsets is None else np.asarray(offsets)
    if factor is not None:  # gains lead to scaled reflectance, which the factor then brings to 0..1
        gain_C, offset_C = gain_C / factor, offset_C / factor
    found.gains = (gain_C, offset_C)


def _nodata(header: EnviHeader, found: Found) -> None:
    """One value; in braces one for every band, or several that mean the same."""
    items = header.items("data ignore value")
    if len(items) < 2:
        found.nodata = header.number("data ignore value")
        return
    values = header.numbers("data ignore value", len(items)) or []
    if len({repr(value) for value in values}) == 1:
        found.nodata = values[0]
    elif len(values) == found.source.shape[2]:
        found.state_nodata(values)
    else:
        found.nodata, found.fills = values[0], tuple(values[1:])
