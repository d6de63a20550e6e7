"""Faults on purpose: named points in the code that a test can make fail through one environment variable.

``SPECFM_FAULTS="ckpt.before_manifest:kill@step=6:rank=1"``; several faults are separated by commas. Without the
variable every ``hit(...)`` is a dictionary look-up that finds nothing. Grammar of one fault::

    [POINT:]ACTION[@CONDITION[:CONDITION ...]]      CONDITION = step | rank | hit, then = or >= or <=, then an integer

``hit`` counts how often the point was reached in this process, from 1. Actions: ``kill`` (SIGKILL to itself),
``raise``, ``hang`` (sleeps for an hour), ``enospc`` (OSError 28), ``oom`` (torch.OutOfMemoryError), ``corrupt`` (flips
a byte of the file at hand), ``nan`` and ``inf`` (returned to the caller, which spoils its value; without a point:
``step.loss``).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from specfm.errors import UsageError

VARIABLE = "SPECFM_FAULTS"
ACTIONS = ("kill", "raise", "hang", "enospc", "oom", "corrupt", "nan", "inf")
_CONDITION = re.compile(r"(step|rank|hit)(=|>=|<=)(\d+)$")
_COMPARE = {"=": int.__eq__, ">=": int.__ge__, "<=": int.__le__}


class FaultError(RuntimeError):
    """Raised by the action ``raise``."""


@dataclass
class Fault:
    """One planned fault: where, what, and under which conditions."""

    point: str
    action: str
    conditions: list[tuple[str, str, int]] = field(default_factory=list)
    hits: int = 0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse one fault of the grammar above."""
        head, _, tail = text.strip().partition("@")
        point, _, action = head.rpartition(":")
        if action not in ACTIONS:
            raise UsageError(f"{VARIABLE}: unknown action {action!r} in {text!r}; known: {', '.join(ACTIONS)}")
        if not point:
            if action not in ("nan", "inf"):
                raise UsageError(f"{VARIABLE}: {text!r} names no point")
            point = "step.loss"
        conditions = []
        for part in filter(None, tail.split(":")):
            match = _CONDITION.match(part)
            if match is None:
                raise UsageError(f"{VARIABLE}: cannot read condition {part!r} in {text!r}")
            conditions.append((match[1], match[2], int(match[3])))
        return cls(point, action, conditions)

    def applies(self, step: int, rank: int) -> bool:
        """Count this visit and say whether the fault strikes now."""
        self.hits += 1
        values = {"step": step, "rank": rank, "hit": self.hits}
        return all(_COMPARE[sign](values[name], wanted) for name, sign, wanted in self.conditions)


@dataclass
class _State:
    step: int = 0
    rank: int = 0
    text: str | None = None
    plan: dict[str, list[Fault]] = field(default_factory=dict)


_state = _State()
_late: ContextVar[int | None] = ContextVar("step of the work of this thread", default=None)


def set_context(step: int | None = None, rank: int | None = None) -> None:
    """Tell the plan which step and rank this process is at (the training loop does)."""
    if step is not None:
        _state.step = step
    if rank is not None:
        _state.rank = rank


@contextmanager
def at(step: int) -> Iterator[None]:
    """In this thread it is still ``step``, whichever the loop is at: work of that step is done beside later ones."""
    token = _late.set(step)
    try:
        yield
    finally:
        _late.reset(token)


def hit(point: str, path: Path | None = None) -> str | None:
    """Pass the named point; does nothing unless a planned fault strikes here.

    Args:
        point: Name such as ``ckpt.before_manifest``.
        path: The file at hand, for the action ``corrupt``.

    Returns:
        ``"nan"`` or ``"inf"`` if the caller must spoil its value, else None.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    if text != _state.text:
        _state.text, _state.plan = text, {}
        for part in filter(None, text.split(",")):
            fault = Fault.parse(part)
            _state.plan.setdefault(fault.point, []).append(fault)
    for fault in _state.plan.get(point, []):
        if fault.applies(_late.get() or _state.step, _state.rank):
            return _strike(fault, path)
    return None


def _strike(fault: Fault, path: Path | None) -> str | None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.action == "raise":
        raise FaultError(f"fault at {fault.point}")
    if fault.action == "hang":
        print(f"fault at {fault.point}: hangs", file=sys.stderr, flush=True)  # a test may wait for it
        time.sleep(3600)
    if fault.action == "enospc":
        raise OSError(errno.ENOSPC, f"fault at {fault.point}: no space left on device")
    if fault.action == "oom":
        import torch

        raise torch.OutOfMemoryError(f"fault at {fault.point}: out of memory")
    if fault.action == "corrupt":
        if path is None:
            raise UsageError(f"{VARIABLE}: {fault.point} has no file to corrupt")
        flip_byte(path)
        return None
    return fault.action


def flip_byte(path: Path, offset: int | None = None) -> None:
    """Invert one byte of a file in place (the middle one unless told)."""
    with open(path, "r+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        place = size // 2 if offset is None else offset
        handle.seek(place)
        value = handle.read(1)
        handle.seek(place)
        handle.write(bytes([value[0] ^ 0xFF]))
