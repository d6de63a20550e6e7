"""Views: two random changes of a sample that should leave what it is made of, made on the device it lies on.

Every random number is a function of (seed, sample id, step, view), so a view does not depend on batch, rank or order.
Shapes: B samples, H W window, h w crop, C stored bands, K bands of the view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.rng import SHARED, Keys
from pretrain.views.attributes import drop_attributes
from pretrain.views.config import ViewConfig
from pretrain.views.pretreated import chosen, pretreated
from pretrain.views.radiometric import gain_and_tilt, noise, pixel_dropout
from pretrain.views.spatial import SpatialPlan, plan_spatial
from pretrain.views.spectral import SpectralPlan, plan_spectral, view_bands
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.errors import UsageError
from specfm.models.quadrature import effective_fwhm_nm


@dataclass(frozen=True)
class PartPlan:
    """Everything random about one view of one part but its noise."""

    spatial: SpatialPlan
    spectral: SpectralPlan
    keys: Keys


def make_view(batch: Batch, config: ViewConfig, seed: int, step: int, view: int, strength: float = 1.0) -> Batch:
    """One view of every sample.

    Args:
        batch: as stored (any dtype); NaN and inf in usable bands mask their pixel.
        config: ranges.
        seed: with the sample ids, part of the key of every random number.
        step: likewise.
        view: likewise.
        strength: 0 (the same crop of all bands, only flipped and turned) to 1 (the full ranges).

    Returns:
        A batch of float32 physical values with metadata per sample (G = B; G = 1 where the part shares its draw), a
        mask, and origins moved by the crop.

    Raises:
        UsageError: strength outside 0..1.
    """
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"view strength {strength!r} is outside 0..1")
    return Batch(tuple(_view_part(part, config, seed, step, view, strength) for part in batch))


def plan_crop(part: BatchPart, config: ViewConfig, seed: int, step: int, view: int, strength: float) -> SpatialPlan:
    """Where the pixels of a view come from: the spatial part of :func:`plan_part`."""
    shared, own = (Keys.of(part.sample_id_B, seed, step, which) for which in (SHARED, view))
    return plan_spatial(part, config, shared, own, strength)


def plan_part(part: BatchPart, config: ViewConfig, seed: int, step: int, view: int, strength: float) -> PartPlan:
    """The random choices :func:`make_view` makes for one part (cheap: nothing of the cube is touched)."""
    own = Keys.of(part.sample_id_B, seed, step, view)
    drawn, bands = own, part.bands.expand(len(part))
    if len(part.bands) == 1 and (config.band_draw == "part" or config.tells_alike(strength)):
        # Keyed by the domain, so that ranks and micro-batches that hold other samples of the part draw the same bands.
        drawn, bands = Keys.of(part.domain_B[:1], seed, step, view), part.bands
    # An unknown width is judged from the spacing; said here, from all bands, or each view would be told another width.
    bands = bands.replace(fwhm_nm_GC=effective_fwhm_nm(bands))
    bands = drop_attributes(bands, drawn, config.attribute_dropout * strength)
    spectral = plan_spectral(bands, config, drawn, strength)
    return PartPlan(plan_crop(part, config, seed, step, view, strength), spectral, own)


def crop_part(part: BatchPart, plan: SpatialPlan) -> tuple[Tensor, Tensor]:
    """x_BhwC as stored and mask_Bhw (False too where a usable band is not finite) of the planned crops."""
    x_BhwC = plan.crop(part.x_BHWC)
    if part.mask_BHW is None:
        mask_Bhw = torch.ones(x_BhwC.shape[:3], dtype=torch.bool, device=x_BhwC.device)
    else:
        mask_Bhw = plan.crop(part.mask_BHW.bool())
    if x_BhwC.is_floating_point():
        usable = part.bands.valid_GC[:, None, None]
        mask_Bhw = mask_Bhw & torch.where(usable, x_BhwC, 0.0).float().sum(-1).isfinite()
    return x_BhwC, mask_Bhw


def _view_part(part: BatchPart, config: ViewConfig, seed: int, step: int, view: int, strength: float) -> BatchPart:
    plan = plan_part(part, config, seed, step, view, strength)
    raw: BandTensors = part.bands.expand(len(part))
    x_BhwC, mask_Bhw = crop_part(part, plan.spatial)
    if config.pixel_dropout * strength > 0:
        mask_Bhw = pixel_dropout(mask_Bhw, plan.keys, config.pixel_dropout * strength)
    bands = plan.spectral.bands
    x_BhwK = view_bands(x_BhwC, raw, mask_Bhw, plan.spectral)
    if strength > 0 and (config.gain > 0 or config.tilt > 0):
        x_BhwK = x_BhwK * gain_and_tilt(bands, raw, config, plan.keys, strength)[:, None, None]
    if config.noise * strength > 0:
        x_BhwK = x_BhwK + noise(x_BhwK, mask_Bhw, bands, plan.keys, seed, config.noise * strength)
    if strength > 0 and config.pretreats:
        which_B = chosen(plan.keys, config.pretreatment_share * strength)
        x_BhwK, mask_Bhw, bands = pretreated(x_BhwK, mask_Bhw, bands, config.pretreatment, which_B)
    origin_B2 = part.origin_B2 + plan.spatial.offset_B2.to(part.origin_B2.dtype)
    return part.replace(x_BHWC=x_BhwK, bands=bands, mask_BHW=mask_Bhw, origin_B2=origin_B2)
