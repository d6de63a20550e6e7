"""Encoders: patch embeddings that know their bands, and the ViT trunk above them."""

from specfm.models.encoder import Encoder, Features
from specfm.models.registry import EMBEDDINGS, SIZES, create_encoder

__all__ = ["EMBEDDINGS", "SIZES", "Encoder", "Features", "create_encoder"]
