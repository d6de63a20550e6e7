"""The grammar of planned faults."""

from __future__ import annotations

import pytest

from specfm.engine import faults
from specfm.errors import UsageError


@pytest.fixture
def plan(monkeypatch):
    def _plan(text: str) -> None:
        monkeypatch.setenv(faults.VARIABLE, text)
        faults.set_context(step=0, rank=0)

    return _plan


def test_nothing_happens_without_the_variable(monkeypatch):
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert faults.hit("anything") is None


def test_conditions_must_all_hold(plan):
    plan("nan@step>=3:step<=4:rank=1")
    struck = []
    for step in range(6):
        for rank in (0, 1):
            faults.set_context(step=step, rank=rank)
            if faults.hit("step.loss") == "nan":
                struck.append((step, rank))
    assert struck == [(3, 1), (4, 1)]
    faults.set_context(rank=0)


def test_hits_are_counted_per_point(plan):
    plan("a:raise@hit=2,b:enospc")
    assert faults.hit("a") is None
    with pytest.raises(faults.FaultError, match="fault at a"):
        faults.hit("a")
    with pytest.raises(OSError, match="no space left"):
        faults.hit("b")


def test_corrupt_flips_exactly_one_byte(plan, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(9))
    plan("x:corrupt")
    assert faults.hit("x", path=path) is None
    assert path.read_bytes() == bytes(4) + b"\xff" + bytes(4)


@pytest.mark.parametrize(
    ("text", "words"),
    [("a:explode", "unknown action 'explode'"), ("kill", "names no point"), ("a:kill@when=3", "cannot read condition")],
)
def test_a_wrong_plan_is_refused(plan, text, words):
    plan(text)
    with pytest.raises(UsageError, match=words):
        faults.hit("a")
