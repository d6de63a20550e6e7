"""HDF5 and NetCDF 4 cubes: told apart by their layout, the missions' own ones first, then any file whose cube and
wavelengths can be named without guessing.

Axes: H rows, W columns, C bands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.exposure import state_exposure
from specfm.readers.found import Found
from specfm.readers.hdf_common import HdfSource, attribute, open_hdf, per_band, settings, single

if TYPE_CHECKING:
    import h5py

_WAVELENGTHS = ("wavelength", "wavelengths", "wavelengths_nm", "wavelength_nm")
_WIDTHS = ("fwhm", "fwhm_nm")
_GOOD = ("good_wavelengths", "good_bands", "bbl")
_ORDERS = {"HWC": "HWC", "CHW": "CHW", None: None}


def read_hdf(path: Path, variable: str | None, layout: str | None) -> Found:
    """Open an HDF5 cube; no pixel is read.

    Args:
        variable: path of the cube inside the file; None: the layout's own, or the only array with three axes.
        layout: HWC or CHW, where the file does not show which axis holds the bands.

    Raises:
        SpecfmError: unreadable, no such variable, several candidates, or axes that cannot be told apart.
    """
    from specfm.readers.missions import read_emit, read_neon, read_prisma
    from specfm.readers.own import read_own

    if layout not in _ORDERS:
        raise SpecfmError(f"{path}: layout of an HDF5 cube is HWC or CHW, got {layout!r}")
    with open_hdf(path) as file:
        for reader in (read_own, read_neon, read_prisma, read_emit):
            found = reader(path, file, variable) if layout is None else None
            if found is not None:
                return found
        return _read_any(path, file, variable, layout)


def _read_any(path: Path, file: h5py.File, variable: str | None, layout: str | None) -> Found:
    import h5py

    cubes: dict[str, h5py.Dataset] = {}
    vectors: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf":
            if item.ndim == 3 and item.size:
                cubes[name] = item
            elif item.ndim == 1 or (item.ndim == 2 and 1 in item.shape):
                vectors[name] = item

    file.visititems(visit)
    if variable is not None and variable.strip("/") not in cubes:
        raise SpecfmError(f"{path}: no cube {variable!r}; it holds {_listing(cubes)}")
    if variable is None and len(cubes) != 1:
        advice = "choose one with --variable: " if cubes else "it holds no array with three axes"
        raise SpecfmError(f"{path}: {'several arrays could be the cube; ' if cubes else ''}{advice}{_listing(cubes)}")
    name = variable.strip("/") if variable else next(iter(cubes))
    cube = cubes[name]
    lengths = _nearest(name, vectors, _WAVELENGTHS, cube.shape)
    order = layout or _order(path, name, cube, lengths)
    found = Found(source=HdfSource(path, name, order), path=path, name=path.stem)
    count = found.source.shape[2]
    if lengths is not None and lengths.size == count:
        found.wavelengths = np.asarray(lengths).ravel()
        found.units = attribute(lengths, "units", "Units", "unit")
        if found.units is None and lengths.name.endswith("_nm"):
            found.units = "nm"
        widths = _nearest(name, vectors, _WIDTHS, (count,))
        if widths is not None:
            found.fwhm = np.asarray(widths).ravel()
            found.fwhm_units = attribute(widths, "units", "Units", "unit")
    good = _nearest(name, vectors, _GOOD, (count,))
    found.valid = None if good is None else np.asarray(good).ravel() != 0
    found.nodata = single(cube, "_FillValue", "missing_value", "Data_Ignore_Value", "nodata")
    gain, shift = per_band(cube, count, "scale_factor"), per_band(cube, count, "add_offset")
    if any(stated is not None and stated.size > 1 for stated in (gain, shift)):
        found.gains = (
            np.ones(count) if gain is None else np.broadcast_to(gain, count),
            np.zeros(count) if shift is None else np.broadcast_to(shift, count),
        )
    else:
        found.scale, found.offset = (None if stated is None else float(stated[0]) for stated in (gain, shift))
    state_exposure(found, settings(cube), path)
    return found


def _order(path: Path, name: str, cube: h5py.Dataset, lengths: h5py.Dataset | None) -> str:
    """Which axis holds the bands: the only one as long as the wavelength list."""
    if lengths is None:
        return "HWC"
    axes = [axis for axis, size in enumerate(cube.shape) if size == lengths.size]
    if len(axes) != 1:
        raise SpecfmError(
            f"{path}: {name} has shape {'x'.join(map(str, cube.shape))} and {lengths.size} wavelengths, so its "
            "band axis cannot be told; say --layout HWC or --layout CHW"
        )
    return {0: "CHW", 1: "HCW", 2: "HWC"}[axes[0]]


def _nearest(
    cube: str, vectors: dict[str, h5py.Dataset], names: tuple[str, ...], sizes: tuple[int, ...]
) -> h5py.Dataset | None:
    """The vector with one of the names and a fitting length that shares most of its path with the cube."""
    fits = [key for key, item in vectors.items() if key.rsplit("/", 1)[-1].lower() in names and item.size in sizes]
    parents = cube.split("/")[:-1]

    def shared(key: str) -> int:
        return sum(1 for a, b in zip(parents, key.split("/")[:-1], strict=False) if a == b)

    return vectors[max(fits, key=shared)] if fits else None


def _listing(cubes: dict[str, h5py.Dataset]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, item.shape))}" for name, item in cubes.items())
