"""What of a machine and its environment will slow or stop a run, each finding with what to do about it.

``finding.py`` what is found; ``libraries.py`` versions, codecs, drivers; ``machine.py`` cores, memory, GPUs, launchers;
``storage.py`` speed and manners of a folder; ``accounts.py`` wandb and the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from specfm.doctor import accounts, libraries, machine, storage
from specfm.doctor.finding import Finding, bad

__all__ = ["Finding", "examine"]


def examine(folder: str | Path = ".", megabytes: int = 64) -> Iterator[Finding]:
    """Look at everything, one finding after the other; no check stops those after it.

    Args:
        folder: where runs and shards are to lie; files of ``megabytes`` are written there and removed.
        megabytes: size of the file that storage is timed with.
    """
    folder = Path(folder)
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("python", libraries.interpreter),
        ("packages", libraries.packages),
        ("torch", libraries.torch_match),
        ("codecs", libraries.codecs),
        ("rasters", libraries.rasters),
        ("encoder", libraries.encoder),
        ("cores", machine.cores),
        ("memory", machine.memory),
        ("GPUs", machine.gpus),
        ("launcher", machine.launcher),
        ("storage", lambda: storage.storage(folder, megabytes)),
        ("cache", storage.cache),
        ("wandb", accounts.wandb),
        ("hub", accounts.hub),
    )
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # a broken installation breaks in ways that nobody listed
            yield bad(name, f"could not be looked at ({type(error).__name__}: {error})", "mend or reinstall it")
