"""What the property tests share: every registered embedding built small, band grids, spectra and comparisons.

Shapes: B samples, H W pixels, C bands, N tokens, D width.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specfm import BandGrid
from specfm.batch import BandTensors
from specfm.errors import SpecfmError
from specfm.models import EMBEDDINGS, Encoder, create_encoder
from specfm.models.patches import Patches

PATCH, SIDE, DIM = 2, 8, 32
# Every registered embedding, and the forms of hyper that claim the same.
FORMS = {name: (name, {}) for name in sorted(EMBEDDINGS)}
FORMS |= {"hyper-joint": ("hyper", {"content": True}), "hyper-metadata": ("hyper", {"content": False})}
NAMES = sorted(FORMS)
# fp32 as embedding.md asks. bf16 keeps 8 bits: each rounding is 0.4 %, and a token passes about a dozen of them.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
PRECISIONS = sorted(TOLERANCE)


def claiming(number: int) -> list[str]:
    """Registered embeddings that claim a property."""
    return [name for name in NAMES if number in EMBEDDINGS[FORMS[name][0]].claims]


def not_claiming(number: int) -> list[str]:
    """Registered embeddings that do not."""
    return [name for name in NAMES if number not in EMBEDDINGS[FORMS[name][0]].claims]


def options_for(name: str, grid: BandGrid, side: int = SIDE) -> dict[str, Any]:
    """What an embedding must be told beside width and patch size."""
    return {"fixed": {"grid": grid.to_dict()}, "specaware": {"image_size": side, "rank": 4}}.get(name, {})


def build(
    name: str, grid: BandGrid, *, patch_size: int = PATCH, side: int = SIDE, fresh: bool = False, **options: Any
) -> Encoder:
    """A small encoder, the same weights at every call; dropout off.

    Unless ``fresh``, noise is added to every parameter: layers that start at zero would hide what flows through them.
    """
    torch.manual_seed(7)
    registered, form = FORMS[name]
    options = {"dim": DIM, "depth": 1, "heads": 4, **options_for(registered, grid, side), **form, **options}
    encoder = create_encoder("nano", registered, patch_size, **options).eval()
    if not fresh:
        with torch.no_grad():
            for parameter in encoder.embedding.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder


def comb(count: int, low: float = 420.0, high: float = 2400.0, fwhm: float | None = 12.0) -> BandGrid:
    """Evenly spaced bands."""
    return BandGrid(np.linspace(low, high, count), None if fwhm is None else np.full(count, fwhm))


def cube(grid: BandGrid, batch: int = 2, side: int = SIDE, seed: int = 0) -> Tensor:
    """x_BHWC: smooth reflectance-like spectra that differ from pixel to pixel, plus a little noise."""
    rng = np.random.default_rng(seed)
    lam_C = np.nan_to_num(grid.wavelengths_nm, nan=1000.0)
    slope = rng.normal(size=(batch, side, side, 1))
    phase = rng.uniform(0, 6, size=(batch, side, side, 1))
    x = 0.4 + 0.08 * slope * np.log(lam_C / 1000) + 0.15 * np.sin(lam_C / 180 + phase)
    return torch.from_numpy(x + 0.01 * rng.normal(size=x.shape)).float()


def tokens(
    encoder: Encoder, x_BHWC: Tensor, bands: Any, mask_BHW: Tensor | None = None, precision: str = "fp32"
) -> Tensor:
    """tokens_BND of the embedding alone, invalid tokens zeroed."""
    with autocast(precision):
        patches = encoder.prepare(x_BHWC, bands, mask_BHW)
        found = encoder.embedding(patches)
    return torch.where(patches.token_mask_BN[..., None], found.float(), 0.0)


def autocast(precision: str) -> Any:
    """The context of a precision."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def difference(a: Tensor, b: Tensor) -> float:
    """Relative RMS difference; NaN or inf anywhere counts as infinite."""
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    a, b = a.detach(), b.detach()
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def breaks(action: Any, limit: float) -> bool:
    """True if ``action`` refuses its input or returns a difference beyond ``limit``."""
    try:
        return action() > limit
    except SpecfmError:
        return True


def patches_of(encoder: Encoder, grids: Any, batch: int, side: int = SIDE, seed: int = 0) -> Patches:
    """Patches of random smooth spectra on one grid."""
    return encoder.prepare(cube(grids, batch, side, seed), BandTensors.from_sensors(grids))
