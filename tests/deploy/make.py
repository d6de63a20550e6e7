"""Small encoders of every kind, and a sensor with a bad band, for tests of exporting."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from specfm.bands import BandGrid
from specfm.models import create_backbone, create_encoder
from specfm.models.backbone import AnyEncoder
from specfm.sensors import Sensor

BANDS, TILE, PATCH = 12, 6, 2
VALID = np.arange(BANDS) != 5
SENSOR = Sensor(
    BandGrid(np.linspace(450, 1100, BANDS), np.full(BANDS, 12.0), VALID), "dn", scale=0.01, offset=0.1, gsd_m=3.0
)
KINDS: dict[str, dict[str, Any]] = {
    "hyper-light": {},
    "hyper-joint": {"content": True},
    "hyper-metadata": {"content": False},
    "basis": {"embedding": "basis"},
    "fixed": {"embedding": "fixed", "channels": BANDS},
    "dofa": {"embedding": "dofa"},
    "specaware": {"embedding": "specaware", "image_size": TILE, "rank": 4},
    "spectral_attention": {"embedding": "spectral_attention"},
    "mae-trunk": {"trunk": "mae"},
    "pixel-tokens": {"pixel": True, "content": False},
    "per-pixel-level": {"level": "pixel"},
    "no-level": {"level": "none", "content": False},
}
BACKBONES = {"timm:resnet10t": {}, "timm:vit_tiny_patch16_224": {"stride": 3}}


def encoder(kind: str, **options: Any) -> AnyEncoder:
    """One of KINDS or BACKBONES with random weights, none of them zero, and a stem that is not the identity."""
    torch.manual_seed(0)
    if kind in BACKBONES:
        made: AnyEncoder = create_backbone(kind, SENSOR, **BACKBONES[kind])
    else:
        made = create_encoder("nano", patch_size=PATCH, **{"dim": 24, "depth": 1, "heads": 2, **KINDS[kind], **options})
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.ndim and not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.05)
            if made.trunk == "stem":
                width = made.num_features
                made.stem.set(torch.eye(width) + 0.3 * torch.randn(width, width), torch.randn(width))
    return made.eval()


def tiles(count: int = 3) -> tuple[Tensor, Tensor]:
    """Stored values with NaN in the bad band and in a pixel, and a mask."""
    generator = torch.Generator().manual_seed(count)
    x_BHWC = torch.rand(count, TILE, TILE, BANDS, generator=generator) * 100
    x_BHWC[..., 5] = torch.nan
    x_BHWC[0, 0, 0, 0] = torch.nan
    return x_BHWC, torch.rand(count, TILE, TILE, generator=generator) > 0.1


def off(found: Any, wanted: Any) -> float:
    """Largest difference as a share of the largest value."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
