"""MATLAB v5 and v7.3: variables named or found, layouts, and streams that are damaged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from specfm.errors import SpecfmError, UsageError
from specfm.readers import read_scene
from specfm.readers.matlab import MatlabSource, load_variable
from specfm.readers.matlab5 import stored_type

from . import make


def save(path: Path, hdf: bool, **variables: np.ndarray) -> Path:
    """A .mat file; v7.3 is HDF5 with reversed axes behind a 512-byte text header."""
    if not hdf:
        savemat(path, variables, do_compression=True)
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in variables.items():
            file[name] = array.T
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: test".ljust(512))
    return path


both = pytest.mark.parametrize("hdf", [False, True], ids=["v5", "v7.3"])


@both
def test_cube_is_found_and_windowed(tmp_path: Path, hdf: bool) -> None:
    cube = make.cube()
    path = save(tmp_path / "a.mat", hdf, cube=cube, gt=np.zeros((5, 7)))
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 6))
    assert scene.shape == (5, 7, 6) and scene.dtype == np.int16
    np.testing.assert_array_equal(scene.read(), cube)
    window = (slice(1, 5, 2), slice(0, 3), [4, 1, 1])
    np.testing.assert_array_equal(scene.read(*window), cube[1:5:2, :3][:, :, [4, 1, 1]])


@both
def test_layouts(tmp_path: Path, hdf: bool) -> None:
    cube = make.cube()
    bands = make.bands_csv(tmp_path, 6)
    matrix = cube.reshape(-1, 6, order="F").T  # bands x pixels, pixels column by column
    forms = {"CHW": cube.transpose(2, 0, 1), "bands_by_pixels:5x7": matrix}
    for layout, array in forms.items():
        scene = read_scene(save(tmp_path / "m.mat", hdf, Y=array), layout=layout, wavelengths=bands)
        np.testing.assert_array_equal(scene.read(slice(1, 3), bands=[2]), cube[1:3][:, :, [2]])
    np.testing.assert_array_equal(matrix.T.reshape(5, 7, 6, order="F"), cube)
    spectra = cube.reshape(-1, 6)
    scene = read_scene(save(tmp_path / "s.mat", hdf, X=spectra), layout="spectra", wavelengths=bands)
    np.testing.assert_array_equal(scene.read()[:, 0], spectra)


@both
def test_several_candidates_are_listed(tmp_path: Path, hdf: bool) -> None:
    path = save(tmp_path / "a.mat", hdf, hs=make.cube(), ms=make.cube((5, 7, 3)))
    with pytest.raises(SpecfmError, match=r"--variable: .*hs 5x7x6, ms 5x7x3"):
        read_scene(path)
    scene = read_scene(path, variable="ms", wavelengths=make.bands_csv(tmp_path, 3))
    assert scene.shape == (5, 7, 3)
    with pytest.raises(SpecfmError, match="no variable 'xs'; it holds hs 5x7x6"):
        read_scene(path, variable="xs")


@both
def test_matrix_without_layout_names_the_option(tmp_path: Path, hdf: bool) -> None:
    path = save(tmp_path / "a.mat", hdf, Y=np.ones((6, 35)))
    with pytest.raises(SpecfmError, match="--layout"):
        read_scene(path)
    with pytest.raises(SpecfmError, match="6x35, which is not bands x pixels of a 5x8 image"):
        read_scene(path, variable="Y", layout="bands_by_pixels:5x8")
    with pytest.raises(UsageError, match="unknown layout 'WHC'"):
        read_scene(path, layout="WHC")


@both
def test_own_wavelengths_want_their_units(tmp_path: Path, hdf: bool) -> None:
    extra = {"wl": np.array([[0.4, 0.5, 0.6, 0.7, 0.8, 0.9]]), "bbl": np.array([[1, 1, 0, 1, 1, 1]], np.uint8)}
    path = save(tmp_path / "a.mat", hdf, I=make.cube(), **extra)
    with pytest.raises(SpecfmError, match="units are never guessed"):
        read_scene(path)
    bands = read_scene(path, units="um").sensor.bands
    np.testing.assert_allclose(bands.wavelengths_nm[[0, -1]], [400, 900])
    assert bands.valid.tolist() == [True, True, False, True, True, True]
    supplied = read_scene(path, wavelengths=make.bands_csv(tmp_path, 6)).sensor.bands
    assert supplied.wavelengths_nm[1] == 410 and not supplied.valid[2]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", "c16"])
@pytest.mark.parametrize("name", ["Y", "a_long_name"])
def test_v5_types_are_known_before_reading(tmp_path: Path, dtype: str, compressed: bool, name: str) -> None:
    cube = make.cube(dtype=dtype)
    variables = {"first": np.eye(9), name: cube, "last": np.eye(2)}
    savemat(tmp_path / "a.mat", variables, do_compression=compressed)
    assert stored_type(tmp_path / "a.mat", name) == (None if dtype == "c16" else dtype)
    scene = read_scene(tmp_path / "a.mat", variable=name, wavelengths=make.bands_csv(tmp_path, 6))
    assert scene.dtype == np.dtype(dtype) == scene.read().dtype
    np.testing.assert_array_equal(scene.read(), cube)


def test_doubles_stored_as_integers_stay_integers(tmp_path: Path) -> None:
    """MATLAB itself packs doubles of whole numbers: class double (6), data miUINT16 (4)."""
    cube = make.cube((2, 3, 4), "u2")
    savemat(tmp_path / "a.mat", {"Y": cube})
    raw = bytearray((tmp_path / "a.mat").read_bytes())
    assert raw[128 + 16] == 11  # mxUINT16_CLASS in the array flags
    raw[128 + 16] = 6
    (tmp_path / "a.mat").write_bytes(raw)
    scene = read_scene(tmp_path / "a.mat", wavelengths=make.bands_csv(tmp_path, 4))
    assert scene.dtype == np.uint16
    np.testing.assert_array_equal(scene.read(), cube)


def test_v5_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = MatlabSource._load
    monkeypatch.setattr(MatlabSource, "_load", lambda self: calls.append(1) or real(self))
    scene = read_scene(save(tmp_path / "a.mat", False, c=make.cube()), wavelengths=make.bands_csv(tmp_path, 6))
    assert not calls
    scene.read(bands=[1])
    scene.read(rows=slice(2))
    assert len(calls) == 1


@both
def test_cut_short(tmp_path: Path, hdf: bool) -> None:
    path = save(tmp_path / "a.mat", hdf, c=make.cube((20, 20, 6)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SpecfmError, match=r"a.mat: not a readable .* bytes.*copy it again"):
        read_scene(path, wavelengths=make.bands_csv(tmp_path, 6)).read()


@both
def test_load_variable(tmp_path: Path, hdf: bool) -> None:
    gt = np.arange(35, dtype=np.uint8).reshape(5, 7)
    path = save(tmp_path / "gt.mat", hdf, gt=gt)
    np.testing.assert_array_equal(load_variable(path, "gt"), gt)
    with pytest.raises(SpecfmError, match="it holds gt 5x7"):
        load_variable(path, "map")


def test_text_in_a_v73_file_is_no_candidate(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mat", True, X=np.ones((9, 6)), names=np.full((9, 4), 65, np.uint16))
    with h5py.File(path, "r+") as file:
        file["names"].attrs["MATLAB_class"] = np.bytes_("char")
    assert read_scene(path, layout="spectra", wavelengths=make.bands_csv(tmp_path, 6)).shape == (9, 1, 6)


def test_objects_in_a_v5_file_are_not_candidates(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"names": np.array([["a", "b"]], object), "info": {"x": 1}, "cube": make.cube()})
    assert read_scene(path, wavelengths=make.bands_csv(tmp_path, 6)).shape == (5, 7, 6)


def structs(path: Path, hdf: bool, **variables: Any) -> Path:
    """A .mat file of nested structs (dictionaries)."""
    if not hdf:
        savemat(path, variables)
        return path
    with h5py.File(path, "w", userblock_size=512) as file:

        def put(group: Any, said: dict[str, Any]) -> None:
            for name, value in said.items():
                if isinstance(value, dict):
                    put(group.create_group(name), value)
                else:
                    group[name] = np.atleast_2d(value).T

        put(file, variables)
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: test".ljust(512))
    return path


def listed(first: float, **more: Any) -> dict[str, Any]:
    return {"wavelength": first + 10 * np.arange(6.0), "fwhm": np.full(6, first / 100), "bbl": np.ones(6), **more}


@both
def test_a_cube_takes_the_lists_of_its_own_struct(tmp_path: Path, hdf: bool) -> None:
    cube = make.cube()
    path = structs(tmp_path / "a.mat", hdf, a=listed(400, x=cube), b=listed(900, x=cube, bbl=np.eye(6)[0]))
    for name, first in (("a", 400), ("b", 900)):
        bands = read_scene(path, variable=f"{name}.x", units="nm").sensor.bands
        assert bands.wavelengths_nm[0] == first and bands.fwhm_nm[0] == first / 100
        assert bands.valid.sum() == (6 if name == "a" else 1)


@both
def test_lists_deeper_or_farther_out_are_taken_but_not_those_of_another_cube(
    tmp_path: Path, hdf: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cube, csv = make.cube(), make.bands_csv(tmp_path, 6)
    deeper = structs(tmp_path / "d.mat", hdf, wavelength=listed(900)["wavelength"], a={"x": cube, "info": listed(400)})
    assert read_scene(deeper, units="nm").sensor.bands.wavelengths_nm[0] == 400
    farther = structs(tmp_path / "f.mat", hdf, **listed(400), a={"b": {"x": cube}, "c": listed(900, y=cube)})
    assert read_scene(farther, variable="a.b.x", units="nm").sensor.bands.wavelengths_nm[0] == 400
    beside = structs(tmp_path / "s.mat", hdf, data={"x": cube}, meta=listed(400, preview=cube[..., :3]))
    assert read_scene(beside, variable="data.x", units="nm").sensor.bands.wavelengths_nm[0] == 400
    caplog.set_level(logging.INFO)
    other = structs(tmp_path / "o.mat", hdf, x=cube, b=listed(900, x=cube, bbl=np.zeros(6)))
    bands = read_scene(other, variable="x", wavelengths=csv).sensor.bands
    assert bands.wavelengths_nm[0] == 400 and bands.valid.all()
    assert "b.wavelength lies beside b.x and is not used for x" in caplog.text


@both
def test_lists_of_matrices_are_told_apart_too(tmp_path: Path, hdf: bool) -> None:
    spectra = make.cube().reshape(-1, 6)
    members = make.cube((1, 4, 6))[0].T  # endmembers, bands x 4
    path = structs(tmp_path / "a.mat", hdf, a=listed(400, X=spectra), b=listed(900, X=spectra))
    assert read_scene(path, variable="b.X", layout="spectra", units="nm").sensor.bands.wavelengths_nm[0] == 900
    path = structs(tmp_path / "b.mat", hdf, X=spectra, library=listed(400, M=members))
    assert read_scene(path, variable="X", layout="spectra", units="nm").sensor.bands.wavelengths_nm[0] == 400
