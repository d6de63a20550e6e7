"""HyperEmbedding: a patch embedding generated, band by band, from what each band measures and shows.

Shapes: B samples, N tokens, C bands, P = p*p pixels of a patch, D token width, R rank of the spatial basis, K width of
the hypernetwork's last hidden layer, E band-code width, G = 1 or B (codes shared by all samples, or one set each).
Source: HyperEmbedding of SpecAware (arXiv 2510.27219); the factored contraction and the quadrature are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.models.codes import BandMixer, ContentCode, MetaCode
from specfm.models.patches import Patches, patchify

CONV_STEM_GAIN = 3**-0.5  # RMS of a default Conv2d stem's output over that of its input


class HyperEmbedding(nn.Module):
    """Patch embedding for any list of bands: ``token_n = alpha (sum_c w_c U_c V_c x_nc + bias)``.

    ``V_c`` (R x P) looks at the patch of band c, ``U_c`` (D x R) says what that means; both come from the code of band
    c, and ``w_c`` is its quadrature weight. ``U_c = sum_k g_ck G_k`` is linear in a hidden code g, so the sum over
    bands can go first and U need not be formed for every token (see :meth:`forward`).

    Args:
        dim: D. patch_size: p. rank: R. hidden: K, a constant 1 included. code_width: E.
        content: look at the sample's band content as well as at metadata (False: bakeable for a fixed camera).
        sensor_names: instruments with a learned row (off by default: under NT-Xent the name is a shortcut).
    """

    claims = frozenset(range(1, 10))

    def __init__(
        self,
        dim: int,
        patch_size: int,
        rank: int = 8,
        hidden: int = 64,
        code_width: int = 128,
        content: bool = True,
        sensor_names: tuple[str, ...] = (),
    ):
        super().__init__()
        self.dim, self.rank, self.hidden, self.pixels = dim, rank, hidden, patch_size**2
        self.meta = MetaCode(code_width, tuple(sensor_names))
        self.content = ContentCode(code_width) if content else None
        self.fuse = nn.Sequential(nn.LayerNorm(code_width), nn.Linear(code_width, code_width)) if content else None
        self.mixer = BandMixer(code_width)
        self.spatial = nn.Sequential(
            nn.LayerNorm(code_width), nn.Linear(code_width, 64), nn.GELU(), nn.Linear(64, rank * self.pixels)
        )
        self.semantic = nn.Sequential(nn.LayerNorm(code_width), nn.Linear(code_width, hidden - 1), nn.GELU())
        self.basis_KRD = nn.Parameter(torch.randn(hidden, rank, dim) / (hidden * rank) ** 0.5)
        self.bias = nn.Linear(code_width, dim)
        self.alpha = nn.Parameter(torch.ones(()))
        self._initialise(patch_size)

    @torch.no_grad()
    def _initialise(self, patch_size: int) -> None:
        """Start near one shared spatial basis, and at the token RMS of a Conv2d stem on the same input."""
        last = self.spatial[-1]
        nn.init.normal_(last.weight, std=0.3 / (64 * self.pixels) ** 0.5)
        nn.init.normal_(last.bias, std=self.pixels**-0.5)
        # Hidden units need preactivations near 1 to tell bands apart at the start.
        nn.init.normal_(self.semantic[1].weight, std=self.semantic[1].in_features ** -0.5)
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.bias.bias)
        wavelengths_nm = torch.linspace(400, 2400, 64, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        x_BHWC = (
            1
            + 0.3 * torch.sin(wavelengths_nm.float() / 150)
            + 0.2 * torch.randn(4, 2 * patch_size, 2 * patch_size, 64, generator=generator)
        )
        patches = patchify(x_BHWC, BandTensors.from_sensors(BandGrid(wavelengths_nm.numpy())), None, patch_size)
        target = CONV_STEM_GAIN * patches.x_BCNP.square().mean().sqrt()
        self.basis_KRD.mul_(target / self(patches).square().mean().sqrt())

    def codes(self, patches: Patches) -> Tensor:
        """code_GCE: one per band; per sample with content, per grid without."""
        code = self.meta(patches.bands)
        if self.content is not None:
            code = code + self.fuse(code + self.content(patches))
        return self.mixer(code, patches.weights_GC.expand(len(code), -1))

    def factors(self, patches: Patches) -> tuple[Tensor, Tensor, Tensor]:
        """V_GCRP, weighted hidden codes g_GCK (the constant 1 last) and bias_GD."""
        code = self.codes(patches)
        weights_GC = patches.weights_GC.expand(len(code), -1).to(code.dtype)
        basis_GCRP = self.spatial(code).unflatten(-1, (self.rank, self.pixels))
        hidden = self.semantic(code)
        hidden = torch.cat([hidden, torch.ones_like(hidden[..., :1])], dim=-1) * weights_GC[..., None]
        bias_GD = self.bias(torch.einsum("gce,gc->ge", code, weights_GC))
        return basis_GCRP, hidden, bias_GD

    def forward(self, patches: Patches) -> Tensor:
        """tokens_BND, by whichever contraction order is cheaper for these sizes.

        Bands first: ``Z_nkr = sum_c w_c g_ck (V_c x_nc)_r``, then one GEMM with G whose cost is independent of C.
        Few bands, many tokens: form the small U of each band instead and contract (c, r) at once. No tensor of shape
        [B, N, C, D] exists either way.
        """
        basis_GCRP, hidden_GCK, bias_GD = self.factors(patches)
        batch, channels, tokens, _ = patches.x_BCNP.shape
        if len(basis_GCRP) == batch:
            seen_BCNR = patches.x_BCNP.to(basis_GCRP.dtype) @ basis_GCRP.transpose(-1, -2)
        else:
            seen_BCNR = torch.einsum("bcnp,crp->bcnr", patches.x_BCNP.to(basis_GCRP.dtype), basis_GCRP[0])
        bands_first = tokens * self.hidden * (channels + self.dim)
        basis_first = channels * self.hidden * self.dim * len(hidden_GCK) / batch + tokens * channels * self.dim
        if bands_first <= basis_first:
            summed = hidden_GCK.expand(batch, -1, -1).transpose(1, 2) @ seen_BCNR.flatten(2)
            summed_BNKR = summed.unflatten(2, (tokens, self.rank)).transpose(1, 2)
            tokens_BND = summed_BNKR.flatten(2) @ self.basis_KRD.flatten(0, 1)
        else:
            semantic_GCRD = (hidden_GCK @ self.basis_KRD.flatten(1)).unflatten(2, (self.rank, self.dim))
            tokens_BND = seen_BCNR.transpose(1, 2).flatten(2) @ semantic_GCRD.flatten(1, 2)
        return self.alpha * (tokens_BND + bias_GD[:, None])

    def reference(self, patches: Patches) -> Tensor:
        """tokens_BND by the textbook form, with U formed and every band's token summed; slow, for the tests."""
        basis_GCRP, hidden_GCK, bias_GD = self.factors(patches)
        semantic_GCDR = torch.einsum("gck,krd->gcdr", hidden_GCK, self.basis_KRD)
        kernel_GCDP = semantic_GCDR @ basis_GCRP
        per_band_BNCD = torch.einsum(
            "bcdp,bcnp->bncd", kernel_GCDP.expand(len(patches.x_BCNP), -1, -1, -1), patches.x_BCNP
        )
        return self.alpha * (per_band_BNCD.sum(2) + bias_GD[:, None])
