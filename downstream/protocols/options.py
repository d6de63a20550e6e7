"""How features become predictions: which protocols, neighbours, strengths, and how encoders are trained on labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np

from downstream.protocols.weights import ClassWeights, check_class_weights
from downstream.splits.options import at_least
from specfm.errors import UsageError

Protocol = Literal["knn", "linear", "ridge", "finetune", "scratch"]
FROZEN: tuple[Protocol, ...] = ("knn", "linear", "ridge")  # on frozen features
TRAINED: tuple[Protocol, ...] = ("finetune", "scratch")  # these train the encoder on the labels
PROTOCOLS: tuple[Protocol, ...] = (*FROZEN, *TRAINED)
C_GRID: tuple[float, ...] = tuple(float(c) for c in np.logspace(-4, 4, 10))


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How the trained rows are trained.

    Attributes:
        steps: optimiser steps at most.
        batch: windows of one sensor per step.
        lr: peak learning rate of the head (and of everything, from scratch).
        layer_decay: when fine-tuning, the rate of a block is this share of the next deeper one's.
        drop_path: share of residual branches dropped.
        weight_decay: decoupled decay of matrices.
        patience: steps without a better validation accuracy before it stops.
        most: training windows at most, thinned class by class; they are held in memory.
    """

    steps: int = 300
    batch: int = 32
    lr: float = 1e-3
    layer_decay: float = 0.75
    drop_path: float = 0.1
    weight_decay: float = 0.05
    patience: int = 100
    most: int = 2000

    def check(self) -> None:
        """Refuse what makes no sense, by name.

        Raises:
            UsageError: no step, window or rate; a share outside its range.
        """
        counts = {"steps": self.steps, "batch": self.batch, "patience": self.patience, "most": self.most}
        at_least(1, {f"train.{name}": count for name, count in counts.items()})
        for name, value, holds, range_ in (
            ("lr", self.lr, self.lr > 0, "above 0"),
            ("layer_decay", self.layer_decay, 0 < self.layer_decay <= 1, "above 0 and at most 1"),
            ("drop_path", self.drop_path, 0 <= self.drop_path < 1, "at least 0 and below 1"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0"),
        ):
            if not holds:
                raise UsageError(f"train.{name} must be {range_}, not {value}")


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """Which protocols run, and how.

    Attributes:
        protocols: of ``PROTOCOLS``; "finetune" and "scratch" train the encoder and take minutes to hours.
        ks: neighbours of kNN, one row each.
        grid: strengths C of the linear probe.
        class_weights: how much each class counts in every fit on labels and in the choice of its strength or its end:
            "balanced" (alike, as in AA), "sqrt" or "none" (by their samples, as in OA). Neighbours are not weighted.
        trained_seeds: seeds of the rows that train the encoder.
        train: how those are trained.
    """

    protocols: tuple[Protocol, ...] = ("knn", "linear")
    ks: tuple[int, ...] = (1, 5, 20)
    grid: tuple[float, ...] = C_GRID
    class_weights: ClassWeights = "balanced"
    trained_seeds: int = 3
    train: TrainOptions = field(default_factory=TrainOptions)

    @property
    def frozen(self) -> bool:
        """Whether any protocol works on frozen features."""
        return any(protocol in FROZEN for protocol in self.protocols)

    @property
    def notices(self) -> list[str]:
        """What the reader of a table must know of these options."""
        how = {"none": "samples count alike, not classes", "sqrt": "classes count by the roots of their numbers"}
        said = how.get(self.class_weights)
        return [] if said is None else [f"in every fit on labels {said} (--class-weights {self.class_weights})"]

    @property
    def trained(self) -> tuple[Protocol, ...]:
        """The protocols that train the encoder, in the order of the tables."""
        return tuple(protocol for protocol in TRAINED if protocol in self.protocols)

    def check(self) -> None:
        """Refuse what makes no sense, by name.

        Raises:
            UsageError: no or an unknown protocol, no neighbours, strengths that are no rising path.
        """
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise UsageError(f"unknown protocol {protocol!r}; one or several of {', '.join(PROTOCOLS)}")
        if not self.protocols:
            raise UsageError(f"no protocol is asked for; one or several of {', '.join(PROTOCOLS)}")
        if not self.ks or min(self.ks) < 1:
            raise UsageError("k of kNN must be at least 1")
        if not self.grid or not all(low < high < np.inf for low, high in pairwise((0.0, *self.grid))):
            raise UsageError(f"grid must hold rising strengths C above 0, not {self.grid}")
        check_class_weights(self.class_weights, "--class-weights")
        at_least(1, {"trained_seeds": self.trained_seeds})
        self.train.check()
