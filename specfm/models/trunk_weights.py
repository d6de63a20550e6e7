"""Blocks of a published ViT as the start of a trunk: attention, MLPs and norms, nothing else.

What a ViT of photographs knows of patches and positions does not apply here; what its blocks do may. Nothing is
downloaded: a file is the user's, a timm name must be in the user's cache.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from specfm.errors import SpecfmError, UsageError
from specfm.models.embeddings.published import misfits
from specfm.models.encoder import Encoder

TIMM = "timm:"
PARTS = ("blocks.", "norm.")
GAINS = (".ls1.gamma", ".ls2.gamma")


def load_trunk(encoder: Encoder, source: str) -> None:
    """Copy blocks and final norm into the encoder; all or nothing. Gains that the source does not have become 1.

    Args:
        encoder: changed in place.
        source: a ``.safetensors`` file with timm's names (``blocks.0.attn.qkv.weight``, ...; MAE's are the same), or
            ``timm:NAME`` for weights that Hugging Face's cache holds already.

    Raises:
        UsageError: no such file or name, or weights of another size; the message lists the names.
        SpecfmError: a file that is no safetensors file.
    """
    path = _cached(source.removeprefix(TIMM)) if source.startswith(TIMM) else Path(source)
    given = {name: tensor for name, tensor in _read(path).items() if name.startswith(PARTS)}
    own = {name: tensor for name, tensor in encoder.state_dict().items() if name.startswith(PARTS)}
    optional = {name for name in own if name.endswith(GAINS)}
    absent = optional - given.keys()
    if problems := misfits(given, {name: tensor for name, tensor in own.items() if name not in absent}):
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise UsageError(
            f"the blocks of {path} do not fit this trunk of {len(encoder.blocks)} blocks of width "
            f"{encoder.num_features} ({'; '.join(problems[:6])}{more}); choose model.size (and options dim, depth) as "
            "theirs, for a ViT-Base model.size=base"
        )
    ones = {name: torch.ones_like(own[name]) for name in absent}
    encoder.load_state_dict({**encoder.state_dict(), **given, **ones})


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.suffix != ".safetensors":
        raise UsageError(
            f"model.init_trunk: {path} is no .safetensors file; others may be pickles, which are never read: "
            "convert it with safetensors.torch.save_file where you trust it"
        )
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise SpecfmError(f"model.init_trunk: {path} cannot be read ({error})") from None


def _cached(name: str) -> Path:
    """Where Hugging Face's cache holds the weights of a timm model."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    try:
        config = timm.models.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    except RuntimeError:  # an unknown tag of a known model
        config = None
    if config is None or not config.hf_hub_id:
        raise UsageError(f"model.init_trunk: timm has no weights {name!r} on Hugging Face; see timm.list_pretrained()")
    found = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    if not isinstance(found, str):
        raise UsageError(
            f"model.init_trunk: the weights of timm:{name} are not in this machine's cache, and nothing is downloaded "
            f"here; fetch them first: hf download {config.hf_hub_id} model.safetensors"
        )
    return Path(found)
