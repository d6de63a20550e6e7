"""At which size tokens should start: that of a Conv2d stem on the same input.

Shapes: B samples, H W pixels, C bands.
"""

from __future__ import annotations

import torch
from torch import nn

from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.models.patches import patchify

CONV_STEM_GAIN = 3**-0.5  # RMS of a default Conv2d stem's output over that of its input


@torch.no_grad()
def conv_stem_ratio(embedding: nn.Module, patch_size: int) -> float:
    """Factor that brings the embedding's tokens to the RMS of a Conv2d stem, on synthetic reflectance spectra.

    Draws from a generator of its own, so that seeding a model stays reproducible.
    """
    wavelengths_nm = torch.linspace(400, 2400, 64, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noise_BHWC = torch.randn(4, 2 * patch_size, 2 * patch_size, 64, generator=generator)
    x_BHWC = 1 + 0.3 * torch.sin(wavelengths_nm.float() / 150) + 0.2 * noise_BHWC
    patches = patchify(x_BHWC, BandTensors.from_sensors(BandGrid(wavelengths_nm.numpy())), None, patch_size)
    target = CONV_STEM_GAIN * patches.x_BCNP.square().mean().sqrt()
    return float(target / embedding(patches).square().mean().sqrt())
