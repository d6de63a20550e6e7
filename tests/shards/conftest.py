"""Every test has a cache folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's cache folder, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPECFM_CACHE", str(folder))
    monkeypatch.delenv("SPECFM_SHARD_CACHE", raising=False)
    return folder
