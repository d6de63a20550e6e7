"""Band codes: what the hypernetwork knows of each band, from its metadata and from its content.

Shapes: G = 1 or B grids, B samples, C bands, N tokens, P pixels of a patch, E code width.
Source: the meta-content module of SpecAware (arXiv 2510.27219), with width-attenuated Fourier features, validity masks
and quadrature in every reduction over bands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specfm.bands import SIGMA_PER_FWHM
from specfm.batch import BandTensors
from specfm.models.patches import Patches
from specfm.models.quadrature import effective_fwhm_nm, safe_wavelengths_nm
from specfm.sensors import LEVELS, QUANTITIES

# Shorter periods start weaker. Spectra are smooth, so what these see integrates to almost nothing over all bands, but
# to noise over a random subset: measured on forests at 5 nm, it made the share of the variance of tokens that only
# says which bands were kept 20 times larger.
SMOOTH_NM = 60.0
CONTENT_QUANTILES = (0.25, 0.5, 0.75)
CONTENT_GRID = 2  # average and max pooling to 2 x 2 cells


class SpectralFourier(nn.Module):
    """Fourier features of a band: phases at log-spaced periods, attenuated by the band's own width.

    ``exp(-2 pi^2 sigma^2 / T^2) (cos, sin)(2 pi lambda / T)`` is the transform of a Gaussian response of that width, so
    a 10 nm band cannot claim a 2 nm phase.
    """

    period_nm_T: Tensor

    def __init__(self, periods: int = 48, shortest_nm: float = 2.0, longest_nm: float = 40_000.0):
        super().__init__()
        period_T = torch.logspace(math.log10(shortest_nm), math.log10(longest_nm), periods, dtype=torch.float64)
        self.register_buffer("period_nm_T", period_T, persistent=False)
        self.num_features = 2 * periods

    def forward(self, wavelengths_nm_GC: Tensor, fwhm_nm_GC: Tensor) -> Tensor:
        """features_GCF (float32); the phase is reduced in float64 whatever the autocast dtype."""
        period_T = self.period_nm_T.to(torch.float64)
        cycles = wavelengths_nm_GC.to(torch.float64)[..., None] / period_T
        angle = (2 * math.pi * (cycles - cycles.round())).float()
        sigma = fwhm_nm_GC.to(torch.float64)[..., None] * SIGMA_PER_FWHM
        damping = torch.exp(-2 * math.pi**2 * (sigma / period_T) ** 2).float()
        return torch.cat([angle.cos() * damping, angle.sin() * damping], dim=-1)


class MetaCode(nn.Module):
    """Code of a band from its metadata: wavelength, width, and optional attributes with a learned 'unknown' row each.

    Args:
        width: E.
        sensor_names: instruments with a row of their own; any other name is 'unknown'. Empty: names are not used.
    """

    def __init__(self, width: int, sensor_names: tuple[str, ...] = ()):
        super().__init__()
        self.fourier = SpectralFourier()
        self.wavelength = nn.Linear(self.fourier.num_features, width)
        nn.init.normal_(self.wavelength.weight, std=(2 / self.fourier.num_features) ** 0.5)
        with torch.no_grad():
            share_T = (self.fourier.period_nm_T / SMOOTH_NM).clamp(max=1.0).float() ** 1.5
            self.wavelength.weight.mul_(share_T.repeat(2))
        self.fwhm = nn.Linear(1, width)
        nn.init.zeros_(self.fwhm.weight)
        nn.init.zeros_(self.fwhm.bias)
        self.quantity = nn.Embedding(len(QUANTITIES) + 1, width)
        self.level = nn.Embedding(len(LEVELS) + 1, width)
        self.gsd = nn.Linear(1, width)
        self.gsd_unknown = nn.Parameter(torch.zeros(width))
        self.sensor_names = tuple(sensor_names)
        self.name = nn.Embedding(len(sensor_names) + 1, width) if sensor_names else None
        for module in (self.quantity, self.level, self.gsd, self.name):
            if module is not None:
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.gsd.bias)  # known and unknown start alike
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, bands: BandTensors) -> Tensor:
        """code_GCE."""
        fwhm_GC = effective_fwhm_nm(bands)
        with torch.autocast(bands.wavelengths_nm_GC.device.type, enabled=False):
            code = self.wavelength(self.fourier(safe_wavelengths_nm(bands), fwhm_GC))
            log_fwhm = torch.log(fwhm_GC.clamp_min(0.1) / 10.0).float()
            code = code + self.fwhm(log_fwhm[..., None])
        attributes = self.quantity(bands.quantity_G + 1) + self.level(bands.level_G + 1)
        known = bands.gsd_m_G.isfinite()
        log_gsd = torch.where(known, bands.gsd_m_G, 1.0).log()
        attributes = attributes + torch.where(known[:, None], self.gsd(log_gsd[:, None] / 5.0), self.gsd_unknown)
        if self.name is not None:
            rows = [self.sensor_names.index(n) + 1 if n in self.sensor_names else 0 for n in bands.names]
            attributes = attributes + self.name(torch.tensor(rows, device=known.device))
        code = code + attributes[:, None]
        return code + self.mix(code)


class ContentCode(nn.Module):
    """Code of a band from what this sample shows in it: statistics over the valid, visible patches only.

    It starts at zero. A random dependence on content gives every window an embedding of its own, and two windows of one
    material no longer agree (measured on tree crowns, whitened tokens, kNN: mean recall .35 with it, .59 without).

    Args:
        width: of the code.
        hidden: of the layer before it (default: the same).
    """

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__()
        self.num_features = 2 * CONTENT_GRID**2 + 2 + len(CONTENT_QUANTILES) + 1
        hidden = hidden or width
        last = nn.Linear(hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(self.num_features, hidden), nn.GELU(), last)

    def forward(self, patches: Patches) -> Tensor:
        """code_BCE."""
        # Outside autocast: the variance is a difference of two products that agree to many digits.
        with torch.autocast(patches.x_BCNP.device.type, enabled=False):
            statistics_BCS = content_statistics(patches)
        return self.mlp(_asinh(statistics_BCS))


def _asinh(x: Tensor) -> Tensor:
    """``torch.asinh`` in operations that CPUs take many numbers at a time for: eight times faster."""
    size = x.abs().clamp_max(1e18)  # whose square float32 still holds
    return torch.log1p(size + size.square() / (1 + (1 + size.square()).sqrt())) * x.sign()


def content_statistics(patches: Patches) -> Tensor:
    """statistics_BCS: 2x2 average and max pools, mean, deviation, quantiles of the patch means, log level."""
    mask_BN, pixels_BN = patches.token_mask_BN, patches.pixels_BN
    # In the memory order of the patches: reductions across it take three times as long.
    bands_first = patches.x_BCNP.stride(1) > patches.x_BCNP.stride(0)
    x = patches.x_BCNP.transpose(0, 1) if bands_first else patches.x_BCNP
    # by the norm: the squares themselves would be a copy of the whole cube
    mean, square = x.mean(-1), torch.linalg.vector_norm(x, dim=-1).square() / x.shape[-1]
    mean_BCN, square_BCN = (mean.transpose(0, 1), square.transpose(0, 1)) if bands_first else (mean, square)

    rows, cols = patches.grid_hw
    cell_BN = (patches.position_BN2[..., 0] * CONTENT_GRID // rows) * CONTENT_GRID + (
        patches.position_BN2[..., 1] * CONTENT_GRID // cols
    )
    inside_BSN = [mask_BN & (cell_BN == cell) for cell in range(CONTENT_GRID**2)]
    # mean over each cell, and over all
    share_BNS = torch.stack([*(torch.where(inside, pixels_BN, 0.0) for inside in inside_BSN), pixels_BN], dim=-1)
    share_BNS = share_BNS / share_BNS.sum(1, keepdim=True).clamp_min(1e-9)
    *average_SBC, mean_BC = (mean_BCN @ share_BNS).unbind(-1)
    variance_BC = (square_BCN * share_BNS[:, None, :, -1]).sum(-1) - mean_BC.square()
    # the floor keeps the gradient of the root finite for flat bands
    columns = [mean_BC, variance_BC.clamp_min(1e-8).sqrt()]
    for inside_BN, average_BC in zip(inside_BSN, average_SBC, strict=True):
        some_B1 = inside_BN.any(1, keepdim=True)
        highest_BC = torch.where(inside_BN[:, None], mean_BCN, -torch.inf).amax(-1)
        columns += [torch.where(some_B1, average_BC, mean_BC), torch.where(some_B1, highest_BC, mean_BC)]

    ordered_BCN = torch.where(mask_BN[:, None], mean_BCN, torch.inf).sort(dim=-1).values
    last_B = mask_BN.sum(1) - 1
    for quantile in CONTENT_QUANTILES:
        rank_B11 = (last_B * quantile).round().long().clamp_min(0)[:, None, None]
        value_BC = ordered_BCN.gather(2, rank_B11.expand(-1, ordered_BCN.shape[1], 1)).squeeze(-1)
        columns.append(torch.where(value_BC.isfinite(), value_BC, 0.0))
    columns.append(patches.log_level_B[:, None].expand_as(mean_BC))
    return torch.stack(columns, dim=-1)


class BandMixer(nn.Module):
    """One pre-norm transformer layer over band codes; keys are weighed by their quadrature weight.

    Adding ``log w_c`` to the key logits turns the softmax sum into a quadrature: splitting a band in two leaves every
    output unchanged, an unusable band (log 0) is never seen.
    """

    def __init__(self, width: int, heads: int = 4, hidden: int = 128):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, code_BCE: Tensor, weights_GC: Tensor) -> Tensor:
        batch, channels, width = code_BCE.shape
        q, k, v = self.qkv(self.norm1(code_BCE)).view(batch, channels, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Relative to the largest weight (softmax cannot tell), so that bf16 keeps the digits that differ.
        bias_GC = (weights_GC / weights_GC.amax(1, keepdim=True)).log()
        bias_GC = torch.where((weights_GC > 0).any(1, keepdim=True), bias_GC, 0.0)  # nothing usable: keep it finite
        bias = bias_GC[:, None, None, :].expand(batch, 1, 1, channels).to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        code_BCE = code_BCE + self.out(mixed.transpose(1, 2).reshape(batch, channels, width))
        return code_BCE + self.mlp(self.norm2(code_BCE))
