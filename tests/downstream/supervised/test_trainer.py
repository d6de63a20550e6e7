"""The one trainer: when it stops, what it draws, what a loss counts, and what a model starts from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from downstream.supervised.model import HeadSpec, TaskModel
from downstream.supervised.trainer import EarlyStop, Supervised, start_from
from downstream.supervised.views import View
from specfm import create_encoder
from specfm.engine.config import RunConfig
from specfm.engine.distributed import World
from specfm.engine.loop import run_task
from specfm.models.encoder import Encoder
from tests.downstream.tasks.toys import FINE
from tests.test_library import library

HERE = World(0, 1, torch.device("cpu"))


def encoder(seed: int = 0, **options: Any) -> Encoder:
    torch.manual_seed(seed)
    return create_encoder("nano", patch_size=3, dim=48, depth=2, heads=3, code_width=32, **options)


def model(task: str = "segmentation", drop_path: float = 0.0) -> TaskModel:
    return TaskModel(encoder(drop_path=drop_path), task, ("a", "b", "c"), 9, HeadSpec(dropout=0.0))


def part(labels: torch.Tensor, seed: int = 0) -> SimpleNamespace:
    x = torch.rand(len(labels), 9, 9, len(FINE.bands), generator=torch.Generator().manual_seed(seed))
    return SimpleNamespace(views=[View(0.1 + x, FINE)], labels=labels)


class Scripted(Supervised):
    """Trains on one batch again and again; validation scores are read off a list, one every second step."""

    def __init__(self, scores: list[float], learner: TaskModel | None = None, batch: Any = None, **words: Any) -> None:
        config = RunConfig(out="", steps=20)
        options = {"batch_size": 2, "patience": 4, **words}
        super().__init__("test", learner or model("classification"), config, HERE, None, **options)
        self.batch = batch or [part(torch.tensor([0, 2]))]
        self.scores, self.better = list(scores), list[int]()

    def batches(self, done: int) -> Iterator[Any]:
        return repeat(self.batch)

    def due(self, number: int) -> bool:
        return number % 2 == 0

    def validate(self) -> tuple[float, dict[str, Any]]:
        return self.scores.pop(0), {"val/x": 1.0}

    def on_better(self) -> None:
        self.better.append(len(self.stop.history))


def test_the_first_of_equal_scores_is_the_best_and_patience_is_counted_from_it() -> None:
    stop = EarlyStop(10)
    assert not stop.stale(100) and np.isnan(stop.best).all()  # nothing is stale before it was looked at
    assert [stop.note(step, score) for step, score in ((5, 0.5), (10, 0.7), (15, 0.7), (20, 0.6))] == [
        True, True, False, False,
    ]  # fmt: skip
    assert stop.best == (10, 0.7) and not stop.stale(19) and stop.stale(20)
    assert stop.history == [[5, 0.5], [10, 0.7], [15, 0.7], [20, 0.6]]


def test_a_run_in_memory_stops_early_and_tells_of_what_got_better() -> None:
    task = Scripted([0.1, 0.3, 0.3, 0.2, 0.9])
    outcome = run_task(task)
    assert outcome.done == 8 and outcome.finished and task.better == [1, 2]
    assert [step for step, _ in task.stop.history] == [2, 4, 6, 8]


def test_it_learns() -> None:
    task = Scripted([0.0] * 10, patience=100)
    first = task.compute(1, task.batch)
    task.optimizer.zero_grad()
    run_task(task)
    last = task.compute(21, task.batch)
    assert last.loss < first.loss - 0.1 and last.scalars.keys() == {"train_oa"}  # by .27 to .29, whatever the seed


def test_the_loss_is_a_mean_over_labelled_pixels_by_the_weights_of_their_classes() -> None:
    labels = torch.full((2, 9, 9), -1)
    labels[0, :2], labels[1, 4:, 3] = 1, 2
    learner, weight_K = model(), torch.tensor([1.0, 2.0, 0.5])
    task = Scripted([], learner, weight_K=weight_K)
    pieces = [part(labels[:1], seed=1), part(labels[1:], seed=2)]
    found = task.compute(1, pieces)
    with torch.no_grad():
        scores = torch.cat([learner(p.views[0]) for p in pieces])
    log = scores.log_softmax(1).movedim(1, -1)
    known = labels >= 0
    each = -log[known].gather(1, labels[known][:, None])[:, 0]
    weights = weight_K[labels[known]]
    assert found.loss.item() == pytest.approx(float((weights * each).sum() / weights.sum()), rel=1e-5)
    hits = scores.argmax(1)[known] == labels[known]
    assert found.scalars["train_oa"] == pytest.approx(float(hits.float().mean()))


def test_noise_is_drawn_by_seed_and_step_or_runs_on() -> None:
    def losses(seed: int | None) -> list[float]:
        task = Scripted([], model("classification", drop_path=0.6), seed=seed)
        torch.manual_seed(5)
        return [float(task.compute(number, task.batch).loss) for number in (1, 2, 1, 2)]

    one, two, again, and_again = losses(3)
    assert (one, two) == (again, and_again) and one != two
    on = losses(None)
    assert on[:2] != on[2:] and on == losses(None)


def test_a_frozen_encoder_stays_in_evaluation_mode() -> None:
    for frozen in (True, False):
        task = Scripted([], frozen=frozen)
        task.compute(1, task.batch)
        assert task.model.training and task.model.encoder.training != frozen


@pytest.mark.parametrize(("held", "trained"), [(-1, 3), (0, 3), (1, 2), (2, 1), (3, 0)])
def test_what_is_held_is_not_trained(held: int, trained: int) -> None:
    """Counted in blocks and the last norm, beside what precedes them."""
    learner = model()
    start_from(learner, encoder(), weights=True, library=False, held=held)
    moving = {name.split(".")[0] for name, p in learner.encoder.named_parameters() if p.requires_grad}
    moving |= {name[:8] for name, p in learner.encoder.named_parameters() if p.requires_grad and "blocks" in name}
    assert len(moving & {"blocks.0", "blocks.1", "norm"}) == trained and ("stem" in moving) == (held < 0)


@pytest.mark.parametrize("weights", [True, False])
def test_weights_and_a_whitened_stem_come_together(weights: bool) -> None:
    source, learner = encoder(1), model()
    source.card = {"config": {"whiten": {"batches": 4}}}
    start_from(learner, source, weights=weights, library=False)
    ours, theirs = learner.encoder, source
    assert torch.equal(ours.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight) == weights
    assert ours.stem.weight.requires_grad != weights and ours.blocks[0].attn.qkv.weight.requires_grad


@pytest.mark.parametrize("wanted", [True, False])
def test_the_library_is_taken_where_it_is_wanted(wanted: bool) -> None:
    source = encoder(aligned=True)
    source.library = library()
    learner = TaskModel(encoder(aligned=True), "segmentation", ("a", "b"), 9)
    start_from(learner, source, weights=False, library=wanted)
    assert (learner.encoder.library is not None) == wanted
