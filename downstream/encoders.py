"""The encoder that a user names: a checkpoint, or an untrained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specfm.checkpoint import load, require_device
from specfm.errors import UsageError


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
        from downstream.baselines import random_encoder

        size, _, patch = checkpoint.removeprefix("random:").partition(":")
        if patch and not patch.isdigit():
            raise UsageError(f"{checkpoint!r}: after the size comes a patch side, as in random:nano:3")
        encoder = random_encoder(size, 0, **({"patch_size": int(patch)} if patch else {}))
        return encoder.to(device), checkpoint, False
    return load(checkpoint, device=device), Path(checkpoint).resolve().name, True
