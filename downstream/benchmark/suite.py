"""What a benchmark compares, typed: datasets, protocols, shots; unknown keys are refused with the nearest name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from downstream.features.pooling import pooling_parts
from downstream.probe.options import ProbeOptions
from downstream.protocols.options import Protocol, TrainOptions
from downstream.protocols.weights import ClassWeights
from downstream.splits.options import AUTO, GroupBy, Rule
from specfm.band_selection import BandsText
from specfm.config import Strict
from specfm.engine.config import Names, NonNegative, OneOrMore, Positive
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment import parse_steps

if TYPE_CHECKING:
    from specfm.scene import Scene

Shots = Annotated[tuple[Literal["all"] | Positive, ...], OneOrMore, Field(min_length=1)]


class DatasetConfig(Strict):
    """One dataset: labelled scenes of one or several cards, and how they are split.

    Attributes:
        cards: dataset cards (names or files).
        name: in the tables; default the cards' names.
        scenes: only scenes whose CARD/SCENE matches one of these, such as ``*/OSBS*``.
        through: also see them through these known sensors.
        classes: new class -> names in the cards; pixels of other classes count as unlabelled. Cards with other class
            lists can then be put together. Empty = as in the card.
        split: of ``specfm probe``; ``auto`` takes groups where there are three and more, else blocks.
        shots: overrides that of the suite: ``all`` labels, or so many a class.
        protocols: override those of the suite.
        seeds: override those of the suite.
        window: overrides that of the suite; point spectra without ground have windows of 1.
        max_per_class: at most so many pixels a class and group.
        min_groups: classes found in fewer groups or blocks are left out.
        min_samples: classes of fewer samples are left out.
        block: side of a spatial block, pixels.
        group_by: as in ``specfm probe``.
        bands: use these bands of every scene only, as in ``specfm probe``.
        pretreatment: of spectra, in order, as in ``specfm probe``.
        note: printed below the table.
    """

    cards: Names = Field(min_length=1)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+@-]*$")
    scenes: Names = ()
    through: Names = ()
    classes: dict[str, Names] = Field(default_factory=dict)
    split: Literal["auto", Rule] = AUTO
    shots: Shots | None = None
    protocols: tuple[Protocol, ...] | None = None
    seeds: Positive | None = None
    window: Positive | None = None
    max_per_class: Positive | None = ProbeOptions.max_per_class
    min_groups: Positive = ProbeOptions.min_groups
    min_samples: Positive = ProbeOptions.min_samples
    block: Positive | None = ProbeOptions.block
    group_by: GroupBy = ProbeOptions.group_by
    bands: BandsText | None = None
    pretreatment: Names = ()
    note: str = ""

    @field_validator("pretreatment")
    @classmethod
    def _pretreatment(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            parse_steps(value)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def title(self) -> str:
        """Name in the tables."""
        return self.name or "+".join(card.rpartition("/")[2].removesuffix(".yaml") for card in self.cards)


class SuiteConfig(Strict):
    """A benchmark: every dataset under every protocol, for every encoder, beside controls.

    Attributes:
        name: of the suite.
        datasets: what is compared on.
        protocols: of knn, linear and ridge on frozen features; finetune and scratch train the encoder on the labels.
        shots: one table each: ``all`` labels, or so many a class.
        seeds: splits.
        ks: neighbours.
        window: side of the window, pixels (default: as pretrained, if all agree).
        peers: published encoders to put beside, named as in ``specfm probe --peers``.
        pooling: what is taken of the encoders.
        layers: of which blocks.
        init_seeds: untrained twins of every architecture.
        align: make features of different sensors comparable; null: where a dataset has several sensors and the encoder
            comes with a library.
        fit: fit encoders and twins to each dataset's scenes without labels: true (one stem), scene (one each). What is
            fine-tuned on one sensor begins with the former too.
        class_weights: how much each class counts where a row is fitted on labels: balanced (as in AA), sqrt, none.
        trained_seeds: of finetune and scratch: on so many of the splits.
        train_steps: for so many steps at most.
        draws: of the bootstrap.
        metric: what the leaderboard compares.
    """

    name: str
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    protocols: tuple[Protocol, ...] = Field(ProbeOptions.protocols, min_length=1)
    shots: Shots = ("all",)
    seeds: Positive = ProbeOptions.seeds
    ks: tuple[Positive, ...] = Field(ProbeOptions.ks, min_length=1)
    window: Positive | None = None
    peers: Names = ()
    pooling: str = ProbeOptions.pooling
    layers: tuple[int, ...] = ProbeOptions.layers
    init_seeds: NonNegative = ProbeOptions.init_seeds
    align: bool | None = ProbeOptions.align
    fit: bool | Literal["scene"] = ProbeOptions.fit
    class_weights: ClassWeights = ProbeOptions.class_weights
    trained_seeds: Positive = ProbeOptions.trained_seeds
    train_steps: Positive = TrainOptions.steps
    draws: Positive = ProbeOptions.draws
    metric: Literal["oa", "aa", "kappa", "macro_f1"] = "aa"

    @field_validator("pooling")
    @classmethod
    def _pooling(cls, value: str) -> str:
        try:
            pooling_parts(value)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("peers")
    @classmethod
    def _peers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from downstream.features.peers import PeerName

        try:
            for peer in value:
                PeerName.parse(peer)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _distinct(self) -> SuiteConfig:
        titles = [dataset.title for dataset in self.datasets]
        if twice := sorted({t for t in titles if titles.count(t) > 1}):
            raise ValueError(f"two datasets are called {twice[0]}; give one of them a name")
        return self


def probe_options(suite: SuiteConfig, dataset: DatasetConfig, window: int) -> ProbeOptions:
    """The probe that a cell of the suite runs."""
    shots = dataset.shots or suite.shots
    return ProbeOptions(
        protocols=dataset.protocols or suite.protocols, split=dataset.split, seeds=dataset.seeds or suite.seeds,
        shots=tuple(None if n == "all" else n for n in shots), window=window, pooling=suite.pooling,
        layers=suite.layers, init_seeds=suite.init_seeds, ks=suite.ks, max_per_class=dataset.max_per_class,
        min_groups=dataset.min_groups, min_samples=dataset.min_samples, block=dataset.block,
        group_by=dataset.group_by, draws=suite.draws, align=suite.align, fit=suite.fit,
        class_weights=suite.class_weights, trained_seeds=suite.trained_seeds,
        train=TrainOptions(steps=suite.train_steps), bands=dataset.bands, pretreatment=dataset.pretreatment,
    )  # fmt: skip


def open_dataset(dataset: DatasetConfig) -> list[Scene]:
    """The scenes of a dataset.

    Raises:
        SpecfmError: missing files, a class that no card knows, no scene left.
    """
    from specfm.cards.opening import also_through, card_scenes

    try:
        chosen = card_scenes(dataset.cards, dataset.scenes)
    except UsageError as error:
        raise UsageError(f"dataset {dataset.title}: {error}") from None
    if dataset.classes:
        chosen = relabelled(chosen, dataset)
    return also_through(chosen, dataset.through)


def relabelled(scenes: Sequence[Scene], dataset: DatasetConfig) -> list[Scene]:
    """The scenes with the dataset's classes in place of their own; scenes with none of them are left out.

    Raises:
        UsageError: a class name that no scene has.
    """
    wanted = tuple(dataset.classes)
    number = {old: i for i, new in enumerate(wanted) for old in dataset.classes[new]}
    known = {name for scene in scenes for name in scene.label_names}
    if strange := sorted(set(number) - known):
        raise UsageError(f"dataset {dataset.title}: no card has a class {strange[0]!r}; of {', '.join(sorted(known))}")
    found = []
    for scene in scenes:
        if scene.labels_HW is None:
            raise SpecfmError(f"dataset {dataset.title}: scene {scene.name!r} has no labels")
        new_of = np.array([number.get(name, -1) for name in scene.label_names] + [-1], np.int32)
        labels_HW = new_of[scene.labels_HW]  # -1 picks the last entry
        if (labels_HW >= 0).any():
            found.append(scene.replace(labels_HW=labels_HW, label_names=wanted))
    return found
