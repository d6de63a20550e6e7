"""The one supervised trainer: a task model on labelled tiles, watched on validation and stopped when that stands still.

A subclass of :class:`Supervised` says where batches come from and how validation is scored; the loop that runs it is
``specfm.engine.loop``, in a run folder (``specfm finetune``) or in memory (the trained rows of ``specfm probe``).

Shapes: B tiles, H W pixels, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from downstream.supervised.model import TaskModel
from downstream.supervised.views import View, to_device
from specfm.checkpoint import has_whitened_stem
from specfm.engine.config import RunConfig
from specfm.engine.distributed import World
from specfm.engine.optimizer import adamw, depth_of
from specfm.engine.run_folder import RunFolder
from specfm.engine.task import StepResult, Task
from specfm.models.backbone import AnyEncoder

STILL_RISING = 0.01  # of the validation score, from the best evaluation to a last one: training has not converged


class Labelled(Protocol):
    """Part of a batch: tiles of one band grid, a view per date, and their labels.

    ``labels`` are ``[B, H, W]``, or ``[B]`` of windows; -1 where nothing is known.
    """

    @property
    def views(self) -> list[View]: ...

    @property
    def labels(self) -> Tensor: ...


class EarlyStop:
    """Validation scores so far (larger is better), and whether the best of them is long ago.

    Args:
        patience: steps without a better score after which further training is given up.

    Attributes:
        history: ``[step, score]`` of every evaluation.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.history: list[list[float]] = []

    @property
    def best(self) -> tuple[float, float]:
        """Step and score of the best evaluation, the first of equals; NaN before there is one."""
        if not self.history:
            return float("nan"), float("nan")
        step, score = max(self.history, key=lambda pair: pair[1])
        return step, score

    def note(self, step: int, score: float) -> bool:
        """Add an evaluation; True if it is better than all before."""
        better = not self.history or score > self.best[1]
        self.history.append([step, score])
        return better

    def stale(self, step: float) -> bool:
        """Whether by ``step`` the best evaluation is ``patience`` steps ago (never before the first)."""
        return step - self.best[0] >= self.patience


def unsettled(history: Sequence[Sequence[float]]) -> str:
    """Why the ``[step, score]`` of a whole training do not show that it has converged; "" if they do, or are none."""
    if len(history) == 1:
        return f"validation was looked at once, after step {history[0][0]:.0f}"
    if history and history[-1][1] - max(score for _, score in history[:-1]) > STILL_RISING:
        return f"validation still rose at the last step, {history[-1][0]:.0f}"
    return ""


class Supervised(Task):
    """A task model learns labels; see :class:`specfm.engine.task.Task` for what the loop asks.

    Args:
        title: of the progress display.
        model: on the device of ``world``.
        config: steps, optimiser, guard.
        world: the processes of the run.
        folder: of the run; None keeps no record.
        batch_size: tiles a step.
        patience: steps, see :class:`EarlyStop`.
        lr_share: of the learning rate, by parameter name.
        weight_K: of the classes in the loss, default 1.
        frozen: the encoder stays in evaluation mode.
        seed: of dropout and drop path, step by step, so that a run taken up again goes on bit by bit; None: torch's
            random state runs on.
    """

    def __init__(
        self, title: str, model: TaskModel, config: RunConfig, world: World, folder: RunFolder | None, *,
        batch_size: int, patience: int, lr_share: Callable[[str], float] | None = None, weight_K: Tensor | None = None,
        frozen: bool = False, seed: int | None = None,
    ) -> None:  # fmt: skip
        self.title, self.model, self.config, self.world, self.folder = title, model, config, world, folder
        self.batch_size, self.frozen, self.seed = batch_size, frozen, seed
        self.stop = EarlyStop(patience)
        self.weight_K = (torch.ones(model.classes) if weight_K is None else weight_K).to(world.device)
        self.modules = nn.ModuleDict({"model": model})
        optim = config.optim
        self.optimizer = adamw(self.modules, optim.lr, optim.weight_decay, optim.betas, world.device, lr_share)

    @abstractmethod
    def due(self, number: int) -> bool:
        """Whether validation is looked at after this step; a function of the step alone."""

    @abstractmethod
    def validate(self) -> tuple[float, dict[str, Any]]:
        """Score of the model on validation (larger is better), and numbers to record."""

    def compute(self, number: int, batch: Sequence[Labelled]) -> StepResult:
        """Mean cross entropy over the labelled pixels (or windows) of all parts, by the weights of their classes."""
        self.model.train()
        if self.frozen:
            self.model.encoder.eval()
        device = self.world.device
        with self._noise(number):
            scores = [self.model(*(to_device(view, device) for view in part.views)) for part in batch]
        labels = [part.labels.to(device) for part in batch]
        pairs = list(zip(scores, labels, strict=True))
        total = sum(F.cross_entropy(s, y, self.weight_K, ignore_index=-1, reduction="sum") for s, y in pairs)
        weight = sum(self.weight_K[y[y >= 0]].sum() for y in labels)
        loss = torch.as_tensor(total / torch.as_tensor(weight).clamp_min(1e-12))
        loss.backward()
        known = sum(int((y >= 0).sum()) for y in labels)
        hits = sum(int(((s.argmax(1) == y) & (y >= 0)).sum()) for s, y in pairs)
        return StepResult(loss.detach(), {"train_oa": hits / max(known, 1)})

    def observe(self, number: int, last: bool) -> dict[str, Any]:
        """Validation, where it is due."""
        return self.look(number) if self.due(number) else {}

    def look(self, number: int) -> dict[str, Any]:
        """Validate after ``number`` steps; the numbers to record."""
        score, found = self.validate()
        if self.stop.note(number, score):
            self.on_better()
        return {**found, "val/score": score}

    def on_better(self) -> None:
        """Called when validation has got better than ever."""

    def stale(self) -> bool:
        """True when the last evaluations have brought nothing."""
        return bool(self.stop.history) and self.stop.stale(self.stop.history[-1][0])

    @contextmanager
    def _noise(self, number: int) -> Iterator[None]:
        if self.seed is None:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed((self.seed << 24) + number)
            yield


def start_from(model: TaskModel, source: AnyEncoder, *, weights: bool, library: bool, held: int = -1) -> None:
    """Give a model with a fresh encoder what it starts from.

    Args:
        model: changed in place.
        source: an encoder of the same architecture; it is not changed.
        weights: copy its weights.
        library: align tokens as it does, if it does.
        held: up to where the encoder is not trained: -1 trains all, 0 holds what precedes the blocks, n also the first
            n blocks, one more than all of them everything. A stem whitened in pretraining is held in any case.
    """
    encoder, depth = model.encoder, len(source.blocks)
    if weights:
        encoder.load_state_dict(source.state_dict())
        encoder.stems = source.stems
        held = max(held, 0) if has_whitened_stem(source.card) else held
    encoder.take_statistics(source)
    if library and source.aligned:
        encoder.library = source.library
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(depth_of(name, depth) > held)
