"""Saves beside training: what is written is what was, errors come back, steps do not wait."""

from __future__ import annotations

import threading

import pytest
import torch

from specfm.engine import faults
from specfm.engine.staging import Beside, copied


def test_steps_go_on_while_work_is_done() -> None:
    beside, go = Beside(), threading.Event()
    beside.begin(3, lambda: go.wait(10) and "written")
    beside.look()  # neither waits nor fails
    go.set()
    assert beside.wait() == "written"
    assert beside.wait() is None  # nothing is waiting any more
    beside.close()


def test_an_error_is_raised_at_the_next_look_and_once() -> None:
    beside, failed = Beside(), threading.Event()

    def work() -> None:
        failed.set()
        raise OSError("the disk is gone")

    beside.begin(1, work)
    failed.wait(10)
    beside.close()  # the thread has ended
    with pytest.raises(OSError, match="the disk is gone"):
        beside.look()
    beside.look()
    assert beside.wait() is None


def test_a_thread_that_was_let_go_is_made_again() -> None:
    beside = Beside()
    for number in (1, 2):
        beside.begin(number, lambda number=number: number)
        assert beside.wait() == number
        beside.close()


def test_copies_do_not_follow() -> None:
    weights = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    held = copied({"weights": weights, "count": torch.tensor(7)})
    weights += 1
    assert held["weights"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert held["weights"].is_contiguous() and held["count"] == 7


def test_a_fault_of_a_step_strikes_its_work_although_the_loop_has_gone_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "disk:raise@step=4")
    beside, seen = Beside(), []
    faults.set_context(step=9)
    for number in (3, 4):
        beside.begin(number, lambda: faults.hit("disk"))
        try:
            beside.wait()
        except faults.FaultError:
            seen.append(number)
    beside.close()
    assert seen == [4]
