"""Everything a fine-tuning can be told, typed; unknown keys are refused with the nearest name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from downstream.protocols.weights import ClassWeights
from downstream.splits.options import AUTO, SplitOptions
from specfm.band_selection import NO_COMPONENTS, BandsText
from specfm.config import Strict
from specfm.engine import config as engine
from specfm.engine.config import Names, NonNegative, OneOrMore, Positive
from specfm.engine.curriculum_config import CurriculumConfig

Share = Annotated[float, Field(ge=0, le=1)]
Mode = Literal["frozen", "partial", "full"]
Control = Literal["scratch", "frozen", "simple"]


class CropConfig(Strict):
    """Where training crops fall: the rest of the shares is drawn evenly over the labelled pixels.

    Attributes:
        rare: share drawn class by class, so that rare classes are seen as often as common ones.
        boundary: share drawn on pixels within half a tile of another class.
        flip: turn and mirror crops at random.
    """

    rare: Share = 0.4
    boundary: Share = 0.3
    flip: bool = True

    @model_validator(mode="after")
    def _sum(self) -> CropConfig:
        if self.rare + self.boundary > 1:
            raise ValueError(f"crops.rare and crops.boundary sum to {self.rare + self.boundary}, at most 1")
        return self


class DataConfig(Strict):
    """Which labelled scenes, and what a training batch is.

    Attributes:
        card: dataset card (name or file).
        scenes: only scenes whose CARD/SCENE matches, such as ``*/OSBS*``.
        bands: use these bands only, of every date (``specfm.band_selection``); never the labels decide.
        second_sensor: change only: see the second date through this known sensor (a test of mixed sensors).
        tile: side of a training tile, and of a window for classification, pixels; a multiple of the patch.
        batch: tiles a step.
        level: one brightness level per ``scene``, or each tile its own (``sample``).
        class_weights: of the loss: ``balanced`` (inverse frequency), ``sqrt`` (its root) or ``none``.
    """

    card: str
    scenes: str | None = None
    bands: BandsText | None = None
    second_sensor: str | None = None
    tile: Positive = 9
    batch: Positive = 16
    level: Literal["scene", "sample"] = "scene"
    class_weights: ClassWeights = "sqrt"
    crops: CropConfig = CropConfig()


class SplitConfig(Strict):
    """How train, validation and test are kept apart.

    Attributes:
        rule: ``auto`` takes groups where there are three and more, else blocks. Dense tasks are split by blocks or
            groups with at least tile - 1 pixels between the sides; ``random_pixels`` is for classification, and leaky.
        seeds: number of splits; each is trained anew.
        guard: pixels between the sides, default tile - 1.
        block: side of a spatial block, pixels.
        test_share: of all samples, for the test.
        val_share: of the remaining ones, for validation.
        min_groups: classes found in fewer groups or blocks are left out.
        min_samples: classes of fewer samples are left out.
        max_per_class: at most so many pixels a class and group.
        files: split files (`specfm probe --save-splits`) in place of a rule, one training each.
    """

    rule: Literal["auto", "group", "block", "scene", "random_pixels"] = AUTO
    seeds: Positive = 3
    guard: NonNegative | None = None
    block: Positive | None = None
    test_share: Annotated[float, Field(gt=0, lt=1)] = SplitOptions.test_share
    val_share: Annotated[float, Field(gt=0, lt=1)] = SplitOptions.val_share
    min_groups: Positive = SplitOptions.min_groups
    min_samples: Positive = SplitOptions.min_samples
    max_per_class: Positive | None = None
    files: Names = ()


class HeadConfig(Strict):
    """The head.

    Attributes:
        kind: one linear layer, or one of two decoders over several blocks.
        layers: blocks it reads; default the last, or four evenly spread ones for ``fpn`` and ``upernet``.
        channels: width of a decoder.
        dropout: before the last layer.
        fusion: of change: how the features of both dates are brought together.
        pooling: of classification: how the tokens of a window become one vector.
    """

    kind: Literal["linear", "fpn", "upernet"] = "linear"
    layers: Annotated[tuple[int, ...] | None, OneOrMore] = None
    channels: Positive = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    fusion: Literal["difference", "concatenation", "cross_attention"] = "difference"
    pooling: Literal["mean", "centre", "concat"] = "concat"


class OptimConfig(engine.OptimConfig):
    """The optimiser of any run, and what fine-tuning adds.

    Attributes:
        layer_decay: the learning rate of a block is this share of the next deeper one's, the last has ``lr`` itself.
        head_lr: the head has so many times ``lr`` (it starts from nothing).
        drop_path: of the encoder's blocks, in modes partial and full.
    """

    lr: Annotated[float, Field(gt=0)] = 5e-4
    warmup_steps: NonNegative = 10
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    head_lr: Annotated[float, Field(gt=0)] = 10.0
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1


class CheckpointConfig(engine.CheckpointConfig):
    """Every checkpoint is also an evaluation on validation; the best one is released.

    Attributes:
        keep: newest valid checkpoints kept, besides the best by its score.
    """

    every: Positive = Field(default=50, description="steps between evaluations and checkpoints")
    keep: Positive = 1


class EvalConfig(Strict):
    """When training stops, and how results are worked out.

    Attributes:
        patience: training stops after so many evaluations without gain.
        batch: tiles at once.
        draws: of the bootstrap, for intervals.
    """

    patience: Positive = 6
    batch: Positive = 64
    draws: Positive = 1000


class FinetuneConfig(engine.RunConfig):
    """One ``specfm finetune``: a method and its controls, each trained on every split.

    Attributes:
        task: what is learnt; change takes a card with two dates.
        init: a release, checkpoint or run folder of an encoder, or ``random``: one as ``model`` says.
        encoder: ``timm:NAME`` or ``small:NAME``, a network for the bands of the card in place of ``model`` (whose
            ``options`` are then those of specfm.create_backbone: ``stride``, ``level``, ``options``; or ``mixtures``:
            so many minimum noise fractions of training tiles in place of bands), with random first weights.
        mode: what is trained besides the head: nothing (``frozen``), the last ``train_blocks`` blocks (``partial``), or
            everything (``full``; of an encoder pretrained with a whitened stem everything from the first block on).
        train_blocks: how many, in mode ``partial``.
        fit: first fit the stem of the encoder, and of its untrained control, to the scenes in closed form, from all
            their pixels and no label (``encoder.fit``); it is held, and goes into the model.
        curriculum: fewer bands and smaller windows at first.
        controls: also train the same architecture from scratch (``scratch``), put a head on it untrained (``frozen``),
            and fit simple models (``simple``: pixel spectra + logistic regression; change: distances between dates);
            ``[]``: none of them.
    """

    steps: Positive = 400
    task: Literal["classification", "segmentation", "change"]
    init: str = "random"
    encoder: str | None = None
    mode: Mode = "full"
    train_blocks: Positive = 2
    fit: bool = False
    data: DataConfig
    split: SplitConfig = SplitConfig()
    model: engine.ModelConfig = engine.ModelConfig()
    head: HeadConfig = HeadConfig()
    optim: OptimConfig = OptimConfig()
    curriculum: CurriculumConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvalConfig = EvalConfig()
    controls: Annotated[tuple[Control, ...], OneOrMore] = ("scratch", "frozen", "simple")

    @model_validator(mode="after")
    def _fits(self) -> FinetuneConfig:
        guard, needed = self.split.guard, self.data.tile - 1
        if guard is not None and guard < needed:
            raise ValueError(f"split.guard {guard} is below data.tile - 1 = {needed}: tiles would show test pixels")
        if (self.data.bands or "").startswith("pca"):
            raise ValueError("data.bands: " + NO_COMPONENTS.format(what="the encoder is told of"))
        if self.task != "classification" and self.split.rule == "random_pixels":
            raise ValueError(f"split.rule random_pixels leaks in task {self.task}; use block or group")
        if self.task != "change" and self.data.second_sensor is not None:
            raise ValueError("data.second_sensor is for task change")
        if self.fit and self.init == "random" and self.mode != "frozen":
            raise ValueError("fit is for the encoder of init, or mode=frozen: what labels train has no stem to hold")
        if self.encoder is not None:
            self._fits_backbone()
        if self.task == "classification" and self.head.kind != "linear":
            raise ValueError(f"head.kind {self.head.kind} is for dense tasks; classification takes linear")
        return self

    def _fits_backbone(self) -> None:
        if self.init != "random":
            raise ValueError("encoder names a network with random weights, init one that is trained; give one of them")
        ours, plain = self.model, engine.ModelConfig()
        for key in ("size", "embedding", "patch_size"):
            if getattr(ours, key) != getattr(plain, key):
                raise ValueError(f"model.{key} is of an encoder of ours; leave it out beside encoder={self.encoder}")
