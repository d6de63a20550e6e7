"""Rows written one batch after the other are the array; a full disk is an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downstream.features.array_file import ArrayFile

X_ND = np.random.default_rng(0).normal(size=(23, 5)).astype(np.float32)


@pytest.mark.parametrize("order", ["as they are", "shuffled", "backwards"])
def test_rows_in_any_order_are_the_array(tmp_path: Path, order: str) -> None:
    ids = np.arange(23)
    ids = {"shuffled": np.random.default_rng(1).permutation(ids), "backwards": ids[::-1]}.get(order, ids)
    file = ArrayFile.create(tmp_path / "x.npy", (23, 5))
    file.write(ids[:9], X_ND[ids[:9]])
    file.flush()
    file.close()
    file = ArrayFile.reopen(tmp_path / "x.npy")
    assert file.shape == (23, 5)
    file.write(ids[9:], X_ND[ids[9:]].astype(np.float64))
    file.write(ids[:0], X_ND[:0])
    file.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), X_ND)


def test_parts_of_a_write_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: whole(descriptor, data[:7], place))
    file = ArrayFile.create(tmp_path / "x.npy", (23, 5))
    file.write(np.arange(23), X_ND)
    file.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), X_ND)


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        ArrayFile.create(tmp_path / "x.npy", (23, 5)).write(np.arange(23), X_ND)


def test_what_is_no_such_file_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for other in (X_ND.astype(np.float64), X_ND[0], np.asfortranarray(X_ND)):
        np.save(path, other)
        with pytest.raises(ValueError, match="does not hold rows"):
            ArrayFile.reopen(path)
    np.save(path, X_ND)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="does not hold rows"):
        ArrayFile.reopen(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="magic"):
        ArrayFile.reopen(path)
    with pytest.raises(ValueError, match="2 rows of 5 columns"):
        ArrayFile.create(path, (23, 5)).write(np.arange(2), X_ND[:2, :4])
