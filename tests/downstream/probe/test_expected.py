"""The estimate before a probe: it grows with what is asked for, and a slow encoder is told so."""

from __future__ import annotations

import time
from typing import Any

import pytest

from downstream.probe.expected import TRAINING, Counts, say_expected
from downstream.probe.options import ProbeOptions
from downstream.protocols.options import TrainOptions
from downstream.splits.samples import collect_samples
from tests.downstream.toy_scenes import ToyEncoder, plots


class Slow(ToyEncoder):
    """Takes a twentieth of a second a call."""

    def __call__(self, *words: Any, **more: Any) -> Any:
        time.sleep(0.05)
        return super().__call__(*words, **more)


def test_windows_encoders_and_trainings_count(capsys: pytest.CaptureFixture[str]) -> None:
    scenes = plots(4)
    samples = collect_samples(scenes, 3)
    options = ProbeOptions(protocols=("knn", "finetune"), pooling="mean", train=TrainOptions(steps=200, batch=32))
    say_expected(ToyEncoder(), scenes, samples, 3, options, Counts(1, 0))
    assert capsys.readouterr().err == ""
    say_expected(Slow(), scenes, samples, 3, options, Counts(8, 6))
    said = capsys.readouterr().err
    assert f"features of {len(samples)} windows, 8 times" in said
    assert "6 trainings of up to 200 steps" in said
    # 32 windows are timed in one call, which takes a twentieth of a second, and a step takes three such calls
    minutes = int(said.split()[1])
    assert said.split()[2] == "min:" and minutes >= 6 * 200 * TRAINING * 0.05 / 60


def test_nothing_is_timed_where_nothing_is_to_be_done() -> None:
    scenes = plots(2)
    say_expected(None, scenes, collect_samples(scenes, 3), 3, ProbeOptions(), Counts(0, 0))
