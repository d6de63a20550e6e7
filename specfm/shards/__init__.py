"""The HDF5 store: schema, writer, reader, verification. Nothing here imports torch; h5py is imported when a file is
opened."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ShardReader": "specfm.shards.reader",
    "ShardSet": "specfm.shards.shard_set",
    "ShardWriter": "specfm.shards.writer",
    "write_shards": "specfm.shards.build",
    "verify_shards": "specfm.shards.verify",
}
__all__ = ["ShardReader", "ShardSet", "ShardWriter", "verify_shards", "write_shards"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
