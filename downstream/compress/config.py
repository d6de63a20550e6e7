"""Everything a compression benchmark can be told, typed; unknown keys are refused with the nearest name."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from downstream.compress.online import Online
from downstream.compress.train import TrainConfig
from downstream.splits.options import Rule
from specfm.config import Strict
from specfm.deploy.calibrate import Calibration
from specfm.deploy.int8 import How
from specfm.engine.config import Names, NonNegative, Positive


class ModelSpec(Strict):
    """A network to train on the labels, to distil from or into.

    Attributes:
        encoder: a checkpoint of an encoder, which is fine-tuned, or ``random:SIZE[:PATCH]``.
        network: ``timm:NAME`` or ``small:NAME``, for the bands of the scene.
        options: of the network, or changes to the encoder's (then with random weights), such as ``depth``.
        window: side of what it sees, pixels; default the benchmark's.
        pooling: of the tokens of a window.
        fit: first fit the stem of the encoder to the scene in closed form, from all its pixels and no label
            (``encoder.fit``), those of the test side among them; it is held.
        train: overrides that of the benchmark where this model is trained for the first time.
    """

    encoder: str | None = None
    network: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    window: Positive | None = None
    pooling: str = "concat"
    fit: bool = False
    train: TrainConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> ModelSpec:
        if (self.encoder is None) == (self.network is None):
            raise ValueError("a model is an encoder or a network; give one of the two")
        if self.fit and (self.encoder is None or self.options or self.encoder.startswith("random:")):
            raise ValueError("fit is for the encoder of a checkpoint as it is; leave fit out")
        return self


class DistilStep(Strict):
    """The model learns from a teacher; first in a list of steps it starts untrained.

    Attributes:
        teacher: name of a model (trained on the labels), or ``previous``: the model as it is, into fresh weights of its
            own kind (born again, Furlanello et al. 2018, arXiv 1805.04770).
        temperature: of scores.
        alpha: share of the teacher's scores against the labels'.
        hints: weight of FitNets' features.
        relational: weight of relations among samples.
        attention: weight of attention maps.
        train: overrides that of the benchmark.
    """

    teacher: str
    temperature: float = Field(default=4.0, gt=0)
    alpha: float = Field(default=0.7, ge=0, le=1)
    hints: float = Field(default=0.0, ge=0)
    relational: float = Field(default=0.0, ge=0)
    attention: float = Field(default=0.0, ge=0)
    train: TrainConfig | None = None


class OnlineStep(Strict):
    """The model learns together with peers; first in a list of steps.

    Attributes:
        how: mutual, one or okddip.
        peers: networks in all.
        share: first stages that are one for all.
        temperature: of scores.
        alpha: weight of what they learn from each other.
        ramp: share of the steps over which it rises.
        train: overrides that of the benchmark.
    """

    how: Online
    peers: int = Field(default=3, ge=2)
    share: NonNegative = 0
    temperature: float = Field(default=3.0, gt=0)
    alpha: float = Field(default=1.0, ge=0)
    ramp: float = Field(default=0.5, ge=0, le=1)
    train: TrainConfig | None = None


class ShallowStep(Strict):
    """Exits of an encoder learn from its last block, and one of them takes its place.

    Attributes:
        exit: after so many blocks.
        temperature: of scores.
        alpha: share of the deep scores against the labels'.
        features: weight of the deep features.
        train: overrides that of the benchmark.
    """

    exit: Positive
    temperature: float = Field(default=3.0, gt=0)
    alpha: float = Field(default=0.3, ge=0, le=1)
    features: float = Field(default=0.03, ge=0)
    train: TrainConfig | None = None


class PruneStep(Strict):
    """Weights, channels, heads or blocks are taken out, and what is left is trained on.

    Attributes:
        how: ``structured`` (channels and heads are removed), ``magnitude`` (least weights become zeros; makes the file
            small, not the model fast) or ``blocks`` (the last ones are removed).
        ratio: share taken out of each layer; magnitude: of all weights.
        count: of blocks.
        importance: of structured pruning.
        rounds: it is done in so many, with training between; 1 = one shot.
        train: after each round; steps are shared out among rounds. Overrides that of the benchmark.
        tune: train at all.
    """

    how: Literal["structured", "magnitude", "blocks"] = "structured"
    ratio: float = Field(default=0.5, gt=0, lt=1)
    count: Positive = 1
    importance: Literal["magnitude", "taylor"] = "taylor"
    rounds: Positive = 1
    train: TrainConfig | None = None
    tune: bool = True


class QuantiseStep(Strict):
    """Weights become integers; last in a list of steps.

    Attributes:
        how: see :mod:`specfm.deploy.int8`.
        calibration: of ``static``: minmax, percentile or mse.
        windows: that it is calibrated on, from the training side.
        aware: train with rounded weights and activations first (quantisation-aware).
        train: of ``aware``; overrides that of the benchmark.
    """

    how: How = "static"
    calibration: Calibration = "percentile"
    windows: Positive = 256
    aware: bool = False
    train: TrainConfig | None = None


class Step(Strict):
    """One of the steps; exactly one key."""

    distil: DistilStep | None = None
    online: OnlineStep | None = None
    deep_to_shallow: ShallowStep | None = None
    prune: PruneStep | None = None
    quantise: QuantiseStep | None = None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if sum(value is not None for value in dict(self).values()) != 1:
            raise ValueError(f"a step is one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        """Its key."""
        return next(name for name, value in dict(self).items() if value is not None)


class PipelineConfig(Strict):
    """What is done to a model, in order.

    Attributes:
        model: name of the one that is deployed in the end (before it is made smaller).
        steps: without any, the model is trained on the labels and deployed as it is.
    """

    model: str
    steps: tuple[Step, ...] = ()

    @field_validator("steps")
    @classmethod
    def _order(cls, value: tuple[Step, ...]) -> tuple[Step, ...]:
        for number, step in enumerate(value):
            if step.kind == "quantise" and number + 1 < len(value):
                raise ValueError("quantise ends in a file, so it comes last")
            if step.kind == "online" and number:
                raise ValueError("online trains an untrained model, so it comes first")
        return value


class SceneConfig(Strict):
    """A labelled scene.

    Attributes:
        card: dataset card (name or file).
        scenes: only scenes whose CARD/SCENE matches one of these.
        split: of ``specfm probe``; ``random_pixels`` is leaky, and marked so.
        block: side of a spatial block, pixels.
        max_per_class: at most so many pixels a class and group.
        min_groups: classes found in fewer blocks are left out.
        note: printed below the table.
    """

    card: str
    scenes: Names = ()
    split: Literal["auto", Rule] = "block"
    block: Positive | None = None
    max_per_class: Positive | None = None
    min_groups: Positive = 3
    note: str = ""

    @property
    def title(self) -> str:
        """Name in the tables."""
        leaky = " (random pixels)" if self.split == "random_pixels" else ""
        return self.card.rpartition("/")[2].removesuffix(".yaml") + leaky


class CompressionConfig(Strict):
    """A compression benchmark: pipelines on scenes, each on the same splits and seeds.

    Attributes:
        name: of the benchmark.
        scenes: that it is done on.
        models: by name.
        pipelines: by name, in the order of the table.
        reference: the pipeline that sizes and times are compared with.
        seeds: splits, each trained anew.
        window: side of the widest window, pixels, by which sides of a split are kept apart.
        train: how models are trained.
        tune: how they are trained on, after pruning or in quantisation-aware training.
        draws: of the bootstrap.
        rounds: of timing; 0: nothing is timed, and the table says nothing of time and memory.
    """

    name: str
    scenes: tuple[SceneConfig, ...] = Field(min_length=1)
    models: dict[str, ModelSpec] = Field(min_length=1)
    pipelines: dict[str, PipelineConfig] = Field(min_length=1)
    reference: str
    seeds: Positive = 3
    window: Positive = 9
    train: TrainConfig = TrainConfig()
    tune: TrainConfig = TrainConfig(steps=200, lr=5e-4, patience=100)
    draws: Positive = 1000
    rounds: NonNegative = 15

    @model_validator(mode="after")
    def _names(self) -> CompressionConfig:
        for name, pipeline in self.pipelines.items():
            teachers = [step.distil.teacher for step in pipeline.steps if step.distil is not None]
            for wanted in (pipeline.model, *(t for t in teachers if t != "previous")):
                if wanted not in self.models:
                    raise ValueError(
                        f"pipelines.{name} names the model {wanted!r}; models are {', '.join(self.models)}"
                    )
        if self.reference not in self.pipelines:
            raise ValueError(f"reference {self.reference!r} is no pipeline; these are {', '.join(self.pipelines)}")
        for name, model in self.models.items():
            if model.window is not None and model.window > self.window:
                raise ValueError(f"models.{name}.window {model.window} is wider than window {self.window}")
        return self
