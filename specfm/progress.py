"""How far a piece of work has come, told on stderr: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

EVERY_S, EVERY_SHARE = 30.0, 0.1  # a plain line is due after so many seconds, or when so much more is done
FEWEST_S = 5.0  # between two plain lines: what is over in a few seconds needs none


class Advance(Protocol):
    """Called when ``count`` more are done; ``note`` replaces the words beside the count where it is not empty."""

    def __call__(self, count: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int | None, done: int = 0, shown: bool = True, keep: bool = False) -> Iterator[Advance]:
    """Tell on stderr how much of ``total`` is done; yields ``advance(count=1, note="")``.

    Args:
        title: what the work is.
        total: how many there are to do; None where that is not known.
        done: how many of them are done already (a run taken up again).
        shown: False keeps silent (all ranks of a run but one).
        keep: a finished bar stays on the terminal.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not shown:
        yield lambda count=1, note="": None
    elif not console.is_terminal:
        yield Lines(title, total, done)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        note_column = TextColumn("{task.fields[note]}")
        with Progress(*columns, note_column, console=console, transient=not keep) as bar:
            task = bar.add_task(title, total=total, completed=done, note="")

            def advance(count: int = 1, note: str = "") -> None:
                if note:
                    bar.update(task, note=note)
                bar.advance(task, count)

            yield advance


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """The same for work that says itself how far it is: yields ``told(what, done, total)``; each ``what`` has a bar."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        lines: dict[str, Lines] = {}

        def print_line(what: str, done: int, total: int) -> None:
            told = lines.setdefault(what, Lines(what, total))
            told(done - told.done)

        yield print_line
    else:
        from rich.progress import Progress, TaskID

        tasks: dict[str, TaskID] = {}
        with Progress(console=console, transient=True) as bar:

            def move(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total)
                bar.update(tasks[what], completed=done, total=total)

            yield move


def expect(seconds: float, what: str) -> None:
    """Say on stderr, before work begins, how long it will take about and of what it consists.

    Work that is over in a few seconds is not announced.
    """
    if seconds >= FEWEST_S:
        print(f"about {words_of(seconds)}: {what}", file=sys.stderr, flush=True)


def words_of(seconds: float) -> str:
    """``5 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Lines:
    """Plain lines: ``pretrain 30/300  loss 4.61  1.25/s  3:36 left``.

    Args:
        title: as in :func:`progress`.
        total: likewise.
        done: likewise.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self, title: str, total: int | None, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title, self.total, self.done, self.note = title, total, done, ""
        self._clock, self._first = clock, done
        self._told, self._began = done, clock()
        self._since = self._began

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Count on, and print a line where one is due."""
        self.done, self.note = self.done + count, note or self.note
        now = self._clock()
        waited = now - self._since
        total = self.total
        more = total is not None and (self.done - self._told >= EVERY_SHARE * total or self.done >= total)
        if waited >= EVERY_S or (more and waited >= FEWEST_S):
            print(self.line(now), file=sys.stderr, flush=True)
            self._told, self._since = self.done, now

    def line(self, now: float) -> str:
        """What is said at the time ``now``."""
        rate = (self.done - self._first) / max(now - self._began, 1e-9)
        known = self.total is not None and rate > 0
        left = f"{_clock_text(((self.total or 0) - self.done) / rate)} left" if known else ""
        parts = [
            f"{self.title} {self.done}" + ("" if self.total is None else f"/{self.total}"),
            self.note,
            f"{rate:.3g}/s",
            left,
        ]
        return "  ".join(part for part in parts if part)


def _clock_text(seconds: float) -> str:
    """``3:07`` or ``1:02:45``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
