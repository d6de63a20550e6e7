"""Decoders of masked pretraining: from tokens of visible patches to the bands of hidden ones."""

from specfm.models.decoders.decoder import Asked, Decoder
from specfm.models.decoders.hyperlinear import HyperLinear

__all__ = ["Asked", "Decoder", "HyperLinear"]
