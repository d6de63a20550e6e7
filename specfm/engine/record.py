"""The record of a run: ``metrics.jsonl``, one flushed line per step; wandb only mirrors it and is never fatal."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any, TextIO

from specfm.documents import parse_json
from specfm.files import atomic_write_text

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
SUPERSEDED = "metrics.superseded.jsonl"


class MetricsLog:
    """Appends rows to ``metrics.jsonl``; a full disk costs lines and one warning, not the run.

    Args:
        folder: Run folder.
        resumed_step: Lines with a later ``step`` are moved to ``metrics.superseded.jsonl`` first: they belong to
            work that is about to be done again.
    """

    def __init__(self, folder: Path, resumed_step: int | None = None) -> None:
        self.path = folder / FILE
        if resumed_step is not None:
            supersede(folder, resumed_step)
        self._warned = False
        self._handle: TextIO | None = None

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; values that are not finite become null."""
        line = json.dumps({key: _plain(value) for key, value in row.items()}) + "\n"
        try:
            if self._handle is None:
                self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (kept open over the run)
            self._handle.write(line)
            self._handle.flush()
        except OSError as error:
            if not self._warned:
                log.warning("cannot write %s (%s); training goes on without its record", self.path, error)
            self._warned = True

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            try:
                self._handle.close()
            except OSError as error:
                log.warning("cannot close %s (%s)", self.path, error)
            self._handle = None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole rows of a run's ``metrics.jsonl`` (a line cut by a kill is left out)."""
    rows = []
    path = folder / FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(parse_json(line, path))
        except ValueError:
            continue
    return rows


def supersede(folder: Path, step: int) -> None:
    """Move rows after ``step`` (and a line cut short) out of ``metrics.jsonl``; a kill in between loses nothing."""
    path = folder / FILE
    if not path.is_file():
        return
    keep: list[str] = []
    moved: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            late = int(parse_json(line, path)["step"]) > step
        except (ValueError, KeyError, TypeError):
            late = True
        (moved if late else keep).append(line)
    if moved:
        with open(folder / SUPERSEDED, "a", encoding="utf-8") as handle:
            handle.write("".join(f"{line}\n" for line in moved))
        atomic_write_text(path, "".join(f"{line}\n" for line in keep))


class WandbMirror:
    """Sends the same rows to wandb if asked; its first failure is a warning and the end of mirroring.

    Args:
        mode: ``disabled``, ``offline``, ``online``, or ``auto`` (online if this machine is logged in, else offline).
        project: wandb project name.
        folder: Where wandb keeps its files (``<folder>/wandb``); also names the run.
        config: Resolved configuration, shown beside the run.
    """

    def __init__(self, mode: str, project: str, folder: Path, config: dict[str, Any]) -> None:
        self._run: Any = None
        if mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
            return
        try:
            import wandb

            if mode != "offline" and not logged_in():
                if mode == "online":
                    log.warning("wandb is not logged in on this machine; mirroring offline (wandb sync sends it later)")
                mode = "offline"
            self._run = wandb.init(
                project=project,
                name=folder.name,
                dir=str(folder),
                config=config,
                mode="offline" if mode == "offline" else "online",
                settings=wandb.Settings(silent=True, init_timeout=30),
            )
        except Exception as error:  # a mirror never ends a run, whatever its client raises
            log.warning("wandb mirror is off: %s", error)

    def write(self, row: dict[str, Any]) -> None:
        """Mirror one row (its ``step`` is the x axis)."""
        if self._run is None:
            return
        try:
            self._run.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
        except Exception as error:
            log.warning("wandb mirror stopped: %s", error)
            self._run = None

    def close(self) -> None:
        """Finish the wandb run."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            log.warning("wandb did not finish cleanly: %s", error)
        self._run = None


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


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value
