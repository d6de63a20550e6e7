"""Radiometric side of a view: gain, smooth illumination tilt, noise, pixel dropout.

Shapes: B samples, h w crop, K bands of the view, C raw bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.rng import NOISE_SIZE, Keys, normal_table
from pretrain.views.config import ViewConfig
from specfm.batch import BandTensors

NOISE_STRIDE = 512  # numbers of the table between neighbouring pixels: fixed, so that padding bands changes nothing


def gain_and_tilt(view: BandTensors, raw: BandTensors, config: ViewConfig, own: Keys, strength: float) -> Tensor:
    """factor_BK (float32): a constant gain times a quadratic in log wavelength over the raw sensor's range."""
    gain_B = own.between("gain", 1 - strength * config.gain, 1 + strength * config.gain)
    low_B = torch.where(raw.valid_GC, raw.wavelengths_nm_GC, torch.inf).amin(1, keepdim=True).log()
    high_B = torch.where(raw.valid_GC, raw.wavelengths_nm_GC, 1.0).amax(1, keepdim=True).log()
    span_B = (high_B - low_B).clamp_min(1e-6)
    t_BK = (2 * (view.wavelengths_nm_GC.log() - low_B) / span_B - 1).clamp(-1, 1)
    slope_B, bend_B = own.between("tilt slope", -1, 1)[:, None], own.between("tilt bend", -1, 1)[:, None]
    # both Legendre terms stay within 1, so the sum over 1.5 does too
    shape_BK = (slope_B * t_BK + 0.5 * bend_B * (1.5 * t_BK.square() - 0.5)) / 1.5
    return (gain_B[:, None] * (1 + strength * config.tilt * shape_BK)).nan_to_num(nan=1.0).float()


def noise(x_BhwK: Tensor, mask_Bhw: Tensor, view: BandTensors, own: Keys, seed: int, deviation: float) -> Tensor:
    """Gaussian noise of ``deviation`` times the sample's mean level, 0 where masked or unusable."""
    batch, height, width, bands = x_BhwK.shape
    device = x_BhwK.device
    values_B = mask_Bhw.sum((1, 2)) * view.valid_GC.sum(1)
    level_B = x_BhwK.abs().sum((1, 2, 3)) / values_B.clamp_min(1)
    start_B = own.bits("noise") & (NOISE_SIZE - 1)
    pixel_n = torch.arange(height * width, device=device) * NOISE_STRIDE
    within_nK = pixel_n[:, None] + torch.arange(bands, device=device)
    index_BnK = (start_B[:, None, None] + within_nK) & (NOISE_SIZE - 1)
    drawn = normal_table(seed, device).take(index_BnK).view(batch, height, width, bands)
    scaled = drawn * (deviation * level_B)[:, None, None, None]
    return torch.where(mask_Bhw[..., None] & view.valid_GC[:, None, None], scaled, 0.0)


def pixel_dropout(mask_Bhw: Tensor, own: Keys, share: float) -> Tensor:
    """Mask out a share of the pixels; a sample that would lose all of them keeps what it had."""
    draw_Bn = own.uniform("pixel dropout", mask_Bhw[0].numel())
    left_Bhw = mask_Bhw & (draw_Bn >= share).view_as(mask_Bhw)
    return torch.where(left_Bhw.flatten(1).any(1)[:, None, None], left_Bhw, mask_Bhw)
