"""Control: full kernels generated from wavelength by a small transformer, after DOFA (arXiv 2403.15356).

The form in which kernels stay tied to their band (the original's reshape mixes them up). Parameter names are those of
the public implementations, so their patch-embedding weights load with ``load_state_dict``.

Shapes: G = 1 or B grids, B samples, N tokens, C bands, P pixels of a patch, E code width, D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specfm.batch import BandTensors
from specfm.models.embeddings.contraction import per_band_sum
from specfm.models.patches import Patches
from specfm.models.quadrature import safe_wavelengths_nm

SCALE = 0.01  # of kernels and bias
WEIGHT_TOKENS = 128


class DofaEmbedding(nn.Module):
    """``token_n = sum_c K(lam_c) x_nc + b``: a plain sum over bands, so it grows with how finely they are sampled.

    Args:
        dim: D.
        patch_size: p.
        code_width: E.
    """

    claims = frozenset({1, 2, 4, 5, 6, 7, 8, 9})  # not 3: one band listed twice counts twice
    linear_in_patches = True  # once the bands are known
    frequency_F: Tensor

    def __init__(self, dim: int, patch_size: int, code_width: int = 128):
        super().__init__()
        self.dim, self.pixels = dim, patch_size**2
        rate_F = torch.arange(code_width // 2, dtype=torch.float64) / (code_width / 2)
        self.register_buffer("frequency_F", 10_000.0**-rate_F, persistent=False)
        self.fclayer = _Residual(code_width)
        self.weight_generator = _KernelGenerator(code_width, self.pixels * dim, dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.01)

    def kernels(self, bands: BandTensors) -> tuple[Tensor, Tensor]:
        """kernel_GCPD and bias_GD."""
        angle_GCF = safe_wavelengths_nm(bands)[..., None] * self.frequency_F
        wave_GCE = torch.cat([angle_GCF.sin(), angle_GCF.cos()], dim=-1).float()
        kernel, bias_GD = self.weight_generator(self.fclayer(wave_GCE), bands.valid_GC)
        return kernel.unflatten(-1, (self.pixels, self.dim)) * SCALE, bias_GD * SCALE

    def forward(self, patches: Patches) -> Tensor:
        """tokens_BND."""
        kernel_GCPD, bias_GD = self.kernels(patches.bands)
        patch_BNM = patches.x_BCNP.transpose(1, 2).flatten(2).to(kernel_GCPD.dtype)
        return patch_BNM @ kernel_GCPD.flatten(1, 2) + bias_GD[:, None]

    def reference(self, patches: Patches) -> Tensor:
        """tokens_BND with every band's own token formed; slow, for the tests."""
        kernel_GCPD, bias_GD = self.kernels(patches.bands)
        return per_band_sum(kernel_GCPD.transpose(2, 3), patches.x_BCNP) + bias_GD[:, None]


class _Residual(nn.Module):
    """``x + relu(w2 relu(w1 x))``."""

    def __init__(self, width: int):
        super().__init__()
        self.w1 = nn.Linear(width, width)
        self.w2 = nn.Linear(width, width)

    def forward(self, code: Tensor) -> Tensor:
        return code + self.w2(self.w1(code).relu()).relu()


class _KernelGenerator(nn.Module):
    """Band codes beside learned tokens through one post-norm transformer layer; a kernel per band, one bias."""

    def __init__(self, width: int, kernel_size: int, dim: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, nhead=4, activation="gelu", dropout=0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.fc_weight = nn.Linear(width, kernel_size)
        self.fc_bias = nn.Linear(width, dim)
        self.weight_tokens = nn.Parameter(0.02 * torch.randn(WEIGHT_TOKENS, width))
        self.bias_token = nn.Parameter(0.02 * torch.randn(1, width))

    def forward(self, wave_GCE: Tensor, valid_GC: Tensor) -> tuple[Tensor, Tensor]:
        grids = wave_GCE.shape[0]
        learned = [tokens.expand(grids, -1, -1) for tokens in (self.weight_tokens, self.bias_token)]
        code = torch.cat([learned[0], wave_GCE, learned[1]], dim=1)
        hidden = nn.functional.pad(~valid_GC, (WEIGHT_TOKENS, 1))  # unusable bands are not attended to
        code = self.transformer_encoder(code, src_key_padding_mask=hidden)
        return self.fc_weight(code[:, WEIGHT_TOKENS:-1] + wave_GCE), self.fc_bias(code[:, -1])
