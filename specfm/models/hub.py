"""Methods that people of transformers and timm look for on a model, for encoders and backbones alike."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


def _hub() -> Any:
    """:mod:`specfm.hub`, by name: it builds encoders, so that they cannot import it."""
    return import_module("specfm.hub")


class HubMethods:
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub``; see :mod:`specfm.hub` for their arguments."""

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Any:
        """An encoder of a folder, by its name, or of the hub; see :func:`specfm.hub.from_pretrained`."""
        return _hub().from_pretrained(name, **options)

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write a release folder; see :func:`specfm.hub.save_pretrained`."""
        return _hub().save_pretrained(self, folder, **options)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Upload a release folder; see :func:`specfm.hub.push_to_hub`."""
        return _hub().push_to_hub(self, name, **options)
