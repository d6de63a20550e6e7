"""Mirrors of a run's record, for people who watch it elsewhere: wandb and TensorBoard. None of them ever ends a run.

``metrics.jsonl`` (:mod:`specfm.engine.record`) is the record; a mirror gets the same rows. A new one is a class here
and a line in :func:`open_mirrors`.
"""

from __future__ import annotations

import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.config import to_dict

if TYPE_CHECKING:
    from specfm.engine.config import RunConfig

log = logging.getLogger(__name__)

EVENTS = "tensorboard"  # folder of event files in that of a run


class Mirror(ABC):
    """Gets every row of the record, in order; its first failure is a warning and the end of mirroring.

    Attributes:
        name: for messages.
        client: what rows are sent to; None once mirroring has ended, or where it never began.
    """

    name = ""
    client: Any = None

    def write(self, row: dict[str, Any]) -> None:
        """Mirror one row (its ``step`` is the x axis)."""
        if self.client is None:
            return
        try:
            self._send(row)
        except Exception as error:  # a mirror never ends a run, whatever its client raises
            log.warning("%s mirror stopped: %s", self.name, error)
            self.client = None

    def close(self) -> None:
        """Called once, after the last row."""
        if self.client is None:
            return
        try:
            self._finish()
        except Exception as error:
            log.warning("%s did not finish cleanly: %s", self.name, error)
        self.client = None

    @abstractmethod
    def _send(self, row: dict[str, Any]) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...


def open_mirrors(config: RunConfig, folder: Path, resumed_step: int | None = None) -> list[Mirror]:
    """The mirrors that a configuration asks for.

    Args:
        config: of the run.
        folder: of the run.
        resumed_step: what was mirrored after this step is about to be done again.
    """
    found: list[Mirror] = [WandbMirror(config.wandb.mode, config.wandb.project, folder, to_dict(config))]
    return [*found, TensorboardMirror(folder / EVENTS, resumed_step)] if config.tensorboard else found


class WandbMirror(Mirror):
    """Sends the same rows to wandb if asked.

    Args:
        mode: ``disabled``, ``offline``, ``online``, or ``auto`` (online if this machine is logged in, else offline).
        project: wandb project name.
        folder: Where wandb keeps its files (``<folder>/wandb``); also names the run.
        config: Resolved configuration, shown beside the run.
    """

    name = "wandb"

    def __init__(self, mode: str, project: str, folder: Path, config: dict[str, Any]) -> None:
        if mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
            return
        try:
            import wandb

            if mode != "offline" and not logged_in():
                if mode == "online":
                    log.warning("wandb is not logged in on this machine; mirroring offline (wandb sync sends it later)")
                mode = "offline"
            self.client = wandb.init(
                project=project,
                name=folder.name,
                dir=str(folder),
                config=config,
                mode="offline" if mode == "offline" else "online",
                settings=wandb.Settings(silent=True, init_timeout=30),
            )
        except Exception as error:  # a mirror never ends a run, whatever its client raises
            log.warning("wandb mirror is off: %s", error)

    def _send(self, row: dict[str, Any]) -> None:
        self.client.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])

    def _finish(self) -> None:
        self.client.finish()


class TensorboardMirror(Mirror):
    """Writes the numbers of each row as event files, for ``tensorboard --logdir`` on the folder or on one of many runs.

    Args:
        folder: of the event files; made with the first row.
        resumed_step: steps after it are hidden, as they are done again.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, resumed_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter

            purged = None if resumed_step is None else resumed_step + 1
            self.client = SummaryWriter(str(folder), purge_step=purged, flush_secs=30)
        except ImportError as error:
            log.warning("tensorboard mirror is off: %s; install it with: pip install 'specfm[tensorboard]'", error)
        except Exception as error:  # a mirror never ends a run
            log.warning("tensorboard mirror is off: %s", error)

    def _send(self, row: dict[str, Any]) -> None:
        for name, value in _numbers(row):
            self.client.add_scalar(name, value, row["step"])

    def _finish(self) -> None:
        self.client.close()


def _numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Finite numbers of a row by name, those of sections as ``section/name``; words and lists have no curve."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif key != "step" and isinstance(value, int | float) and math.isfinite(value):
            yield prefix + key, float(value)


def logged_in() -> bool:
    """True if a wandb key is in the environment or in the user's netrc (nothing is asked, nothing is sent)."""
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc")).hosts
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False
    return any("wandb" in host for host in hosts)
