"""Embeddings to compare the hypernetwork with, behind the same interface."""

from specfm.models.controls.basis import BasisEmbedding
from specfm.models.controls.dofa import DofaEmbedding
from specfm.models.controls.fixed import FixedEmbedding
from specfm.models.controls.specaware import SpecAwareEmbedding

__all__ = ["BasisEmbedding", "DofaEmbedding", "FixedEmbedding", "SpecAwareEmbedding"]
