"""The encoder that a user names: a checkpoint, or an untrained one; untrained twins of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specfm.checkpoint import load, require_device
from specfm.errors import SpecfmError, UsageError


def open_encoder(checkpoint: str, device: str = "cpu") -> tuple[Any, str, bool]:
    """The encoder meant by ``checkpoint``, its name in the table, and whether it was trained at all.

    Args:
        checkpoint: checkpoint folder or run, or ``random:SIZE[:PATCH]``.
        device: cpu or cuda.

    Raises:
        UsageError: no such device, a patch side that is no number.
        SpecfmError: a folder that is no checkpoint or does not match its hashes.
    """
    require_device(device)
    if checkpoint.startswith("random:"):
        size, _, patch = checkpoint.removeprefix("random:").partition(":")
        if patch and not patch.isdigit():
            raise UsageError(f"{checkpoint!r}: after the size comes a patch side, as in random:nano:3")
        encoder = random_encoder(size, 0, **({"patch_size": int(patch)} if patch else {}))
        return encoder.to(device), checkpoint, False
    return load(checkpoint, device=device), Path(checkpoint).resolve().name, True


def encoder_device(encoder: Any) -> Any:
    """Device of an encoder's first parameter (CPU for one without parameters)."""
    import torch

    parameters = getattr(encoder, "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return first.device if first is not None else torch.device("cpu")


def random_encoder(size: str, seed: int, **options: Any) -> Any:
    """An untrained encoder with its own seed; the caller's random state is left alone."""
    import torch

    from specfm.models import create_encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_encoder(size, **options).eval()


def random_twin(encoder: Any, seed: int) -> Any:
    """An encoder of the same architecture, options and library with fresh weights, on the same device."""
    import torch

    from specfm.models import fresh_like

    if not getattr(encoder, "config", None):
        raise SpecfmError("this encoder carries no config, so no untrained twin can be built; pass init_seeds=0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = fresh_like(encoder)
    fresh.library = getattr(encoder, "library", None)
    return fresh.to(encoder_device(encoder)).eval()
