"""Small models of every kind on one sensor, and labelled windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from downstream.supervised.model import HeadSpec, TaskModel
from downstream.supervised.views import View
from specfm.models import create_backbone, create_encoder
from tests.downstream.toy_scenes import NAMES, SENSOR

WINDOW = 9
KINDS: dict[str, dict[str, Any]] = {
    "encoder": {},
    "timm:resnet10t": {},
    "timm:vit_tiny_patch16_224": {"stride": 3, "options": {"depth": 2, "embed_dim": 48, "num_heads": 3}},
    "timm:convnext_atto": {"options": {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}},
    "small:mlp": {},
    "small:cnn1d": {},
    "small:cnn2d": {},
    "small:cnn3d": {},
}


def model(kind: str = "encoder", window: int = WINDOW, seed: int = 0, **options: Any) -> TaskModel:
    """One of KINDS with random weights."""
    torch.manual_seed(seed)
    if kind == "encoder":
        encoder: Any = create_encoder("nano", patch_size=3, **{"dim": 24, "depth": 3, "heads": 3, **options})
    else:
        encoder = create_backbone(kind, SENSOR, **KINDS[kind], **options)
    return TaskModel(encoder, "classification", NAMES, window, HeadSpec("pooled", dropout=0.0), level="sample").eval()


def windows(count: int = 6, seed: int = 0) -> tuple[View, Tensor]:
    """Windows and their classes."""
    generator = torch.Generator().manual_seed(seed)
    x_BHWC = torch.rand(count, WINDOW, WINDOW, len(SENSOR.bands), generator=generator)
    return View(x_BHWC, SENSOR), torch.randint(0, len(NAMES), (count,), generator=generator)
