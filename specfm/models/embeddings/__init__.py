"""Patch embeddings behind one interface: the hypernetwork and the controls to compare it with, one file each."""

from specfm.models.embeddings.basis import BasisEmbedding
from specfm.models.embeddings.dofa import DofaEmbedding
from specfm.models.embeddings.fixed import FixedEmbedding
from specfm.models.embeddings.hyper import HyperEmbedding
from specfm.models.embeddings.specaware import SpecAwareEmbedding
from specfm.models.embeddings.spectral_attention import SpectralAttentionEmbedding

__all__ = [
    "BasisEmbedding",
    "DofaEmbedding",
    "FixedEmbedding",
    "HyperEmbedding",
    "SpecAwareEmbedding",
    "SpectralAttentionEmbedding",
]
