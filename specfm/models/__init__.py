"""Encoders: patch embeddings that know their bands, with the ViT trunk above them; timm networks for one sensor."""

from specfm.models.backbone import AnyEncoder, Backbone
from specfm.models.encoder import Encoder
from specfm.models.features import Features
from specfm.models.registry import EMBEDDINGS, SIZES, build_encoder, create_backbone, create_encoder, fresh_like

__all__ = [
    "EMBEDDINGS", "SIZES", "AnyEncoder", "Backbone", "Encoder", "Features", "build_encoder", "create_backbone",
    "create_encoder", "fresh_like",
]  # fmt: skip
