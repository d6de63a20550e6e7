"""Tags of MATLAB v5 files: what scipy writes passes, what would end the process is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_array

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.readers.matlab_tags import check_tags

CUBE = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
NESTED = {"cube": CUBE, "wavelength": np.arange(5.0), "inner": {"text": "nm", "list": np.array([1, "a"], dtype=object)}}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "held",
    [
        {"cube": CUBE, "x": 1},
        {"s": NESTED},
        {"z": CUBE * 1j, "after": CUBE},
        {"empty": np.zeros((0, 3)), "c": "text", "none": np.zeros((0, 2), object)},
        {"sparse": csc_array(np.eye(5)), "complex": csc_array(np.eye(3) * 1j), "after": CUBE},
        {"many": np.array([(1, "a"), (2, "b")], dtype=[("n", object), ("t", object)]), "b": np.array([True])},
    ],
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


COMPLEX, SPARSE, CELL, STRUCT = 0x800, 5, 1, 2


@pytest.mark.parametrize(
    ("held", "place", "value", "words"),
    [
        ({"cube": CUBE}, 17, COMPLEX >> 8, "an array of class 11 has 4 of its 5 parts"),  # no imaginary part follows
        ({"cube": CUBE}, 16, SPARSE, "an array of class 5 has 4 of its 6 parts"),
        ({"cube": CUBE}, 16, STRUCT, "an array of class 2 has 4 of its 5 parts"),
        ({"cube": CUBE}, 16, CELL, "an array of class 1 has 0 of its 60 elements"),
        ({"c": np.array([1, "a"], dtype=object)}, 32, 9, "an array of class 1 has 2 of its 18 elements"),
        ({"s": {"a": 1, "b": 2}}, 36, 7, "an array of class 2 has 2 of its 14 elements"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_one_that_says_more_than_it_has_is_a_sentence(
    held: dict[str, Any], place: int, value: int, words: str, deep: bool, tmp_path: Path
) -> None:
    """scipy looks for the rest beyond the end of the file, and the process ends."""
    path = tmp_path / "x.mat"
    savemat(path, held)
    data = bytearray(path.read_bytes())
    data[128 + place] = value
    if deep:  # the same as the one element of a cell
        inner = bytes(data[128:])
        cell = struct.pack("<4I", 6, 8, CELL, 0) + struct.pack("<4I", 5, 8, 1, 1) + struct.pack("<2I", 1, 0) + inner
        data[128:] = struct.pack("<2I", 14, len(cell)) + cell
    path.write_bytes(bytes(data))
    with pytest.raises(SpecfmError, match=f"x.mat: not a readable MATLAB file .{words}"):
        read_scene(path)
