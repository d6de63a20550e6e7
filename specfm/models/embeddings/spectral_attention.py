"""Control: attention over the bands, then an ordinary patch embedding of what each head has seen.

As in networks that weigh the channels of a cube by their content (squeeze and excitation, Hu et al., CVPR 2018), but
for any list of bands: what a head attends to is a function of wavelength and of the band's content, not of its number.
Weights are a softmax over the bands with the logarithm of each band's share of the axis added, so that the sum is a
quadrature: a band listed twice, or a finer sampling, changes nothing.

Shapes: G = 1 or B grids, B samples, N tokens, C bands, K heads, P pixels of a patch, E code width, D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specfm.batch import BandTensors
from specfm.models.embeddings.codes import SpectralFourier
from specfm.models.embeddings.contraction import per_band_sum
from specfm.models.embeddings.stem_scale import conv_stem_ratio
from specfm.models.patches import Patches
from specfm.models.quadrature import effective_fwhm_nm, safe_wavelengths_nm

SHARP = 6.0  # deviation of the logits at the start: a head then sees a few tens of nanometres


class SpectralAttentionEmbedding(nn.Module):
    """``token_n = W [sum_c a_kc x_nc]_k + b`` with ``a_kc = softmax_c(s_k(lam_c, content_c) + log w_c)``.

    ``content_c`` is the mean and the deviation of the band over the sample's visible patches; the part of the logits
    that depends on it starts at zero.

    Args:
        dim: D.
        patch_size: p.
        bases: K heads.
        code_width: E.
    """

    claims = frozenset(range(1, 10))

    def __init__(self, dim: int, patch_size: int, bases: int = 32, code_width: int = 64):
        super().__init__()
        # periods below some 20 nm would have heads attend to single bands of fine sensors
        self.fourier = SpectralFourier(24, shortest_nm=60.0)
        self.code = nn.Linear(self.fourier.num_features, code_width)
        self.heads = nn.Linear(code_width, bases)
        self.content = nn.Sequential(nn.Linear(code_width + 2, code_width), nn.GELU(), nn.Linear(code_width, bases))
        nn.init.normal_(self.code.weight, std=(2 / self.fourier.num_features) ** 0.5)
        nn.init.normal_(self.heads.weight, std=SHARP * code_width**-0.5)
        nn.init.zeros_(self.content[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.content[2].bias)  # type: ignore[arg-type]
        self.pixels = patch_size**2
        self.linear = nn.Linear(bases * self.pixels, dim)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.weight.mul_(conv_stem_ratio(self, patch_size))

    def attention(self, patches: Patches) -> Tensor:
        """weights_BKC (float32): what each head sees of every band; rows sum to 1, 0 in unusable bands."""
        bands, batch = patches.bands, patches.x_BCNP.shape[0]
        # in float32: logits that are compared over hundreds of bands
        with torch.autocast(patches.x_BCNP.device.type, enabled=False):
            code_GCE, seen_GCK = bands.once("attention", lambda: self._of_bands(bands))
            told_BC2 = self._content(patches)
            both = torch.cat([code_GCE.expand(batch, -1, -1), told_BC2], dim=-1)
            logit_BCK = seen_GCK + self.content(both)
            share_GC = patches.weights_GC.float()
            nothing_G1 = ~(share_GC > 0).any(1, keepdim=True)
            logit_BCK = logit_BCK + torch.where(nothing_G1, 0.0, share_GC.log())[..., None]
            weight_BCK = torch.where((share_GC > 0)[..., None], logit_BCK.softmax(dim=1), 0.0)
        return weight_BCK.transpose(1, 2)

    def _of_bands(self, bands: BandTensors) -> tuple[Tensor, Tensor]:
        """code_GCE, and the part of the logits that content does not change (G, C, K)."""
        code_GCE = torch.tanh(self.code(self.fourier(safe_wavelengths_nm(bands), effective_fwhm_nm(bands))))
        return code_GCE, self.heads(code_GCE)

    def forward(self, patches: Patches) -> Tensor:
        """tokens_BND."""
        _, _, tokens, pixels = patches.x_BCNP.shape
        seen_BKM = self.attention(patches).to(patches.x_BCNP.dtype) @ patches.x_BCNP.flatten(2)
        return self.linear(seen_BKM.unflatten(2, (tokens, pixels)).transpose(1, 2).flatten(2))

    def reference(self, patches: Patches) -> Tensor:
        """tokens_BND with every band's own token formed; slow, for the tests."""
        weight_DKP = self.linear.weight.unflatten(1, (-1, self.pixels))
        kernel_BCDP = torch.einsum("dkp,bkc->bcdp", weight_DKP, self.attention(patches))
        return per_band_sum(kernel_BCDP, patches.x_BCNP) + self.linear.bias

    @staticmethod
    def _content(patches: Patches) -> Tensor:
        """Mean and deviation of every band over the visible patches of its sample, [B, C, 2]."""
        share_BN = patches.pixels_BN * patches.token_mask_BN
        share_BN = share_BN / share_BN.sum(1, keepdim=True).clamp_min(1e-9)
        mean_BCN = patches.x_BCNP.mean(-1)
        # by the norm: the squares themselves would be a copy of the whole cube
        square_BCN = torch.linalg.vector_norm(patches.x_BCNP, dim=-1).square() / patches.x_BCNP.shape[-1]
        mean_BC, square_BC = (torch.einsum("bcn,bn->bc", v, share_BN) for v in (mean_BCN, square_BCN))
        # the floor keeps the gradient of the root finite for flat bands
        return torch.stack([mean_BC, (square_BC - mean_BC.square()).clamp_min(1e-8).sqrt()], dim=-1)
