"""What an encoder returns, and how parts of a batch with other numbers of tokens come together in it.

Shapes: B samples, N tokens, Q pixel tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from specfm.brief import brief


@dataclass(frozen=True)
class Features:
    """What an encoder returns.

    Attributes:
        tokens_BND: one feature per patch, row-major; parts of fewer tokens are padded. Undefined where masked out.
        pooled_BD: mean over a sample's valid tokens.
        token_mask_BN: True = the token exists and has a valid pixel.
        grid_hw: token grid per part, (rows, cols).
        class_BD: the class token; None where the encoder has none.
        pixel_BQD: one feature per pixel asked for, of an encoder with pixel tokens; else None.
        pixel_mask_BQ: whether it is valid; None likewise.
    """

    tokens_BND: Tensor
    pooled_BD: Tensor
    token_mask_BN: Tensor
    grid_hw: tuple[tuple[int, int], ...]
    class_BD: Tensor | None = None
    pixel_BQD: Tensor | None = None
    pixel_mask_BQ: Tensor | None = None

    __repr__ = brief


def one_below_the_other(tokens: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens ``[B, N, D]`` and masks ``[B, N]`` of several parts, each padded to the longest."""
    if len(tokens) == 1:
        return tokens[0], masks[0]
    longest = max(each.shape[1] for each in tokens)
    tokens_BND = torch.cat([F.pad(each, (0, 0, 0, longest - each.shape[1])) for each in tokens])
    return tokens_BND, torch.cat([F.pad(each, (0, longest - each.shape[1])) for each in masks])


def masked_mean(tokens_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean over the tokens of the mask, ``[B, D]``; 0 without any."""
    share_BN = mask_BN / mask_BN.sum(1, keepdim=True).clamp_min(1)
    return torch.einsum("bnd,bn->bd", torch.where(mask_BN[..., None], tokens_BND, 0.0), share_BN.to(tokens_BND))
