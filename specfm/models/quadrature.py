"""Quadrature over the wavelength axis for batches whose samples may each see other bands.

Shapes: G grids, C bands. The same rule as :attr:`specfm.bands.BandGrid.weights` (one test holds them equal).
"""

from __future__ import annotations

import torch
from torch import Tensor

from specfm.bands import GAP_CAP_FWHM
from specfm.batch import FILLER_NM, BandTensors


def effective_fwhm_nm(bands: BandTensors) -> Tensor:
    """FWHM_GC (float64, nm) with the median spacing of the usable bands where it is unknown; 0 if there is none."""
    distinct_GC = torch.where(bands.valid_GC, bands.wavelengths_nm_GC, torch.inf).sort(dim=1).values
    step_GC = distinct_GC.diff(dim=1)
    step_GC = torch.where(step_GC.isfinite() & (step_GC > 0), step_GC, torch.nan)
    if step_GC.shape[1] == 0:
        spacing_G1 = step_GC.new_zeros(len(bands), 1)
    else:
        count_G1 = step_GC.isfinite().sum(1, keepdim=True)
        ordered_GC = step_GC.nan_to_num(nan=torch.inf).sort(dim=1).values
        low = ordered_GC.gather(1, ((count_G1 - 1) // 2).clamp_min(0))
        high = ordered_GC.gather(1, (count_G1 // 2).clamp_max(ordered_GC.shape[1] - 1))
        spacing_G1 = torch.where(count_G1 > 0, (low + high) / 2, 0.0).nan_to_num(posinf=0.0)
    return torch.where(bands.fwhm_nm_GC.isfinite(), bands.fwhm_nm_GC, spacing_G1)


def quadrature_weights(bands: BandTensors) -> Tensor:
    """weights_GC (float64): each usable band's share of the wavelength axis; rows sum to 1, 0 where unusable.

    A band's cell reaches half-way to its nearest distinct usable neighbours, each half capped at 3 FWHM, the outermost
    halves mirrored; bands of equal centre share one cell equally.
    """
    valid_GC = bands.valid_GC
    centres_GC = torch.where(valid_GC, bands.wavelengths_nm_GC, torch.inf)
    order_GC = centres_GC.sort(dim=1).values
    first_GC, past_GC = _places(order_GC, centres_GC)
    edge_G1 = order_GC.new_full((len(bands), 1), torch.inf)
    padded_GC = torch.cat([-edge_G1, order_GC, edge_G1], dim=1)
    left_GC = (centres_GC - padded_GC.gather(1, first_GC)) / 2
    right_GC = (padded_GC.gather(1, past_GC + 1) - centres_GC) / 2
    left_GC, right_GC = (
        torch.where(left_GC.isfinite(), left_GC, right_GC),
        torch.where(right_GC.isfinite(), right_GC, left_GC),
    )
    fwhm_GC = effective_fwhm_nm(bands)
    cap_GC = torch.where(fwhm_GC > 0, GAP_CAP_FWHM * fwhm_GC, torch.inf)
    cell_GC = torch.minimum(left_GC, cap_GC) + torch.minimum(right_GC, cap_GC)
    bounded_GC = valid_GC & left_GC.isfinite()  # not so if all usable bands have one centre
    cell_GC = torch.where(bounded_GC, cell_GC / (past_GC - first_GC).clamp_min(1), 0.0)
    total_G1 = cell_GC.sum(1, keepdim=True)
    alone_GC = valid_GC / valid_GC.sum(1, keepdim=True).clamp_min(1).double()  # one distinct centre: nothing to weigh
    return torch.where(total_G1 > 0, cell_GC / total_G1.clamp_min(1e-300), alone_GC)


def _places(order_GC: Tensor, centres_GC: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the ordered centres lie below each centre, and how many below or at it."""
    if torch.compiler.is_exporting():  # no runtime has a binary search; C x C comparisons cost little there
        below_GCC = order_GC[:, None] < centres_GC[..., None]
        upto_GCC = order_GC[:, None] <= centres_GC[..., None]
        return below_GCC.sum(-1), upto_GCC.sum(-1)
    return torch.searchsorted(order_GC, centres_GC), torch.searchsorted(order_GC, centres_GC, right=True)


def safe_wavelengths_nm(bands: BandTensors) -> Tensor:
    """wavelengths_nm_GC with a harmless number where a band is unusable, so that no NaN reaches arithmetic."""
    return torch.where(bands.valid_GC, bands.wavelengths_nm_GC, FILLER_NM)
