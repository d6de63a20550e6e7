"""Tags of MATLAB v5 files: what scipy writes passes, what would end the process is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.readers.matlab_tags import check_tags

CUBE = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
NESTED = {"cube": CUBE, "wavelength": np.arange(5.0), "inner": {"text": "nm", "list": np.array([1, "a"], dtype=object)}}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "held",
    [{"cube": CUBE, "x": 1}, {"s": NESTED}, {"z": CUBE * 1j, "after": CUBE}, {"empty": np.zeros((0, 3)), "c": "text"}],
)
def test_what_is_whole_passes(held: dict[str, Any], packed: bool, tmp_path: Path) -> None:
    savemat(tmp_path / "x.mat", held, do_compression=packed)
    check_tags(tmp_path / "x.mat")


def test_version_4_has_no_tags(tmp_path: Path) -> None:
    savemat(tmp_path / "x.mat", {"gt": np.eye(20)}, format="4")
    check_tags(tmp_path / "x.mat")


@pytest.mark.parametrize("kind", [10, 191, 10023])
@pytest.mark.parametrize("held", [{"cube": CUBE}, {"s": {"cube": CUBE}}])
def test_a_tag_of_unknown_type_is_a_sentence(held: dict[str, Any], kind: int, tmp_path: Path) -> None:
    """scipy takes the type for a place in a table, and the process ends."""
    path = tmp_path / "x.mat"
    savemat(path, held)
    data = path.read_bytes()
    numbers = data.index(CUBE.tobytes(order="F")) - 8
    assert struct.unpack("<2I", data[numbers : numbers + 8]) == (4, CUBE.nbytes)
    path.write_bytes(data[:numbers] + struct.pack("<I", kind) + data[numbers + 4 :])
    with pytest.raises(SpecfmError, match=f"x.mat: not a readable MATLAB file .a tag of unknown type {kind}"):
        read_scene(path)


def test_one_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    savemat(path, {"s": NESTED})
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(SpecfmError, match="cut short or damaged"):
        check_tags(path)
