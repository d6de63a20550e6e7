"""What two windows of different sensors can be compared by: mean spectra on one coarse wavelength grid, with coverage.

Shapes: B local samples, N samples over all ranks, G = 1 or B grids, C bands, J bins, U coverage patterns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from specfm.batch import BandTensors, Batch, BatchPart
from specfm.models.quadrature import effective_fwhm_nm

# Bins 4 % wide from 350 nm to 15 um (20 nm at 500 nm): wide enough for any imaging spectrometer to fill the ones it
# covers, narrow enough to tell materials apart.
BIN_RATIO = 1.04
FIRST_NM, LAST_NM = 350.0, 15_000.0
BINS = math.ceil(math.log(LAST_NM / FIRST_NM) / math.log(BIN_RATIO))
MIN_FILLED = 0.5  # a bin counts as covered when bands fill this share of it


def describe(batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean valid spectrum of every raw window: spectrum_BJ (float64, unit length, 0 where uncovered) and covered_BJ.

    float64, so that rounding cannot move a pair across a threshold when the batch is split over ranks.
    """
    spectra, covers = [], []
    for part in batch:
        spectrum_BJ, covered_GJ = _resample(_mean_spectrum(part), part.bands)
        spectra.append(spectrum_BJ)
        covers.append(covered_GJ.expand(len(part), -1))
    return torch.cat(spectra), torch.cat(covers)


def _mean_spectrum(part: BatchPart) -> Tensor:
    """spectrum_BC (float64): physical mean over valid pixels, 0 in unusable bands and where nothing is valid."""
    usable_G11C = part.bands.valid_GC[:, None, None]
    x_BHWC = part.x_BHWC.to(torch.float64)
    mask_BHW = torch.ones_like(x_BHWC[..., 0], dtype=torch.bool) if part.mask_BHW is None else part.mask_BHW.bool()
    if part.x_BHWC.is_floating_point():
        x_BHWC = torch.where(usable_G11C, x_BHWC, 0.0)
        mask_BHW = mask_BHW & x_BHWC.sum(-1).isfinite()
    total_BC = torch.where(mask_BHW[..., None], x_BHWC, 0.0).sum((1, 2))
    pixels_B1 = mask_BHW.sum((1, 2))[:, None]
    mean_BC = total_BC / pixels_B1.clamp_min(1) * part.bands.scale_G[:, None] + part.bands.offset_G[:, None]
    return torch.where(part.bands.valid_GC & (pixels_B1 > 0), mean_BC, 0.0)


def _resample(spectrum_BC: Tensor, bands: BandTensors) -> tuple[Tensor, Tensor]:
    """Average over the bands that overlap each bin; a band reaches as far as its width or the typical spacing."""
    edges_J = FIRST_NM * BIN_RATIO ** torch.arange(BINS + 1, dtype=torch.float64, device=spectrum_BC.device)
    reach_GC = torch.maximum(effective_fwhm_nm(bands), _spacing(bands)) / 2
    low_GC, high_GC = bands.wavelengths_nm_GC - reach_GC, bands.wavelengths_nm_GC + reach_GC
    overlap_GJC = torch.minimum(high_GC[:, None], edges_J[1:, None]) - torch.maximum(
        low_GC[:, None], edges_J[:-1, None]
    )
    overlap_GJC = torch.where(bands.valid_GC[:, None], overlap_GJC, 0.0).clamp_min(0.0)
    filled_GJ = overlap_GJC.sum(-1)
    covered_GJ = filled_GJ >= MIN_FILLED * edges_J.diff()
    share_GJC = torch.where(covered_GJ[..., None], overlap_GJC / filled_GJ.clamp_min(1e-12)[..., None], 0.0)
    if len(bands) == 1:
        binned_BJ = spectrum_BC @ share_GJC[0].T
    else:
        binned_BJ = torch.einsum("bc,bjc->bj", spectrum_BC, share_GJC)
    return binned_BJ / binned_BJ.norm(dim=1, keepdim=True).clamp_min(1e-300), covered_GJ


def _spacing(bands: BandTensors) -> Tensor:
    """Median distance (nm, (G, 1)) between neighbouring usable bands: what the FWHM is where it is unknown."""
    unknown = bands.replace(fwhm_nm_GC=torch.full_like(bands.fwhm_nm_GC, torch.nan))
    return effective_fwhm_nm(unknown)[:, :1]


@dataclass(frozen=True)
class CommonCosine:
    """Cosines between spectra over the bins that both cover.

    The norm over the common bins depends on the partner only through its coverage, of which a batch holds few patterns,
    so it is looked up: one matrix product per tile instead of four.
    """

    spectrum_NJ: Tensor
    pattern_N: Tensor
    energy_NU: Tensor
    comparable_UU: Tensor

    @classmethod
    def of(cls, spectrum_NJ: Tensor, covered_NJ: Tensor, min_share: float, min_bins: int) -> CommonCosine:
        """Two samples are comparable over at least ``min_bins`` bins and ``min_share`` of the smaller coverage."""
        patterns_UJ, pattern_N = covered_NJ.unique(dim=0, return_inverse=True)
        member_UJ = patterns_UJ.to(spectrum_NJ.dtype)
        common_UU = member_UJ @ member_UJ.T
        bins_U = member_UJ.sum(1)
        smaller_UU = torch.minimum(bins_U[:, None], bins_U[None])
        comparable_UU = (common_UU >= min_bins) & (common_UU >= min_share * smaller_UU)
        return cls(spectrum_NJ, pattern_N, spectrum_NJ.square() @ member_UJ.T, comparable_UU)

    def tile(self, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
        """cosine_RC (0 where not comparable) and comparable_RC."""
        row_pattern, col_pattern = self.pattern_N[rows], self.pattern_N[cols]
        dot_RC = self.spectrum_NJ[rows] @ self.spectrum_NJ[cols].T
        row_RC = self.energy_NU[rows].index_select(1, col_pattern)
        col_RC = self.energy_NU[cols].index_select(1, row_pattern).T
        comparable_RC = self.comparable_UU[row_pattern[:, None], col_pattern[None]] & (row_RC * col_RC > 0)
        cosine_RC = dot_RC / (row_RC * col_RC).clamp_min(1e-300).sqrt()
        return torch.where(comparable_RC, cosine_RC, 0.0), comparable_RC
