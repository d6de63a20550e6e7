"""Guard against bad steps, stop signals, watchdog."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from specfm.engine import guard
from specfm.engine.guard import BadStepGuard, DivergedError, StopSignals, Watchdog


def test_guard_gives_up_after_four_in_a_row_and_not_before():
    guard = BadStepGuard(consecutive=3)
    for step, bad in enumerate([True, True, True, False, True, True, True], start=1):
        guard.record(step, bad)
    with pytest.raises(DivergedError, match="4 steps in a row, up to step 8") as caught:
        guard.record(8, True)
    assert caught.value.exit_code == 4


def test_guard_lets_no_run_end_with_two_bad_steps():
    guard = BadStepGuard(consecutive=3)
    guard.record(1, True)
    guard.record(2, False)
    guard.record(3, True, last=True)
    guard.record(4, False, last=True)
    guard.record(5, True)
    with pytest.raises(DivergedError, match="2 steps in a row, up to step 6"):
        guard.record(6, True, last=True)


def test_guard_counts_within_its_window_and_survives_a_restart():
    guard = BadStepGuard(consecutive=3, in_window=2, window=10)
    guard.record(1, True)
    guard.record(5, True)
    again = BadStepGuard(consecutive=3, in_window=2, window=10)
    again.restore(json.loads(json.dumps(guard.state())))
    again.record(11, True)  # step 1 has left the window
    with pytest.raises(DivergedError, match="3 of the last 10 steps"):
        again.record(13, True)


def test_stop_signals_only_set_a_flag():
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_closed_terminal_stops_a_run_in_order_unless_nohup_says_otherwise():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_watchdog_names_the_stage_and_the_stack(tmp_path, capsys):
    codes = []
    with Watchdog(0.2, tmp_path / "stacks.txt", give_up=codes.append) as watchdog:
        watchdog.stage("reading data")
        time.sleep(0.6)
    assert codes == [5]
    assert "stage 'reading data'" in capsys.readouterr().err
    assert "test_watchdog_names_the_stage" in (tmp_path / "stacks.txt").read_text()


def test_watchdog_is_quiet_while_there_is_progress(tmp_path):
    codes = []
    with Watchdog(0.5, tmp_path / "stacks.txt", give_up=codes.append) as watchdog:
        for _ in range(8):
            watchdog.stage("step")
            time.sleep(0.1)
    assert codes == [] and not (tmp_path / "stacks.txt").exists()


def test_a_process_that_was_stopped_and_wakes_has_not_stalled(tmp_path, monkeypatch):
    """SIGSTOP for an hour, a suspended machine: no stage of the run took that long."""
    codes, asleep = [], [0.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda real=time.monotonic: real() + asleep[0])
    with Watchdog(2.0, tmp_path / "stacks.txt", give_up=codes.append):
        time.sleep(0.2)
        asleep[0] = 3600.0
        time.sleep(0.8)
    assert codes == [] and not (tmp_path / "stacks.txt").exists()
