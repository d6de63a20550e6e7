"""Progress: a bar on a terminal, plain lines elsewhere, silence where asked for."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from specfm.progress import EVERY_S, Lines, expect, progress


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(capsys: pytest.CaptureFixture[str], total: int, seconds_each: float, done: int = 0) -> list[str]:
    clock = Clock()
    lines = Lines("work", total, done, clock)
    for _ in range(total - done):
        clock.now += seconds_each
        lines(note="loss 1.5")
    return capsys.readouterr().err.splitlines()


def test_a_line_for_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, 200, 0.5)
    assert len(found) == 10
    assert found[0] == "work 20/200  loss 1.5  2/s  1:30 left"
    assert found[-1] == "work 200/200  loss 1.5  2/s  0:00 left"


def test_a_line_every_half_minute_where_a_tenth_takes_longer(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, 30, 20.0)  # a tenth is a minute
    assert [line.split()[1] for line in found] == [f"{n}/30" for n in range(2, 31, 2)] and EVERY_S == 30
    assert "3/min" not in found[0] and found[0].endswith("0.05/s  9:20 left")


def test_what_is_over_in_a_moment_says_little(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, 1000, 0.0025) == []  # 2.5 s in all
    assert len(told(capsys, 1000, 0.0125)) == 2  # 12.5 s


def test_the_rate_is_that_of_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    """A run taken up at step 90 has not done 90 steps in its first seconds."""
    assert told(capsys, 100, 2.0, done=90)[-1] == "work 100/100  loss 1.5  0.5/s  0:00 left"


def test_silent_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 3, shown=False) as advance:
        advance()
        advance(2, note="x")
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    code = (
        "from specfm.progress import progress\nwith progress('work', 4, keep=True) as a:\n    a(3); a(note='all of it')"
    )
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stderr=child, check=True, env=environment)
    os.close(child)
    shown = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert "work" in shown and "4/4" in shown and "all of it" in shown


def test_an_estimate_is_said_of_long_work_only(capsys: pytest.CaptureFixture[str]) -> None:
    expect(1.0, "a moment")
    expect(40, "features")
    expect(600, "trainings")
    expect(9000, "many")
    assert capsys.readouterr().err.splitlines() == [
        "about 40 s: features",
        "about 10 min: trainings",
        "about 2.5 h: many",
    ]
