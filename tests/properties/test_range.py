"""Property 5: any sensor from 350 nm to 14 um gives finite outputs and gradients; positions and scaling stay sane.

Shapes: B samples, H W pixels, C bands, N tokens, D width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specfm import BandGrid, Sensor
from specfm.models.position import position_embedding
from tests.properties.cases import (
    NAMES,
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
    tokens,
)

GRIDS = {
    "one band": comb(1, 550, 550, 10),
    "one band, width unknown": comb(1, 550, 550, None),
    "two equal bands, width unknown": comb(2, 550, 550, None),
    "four broad": BandGrid([490, 560, 665, 842], [65, 35, 30, 115]),
    "450 narrow": comb(450, 350, 2550, 1.0),
    "450 broad": comb(450, 350, 2550, 200.0),
    "450, width unknown": comb(450, 350, 2550, None),
    "thermal": BandGrid([350, 900, 2200, 8300, 10_900, 14_000], [200, 50, 1, 350, 590, 1000]),
    "all unusable": BandGrid([500, 600], None, [False, False]),
}


def _finite(name: str, grid: BandGrid, precision: str) -> float:
    """0 if outputs and the gradients of every parameter and input are finite, else inf."""
    encoder = build(name, comb(12))
    x_BHWC = cube(grid).requires_grad_()
    with autocast(precision):
        features = encoder(x_BHWC, grid)
    features.pooled_BD.float().square().sum().backward()
    found = [features.tokens_BND, features.pooled_BD, x_BHWC.grad, *(p.grad for p in encoder.embedding.parameters())]
    return 0.0 if all(t is not None and t.isfinite().all() for t in found) else float("inf")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sensor", GRIDS)
@pytest.mark.parametrize("name", claiming(5))
def test_5_any_sensor_gives_finite_outputs_and_gradients(name: str, sensor: str, precision: str) -> None:
    # every parameter must also get a gradient, or a rank that never sees this sensor would wait for it
    assert _finite(name, GRIDS[sensor], precision) == 0


@pytest.mark.parametrize("name", not_claiming(5))
def test_5_is_not_claimed_without_reason(name: str) -> None:
    assert any(breaks(lambda g=g: _finite(name, g, "fp32"), 0) for g in GRIDS.values())


@pytest.mark.parametrize("name", claiming(5))
def test_5_wavelength_and_width_matter(name: str) -> None:
    encoder, near, far = build(name, comb(12)), comb(12), comb(12, 430, 2410)
    x_BHWC = cube(near)
    assert difference(encoder(x_BHWC, far).tokens_BND, encoder(x_BHWC, near).tokens_BND) > 1e-4


def test_width_attenuates_what_a_band_may_claim() -> None:
    fourier = build("hyper", comb(4)).embedding.meta.fourier
    lam = torch.tensor([[550.0, 551.0]], dtype=torch.float64)
    narrow = fourier(lam, torch.full((1, 2), 0.5, dtype=torch.float64))
    broad = fourier(lam, torch.full((1, 2), 50.0, dtype=torch.float64))
    shortest = [0, narrow.shape[-1] // 2]  # cos and sin of the shortest period
    assert (narrow[0, 0, shortest] - narrow[0, 1, shortest]).norm() > 0.5
    assert broad[0, :, shortest].abs().max() < 1e-6
    assert broad.square().sum() < narrow.square().sum()


def test_gsd_ratio_is_clamped_and_unknown_counts_as_the_reference() -> None:
    place_BN2 = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1).view(1, 16, 2)

    def at(gsd_m: float) -> torch.Tensor:
        return position_embedding(place_BN2, (4, 4), torch.tensor([gsd_m]), 10.0, 16)

    assert torch.equal(at(float("nan")), at(10.0))
    assert torch.equal(at(1e-4), at(2.5)) and torch.equal(at(1e5), at(40.0))
    assert not torch.equal(at(2.5), at(5.0))


@pytest.mark.parametrize("gsd_m", (None, 3e-5, 0.5, 30.0, 1e4))
def test_gsd_of_a_lab_bench_and_of_a_satellite(gsd_m: float | None) -> None:
    grid = comb(8)
    encoder = build("hyper", grid)
    features = encoder(cube(grid), Sensor(grid, gsd_m=gsd_m))
    assert features.pooled_BD.isfinite().all()


@pytest.mark.parametrize("level", ("sample", "none"))
def test_input_scaling_makes_dn_and_reflectance_comparable(level: str) -> None:
    grid = comb(10)
    encoder, x_BHWC = build("hyper", grid, level=level, content=False), cube(grid)
    stored_BHWC = (x_BHWC * 10_000).round().to(torch.int16)
    reflectance = encoder(stored_BHWC, Sensor(grid, scale=1e-4)).pooled_BD
    assert difference(reflectance, encoder(x_BHWC, grid).pooled_BD) < 1e-3  # rounding to integers
    dn = encoder(stored_BHWC, Sensor(grid)).pooled_BD
    assert (difference(dn, reflectance) < 1e-5) == (level == "sample")


def test_initial_tokens_have_the_size_of_a_conv_stem() -> None:
    grid = comb(60, fwhm=10.0)
    for count in (4, 60, 400):
        patches = build("hyper", grid, dim=64, fresh=True).prepare(cube(comb(count), 4), comb(count))
        conv = torch.nn.Conv2d(count, 64, 2, 2)
        encoder = build("hyper", grid, dim=64, fresh=True)
        ours = encoder.embedding(patches).square().mean().sqrt()
        stem = conv(cube(comb(count), 4).permute(0, 3, 1, 2)).square().mean().sqrt() / cube(comb(count), 4).mean()
        assert np.log(float((ours / stem).detach())) == pytest.approx(0, abs=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_tokens_are_those_of_fp32(name: str) -> None:
    grid = comb(60)
    encoder, x_BHWC = build(name, grid), cube(grid, batch=3)
    assert (
        difference(tokens(encoder, x_BHWC, grid, precision="bf16"), tokens(encoder, x_BHWC, grid)) < TOLERANCE["bf16"]
    )


def test_scaling_and_content_statistics_do_not_feel_autocast() -> None:
    grid = comb(60)
    encoder, x_BHWC = (
        build("hyper", grid, content=True),
        1 + 1e-3 * cube(grid),
    )  # low contrast: bf16 could not tell the variance
    plain, seen = encoder.prepare(x_BHWC, grid), []
    encoder.embedding.content.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder.embedding(plain)
    with autocast("bf16"):
        cast = encoder.prepare(x_BHWC, grid)
        encoder.embedding(cast)
    assert torch.equal(cast.x_BCNP, plain.x_BCNP) and torch.equal(cast.log_level_B, plain.log_level_B)
    assert torch.equal(seen[0], seen[1])
