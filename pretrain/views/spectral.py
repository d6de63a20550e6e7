"""Spectral side of a view: which bands are kept, which are averaged, and what the virtual bands are.

Shapes: B samples, C bands of the part, K bands of the view (padded to the widest sample), h w crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.rng import Keys
from pretrain.views.config import ViewConfig
from specfm.bands import SIGMA_PER_FWHM
from specfm.batch import FILLER_NM, BandTensors
from specfm.models.quadrature import effective_fwhm_nm, quadrature_weights

PAD_TO = 8  # widths are rounded up to a multiple, so that few different shapes reach the encoder


@dataclass(frozen=True)
class SpectralPlan:
    """How the bands of a view are made; one row for all samples where the part shares its draw.

    Attributes:
        slot_BC: band of the view that raw band c goes into, -1 = held out (or unusable).
        bands: metadata of the view (G = B), scale 1 and offset 0.
        source_BK: raw band of each band of the view; None when bands are merged.
        matrix_BKC: float32 shares of the raw bands in each band of the view; None when nothing is merged.
    """

    slot_BC: Tensor
    bands: BandTensors
    source_BK: Tensor | None
    matrix_BKC: Tensor | None


def plan_spectral(bands_BC: BandTensors, config: ViewConfig, own: Keys, strength: float) -> SpectralPlan:
    """Choose, in this order: a contiguous window, groups of adjacent bands to merge, a random subset of the result.

    Args:
        bands_BC: metadata with one row per sample.
        config: how views are made.
        own: keys of this view.
        strength: see :class:`ViewConfig`.
    """
    valid_BC = bands_BC.valid_GC
    channels = bands_BC.channels
    order_BC = torch.where(valid_BC, bands_BC.wavelengths_nm_GC, torch.inf).argsort(dim=1, stable=True)
    count_B = valid_BC.sum(1)
    few_B = count_B.clamp_max(config.min_bands)

    share_B = own.between("window share", 1 - strength * (1 - config.window_low), 1.0)
    share_B = torch.where(own.uniform("window") < strength * config.window_probability, share_B, 1.0)
    length_B = (share_B * count_B).round().long().maximum(few_B)
    start_B = own.integer("window start", count_B - length_B + 1)
    place_BC = order_BC.argsort(dim=1) - start_B[:, None]  # position in the window, counted along wavelength
    inside_BC = valid_BC & (place_BC >= 0) & (place_BC < length_B[:, None])

    merging = config.merge_max > 1 and strength * config.merge_probability > 0
    many_B = torch.ones_like(count_B)
    if merging:
        many_B = 2 + own.integer("merge count", torch.full_like(count_B, config.merge_max - 1))
        many_B = torch.where(own.uniform("merge") < strength * config.merge_probability, many_B, 1)
        many_B = many_B.minimum((length_B // config.min_bands).clamp_min(1))
    groups_B = (length_B + many_B - 1) // many_B
    group_BC = torch.where(inside_BC, place_BC // many_B[:, None], 0)

    low, high = (1 - strength * (1 - share) for share in (config.keep_low, config.keep_high))
    kept_B = (own.between("keep share", low, high) * groups_B).round().long()
    kept_B = kept_B.maximum(groups_B.clamp_max(config.min_bands))
    exists_BC = torch.arange(channels, device=valid_BC.device) < groups_B[:, None]
    draw_BC = torch.where(exists_BC, own.uniform("subset", channels), torch.inf)
    chosen_BC = exists_BC & (draw_BC.argsort(dim=1, stable=True).argsort(dim=1) < kept_B[:, None])
    slot_of_group_BC = torch.where(chosen_BC, chosen_BC.cumsum(1) - 1, -1)
    slot_BC = torch.where(inside_BC, slot_of_group_BC.gather(1, group_BC), -1)

    width = min(-(-max(int(kept_B.max()), 1) // PAD_TO) * PAD_TO, channels)
    valid_BK = torch.arange(width, device=valid_BC.device) < kept_B[:, None]
    if merging:
        return _merged(bands_BC, slot_BC, valid_BK)
    source_BK = torch.where(slot_BC >= 0, slot_BC, channels).argsort(dim=1, stable=True)[:, :width]
    view = _describe(
        bands_BC, bands_BC.wavelengths_nm_GC.gather(1, source_BK), bands_BC.fwhm_nm_GC.gather(1, source_BK), valid_BK
    )
    return SpectralPlan(slot_BC, view, source_BK, None)


def _merged(bands_BC: BandTensors, slot_BC: Tensor, valid_BK: Tensor) -> SpectralPlan:
    """Virtual bands with the centre and variance of their mixture, as :meth:`specfm.bands.BandGrid.merge`."""
    used_BC = slot_BC >= 0
    into_BC = slot_BC.clamp_min(0)
    weight_BC = torch.where(used_BC, quadrature_weights(bands_BC), 0.0)
    centre_BC = torch.where(used_BC, bands_BC.wavelengths_nm_GC, 0.0)
    sigma_BC = torch.where(used_BC, effective_fwhm_nm(bands_BC) * SIGMA_PER_FWHM, 0.0)

    def pooled(values_BC: Tensor) -> Tensor:
        return values_BC.new_zeros(valid_BK.shape).scatter_add_(1, into_BC, values_BC)

    share_BC = weight_BC / pooled(weight_BC).clamp_min(1e-300).gather(1, into_BC)
    centre_BK = pooled(share_BC * centre_BC)
    away_BC = centre_BC - centre_BK.gather(1, into_BC)
    fwhm_BK = pooled(share_BC * (sigma_BC.square() + away_BC.square())).sqrt() / SIGMA_PER_FWHM
    # a group of one keeps its own width, unknown included
    single_BK = pooled(used_BC.double()) == 1
    own_BK = pooled(torch.where(used_BC, bands_BC.fwhm_nm_GC, 0.0))
    view = _describe(bands_BC, centre_BK, torch.where(single_BK, own_BK, fwhm_BK), valid_BK)
    matrix_BKC = share_BC.new_zeros(*valid_BK.shape, slot_BC.shape[1])
    matrix_BKC.scatter_(1, into_BC[:, None], share_BC[:, None])
    return SpectralPlan(slot_BC, view, None, matrix_BKC.float())


def _describe(bands_BC: BandTensors, centre_BK: Tensor, fwhm_BK: Tensor, valid_BK: Tensor) -> BandTensors:
    return bands_BC.replace(
        wavelengths_nm_GC=torch.where(valid_BK, centre_BK, FILLER_NM),
        fwhm_nm_GC=torch.where(valid_BK, fwhm_BK, torch.nan),
        valid_GC=valid_BK,
        scale_G=torch.ones_like(bands_BC.scale_G),
        offset_G=torch.zeros_like(bands_BC.offset_G),
    )


def physical(x_BhwC: Tensor, bands_BC: BandTensors) -> Tensor:
    """Stored values -> float32 physical values; 0 in unusable bands."""
    scale_B, offset_B = (v.view(-1, 1, 1, 1) for v in (bands_BC.scale_G, bands_BC.offset_G))
    return torch.where(bands_BC.valid_GC[:, None, None], x_BhwC.to(torch.float32) * scale_B + offset_B, 0.0)


def view_bands(x_BhwC: Tensor, bands_BC: BandTensors, mask_Bhw: Tensor, plan: SpectralPlan) -> Tensor:
    """Cube of the view, (B, h, w, K) float32 physical; 0 at masked pixels and in unusable bands."""
    keep_Bhw1 = mask_Bhw[..., None]
    if plan.matrix_BKC is not None:
        x_BhwC = torch.where(keep_Bhw1, physical(x_BhwC, bands_BC), 0.0)
        flat_BnK = torch.einsum("bnc,bkc->bnk", x_BhwC.flatten(1, 2), plan.matrix_BKC)
        return flat_BnK.unflatten(1, x_BhwC.shape[1:3])
    assert plan.source_BK is not None
    index = plan.source_BK[:, None, None].expand(*x_BhwC.shape[:3], -1)
    moved = x_BhwC.view(torch.int16) if x_BhwC.dtype == torch.uint16 else x_BhwC
    x_BhwK = moved.gather(3, index).view(x_BhwC.dtype).to(torch.float32)
    scale_B, offset_B = (v.view(-1, 1, 1, 1) for v in (bands_BC.scale_G, bands_BC.offset_G))
    usable_BhwK = keep_Bhw1 & plan.bands.valid_GC[:, None, None]
    return torch.where(usable_BhwK, x_BhwK * scale_B + offset_B, 0.0)
