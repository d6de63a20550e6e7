"""Decoders of masked pretraining: from tokens of visible patches to what is asked of hidden ones."""

from specfm.models.decoders.decoder import Asked, Decoder
from specfm.models.decoders.hyperlinear import HyperLinear
from specfm.models.decoders.token_decoder import Shown, TokenDecoder

__all__ = ["Asked", "Decoder", "HyperLinear", "Shown", "TokenDecoder"]
