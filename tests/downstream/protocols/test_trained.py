"""Rows that train the encoder: they learn, with its weights or without, stop by validation, leave the encoder alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from downstream.features.extract import extract
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.protocols.classifier import CHECK_EVERY
from downstream.protocols.linear import linear_probe
from downstream.protocols.options import TrainOptions
from downstream.protocols.trained import train_on
from downstream.splits.samples import Samples, collect_samples
from downstream.splits.split import Split, make_split
from downstream.supervised.model import TaskModel
from specfm.engine.guard import DivergedError
from specfm.errors import UsageError
from specfm.models import create_encoder
from specfm.scene import Scene
from tests.downstream.toy_scenes import ToyEncoder, plots
from tests.test_library import library

SCENES = plots(8, noise=0.01)
SHORT = TrainOptions(steps=40, batch=24, most=200, lr=3e-3)


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_encoder("nano", patch_size=3, dim=24, depth=2, heads=2)


def train_and_predict(
    encoder: Any, scenes: list[Scene], samples: Samples, split: Split, **words: Any
) -> SimpleNamespace:
    """What was said of the test side, and how training ended."""
    done = train_on(encoder, scenes, samples, split, **words)
    predicted_N, confidence_N = done.predict(scenes, samples, split.test_I)
    return SimpleNamespace(
        predicted_N=predicted_N, confidence_N=confidence_N, steps=done.steps, validation_score=done.validation_score
    )


@pytest.mark.slow
def test_both_kinds_learn_and_leave_the_encoder_alone(encoder: torch.nn.Module) -> None:
    samples = collect_samples(SCENES, 3)
    split = make_split(samples, "group", 0)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    found = {}
    for pretrained in (True, False):
        options = SHORT if pretrained else replace(SHORT, steps=120)  # fresh weights take longer
        done = train_and_predict(encoder, SCENES, samples, split, pretrained=pretrained, window=3, options=options)
        found[pretrained] = done
        # chance is a third; .976 and more fine-tuned, .995 from scratch, over five seeds and three instruction sets
        assert (done.predicted_N == samples.y_N[split.test_I]).mean() > 0.8
        assert done.validation_score > 0.8 and done.confidence_N.min() >= 1 / 3 - 1e-6
    assert not np.array_equal(found[True].confidence_N, found[False].confidence_N)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    again = train_and_predict(encoder, SCENES, samples, split, pretrained=True, window=3, options=SHORT)
    np.testing.assert_array_equal(again.confidence_N, found[True].confidence_N)


def test_only_fine_tuning_depends_on_the_weights(encoder: torch.nn.Module) -> None:
    torch.manual_seed(1)
    other = create_encoder(**encoder.config)
    samples = collect_samples(SCENES, 3)
    split = make_split(samples, "group", 0)
    short = replace(SHORT, steps=3)

    def confidence(source: torch.nn.Module, pretrained: bool) -> np.ndarray:
        done = train_and_predict(source, SCENES, samples, split, pretrained=pretrained, window=3, options=short)
        return done.confidence_N

    np.testing.assert_array_equal(confidence(encoder, False), confidence(other, False))
    assert np.abs(confidence(encoder, True) - confidence(other, True)).max() > 1e-3


@pytest.mark.slow
def test_it_stops_when_validation_gets_no_better(encoder: torch.nn.Module) -> None:
    samples = collect_samples(SCENES, 3)
    split = make_split(samples, "group", 0)
    idle = replace(SHORT, lr=1e-9, patience=30, steps=400)
    done = train_and_predict(encoder, SCENES, samples, split, pretrained=False, window=3, options=idle)
    epoch = -(-min(200, len(split.train_I)) // 24)
    first = epoch * -(-CHECK_EVERY // epoch)  # whole epochs until validation is looked at
    assert done.steps == first + epoch * -(-30 // epoch)
    few = train_and_predict(
        encoder, SCENES, samples, make_split(samples, "group", 0, shots=5), pretrained=True, window=3,
        options=replace(SHORT, steps=7),
    )  # fmt: skip
    assert few.steps == 7 and np.isnan(few.validation_score)


@pytest.mark.parametrize("pooling", ["centre", "mean+centre"])
def test_fine_tuning_starts_from_the_linear_probe(encoder: torch.nn.Module, pooling: str) -> None:
    """Where nothing is held back for validation, a rate of nothing leaves exactly the probe of the frozen features."""
    samples = collect_samples(SCENES, 3)
    split = make_split(samples, "group", 0, shots=5)
    still = replace(SHORT, lr=1e-12, steps=1)
    done = train_and_predict(
        encoder, SCENES, samples, split, pretrained=True, window=3, pooling=pooling, options=still
    )  # fmt: skip
    X_ND = extract(encoder, SCENES, 3, samples, pooling=pooling).X_ND
    train_I, none = split.train_I, split.val_I
    probe_of = linear_probe(
        X_ND[train_I], samples.y_N[train_I], X_ND[none], samples.y_N[none], X_ND[split.test_I],
        train_group_M=split.unit_N[train_I], seed=split.seed,
    )  # fmt: skip
    np.testing.assert_array_equal(done.predicted_N, probe_of.predicted_N)
    # two solvers, each to its own tolerance
    np.testing.assert_allclose(done.confidence_N, probe_of.confidence_N, atol=5e-3)


def test_an_encoder_of_aligned_tokens_is_tuned_aligned_and_its_twin_from_scratch_is_not() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=3, dim=24, depth=1, heads=2, aligned=True).eval()
    encoder.card, encoder.library = {"whitened": True}, library(high=1000.0, count=40)
    seen: list[tuple[bool, bool]] = []
    original = TaskModel.forward

    def watched(self: TaskModel, *views: object) -> torch.Tensor:
        seen.append((self.training, self.encoder.alignment is not None))
        return original(self, *views)  # type: ignore[arg-type]

    samples = collect_samples(SCENES, 3)
    split = make_split(samples, "group", 0)
    for pretrained in (True, False):
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TaskModel, "forward", watched)
            train_and_predict(
                encoder, SCENES, samples, split, pretrained=pretrained, window=3, options=replace(SHORT, steps=2)
            )
        assert {training for training, _ in seen} == {True, False} and {on for _, on in seen} == {pretrained}


@pytest.mark.parametrize("window", [1, 2])
def test_windows_that_cannot_be_turned(window: int) -> None:
    """Point spectra without ground are windows of one pixel."""
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=1, dim=24, depth=1, heads=2)
    samples = collect_samples(SCENES, window)
    split = make_split(samples, "group", 0)
    done = train_and_predict(
        encoder, SCENES, samples, split, pretrained=False, window=window, options=replace(SHORT, steps=8)
    )
    assert len(done.predicted_N) == len(split.test_I)


@pytest.mark.slow
def test_rows_use_three_seeds(encoder: torch.nn.Module) -> None:
    options = ProbeOptions(
        protocols=("knn", "finetune", "scratch"), layers=(0,), seeds=5, init_seeds=0, window=3, max_per_class=8,
        draws=50, baselines=False, train=replace(SHORT, steps=4),
    )  # fmt: skip
    rows = {(r["method"], r["protocol"]): r for r in probe(encoder, SCENES, options).rows}
    for key in (("encoder", "finetune"), ("from-scratch", "scratch")):
        assert rows[key]["seeds"] == [0, 1, 2] and rows[key]["runs"] == {"splits": 3, "initialisations": 1}
        assert 0 <= rows[key]["ece"]["mean"] <= 1 and rows[key]["layers"] == []
    assert rows["encoder", "knn1"]["seeds"] == [0, 1, 2, 3, 4]


def test_an_encoder_that_cannot_be_built_again_is_refused() -> None:
    samples = collect_samples(SCENES, 3)
    with pytest.raises(UsageError, match="--protocol"):
        train_and_predict(
            ToyEncoder(), SCENES, samples, make_split(samples, "group", 0), pretrained=False, window=3, options=SHORT
        )


def test_a_row_that_diverges_ends_with_a_way_out(encoder: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are no numbers never become a row."""
    samples = collect_samples(SCENES, 3)
    split = make_split(samples, "group", 0)
    monkeypatch.setenv("SPECFM_FAULTS", "step.grad:nan@step>=3")
    with pytest.raises(DivergedError, match=r"from scratch, split 0: .* not finite .* pass --no-scratch"):
        train_and_predict(encoder, SCENES, samples, split, pretrained=False, window=3, options=SHORT)
