"""Properties 1-4: tokens do not care how a spectrum is listed, padded, split, sampled or in which unit it is told.

Shapes: B samples, H W pixels, C bands, N tokens, D width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specfm import BandGrid, Sensor, SpecfmError
from specfm.batch import BandTensors
from tests.properties.cases import (
    NAMES,
    PRECISIONS,
    TOLERANCE,
    breaks,
    build,
    claiming,
    cube,
    difference,
    not_claiming,
    tokens,
)

GRID = BandGrid(
    [450, 500, 500, 560, 640, 800, 790, 1000, 1300, 1650, 2200], [10, 12, 12, 20, 20, 30, 0, 40, 60, 80, 90]
)
JUNK = (float("nan"), float("inf"), -9999.0)


def _permuted(name: str, precision: str) -> float:
    encoder = build(name, GRID)
    x_BHWC, order = cube(GRID), np.random.default_rng(1).permutation(len(GRID))
    return difference(
        tokens(encoder, x_BHWC[..., order], GRID.subset(order), precision=precision),
        tokens(encoder, x_BHWC, GRID, precision=precision),
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", claiming(1))
def test_1_permuting_bands_changes_nothing(name: str, precision: str) -> None:
    assert _permuted(name, precision) < TOLERANCE[precision]


@pytest.mark.parametrize("name", not_claiming(1))
def test_1_is_not_claimed_without_reason(name: str) -> None:
    assert breaks(lambda: _permuted(name, "fp32"), 1e-3)


def _absent(name: str, junk: float, precision: str) -> float:
    """Tokens with two bands marked unusable and full of junk against tokens without those bands."""
    keep = np.ones(len(GRID), bool)
    keep[[3, 8]] = False
    encoder = build(name, GRID)
    x_BHWC = cube(GRID)
    dirty_BHWC = x_BHWC.clone()
    dirty_BHWC[..., ~keep] = junk
    marked = BandGrid(np.where(keep, GRID.wavelengths_nm, 0), GRID.fwhm_nm, keep)
    return difference(
        tokens(encoder, dirty_BHWC, marked, precision=precision),
        tokens(encoder, x_BHWC[..., keep], GRID.subset(keep), precision=precision),
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", claiming(2))
def test_2_an_unusable_band_is_an_absent_band(name: str, junk: float, precision: str) -> None:
    assert _absent(name, junk, precision) < TOLERANCE[precision]


@pytest.mark.parametrize("name", claiming(2))
def test_2_padding_changes_nothing(name: str) -> None:
    encoder, x_BHWC = build(name, GRID), cube(GRID)
    padded_BHWC = torch.nn.functional.pad(x_BHWC, (0, 5), value=float("nan"))
    told = BandTensors.from_sensors(GRID, channels=len(GRID) + 5)
    assert difference(tokens(encoder, padded_BHWC, told), tokens(encoder, x_BHWC, GRID)) < 1e-5


@pytest.mark.parametrize("name", not_claiming(2))
def test_2_is_not_claimed_without_reason(name: str) -> None:
    assert breaks(lambda: _absent(name, -9999.0, "fp32"), 1e-3)


def _split(name: str, precision: str, copies: int = 2) -> float:
    """Tokens with band 4 listed ``copies`` times against tokens with it listed once."""
    index = np.sort(np.r_[np.arange(len(GRID)), [4] * (copies - 1)])
    encoder, x_BHWC = build(name, GRID), cube(GRID)
    return difference(
        tokens(encoder, x_BHWC[..., index], GRID.subset(index), precision=precision),
        tokens(encoder, x_BHWC, GRID, precision=precision),
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("copies", (2, 5))
@pytest.mark.parametrize("name", claiming(3))
def test_3_splitting_a_band_changes_nothing(name: str, copies: int, precision: str) -> None:
    assert _split(name, precision, copies) < TOLERANCE[precision]


def _sampled(name: str) -> float:
    """The same smooth spectra sampled every 5 nm and every 10 nm, both with 10 nm wide bands."""
    fine = BandGrid(np.arange(400, 2400.1, 5), np.full(401, 10.0))
    coarse = fine.subset(np.arange(0, 401, 2))
    encoder = build(name, fine, fresh=True)
    x_BHWC = cube(fine)
    x_BHWC = x_BHWC.unfold(-1, 9, 1).mean(-1)  # a smooth spectrum: the noise of `cube` belongs to single bands
    fine, coarse = fine.subset(np.arange(4, 397)), coarse.subset(np.arange(2, 199))
    return difference(tokens(encoder, x_BHWC[..., ::2], coarse), tokens(encoder, x_BHWC, fine))


@pytest.mark.parametrize("name", claiming(3))
def test_3_denser_sampling_refines_the_same_token(name: str) -> None:
    assert _sampled(name) < 0.02


@pytest.mark.parametrize("name", not_claiming(3))
def test_3_is_not_claimed_without_reason(name: str) -> None:
    assert breaks(lambda: _split(name, "fp32"), 1e-3)
    assert breaks(lambda: _sampled(name), 0.02)


@pytest.mark.parametrize("name", claiming(4))
def test_4_units_of_the_list_do_not_matter(name: str) -> None:
    nm = BandGrid([450.0, 560.0, 840.0, 1650.0], [10.0, 20.0, 30.0, 40.0])
    encoder, x_BHWC = build(name, nm), cube(nm)
    expected = tokens(encoder, x_BHWC, nm)
    for grid in (
        BandGrid.from_units([0.45, 0.56, 0.84, 1.65], "um", [0.01, 0.02, 0.03, 0.04]),
        BandGrid.from_units([0.45, 0.56, 0.84, 1.65], "Micrometers", [0.01, 0.02, 0.03, 0.04]),
    ):
        np.testing.assert_allclose(grid.wavelengths_nm, nm.wavelengths_nm, rtol=1e-12)
        assert difference(tokens(encoder, x_BHWC, grid), expected) < 1e-6


def test_4_every_embedding_claims_it() -> None:
    assert claiming(4) == NAMES  # units end in BandGrid, so no embedding can see them


@pytest.mark.parametrize(
    "action",
    (
        lambda: BandGrid([0.45, 0.56, 0.84]),
        lambda: BandGrid.from_units([450, 560], "um"),
        lambda: BandGrid.from_units([0.45, 0.56], "nm"),
        lambda: BandGrid.from_units([450, 560], "furlongs"),
        lambda: BandGrid([450, 460, 470], [0.01, 0.01, 0.01]),
    ),
)
def test_4_wrong_units_are_refused(action: object) -> None:
    with pytest.raises(SpecfmError, match="unit"):
        action()


def test_optional_metadata_never_moves_the_weights() -> None:
    plain = BandTensors.from_sensors(GRID)
    told = BandTensors.from_sensors(
        Sensor(GRID, quantity="radiance", scale=0.01, level="L1", gsd_m=4.0, name="AVIRIS-NG")
    )
    encoder, x_BHWC = build("hyper", GRID), cube(GRID)
    a, b = encoder.prepare(x_BHWC, plain), encoder.prepare(x_BHWC, told)
    assert torch.equal(a.weights_GC, b.weights_GC)
    assert difference(a.x_BCNP, b.x_BCNP) < 1e-5  # the level takes the scale out
