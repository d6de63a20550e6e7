"""HDF5 and NetCDF 4 cubes: told apart by their layout, the missions' own ones first, then any file whose cube and
wavelengths can be named without guessing.

Axes: H rows, W columns, C bands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specfm.errors import SpecfmError
from specfm.readers.axes import BAND_AXIS, by
from specfm.readers.found import Found
from specfm.readers.hdf_common import open_hdf
from specfm.readers.hdf_cube import Supplied, arrays, read_cube
from specfm.readers.missions import read_emit, read_prisma, read_tanager
from specfm.readers.neon import read_neon, read_neon_radiance
from specfm.readers.own import read_own

if TYPE_CHECKING:
    import h5py


def read_hdf(path: Path, variable: str | None, layout: str | None, supplied: Supplied = lambda: None) -> Found:
    """Open an HDF5 cube; no pixel is read.

    Args:
        path: the file.
        variable: path of the cube inside the file; None: the layout's own, or the only array with three axes.
        layout: HWC, CHW or HCW, where the file does not show which axis holds the bands.
        supplied: length of the list of bands that the user supplies, None without one.

    Raises:
        SpecfmError: unreadable, no such variable, several candidates, or axes that cannot be told apart.
    """
    if layout is not None and layout not in BAND_AXIS:
        raise SpecfmError(f"{path}: layout of an HDF5 cube is HWC, CHW or HCW, got {layout!r}")
    with open_hdf(path) as file:
        for reader in (read_own, read_neon, read_prisma, read_emit):
            found = reader(path, file, variable) if layout is None else None
            if found is not None:
                return found
        held = arrays(file)
        for any_reader in (read_neon_radiance, read_tanager):
            found = any_reader(path, file, held, variable, layout, supplied)
            if found is not None:
                return found
        cubes, _ = held
        if variable is not None and variable.strip("/") not in cubes:
            raise SpecfmError(f"{path}: no cube {variable!r}; it holds {_listing(cubes)}")
        if variable is None and len(cubes) != 1:
            advice = "choose one with --variable: " if cubes else "it holds no array with three axes"
            several = "several arrays could be the cube; " if cubes else ""
            raise SpecfmError(f"{path}: {several}{advice}{_listing(cubes)}")
        return read_cube(path, held, variable.strip("/") if variable else next(iter(cubes)), layout, supplied)


def _listing(cubes: dict[str, h5py.Dataset]) -> str:
    return ", ".join(f"{name} {by(item.shape)}" for name, item in cubes.items())
