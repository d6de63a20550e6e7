"""Control: bands projected on a few learned smooth spectral bases, then an ordinary patch embedding.

Shapes: G = 1 or B grids, B samples, N tokens, C bands, K bases, J hat functions, P pixels of a patch, D token width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from specfm.bands import SIGMA_PER_FWHM
from specfm.batch import BandTensors
from specfm.models.embeddings.contraction import per_band_sum
from specfm.models.embeddings.stem_scale import conv_stem_ratio
from specfm.models.patches import Patches
from specfm.models.quadrature import effective_fwhm_nm, safe_wavelengths_nm

SHORTEST_NM, LONGEST_NM = 300.0, 15_000.0


class BasisEmbedding(nn.Module):
    """``token_n = W [sum_c w_c b_k(lam_c) x_nc]_k + b`` with b_k a learned mixture of Gaussians in log wavelength.

    A band of some width sees each Gaussian through its own response, so b_k widens with the band's FWHM; wavelengths
    beyond 0.3 to 15 um count as the nearest end. The cheapest embedding that reads any grid; it ignores content.

    Args:
        dim: D.
        patch_size: p.
        bases: K.
        hats: J, how finely the bases can vary over wavelength.
    """

    claims = frozenset(range(1, 10))
    linear_in_patches = True  # once the bands are known
    centre_J: Tensor

    def __init__(self, dim: int, patch_size: int, bases: int = 16, hats: int = 64):
        super().__init__()
        centre_J = torch.linspace(math.log(SHORTEST_NM), math.log(LONGEST_NM), hats, dtype=torch.float64)
        self.register_buffer("centre_J", centre_J, persistent=False)
        self.step = float(centre_J[1] - centre_J[0])
        self.mixture = nn.Linear(hats, bases, bias=False)
        nn.init.normal_(self.mixture.weight)
        self.pixels = patch_size**2
        self.linear = nn.Linear(bases * self.pixels, dim)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.weight.mul_(conv_stem_ratio(self, patch_size))

    def bases(self, bands: BandTensors) -> Tensor:
        """bases_GCK (float32): value of every basis at every band."""
        lam_GC = safe_wavelengths_nm(bands)
        place_GC1 = lam_GC.log().clamp(math.log(SHORTEST_NM), math.log(LONGEST_NM))[..., None]
        width_GC1 = (effective_fwhm_nm(bands) * SIGMA_PER_FWHM / lam_GC)[..., None]
        spread_GC1 = self.step**2 + width_GC1**2
        hat_GCJ = self.step / spread_GC1.sqrt() * torch.exp(-((place_GC1 - self.centre_J) ** 2) / (2 * spread_GC1))
        with torch.autocast(lam_GC.device.type, enabled=False):
            return self.mixture(hat_GCJ.float())

    def forward(self, patches: Patches) -> Tensor:
        """tokens_BND."""
        batch, channels, tokens, pixels = patches.x_BCNP.shape
        bases_GKC = (self.bases(patches.bands) * patches.weights_GC[..., None]).transpose(1, 2)
        seen_BKM = bases_GKC.expand(batch, -1, -1) @ patches.x_BCNP.flatten(2)
        return self.linear(seen_BKM.unflatten(2, (tokens, pixels)).transpose(1, 2).flatten(2))

    def reference(self, patches: Patches) -> Tensor:
        """tokens_BND with every band's own token formed; slow, for the tests."""
        weight_DKP = self.linear.weight.unflatten(1, (-1, self.pixels))
        weighted_GCK = self.bases(patches.bands) * patches.weights_GC[..., None]
        kernel_GCDP = torch.einsum("dkp,gck->gcdp", weight_DKP, weighted_GCK)
        return per_band_sum(kernel_GCDP, patches.x_BCNP) + self.linear.bias
