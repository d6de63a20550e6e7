"""The decoder of masked pretraining: visible tokens among mask tokens through ViT blocks, then HyperLinear.

Shapes: B samples of all parts, b samples of one part, N tokens of a window (K of them visible, T read), S bands read,
P pixels of a patch, D encoder width, W decoder width, E width of a band code, G = 1 or b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from specfm.batch import BandTensors
from specfm.models.decoders.hyperlinear import HyperLinear
from specfm.models.embeddings.codes import BandMixer, MetaCode
from specfm.models.encoder import Features
from specfm.models.patches import token_places

Positions = Callable[[Tensor, tuple[int, int], Tensor, int], Tensor]


@dataclass(frozen=True)
class Asked:
    """What is asked of the decoder for one part of a batch.

    Attributes:
        keep_bK: indices of the visible tokens, in the order in which the encoder was given them; None = all N.
        exists_bN: True = the token has a valid pixel, visible or not.
        grid_hw: token grid, N = h w, row-major. gsd_m_G: float32 metres, NaN unknown.
        code_GSE: codes of the bands to read. read_bT: indices of the tokens to read.
    """

    keep_bK: Tensor | None
    exists_bN: Tensor
    grid_hw: tuple[int, int]
    gsd_m_G: Tensor
    code_GSE: Tensor
    read_bT: Tensor


class Decoder(nn.Module):
    """``depth`` ViT blocks of ``width`` over visible and mask tokens with positions, read out by :class:`HyperLinear`.

    Args:
        encoder_width: D. patch_size: of the encoder, pixels. width: W. depth, heads: of the blocks.
        rank, code_width, dropout, start: of HyperLinear.
        own_codes: make codes of bands here (:meth:`codes`); without, they must come from elsewhere.
    """

    def __init__(
        self,
        encoder_width: int,
        patch_size: int,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        rank: int = 64,
        code_width: int = 128,
        dropout: float = 0.0,
        start: float | None = 0.0,
        own_codes: bool = True,
    ) -> None:
        super().__init__()
        self.width = width
        self.meta = MetaCode(code_width) if own_codes else None
        self.mixer = BandMixer(code_width) if own_codes else None
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.readout = HyperLinear(width, patch_size, rank, code_width, dropout, start)

    def codes(self, bands: BandTensors, weights_GC: Tensor) -> Tensor:
        """code_GCE of bands, from their metadata alone; mixed across bands by quadrature."""
        assert self.meta is not None and self.mixer is not None, "built without codes of its own"
        return self.mixer(self.meta(bands), weights_GC)

    def forward(self, features: Features, asked: Sequence[Asked], positions: Positions) -> list[Tensor]:
        """pred_bSTP of each part.

        Args:
            features: of the visible tokens, the parts laid end to end and padded to the widest.
            asked: by part. positions: of the encoder (:meth:`specfm.models.Encoder.positions`).
        """
        z_BLW, exists_BL = self.tokens(features, asked, positions)
        first, found = int(features.class_BD is not None), []
        for rows, part in zip(_rows(asked), asked, strict=True):
            length = first + part.exists_bN.shape[1]  # of this part without padding
            z_bLW, exists_bL = z_BLW[rows, :length], exists_BL[rows, :length]
            found.append(self.readout(z_bLW, exists_bL, part.code_GSE, part.read_bT + first))
        return found

    def tokens(self, features: Features, asked: Sequence[Asked], positions: Positions) -> tuple[Tensor, Tensor]:
        """z_BLW after the blocks and exists_BL; the class token comes first where the encoder has one."""
        seen_BKW = self.embed(features.tokens_BND)
        longest = max(part.exists_bN.shape[1] for part in asked)
        filled, exists = [], []
        for rows, part in zip(_rows(asked), asked, strict=True):
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


def _rows(asked: Sequence[Asked]) -> list[slice]:
    ends = torch.tensor([0, *(len(part.exists_bN) for part in asked)]).cumsum(0).tolist()
    return [slice(low, high) for low, high in pairwise(ends)]
