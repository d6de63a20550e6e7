"""Property 6: a batch that mixes band grids and windows equals each sample alone.

Shapes: B samples, H W pixels, C bands, N tokens, D width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from specfm import BandGrid, BandTensors, Batch, BatchPart, Sensor
from tests.properties.cases import (
    PRECISIONS,
    TOLERANCE,
    autocast,
    breaks,
    build,
    claiming,
    comb,
    cube,
    difference,
    not_claiming,
)

SENSORS = [
    Sensor(comb(12), quantity="surface_reflectance", level="L2", gsd_m=3.0, name="A"),
    Sensor(BandGrid([490, 560, 665, 842], [65, 35, 30, 115]), quantity="dn", scale=0.01, gsd_m=20.0),
    Sensor(BandGrid(np.linspace(410, 2300, 20), None, np.arange(20) % 7 != 3), offset=0.02, level="L1"),
]


def _cubes() -> list[Tensor]:
    return [cube(sensor.bands, batch=1, seed=i) for i, sensor in enumerate(SENSORS)]


def _padded() -> Tensor:
    """x_BHWC, padded to the widest sensor with junk."""
    return torch.cat(
        [torch.nn.functional.pad(x, (0, 20 - x.shape[-1]), value=float(v)) for x, v in zip(_cubes(), JUNK, strict=True)]
    )


JUNK = (float("nan"), -9999.0, 0.0)


def _mixed(name: str, precision: str) -> float:
    """Largest difference between a sample in a padded list of grids and the same sample alone."""
    encoder = build(name, SENSORS[0].bands)
    with autocast(precision):
        together = encoder(_padded(), SENSORS)
        alone = [encoder(x, sensor) for x, sensor in zip(_cubes(), SENSORS, strict=True)]
    return max(
        max(
            difference(together.tokens_BND[i : i + 1].float(), one.tokens_BND.float()),
            difference(together.pooled_BD[i : i + 1].float(), one.pooled_BD.float()),
        )
        for i, one in enumerate(alone)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", claiming(6))
def test_6_a_padded_list_of_grids_equals_each_sample_alone(name: str, precision: str) -> None:
    assert _mixed(name, precision) < TOLERANCE[precision]


@pytest.mark.parametrize("name", not_claiming(6))
def test_6_is_not_claimed_without_reason(name: str) -> None:
    assert breaks(lambda: _mixed(name, "fp32"), 1e-3)


def part(x_BHWC: Tensor, bands: object, mask_BHW: Tensor | None = None, first_id: int = 0) -> BatchPart:
    """A batch part with made-up ids."""
    ids_B = torch.arange(first_id, first_id + len(x_BHWC))
    origin_B2 = torch.zeros(len(x_BHWC), 2, dtype=torch.int64)
    return BatchPart(
        x_BHWC,
        BandTensors.from_sensors(bands),
        mask_BHW,
        ids_B,
        ids_B,
        ids_B,
        ids_B,
        origin_B2,
        -torch.ones_like(ids_B),
        ids_B,
    )


@pytest.mark.parametrize("name", claiming(6))
def test_6_a_batch_of_parts_equals_each_part_alone(name: str) -> None:
    encoder = build(name, SENSORS[0].bands)
    mask_BHW = torch.rand(2, 6, 10, generator=torch.Generator().manual_seed(0)) < 0.7
    wide_BHWC = cube(SENSORS[2].bands, batch=2, side=10, seed=5)[:, :6]
    parts = (
        part(cube(SENSORS[0].bands, batch=3), SENSORS[0]),
        part(wide_BHWC, SENSORS[2], mask_BHW, first_id=3),
        part(_padded(), SENSORS, first_id=5),
    )
    together = encoder(Batch(parts))
    assert together.grid_hw == ((4, 4), (3, 5), (4, 4)) and together.tokens_BND.shape[:2] == (8, 16)
    start = 0
    for piece in parts:
        alone = encoder(piece.x_BHWC, piece.bands, piece.mask_BHW)
        rows, count = slice(start, start + len(piece)), alone.tokens_BND.shape[1]
        assert torch.equal(together.token_mask_BN[rows, :count], alone.token_mask_BN)
        assert not together.token_mask_BN[rows, count:].any()
        assert difference(together.pooled_BD[rows], alone.pooled_BD) < 1e-5
        seen = alone.token_mask_BN[..., None]
        assert difference(together.tokens_BND[rows, :count] * seen, alone.tokens_BND * seen) < 1e-5
        start += len(piece)


@pytest.mark.parametrize("name", claiming(6))
def test_6_gradients_of_a_mixed_batch_are_the_sum_of_its_parts(name: str) -> None:
    encoder = build(name, SENSORS[0].bands)
    parts = [part(x, sensor) for x, sensor in zip(_cubes(), SENSORS, strict=True)]

    def gradient(batches: list[Batch]) -> Tensor:
        encoder.zero_grad()
        for batch in batches:
            encoder(batch).pooled_BD.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters()])

    alone = gradient([Batch((piece,)) for piece in parts])
    assert difference(gradient([Batch(tuple(parts))]), alone) < 1e-5


def test_6_samples_of_a_part_do_not_see_each_other() -> None:
    encoder, grid = build("hyper", comb(12)), comb(12)
    x_BHWC = cube(grid, batch=3)
    alone = encoder(x_BHWC[1:2], grid)
    x_BHWC[0], x_BHWC[2] = 100.0, float("nan")
    assert difference(encoder(x_BHWC, grid).tokens_BND[1:2], alone.tokens_BND) < 1e-5


def test_6_attributes_are_those_of_each_sample() -> None:
    grid = comb(12)
    encoder, x_BHWC = build("hyper", grid, sensor_names=("A", "B")), cube(grid, batch=1).expand(5, -1, -1, -1)
    sensors = [Sensor(grid, name=n) for n in ("A", "B", "C", None)] + [Sensor(grid, quantity="radiance")]
    pooled_BD = encoder(x_BHWC, sensors).pooled_BD
    assert difference(pooled_BD[0], pooled_BD[1]) > 1e-4  # two names with rows of their own
    assert difference(pooled_BD[3], pooled_BD[0]) > 1e-4 and difference(pooled_BD[3], pooled_BD[1]) > 1e-4
    assert torch.equal(pooled_BD[2], pooled_BD[3])  # a name it did not train on is no name
    assert difference(pooled_BD[4], pooled_BD[3]) > 1e-4
