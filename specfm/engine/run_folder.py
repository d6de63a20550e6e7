"""The folder of a run: made once, never overwritten, locked while a process works in it.

out/config.yaml                 resolved configuration
out/metrics.jsonl               the record, one line per logged step
out/checkpoints/step-00000123/  model/ (release folder), training state, MANIFEST.json
out/model                       final release folder
out/bad_steps/, out/REQUEUE, out/loss.png
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from specfm.config import differences, to_dict, to_yaml
from specfm.documents import DocumentError, parse_yaml
from specfm.errors import UsageError
from specfm.files import atomic_write_json, atomic_write_text, refuse_closed_folder
from specfm.locks import LockLostError, RunLock

log = logging.getLogger(__name__)

LOCK = "run.lock"


class RunFolder:
    """Paths of a run and the rules for taking it up.

    Args:
        path: The run folder (config key ``out``).
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.requeue = self.path / "REQUEUE"
        self.stacks = self.path / "stalled.txt"
        self._lock = RunLock(self.path, LOCK)

    def refuse_existing(self) -> None:
        """Refuse a folder that already holds something (a new run never writes into an old one).

        Raises:
            UsageError: exit code 2.
        """
        if self.path.exists() and (not self.path.is_dir() or any(p.name != LOCK for p in self.path.iterdir())):
            raise UsageError(f"{self.path} exists; choose another folder with out=..., or pass --resume to continue it")
        refuse_closed_folder(self.path, "out")

    def open(self, resume: bool) -> None:
        """Lock the folder for this process; a new run needs an empty one.

        Raises:
            UsageError: the folder is in use or may not be written, keeps its checkpoints behind a link, or holds an
                earlier run and ``resume`` is false.
        """
        if resume:
            refuse_closed_folder(self.path, "out")
        else:
            self.refuse_existing()
        if self.checkpoints.is_symlink():  # old ones are deleted there, and another run's lock may be on that place
            raise UsageError(
                f"{self.checkpoints} is a link, and nothing is deleted through one; move the checkpoints here (the run "
                "folder itself may be a link)"
            )
        self._lock.wait = resume  # of a lost node: the job that was started again finds out whether it is gone
        self._lock.acquire()
        self.requeue.unlink(missing_ok=True)

    def check_lock(self) -> None:
        """Before anything is written: the folder is still this run's, which may have slept for long.

        Raises:
            LockLostError: another process has taken it over.
        """
        self._lock.check()

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def discard(self) -> None:
        """Remove what a run wrote that came to nothing, the folder too, so that its name can be used again."""
        with contextlib.suppress(LockLostError):
            self.check_lock()
            self._clear()
        self._lock.release()
        with contextlib.suppress(OSError):  # something that cannot be removed, or a folder that is a mount point
            self.path.rmdir()

    def _clear(self) -> None:
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)

    def write_config(self, config: BaseModel, resumed_step: int | None) -> None:
        """Save the resolved configuration; an older, different one is kept beside it and the differences are logged."""
        text = to_yaml(config)
        if self.config.is_file() and resumed_step is not None:
            old = self.config.read_text(encoding="utf-8", errors="replace")
            if old == text:
                return
            try:
                before_run = parse_yaml(old, self.config)
                changed = differences(before_run if isinstance(before_run, dict) else {}, to_dict(config))
            except DocumentError as error:
                log.warning("%s; it is kept aside, and what has changed since cannot be told", error)
                changed = {}
            for key, (before, after) in changed.items():
                log.warning("resuming with another %s: %s instead of %s", key, after, before)
            atomic_write_text(self.path / f"config.until-step-{resumed_step:08d}.yaml", old)
        atomic_write_text(self.config, text)

    def dump_bad_step(self, step: int, rank: int, facts: dict[str, Any]) -> Path:
        """Write what is known of a non-finite step; a full disk costs the dump, not the run."""
        path = self.path / "bad_steps" / f"step-{step:08d}-rank-{rank}.json"
        try:
            atomic_write_json(path, facts)
        except OSError as error:
            log.warning("cannot write %s (%s): %s", path, error, json.dumps(facts))
        return path

    def ask_requeue(self, step: int, signal_number: int) -> None:
        """Leave ``REQUEUE``: the run was stopped by a signal after a checkpoint and wants to be started again."""
        atomic_write_json(self.requeue, {"step": step, "signal": signal_number})
