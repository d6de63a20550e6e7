"""The encoder that a user names: a checkpoint, or an untrained one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.checkpoint import load, require_device
from specfm.errors import UsageError
from specfm.library import same_bands

if TYPE_CHECKING:
    from specfm.scene import Scene


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


def wants_alignment(scenes: Sequence[Scene], wanted: bool | None) -> bool:
    """``wanted``; where that is None, whether the scenes were seen through different bands."""
    if wanted is not None:
        return wanted
    first = scenes[0].sensor.bands
    return any(not same_bands(first, scene.sensor.bands) for scene in scenes[1:])


@contextmanager
def aligned(encoder: Any, scenes: Sequence[Scene], wanted: bool | None) -> Iterator[bool]:
    """Within it the encoder is aligned if asked for (None: if the scenes need it and it can); says whether it is.

    Raises:
        UsageError: ``wanted`` of an encoder that cannot be aligned.
    """
    if wanted and encoder is not None and not hasattr(encoder, "align"):
        raise UsageError("only an encoder of specfm can be aligned; leave --align out")
    before = getattr(encoder, "alignment", None)
    on = wants_alignment(scenes, wanted) if before is None or wanted is not None else True
    on = on and encoder is not None and (bool(wanted) or getattr(encoder, "library", None) is not None)
    if hasattr(encoder, "align") and on != (before is not None):
        encoder.align(on)
    try:
        yield on
    finally:
        if hasattr(encoder, "align"):
            encoder.alignment = before
