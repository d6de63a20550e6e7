"""Tokens that see a single pixel, beside the patch tokens of its surroundings.

A patch of p x p pixels averages what its pixels tell apart; where a pixel carries the label, that is lost. A pixel
token is the same generated embedding on a patch that repeats one pixel. It looks at all patch tokens and at itself;
patch tokens do not look at it. So features of patches are those of the encoder without pixel tokens, and any number of
pixels of a tile can be asked at once with the same answers.

Shapes: B samples, H W pixels, C bands, N patch tokens, Q pixel tokens, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from specfm.models.patches import Patches, patchify

Asked = Literal["centre", "all"]


def pixel_places(shape_HW: tuple[int, int], asked: Asked, device: torch.device) -> Tensor:
    """place_Q2: row and column of the middle pixel of a window, or of all pixels, row-major."""
    height, width = shape_HW
    if asked == "centre":
        return torch.tensor([[height // 2, width // 2]], device=device)
    return torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device))


def patch_middles(grid_hw: tuple[int, int], patch: int, device: torch.device) -> Tensor:
    """place_N2: the middle pixel of every patch of a grid, row-major."""
    rows, cols = (torch.arange(size, device=device) * patch + patch // 2 for size in grid_hw)
    return torch.cartesian_prod(rows, cols)


def pixel_patches(
    x_BHWC: Tensor, mask_BHW: Tensor | None, patches: Patches, place_Q2: Tensor, patch_size: int, level: str
) -> Patches:
    """Q patches of one pixel each, repeated; places beyond the cube are invalid.

    Args:
        x_BHWC: the cube as stored, on the device of ``patches``.
        mask_BHW: its valid pixels.
        patches: of the same cube, whose bands, level, grid and stems these share.
        place_Q2: row and column of each pixel.
        patch_size: side of a patch, pixels.
        level: the encoder's.
    """
    batch, height, width, channels = x_BHWC.shape
    p, count = patch_size, len(place_Q2)
    row_Q, col_Q = place_Q2.unbind(1)
    inside_Q = (row_Q < height) & (col_Q < width)
    row_Q, col_Q = row_Q.clamp_max(height - 1), col_Q.clamp_max(width - 1)
    x_BQC = x_BHWC[:, row_Q, col_Q]
    known_BQ = inside_Q.expand(batch, -1) if mask_BHW is None else mask_BHW[:, row_Q, col_Q].bool() & inside_Q
    found = patchify(
        x_BQC[:, :, None, None].expand(-1, -1, p, p, -1).reshape(batch, count * p, p, channels),
        patches.bands,
        known_BQ[:, :, None, None].expand(-1, -1, p, p).reshape(batch, count * p, p),
        p,
        level=level,
        level_B=patches.log_level_B.exp(),
    )
    place_BQ2 = ((place_Q2 - (p - 1) / 2) / p).expand(batch, -1, -1)
    return replace(found, position_BN2=place_BQ2, grid_hw=patches.grid_hw, stem_B=patches.stem_B)


def attention_mask(mask_BN: Tensor, pixels: int) -> Tensor:
    """Who may look at whom, broadcast to [B, 1, N + Q, N + Q]: all at valid patches, a pixel at itself too.

    A sample without any valid patch looks at all patches rather than at nothing (softmax of nothing is NaN).
    """
    allowed_B11N = (mask_BN | ~mask_BN.any(1, keepdim=True))[:, None, None, :]
    if not pixels:
        return allowed_B11N
    itself_TQ = torch.eye(pixels, dtype=torch.bool, device=mask_BN.device)
    itself_TQ = torch.nn.functional.pad(itself_TQ, (0, 0, mask_BN.shape[1], 0))
    batch, tokens = mask_BN.shape[0], itself_TQ.shape[0]
    return torch.cat([allowed_B11N.expand(-1, -1, tokens, -1), itself_TQ.expand(batch, 1, -1, -1)], dim=-1)
