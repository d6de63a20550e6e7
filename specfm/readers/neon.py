"""NEON AOP files: reflectance of today, and radiance, whose whole and decimal parts are two arrays. Axes: H, W, C."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.digests import digest_parts
from specfm.errors import SpecfmError
from specfm.readers.axes import fold
from specfm.readers.found import Found
from specfm.readers.hdf_attributes import attribute
from specfm.readers.hdf_common import HdfSource, numbers
from specfm.readers.hdf_cube import Arrays, Supplied, read_cube
from specfm.readers.hdf_place import read_place
from specfm.readers.stated import Stated, describe_numbers
from specfm.scene import CubeSource, is_nodata

if TYPE_CHECKING:
    import h5py


def read_neon(path: Path, file: h5py.File, variable: str | None) -> Found | None:
    """NEON AOP: ``/SITE/Reflectance/Reflectance_Data`` (H, W, C), wavelengths in nm beside it.

    ``Band_Window_n_Nanometers`` of the product (water vapour) become bad bands. ``variable`` names a site or its cube.
    """
    sites = [site for site in file if f"{site}/Reflectance/Reflectance_Data" in file]
    if variable is not None:
        tails = ("", "/Reflectance", "/Reflectance/Reflectance_Data")
        sites = [site for site in sites if variable.strip("/") in [site + tail for tail in tails]]
    if not sites:
        return None
    if len(sites) > 1:
        raise SpecfmError(f"{path}: holds several NEON sites; choose one with --variable: {', '.join(sites)}")
    group = file[f"{sites[0]}/Reflectance"]
    data = group["Reflectance_Data"]
    source = HdfSource(path, data.name)
    found = Found(source=source, path=path, name=path.stem, sensor_name="NEON AIS")
    found.level, found.quantity = "L2", "surface_reflectance"
    spectral = group.get("Metadata/Spectral_Data")
    if spectral is not None and "Wavelength" in spectral:
        found.wavelengths = numbers(spectral["Wavelength"]).ravel()
        found.units = attribute(spectral["Wavelength"], "Units") or "nm"
        if "FWHM" in spectral:
            found.fwhm = numbers(spectral["FWHM"]).ravel()
        found.valid = _outside_windows(path, group, found.wavelengths)
    describe_numbers(Stated(path, data, source.shape[2]), found)
    found.geo, found.gsd_m = read_place(path, data)
    return found


def _outside_windows(path: Path, group: h5py.Group, wavelengths_C: NDArray[Any]) -> NDArray[np.bool_]:
    good_C = np.ones(len(wavelengths_C), bool)
    for key, value in group.attrs.items():
        if str(key).startswith("Band_Window"):
            try:
                low, high = np.asarray(value, np.float64).ravel()
            except (TypeError, ValueError):
                raise SpecfmError(
                    f"{path}: {group.name} says {key} = {value}; two wavelengths are needed, mend the attribute"
                ) from None
            good_C &= ~((wavelengths_C >= low) & (wavelengths_C <= high))
    return good_C


@dataclass(frozen=True)
class TwoPartSource:
    """``whole / whole_one + decimal / decimal_one``, float32; NaN where either part is one of its ``fills``."""

    whole: CubeSource
    decimal: CubeSource
    whole_one: float
    decimal_one: float
    fills: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.whole.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def digest(self) -> str:
        """16 hex digits over what is done to the stored numbers."""
        return digest_parts([repr((self.whole_one, self.decimal_one, self.fills))])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        parts = [part.read(rows, cols, bands) for part in (self.whole, self.decimal)]
        values = (parts[0] / self.whole_one + parts[1] / self.decimal_one).astype(np.float32)
        for part, fills in zip(parts, self.fills, strict=True):
            for fill in fills:
                values[is_nodata(part, fill)] = np.nan
        return values


def read_neon_radiance(
    path: Path, file: h5py.File, held: Arrays, variable: str | None, layout: str | None, supplied: Supplied
) -> Found | None:
    """NEON L1 radiance: ``RadianceIntegerPart`` and ``RadianceDecimalPart`` of one group, read as their sum.

    ``variable`` names that group or its site.

    Raises:
        SpecfmError: it names one part alone, the file has several such groups, or the parts do not fit each other.
    """
    cubes, _ = held
    pairs = {}
    for name in cubes:
        if fold(name).endswith("integerpart"):
            other = next((key for key in cubes if fold(key) == fold(name)[: -len("integerpart")] + "decimalpart"), None)
            if other is not None:
                pairs[file[name].parent.name.strip("/")] = (name, other)
    wanted = None if variable is None else variable.strip("/")
    for place, parts in pairs.items():
        if wanted in parts:
            raise SpecfmError(
                f"{path}: {wanted} is one part of NEON's radiance, whose whole and decimal parts are stored apart; "
                f"leave out --variable{f', or say --variable {place}' if place else ''}, to read their sum"
            )
    if wanted is not None:
        pairs = {place: parts for place, parts in pairs.items() if wanted in (place, place.split("/")[0])}
    if not pairs:
        return None
    if len(pairs) > 1:
        raise SpecfmError(
            f"{path}: holds several cubes of NEON radiance; choose one with --variable: {', '.join(pairs)}"
        )
    whole, decimal = next(iter(pairs.values()))
    if file[whole].shape != file[decimal].shape:
        raise SpecfmError(f"{path}: {whole} and {decimal} differ in size; the file is incomplete, copy it again")
    found = read_cube(path, held, whole, layout, supplied)
    source = found.source
    assert isinstance(source, HdfSource)
    ones, fills = [], []
    for part in (whole, decimal):
        stated = Stated(path, file[part], source.shape[2])
        factor, _ = stated.calibration()
        if factor is None and part == decimal:
            raise SpecfmError(f"{path}: {decimal} does not say its Scale_Factor, so radiance cannot be put together")
        ones.append(1.0 if factor is None else float(1.0 / factor[0]))
        fills.append(tuple(stated.fills()))
    found.source = TwoPartSource(source, HdfSource(path, decimal, source.order), ones[0], ones[1], (fills[0], fills[1]))
    found.scale = found.offset = found.nodata = found.valid_range = None
    found.fills, found.saturation = (), None
    found.level, found.quantity, found.sensor_name = "L1", "radiance", "NEON AIS"
    return found
