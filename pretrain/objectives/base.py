"""What the training step asks of an objective. The step (:mod:`pretrain.step`) knows none of them by name.

An objective may have two parts. *Coupled* rows are what must meet the rest of the batch (projections): the step
collects them from all micro-batches and hands them over whole. A *separate* loss needs no other sample. The step does
the rest once for all: views, micro-batches with cached gradients, scale over ranks, bad steps. So a result that depends
on micro-batch or number of ranks is a fault of the objective; ``tests/distributed/test_objectives.py`` asks every
registered one.

Shapes: B samples of a micro-batch, V views, D width of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import Pairs
from pretrain.views.config import ViewConfig
from pretrain.views.view import make_view
from specfm.batch import Batch
from specfm.models.backbone import AnyEncoder
from specfm.models.encoder import Encoder
from specfm.models.features import Features
from specfm.shards import ShardSet

Rows = dict[str, Tensor]
VIEWS = ("first", "second")  # by their numbers 0 and 1, which their random numbers follow from


@dataclass(frozen=True)
class Surroundings:
    """What of a run an objective may have to know besides its own settings.

    Attributes:
        width: D of the encoder.
        patch_size: of the encoder, pixels.
        views: how views are made.
        pairs: what the two views are views of.
        seed: of the run.
        encoder: in training; an objective that keeps a teacher copies it.
    """

    width: int
    patch_size: int
    views: ViewConfig
    seed: int
    pairs: PairsConfig
    encoder: AnyEncoder


@dataclass(frozen=True)
class MicroBatch:
    """What the step has of some samples. Views and features are made when an objective first asks for them.

    Attributes:
        pairs: the samples as stored; with ``pairs.first.cat("sample_id_B")``, seed, step and view any random number is
            keyed.
        encoder: in training.
        around: of the run.
        step: number of the update, from 0.
        strength: of the views.
    """

    pairs: Pairs
    encoder: Encoder
    around: Surroundings
    step: int
    strength: float

    @cached_property
    def views(self) -> dict[str, Batch]:
        """By name, in the order of their numbers, each of the B samples in the same order."""
        around = self.around
        return {
            name: make_view(side, around.views, around.seed, self.step, number, self.strength)
            for number, (name, side) in enumerate(zip(VIEWS, self.pairs.sides, strict=True))
        }

    @cached_property
    def features(self) -> Features:
        """Of all views in one call, so that the trunk sees all tokens at once: V B rows, see :meth:`rows_of`."""
        return self.encoder(Batch(tuple(part for view in self.views.values() for part in view)))

    @property
    def pooled_BD(self) -> Tensor | None:
        """Features of the first view, detached; None where no objective asked for any."""
        made = self.__dict__.get("features")
        return None if made is None else made.pooled_BD[: len(self.pairs)].detach()

    def rows_of(self, view: str) -> slice:
        """Rows of ``features`` that belong to a view."""
        place, count = VIEWS.index(view), len(self.pairs)
        return slice(place * count, (place + 1) * count)


class Objective:
    """One term of the loss; a subclass in a file of its own, entered in ``pretrain/objectives/registry.py``.

    A subclass defines :meth:`couple` (with :meth:`rows`), :meth:`separate`, or both.

    Its constructor takes its own settings and the :class:`Surroundings`.

    Attributes:
        weight: factor of its loss in the sum.
        compares_patches: it needs several patches of a window (:mod:`pretrain.windows`).
        heads: what it trains, under the names that checkpoints know. State that is no parameter (a teacher, centres) is
            a buffer of a head: so it is saved and restored, and starts equal on all ranks.
    """

    weight: float = 1.0
    compares_patches: bool = False
    heads: dict[str, nn.Module]

    def __init_subclass__(cls) -> None:
        if cls.couple is Objective.couple and cls.separate is Objective.separate:
            raise TypeError(f"{cls.__name__} defines neither couple nor separate, so it has no loss")

    @property
    def couples(self) -> bool:
        """It has coupled rows: it defines :meth:`couple`."""
        return type(self).couple is not Objective.couple

    @property
    def separates(self) -> bool:
        """It has a separate loss: it defines :meth:`separate`."""
        return type(self).separate is not Objective.separate

    def start(self, encoder: Encoder, shards: ShardSet) -> None:
        """Once before any step, also of a continued run: refuse what does not fit, measure what it needs to know.

        What it measures must follow from the shards alone, so that it is the same on all ranks and after a resume.
        """
        return

    def initialise(self, encoder: Encoder) -> None:
        """Once before the first step of a new run, when the encoder has the weights that it starts with."""
        return

    def after_step(self, encoder: Encoder, step: int) -> None:
        """After the optimiser has stepped, alike on all ranks; not after a bad step. ``step``: its number, from 0."""
        return

    def rows(self, part: MicroBatch) -> Rows:
        """What must meet the rest of the batch: tensors of B rows. Called with and without a graph, alike."""
        return {}

    def prepare(self, pairs: Pairs) -> Any:
        """What :meth:`couple` has to know of this rank's samples, as stored; made before the encoder runs.

        Default: the samples themselves.
        """
        return pairs

    def couple(self, rows: Rows, prepared: Any) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of this rank's samples, and figures to log.

        Collective. What the other ranks hold is gathered here (:mod:`pretrain.objectives.collect`), because how that
        goes back is the objective's own affair: the backward pass must leave in ``rows`` the gradient of the *sum* of
        all ranks' losses.

        Args:
            rows: of all samples of this rank, in their order.
            prepared: what :meth:`prepare` made of them.
        """
        raise AssertionError(f"{type(self).__name__} has no coupled rows")

    def separate(self, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss as a mean over ``count(part.pairs, part.step)`` items, and detached figures, means over the same."""
        raise AssertionError(f"{type(self).__name__} has no separate loss")

    def count(self, pairs: Pairs, step: int) -> int:
        """How many items the separate loss of some samples is a mean of. Default: the samples.

        Means of micro-batches and ranks are weighted by it. It must follow from samples and step alone, since it is
        asked for before the views are made.
        """
        return len(pairs)

    def watch(self, rows: Rows) -> dict[str, float]:
        """Figures on the rows of the whole global batch, now and then (``monitor.features_every``)."""
        return {}
