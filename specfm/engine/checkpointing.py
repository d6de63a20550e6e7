"""Training checkpoints: a folder published by one rename; valid if and only if it has its final name and its hashes.

    checkpoints/step-00000123/model/                release folder (`specfm.load` takes it)
    checkpoints/step-00000123/training.safetensors  heads, optimiser moments
    checkpoints/step-00000123/state.json            step, guard, data fingerprint, configuration, versions
    checkpoints/step-00000123/ranks/                optimiser moments of other ranks, where each has its own (sync/)
    checkpoints/step-00000123/MANIFEST.json         name, size, sha256 of every file; written last

Checkpoints are searched from the newest to the oldest and verified, and every rejection is logged with its reason. Old
ones are deleted only after the new one has been verified. A link is no checkpoint: what it points to belongs to another
run, and is neither read nor deleted. What is replicated is written by rank 0; sampler, views and schedules are pure
functions of the step, so there is no stream of random numbers to save.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.documents import read_json
from specfm.engine import faults
from specfm.errors import SpecfmError
from specfm.files import (
    IntegrityError,
    atomic_write_json,
    fsync_path,
    publish_folder,
    remove_folder,
    remove_temporaries,
    require_free_space,
    temporary_sibling,
    unpublish,
    verify_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

STATE_FORMAT = 1
TRAINING = "training.safetensors"
STATE = "state.json"
_MODEL = "model/"
_NAME = re.compile(r"step-(\d{8,})$")
_FREE_SPACE_FACTOR = 1.3


class NoCheckpointError(SpecfmError):
    """There are checkpoints, and none of them is valid."""

    exit_code = 3


class CheckpointWriteError(SpecfmError):
    """Checkpoints cannot be written any more."""


class Checkpointer:
    """Saves, finds and retires the checkpoints of one run (rank 0 only).

    Args:
        folder: ``out/checkpoints``.
        keep: Newest valid checkpoints kept; the one with the best score is kept besides.
        milestone_every: Checkpoints at multiples of this step are kept for good; 0 keeps none.
        backoff_s: Pause before the second attempt of a failed save; the third waits twice as long.
        check: Called before anything is written, published or deleted; raises where the folder is no longer this run's.
    """

    def __init__(
        self, folder: Path, keep: int = 2, milestone_every: int = 0, backoff_s: float = 1.0,
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.folder, self.keep, self.milestone_every, self.backoff_s = folder, keep, milestone_every, backoff_s
        self._check = check
        self.failures = 0
        self._last_bytes = 0
        self._verified: dict[str, float | None] = {}  # name -> score

    def clean(self) -> None:
        """Remove what killed processes left under temporary names."""
        for path in remove_temporaries(self.folder):
            log.info("removed unfinished %s", path)

    def names(self) -> list[str]:
        """Names of all published checkpoints, newest first; none of them is verified yet."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.iterdir():
            if _NAME.match(path.name) and path.is_dir():
                if path.is_symlink():
                    log.warning("%s is a link, which is no checkpoint; it is left alone", path)
                else:
                    found.append(path.name)
        return sorted(found, key=_step_of, reverse=True)

    def newest_valid(self) -> Path | None:
        """The newest checkpoint that verifies; None if the run has none at all.

        Raises:
            NoCheckpointError: exit code 3; there are checkpoints but each is damaged. The message lists each reason.
        """
        reasons = []
        for name in self.names():
            reason = self._verify(name)
            if reason is None:
                return self.folder / name
            log.warning("checkpoint %s rejected: %s", name, reason)
            reasons.append(f"{name}: {reason}")
        if reasons:
            raise NoCheckpointError(
                f"no valid checkpoint in {self.folder} ({'; '.join(reasons)}); restore one, or start a new run"
            )
        return None

    def best(self) -> Path | None:
        """The valid checkpoint with the highest score (the later of equals); None where none carries one."""
        scores = self._scores([name for name in self.names() if self._verify(name) is None])
        return self.folder / _best(scores) if scores else None

    def _scores(self, names: list[str]) -> dict[str, float]:
        return {name: score for name in names if (score := self._verified[name]) is not None}

    def _verify(self, name: str) -> str | None:
        """None if the checkpoint is sound (remembered), else what is wrong with it."""
        if name in self._verified:
            return None
        try:
            listed = {row["name"] for row in verify_manifest(self.folder / name)["files"]}
            state = read_state(self.folder / name)
        except (IntegrityError, OSError) as error:
            return str(error)
        lacking = [each for each in (TRAINING, STATE) if each not in listed]
        if not any(each.startswith(_MODEL) for each in listed):
            lacking.append(_MODEL)
        if lacking:
            return f"its manifest does not list {', '.join(lacking)}, so that cannot be trusted"
        if state.get("step") != _step_of(name):
            return f"{STATE} is of step {state.get('step')}"
        score = state.get("score")
        self._verified[name] = float(score) if isinstance(score, int | float) else None
        return None

    def save(
        self, step: int, write_model: Callable[[Path], Any], tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> Path | None:
        """Publish a checkpoint, verify it, then retire old ones.

        A failing disk is tried three times; after that the run goes on with a warning, and a second failed save in a
        row ends it.

        Args:
            step: Updates done.
            write_model: Writes the release folder at the path it is given.
            tensors: Training state other than the encoder.
            state: JSON-safe facts; an optional number ``score`` (larger is better) marks the best checkpoint.

        Returns:
            The published folder, or None if it could not be written.

        Raises:
            CheckpointWriteError: two saves in a row failed.
        """
        self._check()
        final = self.folder / f"step-{step:08d}"
        if final.exists() or final.is_symlink():
            if not final.is_symlink() and self._verify(final.name) is None:
                return final
            remove_folder(final)  # work redone after a fall-back: the damaged one gives way
        self.folder.mkdir(parents=True, exist_ok=True)
        problem: Exception | None = None
        for attempt in range(3):
            if attempt:
                time.sleep(self.backoff_s * attempt)
            try:
                self._write(final, write_model, tensors, {"format": STATE_FORMAT, "step": step, **state})
                break
            except (OSError, RuntimeError) as error:
                problem = error
                log.warning("saving %s failed, attempt %d of 3: %s", final.name, attempt + 1, error)
        else:
            self.failures += 1
            if self.failures >= 2:
                raise CheckpointWriteError(
                    f"two checkpoints in a row could not be written to {self.folder} ({problem})"
                )
            log.warning("no checkpoint at step %d (%s); the run goes on", step, problem)
            return None
        self.failures = 0
        faults.hit("ckpt.after_publish", path=final / TRAINING)
        reason = self._verify(final.name)
        if reason is not None:
            log.warning("checkpoint %s does not verify after writing (%s); older ones are kept", final.name, reason)
            return None
        self._retire()
        return final

    def _write(
        self, final: Path, write_model: Callable[[Path], Any], tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        require_free_space(self.folder, int(_FREE_SPACE_FACTOR * self._last_bytes))
        temporary = temporary_sibling(final)
        temporary.mkdir()
        try:
            write_model(temporary / _MODEL)
            write_tensors(temporary / TRAINING, tensors)
            atomic_write_json(temporary / STATE, state)
            faults.hit("ckpt.before_manifest")
            manifest = write_manifest(temporary, kind="training checkpoint")
            self._check()  # it may have slept since
            publish_folder(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._last_bytes = sum(row["size"] for row in manifest["files"])

    def _retire(self) -> None:
        """Delete valid checkpoints beyond ``keep`` except milestones and the best; damaged ones are left alone."""
        self._check()
        valid = [name for name in self.names() if self._verify(name) is None]
        scores = self._scores(valid)
        best = _best(scores) if scores else None
        for name in valid[self.keep :]:
            if name == best or (self.milestone_every and _step_of(name) % self.milestone_every == 0):
                continue
            try:
                doomed = unpublish(self.folder / name)
                (doomed / TRAINING).unlink(missing_ok=True)
                faults.hit("ckpt.mid_delete")
                shutil.rmtree(doomed)
            except OSError as error:
                log.warning("cannot delete old checkpoint %s: %s", name, error)
            del self._verified[name]


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors and flush them."""
    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with open(path, "wb") as handle:
        handle.write(data[: len(data) // 2])
        handle.flush()
        faults.hit("ckpt.mid_payload", path=path)
        handle.write(data[len(data) // 2 :])
    fsync_path(path)


def read_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Training state of a verified checkpoint, on the CPU."""
    from safetensors.torch import load_file

    return load_file(checkpoint / TRAINING)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint.

    Raises:
        IntegrityError: unreadable, or written by a later version.
    """
    path = checkpoint / STATE
    try:
        state = read_json(path)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read ({error})") from None
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise IntegrityError(f"{path} is not a training state written by specfm")
    if state["format"] > STATE_FORMAT:
        raise IntegrityError(
            f"{path} has format {state['format']} > {STATE_FORMAT}, from a later version; update specfm"
        )
    return state


def _best(scores: dict[str, float]) -> str:
    return max(scores, key=lambda name: (scores[name], _step_of(name)))


def _step_of(name: str) -> int:
    match = _NAME.match(name)
    assert match is not None
    return int(match[1])
