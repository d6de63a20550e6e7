"""Compression that HDF5 lacks: read with hdf5plugin where it is there, else the true reason is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene

from . import make

READ = """
import sys
if sys.argv[2] == "without": sys.modules["hdf5plugin"] = None
from specfm.errors import SpecfmError
from specfm.readers import read_scene
try:
    print(read_scene(sys.argv[1]).read().sum())
except SpecfmError as error:
    print(error)
"""


def run(path: Path, how: str, code: str = READ) -> str:
    env = {**os.environ, "HDF5_PLUGIN_PATH": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), how], capture_output=True, text=True, check=True, env=env
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("codec", "number"), [("Blosc", 32001), ("Zstd", 32015), ("Bitshuffle", 32008)])
def test_filters_of_hdf5plugin(tmp_path: Path, codec: str, number: int) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    cube = np.arange(40, dtype="i2")[:, None, None] + np.zeros((40, 40, 6), "i2")  # noise would be left uncompressed
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("cube", data=cube, chunks=(20, 20, 6), **getattr(hdf5plugin, codec)())
        file["wavelength_nm"] = np.array(make.centres(6))
    assert run(path, "with") == str(cube.sum())
    said = run(path, "without")
    assert f"cube is compressed with the filter {codec.lower()} ({number}), which this HDF5 lacks" in said
    assert "pip install hdf5plugin" in said and "h5repack" in said and "copy it again" not in said


def test_a_filter_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((5, 7, 6))
        plan.set_filter(40000, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple((5, 7, 6))
        data = h5py.h5d.create(file.id, b"cube", h5py.h5t.NATIVE_INT16, space, plan)
        data.write_direct_chunk((0, 0, 0), b"\0" * 100, 0)
        file["wavelength_nm"] = np.array(make.centres(6))
    with pytest.raises(SpecfmError, match=r"cube is compressed with the filter \w+ \(40000\), which this HDF5 lacks"):
        read_scene(path).read()


def test_filters_in_a_matlab_file(tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    cube, path = np.arange(40, dtype="i2")[None, None] + np.zeros((6, 40, 40), "i2"), tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("cube", data=cube, chunks=(6, 20, 20), **hdf5plugin.Blosc())
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: test".ljust(512))
    code = READ.replace("sys.argv[1])", f"sys.argv[1], wavelengths={str(make.bands_csv(tmp_path, 6))!r})")
    assert run(path, "with", code) == str(cube.sum())
    assert "cube is compressed with the filter blosc (32001)" in run(path, "without", code)
