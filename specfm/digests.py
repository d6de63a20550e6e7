"""Digests: a few hex digits that stand for a value, an encoder's weights or its architecture."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_json(value: Any) -> str:
    """16 hex digits of a JSON-safe value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def state_digest(encoder: Any) -> str:
    """16 hex digits over weights, config and library of an encoder: names the checkpoint whatever folder it is from."""
    h = hashlib.sha256(json.dumps(getattr(encoder, "config", {}) or {}, sort_keys=True, default=str).encode())
    state = encoder.state_dict() if hasattr(encoder, "state_dict") else {}
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        h.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        h.update(tensor.float().numpy().tobytes())
    library = getattr(encoder, "library", None)
    h.update(library.digest.encode() if library is not None else b"")
    return h.hexdigest()[:16]


def architecture_digest(encoder: Any) -> str:
    """16 hex digits over the config of an encoder, without its weights."""
    return digest_json(json.loads(json.dumps(getattr(encoder, "config", {}), default=str)))
