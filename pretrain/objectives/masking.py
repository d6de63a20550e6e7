"""What masked modelling hides: patches, ranges of wavelengths, and what lies outside a window that widens over a run.

Every choice follows from keys (seed, step, sample), so it does not depend on batch, rank or order. Positions along the
spectrum are shares of the *covered* axis (quadrature), so a range hides the same share of any sensor and no gap.

Shapes: B samples, N tokens (K visible, M masked), C bands, G = 1 or B rows of metadata.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.rng import Keys
from specfm.batch import BandTensors
from specfm.models.quadrature import quadrature_weights

FEWEST_IN_WINDOW = 3  # bands


def split_patches(keys: Keys, exists_BN: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Indices of visible and of masked tokens, keep_BK and masked_BM; ``ratio`` of all N are masked, 1 to N - 1.

    A sample with a valid pixel keeps a token that has one.

    Args:
        keys: of the samples.
        exists_BN: True = the token has a valid pixel.
        ratio: 0 to 1, both excluded.
    """
    tokens = exists_BN.shape[1]
    draw_BN = keys.uniform("masked patches", tokens)
    first_BN = torch.where(exists_BN, draw_BN, torch.inf)
    seen_BN = exists_BN & (first_BN == first_BN.amin(1, keepdim=True))
    order_BN = torch.where(seen_BN, -1.0, draw_BN).argsort(dim=1, stable=True)
    visible = min(max(round(tokens * (1 - ratio)), 1), tokens - 1)
    return order_BN[:, :visible], order_BN[:, visible:]


def inside_window(keys: Keys, bands: BandTensors, share: float) -> Tensor:
    """inside_GC: usable bands in one contiguous window over ``share`` of the covered axis, at a random place."""
    if share >= 1:
        return bands.valid_GC
    place_GC = band_places(bands)
    start_G1 = keys.uniform("spectral window")[:, None] * (1 - share)
    away_GC = torch.where(bands.valid_GC, (place_GC - start_G1 - share / 2).abs(), torch.inf)
    return bands.valid_GC & ((away_GC <= share / 2) | (_rank(away_GC) < FEWEST_IN_WINDOW))


def hidden_ranges(keys: Keys, bands: BandTensors, share: float, ranges: int) -> Tensor:
    """hidden_GC: usable bands in ``ranges`` contiguous ranges that cover ``share`` of the axis together.

    The axis is cut into as many equal stretches and each has one range at a random place. At least one band is hidden
    and one is not, where there are two.
    """
    place_GC, valid_GC = band_places(bands), bands.valid_GC
    start_GJ = (torch.arange(ranges, device=place_GC.device) + keys.uniform("hidden ranges", ranges) * (1 - share)) / (
        ranges
    )
    from_GCJ = place_GC[..., None] - start_GJ[:, None]
    hidden_GC = valid_GC & ((from_GCJ >= 0) & (from_GCJ < share / ranges)).any(-1)
    away_GC = torch.where(valid_GC, (place_GC - start_GJ[:, :1] - share / ranges / 2).abs(), torch.inf)
    several_G1 = valid_GC.sum(1, keepdim=True) > 1
    hidden_GC = hidden_GC | (several_G1 & valid_GC & (_rank(away_GC) == 0) & ~hidden_GC.any(1, keepdim=True))
    last_GC = valid_GC & (_rank(torch.where(valid_GC, -away_GC, torch.inf)) == 0)
    all_G1 = (hidden_GC | ~valid_GC).all(1, keepdim=True)
    return hidden_GC & ~(all_G1 & last_GC)


def band_places(bands: BandTensors) -> Tensor:
    """place_GC (float64): middle of each usable band's cell on the covered axis, from 0 (short) to 1 (long)."""
    weights_GC = quadrature_weights(bands)
    order_GC = torch.where(bands.valid_GC, bands.wavelengths_nm_GC, torch.inf).argsort(dim=1, stable=True)
    sorted_GC = weights_GC.gather(1, order_GC)
    return torch.empty_like(weights_GC).scatter_(1, order_GC, sorted_GC.cumsum(1) - sorted_GC / 2)


def _rank(values_GC: Tensor) -> Tensor:
    """Place of each value in its row, from 0; ties by index."""
    return values_GC.argsort(dim=1, stable=True).argsort(dim=1)
