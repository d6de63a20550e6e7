"""Sine-cosine positions that know how large a pixel is on the ground (after Scale-MAE).

Shapes: B samples, N tokens, D width, G = 1 or B.
"""

from __future__ import annotations

import torch
from torch import Tensor

RATIO_LIMIT = 4.0  # a lab scan and a satellite differ by 3e5; beyond this the ratio says nothing useful


def position_embedding(
    position_BN2: Tensor, grid_hw: tuple[int, int], gsd_m_G: Tensor, reference_m: float, dim: int
) -> Tensor:
    """position_BND (float32): sin and cos of the centred row and column, in units of the reference distance.

    Coordinates are (position - grid centre) times gsd / reference, the ratio clamped to [1/4, 4]; unknown GSD = 1. The
    cosine is taken minus 1, so that the centre adds nothing: a constant part would make all features look alike.

    Raises:
        ValueError: ``dim`` is not a multiple of 4 (a programmer's error).
    """
    if dim % 4:
        raise ValueError(f"position embedding needs a width divisible by 4, got {dim}")
    ratio_G = torch.where(gsd_m_G.isfinite(), gsd_m_G / reference_m, 1.0).clamp(1 / RATIO_LIMIT, RATIO_LIMIT)
    centre_2 = position_BN2.new_tensor(grid_hw, dtype=torch.float32).sub(1).div(2)
    place_BN2 = (position_BN2 - centre_2) * ratio_G[:, None, None]
    frequency_F = 10_000.0 ** -(torch.arange(dim // 4, device=position_BN2.device) / (dim // 4))
    angle_BN2F = place_BN2[..., None] * frequency_F
    return torch.cat([angle_BN2F.sin(), angle_BN2F.cos() - 1], dim=-1).flatten(2)


def corner_positions(position_BN2: Tensor, gsd_m_G: Tensor, unknown_m: float, dim: int) -> Tensor:
    """position_BND (float32) as in Scale-MAE (arXiv 2212.14532) and SpecAware: metres from the first token.

    Sines and cosines of column times GSD fill the first half, those of the row the second; nothing is centred or
    clamped.

    Args:
        position_BN2: row and column of each token.
        gsd_m_G: ground sampling distance, metres; not finite where unknown.
        unknown_m: ground sampling distance where it is not known.
        dim: width of the trunk, divisible by 4.

    Raises:
        ValueError: ``dim`` is not a multiple of 4 (a programmer's error).
    """
    if dim % 4:
        raise ValueError(f"position embedding needs a width divisible by 4, got {dim}")
    gsd_G = torch.where(gsd_m_G.isfinite(), gsd_m_G, unknown_m).double()
    place_BN2 = position_BN2.flip(-1) * gsd_G[:, None, None]
    frequency_F = 10_000.0 ** -(torch.arange(dim // 4, device=position_BN2.device, dtype=torch.float64) / (dim // 4))
    angle_BN2F = place_BN2[..., None] * frequency_F
    return torch.cat([angle_BN2F.sin(), angle_BN2F.cos()], dim=-1).flatten(2).float()
