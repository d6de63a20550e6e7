"""Shared by all tests: where the real scenes are, and an environment in which nothing phones out or opens a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The name `specfm` must not depend on the terminal that runs the tests.
os.environ.setdefault("COLUMNS", "120")
os.environ.setdefault("NO_COLOR", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def find_data() -> Path | None:
    """The folder of real scenes: SPECFM_DATA, else ../shared/data beside the checkout, else None."""
    folder = Path(os.environ.get("SPECFM_DATA") or REPOSITORY.parent / "shared" / "data")
    return folder.resolve() if (folder / "MANIFEST.md").is_file() else None


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Features that tests extract stay out of the user's cache."""
    os.environ.setdefault("SPECFM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real scenes; skips where there is none."""
    folder = find_data()
    if folder is None:
        pytest.skip("needs the real scenes: set SPECFM_DATA to their folder (default ../shared/data)")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip where torch itself refuses bfloat16: told to hide AVX512 (ATEN_CPU_CAPABILITY), it still packs for it."""
    try:
        return (yield)
    except RuntimeError as error:
        if "is only supported when avx512 is supported" not in str(error):
            raise
        pytest.skip(f"torch cannot multiply in bfloat16 under these settings: {error}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
