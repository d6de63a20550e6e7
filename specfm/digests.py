"""Digests: a few hex digits of SHA-256 that stand for values, arrays, files, an encoder's weights or its architecture.

Digests name caches, splits and recipes on disk: what goes into one, and in which order, must not change lightly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DIGITS = 16


def digest_parts(parts: Iterable[str | bytes | np.ndarray], digits: int = DIGITS) -> str:
    """Hex digits over texts, bytes and the values of arrays, one after the other; nothing says where a part ends.

    Parts are taken one at a time, so that a generator may hand over more than fits in memory.
    """
    import numpy as np

    body = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            body.update(part.encode())
        else:
            body.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return body.hexdigest()[:digits]


def digest_json(value: Any) -> str:
    """16 hex digits of a JSON-safe value, whatever the order of its keys."""
    return digest_parts([json.dumps(value, sort_keys=True)])


def state_digest(encoder: Any) -> str:
    """16 hex digits over weights, config, library and stems of an encoder: names it whatever folder it is from."""

    def parts() -> Iterable[str | bytes | np.ndarray]:
        yield json.dumps(getattr(encoder, "config", {}) or {}, sort_keys=True, default=str)
        state = encoder.state_dict() if hasattr(encoder, "state_dict") else {}
        for name in sorted(state):
            tensor = state[name].detach().cpu().contiguous()
            yield f"{name}{tuple(tensor.shape)}{tensor.dtype}"
            yield tensor.float().numpy().tobytes()
        library = getattr(encoder, "library", None)
        yield library.digest if library is not None else ""
        stems = getattr(encoder, "stems", None)
        yield stems.digest if stems is not None else ""

    return digest_parts(parts())


def architecture_digest(encoder: Any) -> str:
    """16 hex digits over the config of an encoder, without its weights."""
    return digest_json(json.loads(json.dumps(getattr(encoder, "config", {}), default=str)))
