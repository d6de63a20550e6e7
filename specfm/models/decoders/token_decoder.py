"""Visible tokens among mask tokens through ViT blocks: what every decoder of masked pretraining begins with.

Shapes: B samples of all parts, b samples of one part, N tokens of a window (K of them visible), L tokens of the widest
window, D encoder width, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from specfm.models.features import Features
from specfm.models.patches import token_places

Positions = Callable[[Tensor, tuple[int, int], Tensor, int], Tensor]


@dataclass(frozen=True)
class Shown:
    """What was shown of one part of a batch.

    Attributes:
        keep_bK: indices of the visible tokens, in the order in which the encoder was given them; None = all N.
        exists_bN: True = the token has a valid pixel, visible or not.
        grid_hw: token grid, N = h w, row-major.
        gsd_m_G: float32 metres, NaN unknown.
    """

    keep_bK: Tensor | None
    exists_bN: Tensor
    grid_hw: tuple[int, int]
    gsd_m_G: Tensor


class TokenDecoder(nn.Module):
    """``depth`` ViT blocks of ``width`` over visible and mask tokens with positions.

    Args:
        encoder_width: D.
        width: W.
        depth: blocks.
        heads: of a block.
    """

    def __init__(self, encoder_width: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def tokens(self, features: Features, shown: Sequence[Shown], positions: Positions) -> tuple[Tensor, Tensor]:
        """z_BLW after the blocks and exists_BL; the class token comes first where the encoder has one.

        Args:
            features: of the visible tokens, the parts laid end to end and padded to the widest.
            shown: by part.
            positions: of the encoder (:meth:`specfm.models.Encoder.positions`).
        """
        seen_BKW = self.embed(features.tokens_BND)
        longest = max(part.exists_bN.shape[1] for part in shown)
        filled, exists = [], []
        for rows, part in zip(part_rows(shown), shown, strict=True):
            count, total = part.exists_bN.shape
            keep_bK = torch.arange(total, device=seen_BKW.device).expand(count, -1)
            keep_bK = keep_bK if part.keep_bK is None else part.keep_bK
            seen_bKW = seen_BKW[rows, : keep_bK.shape[1]]
            z_bNW = self.mask_token.to(seen_bKW.dtype).expand(count, total, -1)
            z_bNW = z_bNW.scatter(1, keep_bK[..., None].expand(-1, -1, self.width), seen_bKW)
            place_bN2 = token_places(count, *part.grid_hw, seen_bKW.device)
            z_bNW = z_bNW + positions(place_bN2, part.grid_hw, part.gsd_m_G, self.width)
            filled.append(nn.functional.pad(z_bNW, (0, 0, 0, longest - total)))
            exists.append(nn.functional.pad(part.exists_bN, (0, longest - total)))
        z_BLW, exists_BL = torch.cat(filled), torch.cat(exists)
        if features.class_BD is not None:  # at the origin: its position adds nothing
            class_B1W = self.embed(features.class_BD)[:, None]
            z_BLW = torch.cat([class_B1W.to(z_BLW.dtype), z_BLW], 1)
            exists_BL = nn.functional.pad(exists_BL, (1, 0), value=True)
        allowed = (exists_BL | ~exists_BL.any(1, keepdim=True))[:, None, None]
        for block in self.blocks:
            z_BLW = block(z_BLW, attn_mask=allowed)
        return self.norm(z_BLW), exists_BL


def part_rows(shown: Sequence[Shown]) -> list[slice]:
    """Rows of each part among all samples."""
    ends = torch.tensor([0, *(len(part.exists_bN) for part in shown)]).cumsum(0).tolist()
    return [slice(low, high) for low, high in pairwise(ends)]
