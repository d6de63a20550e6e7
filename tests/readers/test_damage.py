"""Damaged files of every format: read, or refused by one sentence, never anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from specfm.errors import SpecfmError
from specfm.readers import read_scene

from . import make
from .test_matlab import save

CUBE = make.cube((12, 11, 6))


def write_envi(folder: Path) -> Path:
    make.envi(folder, CUBE, name="x.dat")
    return folder / "x.dat"


def write_header(folder: Path) -> Path:
    return make.envi(folder, CUBE, name="x.dat", fwhm="{1, 2, 3, 4, 5, 6}", bbl="{1, 1, 1, 1, 1, 0}")


def write_v5(folder: Path) -> Path:
    savemat(folder / "x.mat", {"wl": np.arange(6.0), "x": CUBE}, do_compression=True)
    return folder / "x.mat"


def write_v5_plain(folder: Path) -> Path:
    savemat(folder / "x.mat", {"wl": np.arange(6.0), "x": CUBE}, do_compression=False)
    return folder / "x.mat"


def write_v73(folder: Path) -> Path:
    return save(folder / "x.mat", True, x=CUBE)


def write_hdf(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=CUBE, chunks=(4, 4, 6), compression="gzip").attrs["_FillValue"] = -1
    return folder / "x.h5"


def write_npy(folder: Path) -> Path:
    np.save(folder / "x.npy", CUBE)
    return folder / "x.npy"


def write_tiff(folder: Path) -> Path:
    rasterio = pytest.importorskip("rasterio")
    profile = {"height": 12, "width": 11, "count": 6, "dtype": "int16", "compress": "deflate"}
    with rasterio.open(folder / "x.tif", "w", driver="GTiff", **profile) as raster:
        raster.write(CUBE.transpose(2, 0, 1))
        raster.update_tags(ns="ENVI", wavelength="{400,500,600,700,800,900}", wavelength_units="nm")
    return folder / "x.tif"


WRITERS = [write_envi, write_header, write_v5, write_v5_plain, write_v73, write_hdf, write_npy, write_tiff]


def try_to_read(path: Path, bands: Path) -> str:
    try:
        scene = read_scene(path, wavelengths=bands)
        scene.read()
        scene.mask()
    except SpecfmError as error:
        message = str(error)
        assert "\n" not in message and path.stem in message, message
        return "refused"
    return "read"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning", "ignore::UserWarning")
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_cut_anywhere(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    bands = make.bands_csv(tmp_path, 6)
    path = write(tmp_path)
    whole = path.read_bytes()
    assert try_to_read(path, bands) == "read"
    outcomes = []
    for size in np.unique(np.linspace(0, len(whole) - 1, 60).astype(int)):
        path.write_bytes(whole[:size])
        outcomes.append(try_to_read(path, bands))
    assert outcomes.count("refused") > len(outcomes) / 2


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning", "ignore::UserWarning")
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_a_wrong_byte_anywhere_near_the_front(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    bands = make.bands_csv(tmp_path, 6)
    path = write(tmp_path)
    whole = bytearray(path.read_bytes())
    for at in range(0, min(len(whole), 1200), 13):
        damaged = whole.copy()
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try_to_read(path, bands)
