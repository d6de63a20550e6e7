"""The estimate before a probe: it grows with what is asked for, and a slow encoder is told so."""

from __future__ import annotations

import time
from typing import Any

import pytest

from downstream.probe.expected import TRAINING, say_expected
from downstream.protocols.options import ProtocolOptions, TrainOptions
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
    train = TrainOptions(steps=200, batch=32)
    frozen = ProtocolOptions(protocols=("knn",), train=train)
    say_expected(ToyEncoder(), scenes, samples, 3, "mean", frozen)
    assert capsys.readouterr().err == ""
    both = ProtocolOptions(protocols=("knn", "finetune"), train=train, trained_seeds=3)
    say_expected(Slow(), scenes, samples, 3, "mean", both, twins=3, views=2, tables=2)
    said = capsys.readouterr().err
    assert f"features of {len(samples)} windows under 2 conditions by 4 encoders" in said
    assert "6 trainings of up to 200 steps" in said
    # 32 windows are timed, so a step of a training of 32 is three calls
    minutes = int(said.split()[1])
    assert said.split()[2] == "min:" and minutes >= 6 * 200 * TRAINING * 0.05 / 60
