"""One HDF5 cube nobody described beforehand, by what stands on it and around it. Axes: H rows, W columns, C bands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.axes import BAND_AXIS, band_layout, by, named_axis
from specfm.readers.exposure import state_exposure
from specfm.readers.found import Found
from specfm.readers.hdf_attributes import settings, stored_kind
from specfm.readers.hdf_common import HdfSource
from specfm.readers.hdf_lists import HdfList, axis_names, band_lists, choose
from specfm.readers.hdf_place import read_place
from specfm.readers.stated import Stated, describe_numbers

if TYPE_CHECKING:
    import h5py

log = logging.getLogger(__name__)

Supplied = Callable[[], int | None]
Arrays = tuple[dict[str, "h5py.Dataset"], dict[str, "h5py.Dataset"]]  # by path: cubes and vectors


def read_cube(path: Path, held: Arrays, name: str, layout: str | None, supplied: Supplied) -> Found:
    """Describe one array with three axes, of all that the file holds, by what stands on it and around it."""
    cubes, vectors = held
    cube = cubes[name]
    others = [other for other in cubes if other != name]
    names = axis_names(cube)
    lengths = _wavelengths(path, cube, vectors, others, names, layout, supplied)
    what = f"{path}: {name}"
    layout = band_layout(what, cube.shape, layout, None if lengths is None else lengths.size, names, supplied)
    count = int(cube.shape[BAND_AXIS[layout]])
    stated = Stated(path, cube, count)
    view = stated.view()
    found = Found(source=HdfSource(path, name, layout, view), path=path, name=path.stem)
    if lengths is not None and lengths.size == count:
        found.wavelengths, found.units = lengths.values(), lengths.units
        widths = _first("fwhm", cube, vectors, others, count)
        if widths is not None:
            found.fwhm, found.fwhm_units = widths.values(), widths.units
    good = _first("good", cube, vectors, others, count)
    found.valid = None if good is None else good.values() != 0
    state_exposure(found, settings(cube), path)
    describe_numbers(stated, found, view)
    geo, found.gsd_m = read_place(path, cube)
    # a coordinate system alone may be that of another grid (the orthorectified one, say)
    found.geo = None if geo is None or geo.transform is None else geo
    return found


def arrays(file: h5py.File) -> Arrays:
    """By path: numbers with three axes, and numbers in a row; the whole file is walked for it."""
    import h5py

    cubes: dict[str, h5py.Dataset] = {}
    vectors: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and stored_kind(item) in "iuf":
            if item.ndim == 3 and item.size:
                cubes[name] = item
            elif (item.ndim == 1 or (item.ndim == 2 and 1 in item.shape)) and not _is_placeholder(item):
                vectors[name] = item

    file.visititems(visit)
    return cubes, vectors


def _is_placeholder(item: h5py.Dataset) -> bool:
    """A dimension of netCDF that has a name and a length but no values."""
    name = item.attrs.get("NAME", b"")
    return isinstance(name, bytes) and name.startswith(b"This is a netCDF dimension but not a netCDF variable")


def _wavelengths(
    path: Path,
    cube: h5py.Dataset,
    vectors: dict[str, h5py.Dataset],
    others: list[str],
    names: list[set[str]],
    layout: str | None,
    supplied: Supplied,
) -> HdfList | None:
    """The file's own list of wavelengths for a cube; None where it has none that fits."""
    known = band_lists("wavelengths", cube, vectors)
    axis = BAND_AXIS[layout] if layout else named_axis(names)
    sizes = set(cube.shape) if axis is None else {cube.shape[axis]}
    fits = [each for each in known if each.size in sizes and each.size > 1] or [e for e in known if e.size in sizes]
    best = choose("wavelengths", fits, cube.name, others)
    if best and all(each.size == best[0].size and _equal(each, best[0]) for each in best):
        return best[0]
    if not known or (not best and fits):
        return None
    listing = ", ".join(f"{each.where} ({each.size} values)" for each in best or known)
    shape = f"{cube.name} {by(cube.shape)}"
    problem = "could each be the wavelengths of" if best else "fits no band axis of" if axis is None else "does not fit"
    if supplied() is None:
        raise SpecfmError(
            f"{path}: {listing} {problem} {shape}; supply the list that belongs to it with --wavelengths file.csv"
            + ("" if best or axis is None else " or say the layout that fits")
        )
    log.info("%s: %s is not used: it %s %s", path, listing, problem, shape)
    return None


def _equal(one: HdfList, two: HdfList) -> bool:
    return np.array_equal(one.values(), two.values())


def _first(
    kind: str, cube: h5py.Dataset, vectors: dict[str, h5py.Dataset], others: list[str], count: int
) -> HdfList | None:
    fits = [each for each in band_lists(kind, cube, vectors) if each.size == count]
    best = choose(kind, fits, cube.name, others)
    return best[0] if best else None
