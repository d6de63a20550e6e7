"""Property 8: what is masked or invalid is as if it had never been measured, and tokens may be gathered first.

Shapes: B samples, H W pixels, C bands, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specfm.batch import BandTensors
from specfm.models import Encoder
from specfm.models.patches import patchify
from tests.properties.cases import (
    NAMES,
    PATCH,
    PRECISIONS,
    SIDE,
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

GRID = comb(12, fwhm=None)
KEEP_BK = torch.tensor([[0, 3, 5, 14, 9], [2, 1, 8, 15, 12]])
JUNK = (float("nan"), float("inf"), -9999.0, 65535.0)


def _pixels(keep_BK: Tensor) -> Tensor:
    """mask_BHW: True on the pixels of the kept tokens."""
    side = SIDE // PATCH
    mask_BN = torch.zeros(len(keep_BK), side * side, dtype=torch.bool).scatter(1, keep_BK, True)
    return mask_BN.view(-1, side, side).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)


def _gather(tokens_BND: Tensor, keep_BK: Tensor) -> Tensor:
    return tokens_BND.gather(1, keep_BK[..., None].expand(-1, -1, tokens_BND.shape[-1]))


def _masked_first(name: str, precision: str) -> float:
    encoder, x_BHWC = build(name, GRID), cube(GRID)
    with autocast(precision):
        first_BKD = encoder.embedding(encoder.prepare(x_BHWC, GRID, keep_BK=KEEP_BK)).float()
    return difference(first_BKD, _gather(tokens(encoder, x_BHWC, GRID, _pixels(KEEP_BK), precision), KEEP_BK))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", claiming(8))
def test_8_gathering_first_equals_masking_the_others(name: str, precision: str) -> None:
    assert _masked_first(name, precision) < TOLERANCE[precision]


@pytest.mark.parametrize("name", not_claiming(8))
def test_8_is_not_claimed_without_reason(name: str) -> None:
    assert breaks(lambda: _masked_first(name, "fp32"), 1e-3)


@pytest.mark.parametrize("name", claiming(8))
def test_8_gathered_tokens_keep_their_place_in_the_whole_encoder(name: str) -> None:
    encoder, x_BHWC = build(name, GRID), cube(GRID)
    first = encoder(x_BHWC, GRID, keep_BK=KEEP_BK)
    masked = encoder(x_BHWC, GRID, _pixels(KEEP_BK))
    assert difference(first.tokens_BND, _gather(masked.tokens_BND, KEEP_BK)) < 1e-5
    assert difference(first.pooled_BD, masked.pooled_BD) < 1e-5


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", claiming(8))
def test_8_values_under_the_mask_do_not_matter(name: str, junk: float) -> None:
    encoder, x_BHWC = build(name, GRID), cube(GRID)
    mask_BHW = torch.rand(x_BHWC.shape[:3], generator=torch.Generator().manual_seed(3)) < 0.6
    mask_BHW[:, :PATCH, :PATCH] = False  # one token without a valid pixel
    dirty_BHWC = torch.where(mask_BHW[..., None], x_BHWC, junk)
    clean, dirty = encoder(x_BHWC, GRID, mask_BHW), encoder(dirty_BHWC, GRID, mask_BHW)
    assert not clean.token_mask_BN[:, 0].any() and clean.token_mask_BN[:, 1:].any(1).all()
    assert torch.equal(clean.pooled_BD, dirty.pooled_BD)
    assert torch.equal(clean.tokens_BND[clean.token_mask_BN], dirty.tokens_BND[dirty.token_mask_BN])
    visible_BHWC = torch.where(mask_BHW[..., None], x_BHWC + 0.1, x_BHWC)
    assert difference(encoder(visible_BHWC, GRID, mask_BHW).pooled_BD, clean.pooled_BD) > 1e-4


@pytest.mark.parametrize("junk", (float("nan"), float("inf"), float("-inf")))
@pytest.mark.parametrize("name", claiming(8))
def test_8_non_finite_pixels_are_masked_without_being_told(name: str, junk: float) -> None:
    encoder, x_BHWC = build(name, GRID), cube(GRID)
    mask_BHW = torch.ones(x_BHWC.shape[:3], dtype=torch.bool)
    mask_BHW[0, 1, 5] = mask_BHW[1, 6:, :3] = False
    dirty_BHWC = x_BHWC.clone()
    dirty_BHWC[..., 4] = torch.where(mask_BHW, x_BHWC[..., 4], junk)  # one band suffices
    assert difference(tokens(encoder, dirty_BHWC, GRID), tokens(encoder, x_BHWC, GRID, mask_BHW)) < 1e-6


@pytest.mark.parametrize("name", claiming(8))
def test_8_gradients_stay_finite_under_junk(name: str) -> None:
    encoder, x_BHWC = build(name, GRID), cube(GRID)
    x_BHWC[0, :3] = float("nan")
    x_BHWC[1] = float("inf")  # a sample without any valid pixel
    features = encoder(x_BHWC, GRID)
    features.pooled_BD.sum().backward()
    assert features.pooled_BD.isfinite().all() and not features.pooled_BD[1].any()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


def test_8_partly_valid_patches_are_averaged_over_their_valid_pixels() -> None:
    x_BHWC = torch.arange(8.0).view(1, 2, 4, 1) + 1
    mask_BHW = torch.tensor([[[True, False, True, True], [True, False, True, True]]])
    patches = patchify(x_BHWC, BandTensors.from_sensors(comb(1)), mask_BHW, 2, level="none")
    assert patches.x_BCNP[0, 0, 0].tolist() == [1.0, 3.0, 5.0, 3.0]
    assert patches.x_BCNP[0, 0, 1].tolist() == [3.0, 4.0, 7.0, 8.0]
    assert patches.pixels_BN.tolist() == [[0.5, 1.0]]


@pytest.mark.parametrize("level", ("patch", "sample", "none"))
@pytest.mark.parametrize("grids", (GRID, [GRID] * 2), ids=("one grid", "a grid each"))
def test_shortcuts_where_nothing_is_missing_change_no_bit(grids: object, level: str) -> None:
    x_BHWC, bands = cube(GRID), BandTensors.from_sensors(grids)
    stored_BHWC, holed_BHW = x_BHWC.clone(), torch.ones(x_BHWC.shape[:3], dtype=torch.bool)
    holed_BHW[1, 0, 0] = False
    short, told, long = (
        patchify(x_BHWC, bands, mask, PATCH, level=level) for mask in (None, torch.ones_like(holed_BHW), holed_BHW)
    )
    assert torch.equal(x_BHWC, stored_BHWC)  # cleaned and scaled in place, but never in the caller's memory
    assert torch.equal(short.x_BCNP, told.x_BCNP) and torch.equal(short.x_BCNP[0], long.x_BCNP[0])
    assert not torch.equal(short.x_BCNP[1], long.x_BCNP[1])
    assert len(bands) == (1 if short.x_BCNP.stride(1) > short.x_BCNP.stride(0) else 2)


@pytest.mark.parametrize("level", ("patch", "sample", "none"))
def test_gradients_reach_the_stored_values(level: str) -> None:
    x_BHWC, mask_BHW = cube(GRID).double(), torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    mask_BHW[0, 0, 0] = False
    bands, direction_BHWC = BandTensors.from_sensors(GRID), cube(GRID, seed=1).double()
    leaf_BHWC = x_BHWC.clone().requires_grad_()
    weight_BCNP = torch.randn(2, len(GRID), (SIDE // PATCH) ** 2, PATCH**2, generator=torch.Generator().manual_seed(2))

    def value(moved_BHWC: Tensor) -> Tensor:
        return (patchify(moved_BHWC, bands, mask_BHW, PATCH, level=level).x_BCNP * weight_BCNP).double().sum()

    value(leaf_BHWC).backward()
    step = 1e-3
    slope = (value(x_BHWC + step * direction_BHWC) - value(x_BHWC - step * direction_BHWC)) / (2 * step)
    assert not leaf_BHWC.grad[0, 0, 0].any()
    assert float((leaf_BHWC.grad * direction_BHWC).sum()) == pytest.approx(float(slope), rel=1e-2)


@pytest.mark.parametrize("patch_size", range(1, 9))
@pytest.mark.parametrize("name", claiming(2))
def test_any_patch_size_and_sides_it_does_not_divide(name: str, patch_size: int) -> None:
    encoder = build(name, GRID, patch_size=patch_size, side=SIDE)
    x_BHWC = cube(GRID, side=9)[:, :, :7]
    features = encoder(x_BHWC, GRID)
    rows, cols = -(-9 // patch_size), -(-7 // patch_size)
    assert features.grid_hw == ((rows, cols),) and features.tokens_BND.shape[1] == rows * cols
    assert features.token_mask_BN.all() and features.pooled_BD.isfinite().all()
    # padding past the edge is masking: the same as a larger image whose extra pixels are invalid
    larger = torch.full((2, rows * patch_size, cols * patch_size, len(GRID)), float("nan"))
    larger[:, :9, :7] = x_BHWC
    assert difference(features.tokens_BND, encoder(larger, GRID).tokens_BND) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_every_embedding_says_what_it_claims(name: str) -> None:
    encoder = build(name, GRID)
    assert isinstance(encoder, Encoder) and encoder.embedding.claims <= frozenset(range(1, 10))
