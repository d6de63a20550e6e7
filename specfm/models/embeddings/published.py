"""SpecAware's published weights in our control: which name is which.

The names on the right are those of the public release's state dict (from its module structure). The release carries no
licence, so it is not shipped; its ``.pth`` file is a pickle: convert it to safetensors where you trust it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from specfm.errors import SpecfmError
from specfm.models.embeddings.specaware import ATTRIBUTES, SENTENCE_WIDTH, SpecAwareEmbedding

log = logging.getLogger(__name__)

PREFIX = "patch_embed."  # of the embedding inside the whole published model
_FUSION = {"first": "modal1_proj", "second": "modal2_proj", "join": "fusion"}
# our module -> theirs; what follows the module's name (".0.weight", ...) is the same on both sides
_MODULES = {
    "meta.fwhm": "spectral_embedding.fwhm_encoder.mlp",
    "meta.mixture": "spectral_embedding.fusion_weights",
    "meta.residual": "spectral_embedding.spectral_enhancement_mlp.mlp",
    "meta.attribute": "spectral_embedding.attribute_encoder.fc",
    **{f"meta.fusion.{a}": f"spectral_embedding.cross_modal_fusion.{b}" for a, b in _FUSION.items()},
    "mixer": "spectral_aware_transformer.transformer_encoder.layers.0",
    "content.average": "content_feature_extractor.avg_feature_encoder",
    "content.maximum": "content_feature_extractor.max_feature_encoder",
    "content.join": "content_feature_extractor.feature_fusion",
    "content.norm": "content_feature_extractor.layer_norm",
    **{f"fusion.{a}": f"feature_fusion.{b}" for a, b in _FUSION.items()},
    "semantic": "matrix_generator.u_generator",
    "spatial": "matrix_generator.v_generator",
    "bias": "matrix_generator.bias_generator",
    "alpha": "scaler",
}


def published_name(name: str) -> str:
    """Name in the published state dict of one of our parameters."""
    for ours in sorted(_MODULES, key=len, reverse=True):
        if name == ours or name.startswith(ours + "."):
            return _MODULES[ours] + name[len(ours) :]
    raise KeyError(name)


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unknown, or of another shape than wanted, one phrase a name."""
    return [
        *(f"missing {name}" for name in sorted(wanted.keys() - given.keys())),
        *(f"unknown {name}" for name in sorted(given.keys() - wanted.keys())),
        *(
            f"{name} is {tuple(given[name].shape)}, here {tuple(wanted[name].shape)}"
            for name in sorted(given.keys() & wanted.keys())
            if given[name].shape != wanted[name].shape
        ),
    ]


def load_published(
    embedding: SpecAwareEmbedding,
    state_dict: Mapping[str, Tensor],
    sentence_vectors: Mapping[str, Tensor] | None = None,
) -> None:
    """Copy SpecAware's published weights into ``embedding``; all or nothing.

    Args:
        embedding: changed in place.
        state_dict: of the whole model (only its ``patch_embed.`` part is read) or of the embedding alone.
        sentence_vectors: the frozen 384-d sentence vector of each of :data:`ATTRIBUTES`; not part of the state dict.
            Without them the fixed random vectors stay, so codes differ from the published ones by what sensor name and
            level contribute; a warning says so.

    Raises:
        SpecfmError: a name is missing, unknown or of another shape; the message lists them.
    """
    whole = any(name.startswith(PREFIX) for name in state_dict)
    given = {
        name.removeprefix(PREFIX): tensor for name, tensor in state_dict.items() if not whole or name.startswith(PREFIX)
    }
    wanted = {published_name(name): parameter for name, parameter in embedding.named_parameters()}
    if problems := misfits(given, wanted):
        raise SpecfmError(
            f"the published SpecAware weights do not fit ({len(problems)} names): {'; '.join(problems)}; "
            "dim, patch_size, image_size and rank must be those of the release (768, 8, 224, 64)"
        )
    vectors_AS = None if sentence_vectors is None else _stack(sentence_vectors)
    with torch.no_grad():
        for theirs, parameter in wanted.items():
            parameter.copy_(given[theirs])
        if vectors_AS is None:
            log.warning("no sentence vectors given: SpecAware's sensor names and levels keep random vectors")
        else:
            embedding.meta.sentence_AS.copy_(vectors_AS)


def _stack(vectors: Mapping[str, Tensor]) -> Tensor:
    wrong = [key for key in ATTRIBUTES if key not in vectors or vectors[key].shape != (SENTENCE_WIDTH,)]
    if wrong:
        raise SpecfmError(f"sentence vectors of {SENTENCE_WIDTH} numbers are needed for {', '.join(wrong)}")
    return torch.stack([vectors[key] for key in ATTRIBUTES])
