"""Encoders that read windows of one size alone, since a part of them has an input for every patch; most read any."""

from __future__ import annotations

from typing import Any

from specfm.errors import UsageError

ONE_SIZE = "embedding reads windows of one size alone, no single spectra"


def fixed_side(encoder: Any) -> int | None:
    """Side of the only windows that an encoder reads, pixels; None where it reads any."""
    return getattr(encoder, "fixed_side", None)


def refuse_other_side(encoder: Any, side: int, called: str) -> None:
    """Refuse windows of another side than the only one that an encoder reads.

    Raises:
        UsageError: it is another; ``called`` is what the user calls it.
    """
    only = fixed_side(encoder)
    if only is not None and side != only:
        remedy = f"; set {only}" if side > 1 else ", which lists of spectra have not; take another encoder for these"
        raise UsageError(f"{called} {side}: this encoder reads windows of {only} x {only} pixels alone{remedy}")
