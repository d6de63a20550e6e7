"""Tokens of single pixels: patches do not see them, any number may be asked, and one that is hidden does not count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from specfm.bands import BandGrid
from specfm.batch import Batch
from specfm.errors import UsageError
from specfm.models import create_encoder
from tests.models.test_stem import part

GRID = BandGrid(np.linspace(450, 900, 8), np.full(8, 20.0))


def encoder(pixel: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    small = {"dim": 16, "depth": 2, "heads": 2, "hidden": 8, "code_width": 16, "patch_size": 3, "layer_scale": 1.0}
    return create_encoder("nano", pixel=pixel, **{**small, **options}).eval()


def cube(count: int = 2, side: int = 9) -> torch.Tensor:
    return torch.rand(count, side, side, 8, generator=torch.Generator().manual_seed(1)) + 0.2


@torch.no_grad()
def test_patch_tokens_are_those_of_the_encoder_without() -> None:
    plain, pixel = encoder(False), encoder()
    pixel.load_state_dict(plain.state_dict(), strict=False)
    one, other = plain(cube(), GRID), pixel(cube(), GRID)
    torch.testing.assert_close(one.tokens_BND, other.tokens_BND, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.pooled_BD, other.pooled_BD, rtol=1e-5, atol=1e-6)
    assert one.pixel_BQD is None and other.pixel_BQD.shape == (2, 1, 16)
    assert other.grid_hw == ((3, 3),) and other.pixel_mask_BQ.all()
    assert {n for n, _ in pixel.named_parameters()} - {n for n, _ in plain.named_parameters()} == {
        "pixel_stem.weight", "pixel_stem.bias",
    }  # fmt: skip


@torch.no_grad()
def test_all_pixels_at_once_and_one_at_a_time_are_the_same() -> None:
    model, x = encoder(), cube()
    everything = model(x, GRID, pixels="all")
    assert everything.pixel_BQD.shape == (2, 81, 16)
    torch.testing.assert_close(everything.pixel_BQD[:, 4 * 9 + 4], model(x, GRID).pixel_BQD[:, 0], rtol=1e-5, atol=1e-6)
    layers = model.get_intermediate_layers(x, GRID, n=2, pixels="all")
    torch.testing.assert_close(layers[-1].pixel_BQD, everything.pixel_BQD, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_it_looks_at_its_pixel_and_at_the_patches_around() -> None:
    model, x = encoder(), cube()
    before = model(x, GRID)
    own = x.clone()
    own[0, 4, 4] *= torch.linspace(0.5, 2, 8)
    own[0, 4, 3] -= own[0, 4, 4] - x[0, 4, 4]  # the mean of the patch stays
    moved = model(own, GRID).pixel_BQD - before.pixel_BQD
    assert moved[0].abs().max() > 1e-2 and moved[1].abs().max() < 1e-6
    far = x.clone()
    far[0, :3, :3] *= torch.linspace(0.5, 2, 8)
    assert (model(far, GRID).pixel_BQD - before.pixel_BQD)[0].abs().max() > 1e-4


@torch.no_grad()
def test_a_window_of_one_colour_has_one_answer_for_its_pixel_and_its_patch() -> None:
    """The same embedding, on the same values: stems, and positions at the centre, are equal at the start."""
    model = encoder()
    flat = cube(1, 3)[:, :1, :1].expand(1, 3, 3, 8)
    found = model(flat, GRID)
    patches = model.prepare(flat, GRID)
    pixels = model.pixels(flat, None, patches, torch.tensor([[1, 1]]))
    torch.testing.assert_close(pixels.x_BCNP, patches.x_BCNP)
    torch.testing.assert_close(pixels.log_patch_level_BN, patches.log_patch_level_BN)
    assert found.pixel_BQD.isfinite().all()


@torch.no_grad()
def test_a_pixel_without_data_or_in_a_hidden_patch_does_not_count() -> None:
    model, mask = encoder(), torch.ones(2, 9, 9, dtype=torch.bool)
    mask[0, 4, 4] = False
    spoiled = cube()
    spoiled[0, 4, 4] = torch.nan
    found = model(spoiled, GRID, mask)
    assert found.pixel_mask_BQ.tolist() == [[False], [True]] and found.pixel_BQD.isfinite().all()
    keep_BK = torch.tensor([[0, 1, 4], [0, 1, 2]])  # patch 4 is the middle one
    assert model(cube(), GRID, keep_BK=keep_BK).pixel_mask_BQ.tolist() == [[True], [False]]
    none = model(cube(), GRID, torch.zeros(2, 9, 9, dtype=torch.bool))
    assert none.pixel_BQD.isfinite().all() and not none.pixel_mask_BQ.any()


@torch.no_grad()
def test_parts_of_other_sizes_in_one_batch() -> None:
    model = encoder(patch_size=2)
    small = part("one")
    wide = part("two").replace(x_BHWC=torch.rand(3, 8, 8, 8))
    whole = model(Batch((small, wide)))
    apart = torch.cat([model(Batch((each,))).pixel_BQD for each in (small, wide)])
    torch.testing.assert_close(whole.pixel_BQD, apart, rtol=1e-5, atol=1e-6)
    assert whole.tokens_BND.shape[1] == 16 and whole.token_mask_BN.sum(1).tolist() == [4, 4, 4, 16, 16, 16]
    with pytest.raises(UsageError, match="takes a cube, not a Batch"):
        model(Batch((small,)), pixels="all")


def test_both_kinds_of_tokens_learn_through_checkpointing() -> None:
    grads = []
    for on in (False, True):
        model = encoder().train()
        model.set_grad_checkpointing(on)
        found = model(cube(), GRID)
        (found.pixel_BQD.square().sum() + found.pooled_BD.square().sum()).backward()
        grads.append((model.pixel_stem.weight.grad, model.stem.weight.grad))
    for one, other in zip(*grads, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="aligned and pixel"):
        encoder(aligned=True)
    with pytest.raises(UsageError, match="option pixel must be true or false"):
        encoder(pixel=1)
    with pytest.raises(UsageError, match="option brightness must be true or false"):
        encoder(brightness="no")


@torch.no_grad()
def test_without_brightness_a_patch_looks_alike_however_bright_it_is() -> None:
    for on in (True, False):
        model, x = encoder(False, brightness=on), cube()
        before = model.generated(model.prepare(x, GRID))
        x[:, :3, :3] *= 1.5
        moved = (model.generated(model.prepare(x, GRID)) - before)[:, 0].abs().max()
        assert (moved > 1e-2) == on and (model.brightness is not None) == on
