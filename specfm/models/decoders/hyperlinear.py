"""HyperLinear: the readout of masked modelling, generated band by band, as the patch embedding is.

Shapes: B samples, L tokens of the decoder, T tokens read, S bands read, P pixels of a patch, W decoder width, E width
of a band code, R rank, K hidden numbers of a generator with the constant 1, G = 1 or B.
Source: HyperLinear of SpecAware (arXiv 2510.27219); the factored contraction is ours.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from specfm.models.embeddings.contraction import bands_go_first
from specfm.models.embeddings.hyper import dct_rows
from specfm.models.embeddings.specaware import Fusion, generator

ATTENTION_WIDTH = 64  # of query and keys where tokens are pooled
START_GAIN = 0.3  # of the readout: predictions start nearer to the bias than spectra vary


class HyperLinear(nn.Module):
    """``pred_nc = U_c (V_c z_n) + b_c`` with ``V_c`` (R x W), ``U_c`` (P x R) and ``b_c`` generated from a band's code.

    The code is what the band is (``code_GCE``), fused with what the image shows: ``g_c = Fusion(code_c, m) + m``,
    ``m = MLP(ctx)``, ctx the tokens pooled by attention with their mean as the only query.

    Args:
        width: W.
        patch_size: p, P = p*p.
        rank: R.
        code_width: E.
        dropout: of fusion and generators.
        start: what every prediction starts at; None starts everything as published (all weights small, predictions 0).
    """

    def __init__(
        self,
        width: int,
        patch_size: int,
        rank: int = 64,
        code_width: int = 128,
        dropout: float = 0.0,
        start: float | None = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.rank, self.pixels = width, rank, patch_size**2
        self.query = nn.Linear(width, ATTENTION_WIDTH, bias=False)
        self.key = nn.Linear(width, ATTENTION_WIDTH, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.context = nn.Sequential(nn.Linear(width, code_width), nn.GELU(), nn.Linear(code_width, code_width))
        self.fusion = Fusion(code_width, dropout)
        self.spatial = generator(self.pixels * rank, code_width, dropout)
        self.semantic = generator(rank * width, code_width, dropout)
        self.bias = nn.Sequential(
            nn.LayerNorm(code_width), nn.Linear(code_width, code_width // 2), nn.GELU(),
            nn.Linear(code_width // 2, self.pixels),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        last = cast(nn.Linear, self.bias[-1])
        nn.init.zeros_(last.weight)
        if start is not None:
            nn.init.constant_(last.bias, start)
            self._start_readable(patch_size)

    @torch.no_grad()
    def _start_readable(self, patch_size: int) -> None:
        """Hidden numbers that tell bands apart, low cosines of a patch, and a readout of a size that can be seen.

        With every weight small the product of four of them is invisible for hundreds of steps.
        """
        for part in (self.spatial, self.semantic):  # the last layers follow
            for module in list(part.children())[:-1]:
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=module.in_features**-0.5)
        rows_RP = dct_rows(patch_size, self.rank)
        spatial, semantic = cast(nn.Linear, self.spatial[-1]), cast(nn.Linear, self.semantic[-1])
        nn.init.normal_(spatial.weight, std=0.1 / (spatial.in_features * self.pixels) ** 0.5)
        spatial.bias.copy_((rows_RP.T * START_GAIN * patch_size / self.rank**0.5).flatten())
        nn.init.normal_(semantic.weight, std=(semantic.in_features * self.width) ** -0.5)
        nn.init.normal_(semantic.bias, std=self.width**-0.5)

    def codes(self, z_BLW: Tensor, exists_BL: Tensor, code_GSE: Tensor) -> Tensor:
        """g_BSE: codes of the bands, in the light of the image.

        Args:
            z_BLW: all tokens of the decoder; undefined where not ``exists_BL``.
            exists_BL: True = the token exists.
            code_GSE: codes of the bands before the image is looked at.
        """
        z_BLW = torch.where(exists_BL[..., None], z_BLW, 0.0)
        count_B1 = exists_BL.sum(1, keepdim=True).clamp_min(1)
        query_BA = self.query(z_BLW.sum(1) / count_B1)
        logit_BL = torch.einsum("ba,bla->bl", query_BA, self.key(z_BLW)) / math.sqrt(ATTENTION_WIDTH)
        allowed_BL = exists_BL | ~exists_BL.any(1, keepdim=True)
        share_BL = logit_BL.float().masked_fill(~allowed_BL, -torch.inf).softmax(1)
        pooled_BW = self.value(torch.einsum("bl,blw->bw", share_BL.to(z_BLW.dtype), z_BLW))  # linear: pooled first
        seen_BSE = self.context(pooled_BW)[:, None].expand(-1, code_GSE.shape[1], -1)
        return self.fusion(code_GSE.expand(len(z_BLW), -1, -1), seen_BSE) + seen_BSE

    def read(self, z_BTW: Tensor, g_BSE: Tensor) -> Tensor:
        """pred_BSTP of chosen tokens; no [B, T, S, W] tensor is formed, and V only where that is the cheaper order."""
        tokens, channels = z_BTW.shape[1], g_BSE.shape[1]
        hidden_BSK = nn.functional.pad(self.semantic[:-1](g_BSE), (0, 1), value=1.0)
        last = cast(nn.Linear, self.semantic[-1])
        basis_KRW = torch.cat([last.weight.T, last.bias[None]]).unflatten(1, (self.rank, self.width))
        basis_KRW, z_BTW = basis_KRW.to(hidden_BSK.dtype), z_BTW.to(hidden_BSK.dtype)
        if bands_go_first(1, 1, channels, tokens, len(basis_KRW), self.width):
            # what each basis matrix makes of a token, mixed by band: cost of the wide product independent of S
            each_BTKR = (z_BTW @ basis_KRW.flatten(0, 1).T).unflatten(2, (len(basis_KRW), self.rank))
            seen_BSTR = (hidden_BSK @ each_BTKR.transpose(1, 2).flatten(2)).unflatten(2, (tokens, self.rank))
        else:
            semantic_BSRW = (hidden_BSK @ basis_KRW.flatten(1)).unflatten(2, (self.rank, self.width))
            seen_BSTR = z_BTW[:, None] @ semantic_BSRW.mT
        spatial_BSPR = self.spatial(g_BSE).unflatten(2, (self.pixels, self.rank))
        return seen_BSTR @ spatial_BSPR.mT + self.bias(g_BSE)[:, :, None]

    def forward(self, z_BLW: Tensor, exists_BL: Tensor, code_GSE: Tensor, tokens_BT: Tensor) -> Tensor:
        """pred_BSTP of tokens ``tokens_BT`` (indices into L) in the bands of ``code_GSE``."""
        g_BSE = self.codes(z_BLW, exists_BL, code_GSE)
        return self.read(z_BLW.gather(1, tokens_BT[..., None].expand(-1, -1, z_BLW.shape[2])), g_BSE)

    def reference(self, z_BLW: Tensor, exists_BL: Tensor, code_GSE: Tensor, tokens_BT: Tensor) -> Tensor:
        """The same by the textbook: U, V of every band and what every band sees of *every* token; slow, for tests."""
        g_BSE = self.codes(z_BLW, exists_BL, code_GSE)
        semantic_BSRW = self.semantic(g_BSE).unflatten(2, (self.rank, self.width))
        spatial_BSPR = self.spatial(g_BSE).unflatten(2, (self.pixels, self.rank))
        seen_BLSR = torch.einsum("blw,bsrw->blsr", z_BLW.to(semantic_BSRW.dtype), semantic_BSRW)
        pred_BLSP = torch.einsum("blsr,bspr->blsp", seen_BLSR, spatial_BSPR) + self.bias(g_BSE)[:, None]
        index_BTSP = tokens_BT[:, :, None, None].expand(-1, -1, *pred_BLSP.shape[2:])
        return pred_BLSP.gather(1, index_BTSP).transpose(1, 2)
