"""Which axis holds the bands: one rule for npy, MATLAB and HDF5 arrays."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.readers.axes import band_layout, named_axis
from specfm.readers.resolve import read_wavelengths

from . import make
from .test_matlab import save

FORMATS = ("npy", "v5", "v7.3", "h5")
every_format = pytest.mark.parametrize("kind", FORMATS)


def store(folder: Path, kind: str, array: np.ndarray) -> Path:
    path = folder / f"tile.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["image"] = array
    elif kind == "v5":
        savemat(path, {"image": array}, appendmat=False)
    else:
        save(path, True, image=array)
    return path


def numbered(order: str, sides: dict[str, int]) -> np.ndarray:
    """A cube whose value is the number of its band, axes in ``order``."""
    shape = [sides[axis] for axis in order]
    along = [sides["C"] if axis == "C" else 1 for axis in order]
    return np.broadcast_to(np.arange(sides["C"], dtype="f4").reshape(along), shape).copy()


@every_format
def test_equal_sides_are_asked_about(tmp_path: Path, kind: str) -> None:
    bands = make.bands_csv(tmp_path, 6)
    path = store(tmp_path, kind, numbered("CHW", {"C": 6, "H": 6, "W": 6}))
    with pytest.raises(SpecfmError, match="6x6x6, of which 3 axes fit the 6 bands .*--layout HWC or .*--layout CHW"):
        read_scene(path, wavelengths=bands)
    scene = read_scene(path, wavelengths=bands, layout="CHW")
    assert scene.read()[2, 3].tolist() == [0, 1, 2, 3, 4, 5]


@every_format
@pytest.mark.parametrize("order", ["CHW", "HCW"])
def test_a_list_that_fits_another_axis_names_the_layout_that_works(tmp_path: Path, kind: str, order: str) -> None:
    bands = make.bands_csv(tmp_path, 6)
    path = store(tmp_path, kind, numbered(order, {"C": 6, "H": 5, "W": 7}))
    place = "first" if order == "CHW" else "second"
    with pytest.raises(SpecfmError, match=f"as HWC it has 7 bands.* has 6, .* the {place} axis.*--layout {order}$"):
        read_scene(path, wavelengths=bands)
    scene = read_scene(path, wavelengths=bands, layout=order)
    assert scene.shape == (5, 7, 6) and scene.read()[4, 6].tolist() == [0, 1, 2, 3, 4, 5]
    assert scene.read(slice(1, 4, 2), slice(2, 5), [5, 0])[1, 2].tolist() == [5, 0]


@every_format
def test_two_axes_that_fit_and_a_layout_that_does_not(tmp_path: Path, kind: str) -> None:
    bands = make.bands_csv(tmp_path, 6)
    path = store(tmp_path, kind, numbered("CHW", {"C": 6, "H": 5, "W": 6}))
    with pytest.raises(SpecfmError, match="2 axes fit .*say --layout HWC or --layout CHW$"):
        read_scene(path, wavelengths=bands)
    assert read_scene(path, wavelengths=bands, layout="HWC").shape == (6, 5, 6), "what is said is done"
    with pytest.raises(SpecfmError, match="as HCW it has 5 bands.*first and the last axis.*HWC or --layout CHW"):
        read_scene(path, wavelengths=bands, layout="HCW")


@every_format
def test_a_list_that_fits_no_axis_is_refused_with_the_shape(tmp_path: Path, kind: str) -> None:
    path = store(tmp_path, kind, numbered("HWC", {"C": 6, "H": 5, "W": 7}))
    with pytest.raises(SpecfmError, match="the cube of 5 x 7 pixels has 6 bands but .* has 4; supply a list"):
        read_scene(path, wavelengths=make.bands_csv(tmp_path, 4))


def test_a_known_sensor_is_a_supplied_list(tmp_path: Path) -> None:
    path = tmp_path / "s2.npy"
    np.save(path, np.zeros((13, 4, 5)))
    with pytest.raises(SpecfmError, match="--layout CHW"):
        read_scene(path, sensor="sentinel2_msi")
    assert read_scene(path, sensor="sentinel2_msi", layout="CHW").shape == (4, 5, 13)


@pytest.mark.parametrize("hdf", [False, True])
def test_the_own_list_of_a_matlab_file_turns_its_cube(tmp_path: Path, hdf: bool) -> None:
    cube = make.cube()
    path = save(tmp_path / "a.mat", hdf, Y=cube.transpose(2, 0, 1), wl=np.array([make.centres(6)]))
    np.testing.assert_array_equal(read_scene(path, units="nm").read(), cube)
    path = save(tmp_path / "b.mat", hdf, Y=np.zeros((6, 4, 6)), wl=np.array([make.centres(6)]))
    with pytest.raises(SpecfmError, match="6x4x6 and 6 wavelengths.*--layout HWC or --layout CHW"):
        read_scene(path, units="nm")


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (("bands", "y", "x"), "CHW"),
        (("number_of_bands", "number_of_scans", "ccd_pixels"), "CHW"),
        (("line", "wavelength", "sample"), "HCW"),
        (("northing", "easting", "lambda"), "HWC"),
    ],
)
def test_names_of_axes_decide(tmp_path: Path, labels: tuple[str, ...], order: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("image", data=numbered(order, {"C": 6, "H": 6, "W": 6}))
        for axis, label in enumerate(labels):
            data.dims[axis].label = label
    scene = read_scene(path, wavelengths=make.bands_csv(tmp_path, 6))
    assert scene.read()[1, 2].tolist() == [0, 1, 2, 3, 4, 5]


def test_dimension_scales_decide(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("image", data=numbered("CHW", {"C": 6, "H": 6, "W": 6}))
        file["wavelength"] = np.array(make.centres(6))
        file["wavelength"].attrs["units"] = "nm"
        file["wavelength"].make_scale()
        data.dims[0].attach_scale(file["wavelength"])
    scene = read_scene(path)
    assert scene.read()[1, 2].tolist() == [0, 1, 2, 3, 4, 5] and scene.sensor.bands.wavelengths_nm[1] == 410


def test_names_that_tell_nothing() -> None:
    assert named_axis([(), (), ()]) is None
    assert named_axis([{"band"}, {"bands"}, {"x"}]) is None
    assert named_axis([{"x"}, {"y"}, {"phony_dim_2"}]) == 2
    assert band_layout("a", (5, 7, 6), None) == "HWC"
    assert band_layout("a", (5, 7, 6), None, own=9, supplied=lambda: 6) == "HWC"


@pytest.mark.parametrize(
    "text",
    [
        "Band;Centre_nm;FWHM_nm\n2;410,5;8,0\n1;400,5;8,0\n3;420,5;\n",
        "centre_nm\tnote\n400.5\ta\n410.5\tb\n420.5\tc\n",
        'centre_nm\n"400,5"\n"410,5"\n"420,5"\n',
    ],
)
def test_a_list_of_bands_as_spreadsheets_write_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "bands.csv").write_text(text)
    np.testing.assert_allclose(read_wavelengths(tmp_path / "bands.csv").wavelengths_nm, [400.5, 410.5, 420.5])
