"""The level of a scene without torch is the level that torch takes of the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.dense.tile_reader import scene_level
from specfm.models.patches import sample_level
from specfm.scene import Scene
from specfm.sensors import Sensor


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_scene_level_is_that_of_a_sample(dtype: type) -> None:
    rng = np.random.default_rng(0)
    nm = np.sort(rng.uniform(400, 2400, 30))
    bands = BandGrid(nm, None, np.arange(30) % 7 != 3)
    cube = (rng.uniform(0, 1, (20, 15, 30)) * 4000).astype(dtype)
    cube[3, 4:9] = 65535 if dtype is np.uint16 else np.nan
    scene = Scene.from_array(cube, Sensor(bands, scale=1e-4, offset=-0.02), nodata=65535)
    x_BHWC, mask_BHW = torch.from_numpy(cube.astype(np.float32))[None], torch.from_numpy(scene.mask())[None]
    wanted = float(sample_level(x_BHWC, BandTensors.from_sensors(scene.sensor), mask_BHW))
    assert scene_level(scene) == pytest.approx(wanted, rel=1e-6)


def test_a_scene_without_data_has_level_one() -> None:
    nothing = Scene.from_array(np.full((3, 4, 5), np.nan, np.float32), BandGrid(np.linspace(400, 800, 5)))
    assert scene_level(nothing) == 1.0
