"""A file without wavelengths that has as many bands as an instrument with some taken out: the message says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene


@pytest.mark.parametrize(
    ("sensor", "count", "said"),
    [
        ("aviris_classic_1992", 200, "sensor: aviris_classic_1992, removed_bands: 104-108,150-163,220"),
        ("aviris", 200, "as they are of Indian Pines"),  # a version of other years
        ("aviris_classic_2010s", 204, "sensor: aviris_classic_1990s, removed_bands: 108-112,154-167,224"),
    ],
)
def test_bands_that_are_usually_gone_are_offered(tmp_path: Path, sensor: str, count: int, said: str) -> None:
    np.save(tmp_path / "cube.npy", np.ones((4, 5, count), np.float32))
    with pytest.raises(SpecfmError) as refused:
        read_scene(tmp_path / "cube.npy", sensor=sensor)
    assert said in str(refused.value)


@pytest.mark.parametrize(("sensor", "count"), [("aviris", 199), ("emit", 200)])
def test_nothing_is_offered_of_another_count_or_instrument(tmp_path: Path, sensor: str, count: int) -> None:
    np.save(tmp_path / "cube.npy", np.ones((4, 5, count), np.float32))
    with pytest.raises(SpecfmError) as refused:
        read_scene(tmp_path / "cube.npy", sensor=sensor)
    assert "removed_bands" not in str(refused.value)
