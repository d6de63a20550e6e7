"""Mission files in HDF5: NEON AOP reflectance, PRISMA (.he5), EMIT (NetCDF 4).

Each reader returns None for a file that is not its own. Field names of NEON were checked against a real file; those of
PRISMA and EMIT follow the missions' product descriptions as several independent readers use them. Axes: H, W, C.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.rasters.map_info import parse_map_info
from specfm.readers.found import Found
from specfm.readers.hdf_common import HdfSource, attribute, single, text
from specfm.scene import Geo

if TYPE_CHECKING:
    import h5py

log = logging.getLogger(__name__)

PRISMA_M = 30.0  # side of a pixel
_PRISMA_SWATHS = {  # swath name part -> (level, quantity)
    "PRS_L1_HCO": ("L1", "radiance"),
    "PRS_L1_HRC": ("L1", "radiance"),
    "PRS_L2B_HCO": ("L2", "radiance"),
    "PRS_L2C_HCO": ("L2", "surface_reflectance"),
    "PRS_L2D_HCO": ("L2", "surface_reflectance"),
}


def read_neon(path: Path, file: h5py.File, variable: str | None) -> Found | None:
    """NEON AOP: ``/SITE/Reflectance/Reflectance_Data`` (H, W, C), wavelengths in nm beside it.

    ``Band_Window_n_Nanometers`` of the product (water vapour) become bad bands.
    """
    sites = [site for site in file if f"{site}/Reflectance/Reflectance_Data" in file]
    if not sites or variable is not None:
        return None
    if len(sites) > 1:
        raise SpecfmError(f"{path}: holds several NEON sites ({', '.join(sites)}); choose one with --variable")
    group = file[f"{sites[0]}/Reflectance"]
    data = group["Reflectance_Data"]
    source = HdfSource(path, data.name)
    found = Found(source=source, path=path, name=path.stem, sensor_name="NEON AIS")
    found.level, found.quantity = "L2", "surface_reflectance"
    spectral = group.get("Metadata/Spectral_Data")
    if spectral is not None and "Wavelength" in spectral:
        found.wavelengths = np.asarray(spectral["Wavelength"]).ravel()
        found.units = attribute(spectral["Wavelength"], "Units", "units") or "nm"
        if "FWHM" in spectral:
            found.fwhm = np.asarray(spectral["FWHM"]).ravel()
        windows = [value for key, value in group.attrs.items() if str(key).startswith("Band_Window")]
        good = np.ones(source.shape[2], bool)
        for window in windows:
            low, high = np.asarray(window, np.float64).ravel()[:2]
            good &= ~((found.wavelengths >= low) & (found.wavelengths <= high))
        found.valid = good
    factor = single(data, "Scale_Factor", "Scale")
    found.scale = None if factor is None else 1.0 / factor
    found.nodata = single(data, "Data_Ignore_Value")
    place = group.get("Metadata/Coordinate_System")
    if place is not None:
        found.geo, found.gsd_m = _neon_place(path, place)
    return found


def _neon_place(path: Path, place: h5py.Group) -> tuple[Geo | None, float | None]:
    code = text(place["EPSG Code"]) if "EPSG Code" in place else None
    crs = f"EPSG:{int(float(code))}" if code and code.strip().replace(".", "", 1).isdigit() else None
    info = (text(place["Map_Info"]) or "").split(",") if "Map_Info" in place else []
    named, transform, gsd_m = parse_map_info(info, path)
    crs = crs or named
    return (None if crs is None and transform is None else Geo(crs, transform)), gsd_m


@dataclass(frozen=True)
class JoinedSource:
    """Cubes of equal H and W one behind the other along the bands (PRISMA's VNIR and SWIR)."""

    parts: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, _ = self.parts[0].shape
        return (height, width, sum(part.shape[2] for part in self.parts))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(part.dtype for part in self.parts))

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        wanted = np.arange(self.shape[2]) if bands is None else bands
        out = np.empty((len(rows), len(cols), len(wanted)), self.dtype)
        start = 0
        for part in self.parts:
            inside = (wanted >= start) & (wanted < start + part.shape[2])
            if inside.any():
                out[:, :, inside] = part.read(rows, cols, wanted[inside] - start)
            start += part.shape[2]
        return out


