"""SpecAware's published weights (arXiv 2510.27219) -> a release folder; the decoder goes along for masked pretraining.

Names and shapes are those of the public release's state dict; it carries no licence, so nothing of it is shipped here.
Sizes are read from the shapes, so ViT-Base and ViT-Large both convert.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.errors import SpecfmError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from specfm.models.decoders import Decoder
    from specfm.models.encoder import Encoder

HEAD_WIDTH = 64  # of the trunk: 12 heads at 768, 16 at 1024
DECODER_HEADS = 16
OBJECTIVE = "masked"  # whose head the decoder is
# our module of the decoder -> theirs
_DECODER = {
    "embed": "decoder_embed",
    "mask_token": "mask_token",
    "blocks": "decoder_blocks",
    "norm": "decoder_norm",
    "readout.query": "decoder_pred.x_attention_pool.query_proj",
    "readout.key": "decoder_pred.x_attention_pool.key_proj",
    "readout.value": "decoder_pred.x_attention_pool.value_proj",
    "readout.context": "decoder_pred.x_feature_extractor",
    "readout.fusion.first": "decoder_pred.feature_fusion.modal1_proj",
    "readout.fusion.second": "decoder_pred.feature_fusion.modal2_proj",
    "readout.fusion.join": "decoder_pred.feature_fusion.fusion",
    "readout.spatial": "decoder_pred.matrix_generator.u_generator",
    "readout.semantic": "decoder_pred.matrix_generator.v_generator",
    "readout.bias": "decoder_pred.matrix_generator.bias_generator",
}


def convert_specaware(path: str | Path, out: str | Path, sentence_vectors: str | Path | None = None) -> dict[str, Any]:
    """Write the release folder ``out`` from a safetensors file of the published names.

    Args:
        path: whole model or encoder alone.
        out: the release folder; must not exist.
        sentence_vectors: safetensors file with the frozen 384-d sentence vector of each of
            :data:`specfm.models.embeddings.specaware.ATTRIBUTES`, which are not part of the release; without it random
            ones stand for sensor names and levels.

    Returns:
        Options of the encoder, and of ``objective.masked.decoder`` where the file has one (``None`` else).

    Raises:
        UsageError: no safetensors file, or ``out`` exists.
        SpecfmError: a name is missing, unknown or of another shape; the message lists them.
    """
    from safetensors.torch import save

    from specfm.checkpoint import HEADS, release_of
    from specfm.files import atomic_write_bytes, sha256_file, staged_folder
    from specfm.models.registry import create_encoder

    state = _read(Path(path))
    sizes = encoder_sizes(state)
    encoder = create_encoder(embedding="specaware", **sizes)
    decoder = make_decoder(state, encoder) if "mask_token" in state else None
    vectors = None if sentence_vectors is None else _read(Path(sentence_vectors))
    take_published(state, encoder, decoder, vectors)
    card = {"source": "SpecAware, arXiv 2510.27219", "file": Path(path).name, "sha256": sha256_file(Path(path))}
    with staged_folder(out) as folder:
        if decoder is not None:
            heads = {f"{OBJECTIVE}.{name}": tensor.contiguous() for name, tensor in decoder.state_dict().items()}
            atomic_write_bytes(folder / HEADS, save(heads))
        release_of(encoder, card).write(folder)
    return {"encoder": sizes, "decoder": None if decoder is None else decoder_sizes(state)}


def encoder_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """Options of :func:`specfm.create_encoder` that the published shapes tell."""
    from specfm.models.registry import SIZES

    width = _shape(state, "norm.weight")[0]
    prefix = "patch_embed.matrix_generator"
    rank = _shape(state, f"{prefix}.u_generator.6.weight")[0] // width
    patch = math.isqrt(_shape(state, f"{prefix}.v_generator.6.weight")[0] // max(rank, 1))
    size = next((name for name, known in SIZES.items() if known.dim == width), "base")
    tokens = _shape(state, "patch_embed.content_feature_extractor.avg_feature_encoder.0.weight")[1]
    return {
        "size": size, "patch_size": patch, "dim": width, "depth": _depth(state, "blocks."),
        "heads": max(width // HEAD_WIDTH, 1), "image_size": math.isqrt(tokens) * patch, "rank": rank,
        "level": "none", "layer_scale": 0.0, "trunk": "mae",
    }  # fmt: skip


def decoder_sizes(state: dict[str, Tensor]) -> dict[str, int]:
    """``objective.masked.decoder`` that the published shapes tell."""
    width = _shape(state, "mask_token")[-1]
    rank = _shape(state, "decoder_pred.matrix_generator.v_generator.6.weight")[0] // width
    code = _shape(state, "decoder_pred.x_feature_extractor.2.weight")[0]
    depth = _depth(state, "decoder_blocks.")
    return {"width": width, "depth": depth, "heads": DECODER_HEADS, "rank": rank, "code_width": code}


def make_decoder(state: dict[str, Tensor], encoder: Encoder) -> Decoder:
    """A decoder of the published sizes, as ``objective.masked.published`` makes it."""
    from specfm.models.decoders import Decoder

    sizes = decoder_sizes(state)
    return Decoder(encoder.num_features, encoder.patch_size, **sizes, dropout=0.1, start=None, own_codes=False)


def take_published(
    state: dict[str, Tensor],
    encoder: Encoder,
    decoder: Decoder | None = None,
    sentence_vectors: dict[str, Tensor] | None = None,
) -> None:
    """Copy the published weights; all or nothing.

    Raises:
        SpecfmError: a name is missing, unknown or of another shape; the message lists them.
    """
    import torch

    from specfm.models.embeddings.published import PREFIX, load_published, misfits, published_name

    wanted: dict[str, Tensor] = {}
    for name, parameter in encoder.named_parameters():
        inside = name.removeprefix("embedding.")
        theirs = PREFIX + published_name(inside) if name.startswith("embedding.") else name
        wanted["cls_token" if name == "class_token" else theirs] = parameter
    if decoder is not None:
        wanted.update((decoder_name(name), parameter) for name, parameter in decoder.named_parameters())
    if problems := misfits(state, wanted):
        raise SpecfmError(f"these are not SpecAware's published weights ({len(problems)} names): {'; '.join(problems)}")
    load_published(encoder.embedding, state, sentence_vectors)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, own in wanted.items():
            own.copy_(state[name])


def decoder_name(name: str) -> str:
    """Name in the published state dict of one of the decoder's parameters."""
    for ours in sorted(_DECODER, key=len, reverse=True):
        if name == ours or name.startswith(ours + "."):
            return _DECODER[ours] + name[len(ours) :]
    raise KeyError(name)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.suffix != ".safetensors":
        new = path.with_suffix(".safetensors").name
        raise UsageError(
            f"{path} is no .safetensors file, and pickles are never read here; where you trust it, convert it in an "
            f"environment of your own: python -c \"import torch, safetensors.torch as s; d = torch.load('{path.name}', "
            f"map_location='cpu'); d = d.get('model', d); s.save_file({{k: v.contiguous() for k, v in d.items()}}, "
            f"'{new}')\""
        )
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise SpecfmError(f"{path} cannot be read ({error})") from None


def _shape(state: dict[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in state or not state[name].ndim:
        raise SpecfmError(f"these are not SpecAware's published weights: {name} is missing")
    return tuple(state[name].shape)


def _depth(state: dict[str, Tensor], prefix: str) -> int:
    return len({name.split(".")[1] for name in state if name.startswith(prefix)})
