"""What keeps a run honest: bad steps skipped by all ranks alike, signals that end it in order, a stall watchdog."""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from specfm.errors import SpecfmError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
STALLED_EXIT_CODE = 5


def stop_signals() -> tuple[signal.Signals, ...]:
    """Signals that end a run in order; a closed terminal is none of them under ``nohup``, which ignores SIGHUP."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in STOP_SIGNALS if not (ignored and number == signal.SIGHUP))


class DivergedError(SpecfmError):
    """Too many non-finite steps: the run cannot go on."""

    exit_code = 4


class BadStepGuard:
    """Counts non-finite steps and says when to give up.

    Every rank calls :meth:`record` with the agreed flag, so every rank gives up at the same step.

    Args:
        consecutive: More than this many bad steps in a row end the run.
        in_window: More than this many among the last ``window`` steps end it too.
        window: Length of that memory, steps.
    """

    def __init__(self, consecutive: int = 3, in_window: int = 10, window: int = 1000) -> None:
        self.consecutive, self.in_window, self.window = consecutive, in_window, window
        self.bad_steps: list[int] = []

    def record(self, step: int, bad: bool, last: bool = False) -> None:
        """Note whether ``step`` was bad. One bad step may be the fault of its batch; a run does not end with two.

        Raises:
            DivergedError: exit code 4.
        """
        self.bad_steps = [s for s in self.bad_steps if s > step - self.window]
        if not bad:
            return
        self.bad_steps.append(step)
        allowed = min(self.consecutive, 1) if last else self.consecutive
        tail = self.bad_steps[-(allowed + 1) :]
        if len(tail) > allowed and tail[0] == step - allowed:
            raise DivergedError(
                f"loss or gradient was not finite in {len(tail)} steps in a row, up to step {step}; lower optim.lr, or "
                "look at the samples listed in bad_steps/ of the run folder"
            )
        if len(self.bad_steps) > self.in_window:
            raise DivergedError(
                f"loss or gradient was not finite in {len(self.bad_steps)} of the last {self.window} steps (step "
                f"{step}); lower optim.lr, or look at the samples listed in bad_steps/ of the run folder"
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"bad_steps": self.bad_steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.bad_steps = [int(step) for step in state["bad_steps"]]


class StopSignals:
    """Turns :func:`stop_signals` into a flag that the loop reads; a second SIGINT exits at once.

    Outside the main thread (a notebook's helper, a test) signals cannot be caught and the flag stays down.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            os._exit(128 + number)  # nothing is published half-way: every publication is one rename
        self.received = number

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Watchdog:
    """Ends a process that makes no progress, saying in which stage and where each thread stands.

    Args:
        timeout_s: Longest time one stage may take; 0 switches the watchdog off.
        report: File that receives the stacks (appended); stderr does while there is no such folder.
        give_up: What ends the process; replaced in tests. Default ``os._exit(5)``: a hung collective cannot be unwound.
    """

    def __init__(self, timeout_s: float, report: Path, give_up: Callable[[int], Any] = os._exit) -> None:
        self.timeout_s, self.report, self._give_up = timeout_s, report, give_up
        self._stage, self._since = "start", time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def stage(self, name: str, endless: bool = False) -> None:
        """Tell the watchdog that a new stage begins now; an ``endless`` one has a limit of its own."""
        self._stage, self._since = name, math.inf if endless else time.monotonic()

    def _watch(self) -> None:
        pause, looked = min(self.timeout_s / 4, 5.0), time.monotonic()
        while not self._ended.wait(pause):
            now = time.monotonic()
            if now - looked > pause + self.timeout_s / 2:  # the process itself was stopped, and has just woken
                self._since += now - looked
            waited, looked = now - self._since, now
            if waited <= self.timeout_s:
                continue
            line = f"error: no progress for {waited:.0f} s in stage '{self._stage}' (pid {os.getpid()}), see "
            try:
                with open(self.report, "a") as handle:
                    handle.write(f"{line}below\n")
                    handle.flush()
                    faulthandler.dump_traceback(handle, all_threads=True)
                print(f"{line}{self.report}", file=sys.stderr, flush=True)
            except OSError:  # the folder is not made yet, or its disk is full
                print(f"{line}below", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            self._give_up(STALLED_EXIT_CODE)
            return

    def __enter__(self) -> Watchdog:
        if self.timeout_s > 0:
            self._thread = threading.Thread(target=self._watch, name="specfm-watchdog", daemon=True)
            self._since = time.monotonic()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
