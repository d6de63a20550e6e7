"""Small batches with known ids for the tests of views and objectives."""

from __future__ import annotations

import numpy as np
import torch

from specfm.bands import BandGrid
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.sensors import Sensor


def sensor_of(low: float, high: float, bands: int, fwhm: float | None = 10.0, **changes: object) -> Sensor:
    """A sensor with evenly spaced bands."""
    grid = BandGrid(np.linspace(low, high, bands), None if fwhm is None else np.full(bands, fwhm))
    return Sensor(grid).replace(**changes)


def part(x_BHWC: torch.Tensor, sensor: Sensor, first_id: int = 0, **changes: object) -> BatchPart:
    """A part whose samples have ids of their own, each in a scene of its own."""
    ids = first_id + torch.arange(len(x_BHWC))
    zero = torch.zeros_like(ids)
    made = BatchPart(
        x_BHWC=x_BHWC,
        bands=BandTensors.from_sensors(sensor),
        mask_BHW=None,
        sample_id_B=ids,
        instance_id_B=ids,
        group_B=ids,
        scene_id_B=ids,
        origin_B2=torch.zeros(len(ids), 2, dtype=torch.int64),
        label_B=zero - 1,
        domain_B=zero,
    )
    return made.replace(**changes)


def random_batch(count: int = 6, side: int = 9, seed: int = 0) -> Batch:
    """Two sensors of other band counts, stored types and scales."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.randint(100, 9000, (count, side, side, 30), generator=generator)
    two = torch.randint(100, 9000, (count, side, side, 17), generator=generator)
    return Batch(
        (
            part(one.to(torch.int16), sensor_of(400, 2400, 30, scale=1e-4)),
            part(two.to(torch.uint16), sensor_of(420, 980, 17, scale=2e-4, offset=0.01), first_id=1000),
        )
    )