def read_prisma(path: Path, file: h5py.File, variable: str | None) -> Found | None:
    """PRISMA: VNIR then SWIR cube (H, C, W), descending wavelengths, zeros where a band was not acquired.

    L2: ``reflectance = min + DN (max - min) / 65535``; L1: ``radiance = DN / factor - offset``; one scale per detector.
    A pixel whose DN are zero in all bands is fill (see CalibratedSource). L2D is map-projected.
    """
    swaths = file.get("HDFEOS/SWATHS")
    name = next((key for key in _PRISMA_SWATHS if swaths is not None and key in swaths), None)
    if name is None or variable is not None:
        return None
    fields = swaths[f"{name}/Data Fields"]
    parts, centres, widths, good, gains, offsets = [], [], [], [], [], []
    for detector in ("Vnir", "Swir"):
        cube = fields.get(f"{detector.upper()}_Cube")
        if cube is None:
            raise SpecfmError(f"{path}: PRISMA swath {name} has no {detector.upper()}_Cube; the file is incomplete")
        centre_C = _root_list(path, file, f"List_Cw_{detector}", cube.shape[1])
        parts.append(HdfSource(path, cube.name, "HCW"))
        centres.append(centre_C)
        widths.append(_root_list(path, file, f"List_Fwhm_{detector}", cube.shape[1]))
        flags = file.attrs.get(f"List_Cw_{detector}_Flags")
        good.append(np.ones(len(centre_C), bool) if flags is None else np.asarray(flags).ravel() != 0)
        gain, offset = _prisma_scale(path, file, detector)
        gains.append(np.full(len(centre_C), gain))
        offsets.append(np.full(len(centre_C), offset))
    if parts[0].shape[:2] != parts[1].shape[:2]:
        raise SpecfmError(f"{path}: VNIR and SWIR cubes differ in size: {parts[0].shape[:2]} and {parts[1].shape[:2]}")
    found = Found(source=JoinedSource(tuple(parts)), path=path, name=path.stem, sensor_name="PRISMA", gsd_m=PRISMA_M)
    found.level, found.quantity = _PRISMA_SWATHS[name]
    found.wavelengths, found.units = np.concatenate(centres), "nm"
    found.fwhm, found.valid = np.concatenate(widths), np.concatenate(good)
    found.gains = (np.concatenate(gains), np.concatenate(offsets))
    found.geo = _prisma_place(path, file, found.source.shape)
    return found


def _prisma_place(path: Path, file: h5py.File, shape: tuple[int, int, int]) -> Geo | None:
    """Where a map-projected product (L2D) lies: UTM, north up, pixels of 30 m.

    Readers differ on whether the stated corners are centres or outer edges of the corner pixels; the distance between
    two opposite ones tells, where the file states both (else: edges).
    """
    code, west, north, east = (
        single(file, key)
        for key in (
            "Epsg_Code",
            "Product_ULcorner_easting",
            "Product_ULcorner_northing",
            "Product_LRcorner_easting",
        )
    )
    if code is None or west is None or north is None:
        return None
    if not (code.is_integer() and code > 0 and np.isfinite([west, north]).all()):
        raise SpecfmError(f"{path}: Epsg_Code {code:g} and corner {west:g}, {north:g} name no place; copy it again")
    half = PRISMA_M / 2 if east is not None and round((east - west) / PRISMA_M) == shape[1] - 1 else 0.0
    return Geo(f"EPSG:{int(code)}", (west - half, PRISMA_M, 0.0, north + half, 0.0, -PRISMA_M))


def _root_list(path: Path, file: h5py.File, key: str, count: int) -> NDArray[np.float64]:
    if key not in file.attrs:
        raise SpecfmError(f"{path}: PRISMA attribute {key} is missing; the file is incomplete")
    values = np.asarray(file.attrs[key], np.float64).ravel()
    if len(values) != count:
        raise SpecfmError(f"{path}: {key} has {len(values)} values but its cube has {count} bands")
    return values


def _prisma_scale(path: Path, file: h5py.File, detector: str) -> tuple[float, float]:
    low, high = file.attrs.get(f"L2Scale{detector}Min"), file.attrs.get(f"L2Scale{detector}Max")
    if low is not None and high is not None:
        return (float(high) - float(low)) / 65535.0, float(low)
    factor = file.attrs.get(f"ScaleFactor_{detector}")
    if factor is None:
        log.warning("%s: no scale for the %s cube; its numbers stay as stored", path, detector.upper())
        return 1.0, 0.0
    return 1.0 / float(factor), -float(file.attrs.get(f"Offset_{detector}", 0.0))


def read_emit(path: Path, file: h5py.File, variable: str | None) -> Found | None:
    """EMIT L1B radiance or L2A reflectance (downtrack, crosstrack, bands), not orthorectified.

    The geotransform in the file belongs to the orthorectified grid of its lookup table, not to this cube, so the scene
    has no ground reference.
    """
    parameters = file.get("sensor_band_parameters")
    name = next((key for key in ("reflectance", "radiance") if key in file), None)
    if parameters is None or name is None or "wavelengths" not in parameters or variable is not None:
        return None
    if getattr(file[name], "ndim", 0) != 3:
        return None
    found = Found(source=HdfSource(path, name), path=path, name=path.stem, sensor_name="EMIT", gsd_m=60.0)
    found.level, found.quantity = ("L2", "surface_reflectance") if name == "reflectance" else ("L1", "radiance")
    found.wavelengths = np.asarray(parameters["wavelengths"]).ravel()
    found.units = attribute(parameters["wavelengths"], "units") or "nm"
    if "fwhm" in parameters:
        found.fwhm = np.asarray(parameters["fwhm"]).ravel()
    if "good_wavelengths" in parameters:
        found.valid = np.asarray(parameters["good_wavelengths"]).ravel() != 0
    found.nodata = single(file[name], "_FillValue", "missing_value")
    return found
