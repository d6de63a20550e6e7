"""npy cubes: layouts, both memory orders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm import BandGrid, Sensor
from specfm.errors import SpecfmError
from specfm.readers import read_scene

from . import make

SENSOR = Sensor(BandGrid(make.centres(6)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("layout", [None, "HWC", "CHW", "spectra", "bands_by_pixels:5x7"])
def test_layouts_in_both_orders(tmp_path: Path, layout: str | None, order: str) -> None:
    cube = make.cube()
    forms = {"CHW": cube.transpose(2, 0, 1), "spectra": cube.reshape(-1, 6)}
    forms["bands_by_pixels:5x7"] = cube.reshape(-1, 6, order="F").T
    array = forms.get(layout or "HWC", cube)
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    scene = read_scene(tmp_path / "a.npy", layout=layout, sensor=SENSOR)
    expected = cube.reshape(-1, 1, 6) if layout == "spectra" else cube
    np.testing.assert_array_equal(scene.read(), expected)
    np.testing.assert_array_equal(scene.read(slice(1, 4), bands=[3, 0]), expected[1:4][:, :, [3, 0]])


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, make.cube())
    with pytest.raises(SpecfmError, match="--sensor NAME or --wavelengths"):
        read_scene(path)
    with pytest.raises(SpecfmError, match="no variables"):
        read_scene(path, variable="x", sensor=SENSOR)
    with pytest.raises(SpecfmError, match="layout spectra does not fit"):
        read_scene(path, layout="spectra", sensor=SENSOR)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SpecfmError, match="holds 538 bytes but its npy header says 548"):
        read_scene(path, sensor=SENSOR)
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(SpecfmError, match="not numbers"):
        read_scene(path, sensor=SENSOR)
    path.write_bytes(b"\x93NUMPY\x01\x00\x10")
    with pytest.raises(SpecfmError, match="not a readable npy"):
        read_scene(path, sensor=SENSOR)
