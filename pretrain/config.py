"""Everything a pretraining run can be told, typed; unknown keys are refused. Batch sizes and steps are global."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pretrain.objectives.config import (
    BandPredictionConfig,
    LatentConfig,
    LocalConfig,
    MaskedConfig,
    NtXentConfig,
    TeacherConfig,
    VicRegConfig,
)
from pretrain.pairs.config import PairsConfig, SimulatedConfig
from pretrain.views.config import ViewConfig
from specfm.band_selection import NO_COMPONENTS, BandsText
from specfm.config import Strict
from specfm.engine import config as engine
from specfm.engine.config import Names, NonNegative, Positive
from specfm.engine.curriculum_config import CurriculumConfig
from specfm.engine.sync.config import ParallelConfig, SyncConfig
from specfm.whiten_recipe import WhitenRecipe


class DataConfig(Strict):
    """Which shards, and how a batch is mixed from them."""

    shards: Names = Field(
        description="folders written by `specfm shard`, their addresses (s3://bucket/folder), or shard files"
    )
    include: Names | None = Field(default=None, description="domains to use; default all")
    exclude: Names = Field(default=(), description="domains to leave out")
    bands: BandsText | None = Field(
        default=None, description="use these bands only: rgb, {uniform: 20}, ... (specfm/band_selection.py)"
    )
    global_batch: Annotated[int, Field(ge=2)] = Field(default=256, description="samples of a step over all processes")
    domains_per_batch: Positive | None = Field(default=None, description="domains mixed in a step; default up to six")
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="share of a domain; default the square root of its size"
    )
    divisor: Positive | None = Field(
        default=None,
        description="parts of a batch are multiples of it; a multiple of every number of processes to be used",
    )
    threads: NonNegative = Field(default=2, description="reading threads per process")
    prefetch: NonNegative = Field(default=2, description="steps read ahead")
    allow_changed: bool = Field(default=False, description="resume although the shards have changed")
    simulated: SimulatedConfig | None = Field(default=None, description="samples that are simulated, beside shards")

    @property
    def part_divisor(self) -> int:
        """``divisor``, or the largest of 8, 4, 2, 1 that divides the batch; the number of processes plays no part."""
        return self.divisor or next(d for d in (8, 4, 2, 1) if self.global_batch % d == 0)

    @property
    def simulated_batch(self) -> int:
        """Samples of ``global_batch`` that are simulated: whole parts, at least one of them and one from shards."""
        units = self.global_batch // self.part_divisor
        return (
            0
            if self.simulated is None
            else self.part_divisor * min(max(round(self.simulated.share * units), 1), units - 1)
        )


class ModelConfig(engine.ModelConfig):
    """The encoder, and how it is computed in training."""

    backbone: str | None = Field(
        default=None,
        description="timm:NAME or small:NAME in place of our encoder, for one list of bands; options are those of "
        "specfm.models.create_backbone (stride, level, options)",
    )
    init_trunk: str | None = Field(
        default=None,
        description="start the trunk's blocks from a .safetensors file of timm's names, or timm:NAME if cached",
    )
    grad_checkpointing: bool = Field(default=False, description="trade compute for memory in the trunk")
    compile: bool = Field(default=False, description="torch.compile embedding and trunk")


def _brought(name: str, values: dict[str, Any]) -> Any:
    """Settings of an objective of another package."""
    from pretrain.objectives.plugins import settings_of

    return settings_of(name, values)


class ObjectiveConfig(Strict):
    """The terms of the loss: those that are given; NT-Xent where none is. A weight of 0 leaves one out."""

    nt_xent: NtXentConfig | None = None
    local: LocalConfig | None = None
    vicreg: VicRegConfig | None = None
    masked: MaskedConfig | None = None
    latent: LatentConfig | None = None
    band_prediction: BandPredictionConfig | None = None
    teacher: TeacherConfig | None = None
    plugins: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="objectives that other packages bring, by name (specfm/plugins.py)"
    )

    def given(self) -> dict[str, Any]:
        """Settings of all objectives that are given, ours first."""
        ours = {name: getattr(self, name) for name in type(self).model_fields if name != "plugins"}
        brought = {name: _brought(name, values) for name, values in self.plugins.items()}
        return {name: settings for name, settings in ours.items() if settings is not None} | brought

    def chosen(self) -> dict[str, Any]:
        """Settings of the objectives of the run, by their names in ``pretrain/objectives/registry.py``."""
        weighing = {name: settings for name, settings in self.given().items() if settings.weight}
        return weighing or {"nt_xent": NtXentConfig()}

    @model_validator(mode="after")
    def _weighs(self) -> ObjectiveConfig:
        if ours := sorted(set(self.plugins) & set(type(self).model_fields)):
            raise ValueError(f"{ours[0]} is an objective of specfm; write objective.{ours[0]}")
        given = self.given()
        if given and not any(settings.weight for settings in given.values()):
            raise ValueError(f"{', '.join(given)} given with weight 0 alone, so nothing is learnt; give one a weight")
        return self

    @model_validator(mode="before")
    @classmethod
    def _name_the_objective(cls, values: Any) -> Any:
        moved = [key for key in NtXentConfig.model_fields if isinstance(values, dict) and key in values]
        if moved:
            raise ValueError(f"{moved[0]} belongs to an objective; write objective.nt_xent.{moved[0]}")
        return values


class WhitenConfig(Strict):
    """The stem's start, computed from data before the first step (see pretrain/whiten.py and pretrain/stems.py).

    Attributes:
        per: ``run``: one stem, from differences between views, which may be trained on. ``sensor``, ``scene``: a stem
            for every domain or scene of the shards, from differences between patches; these stay as they are, and
            whoever uses the encoder on another scene fits it to that (``encoder.fit``, ``--fit``).
        batches: per run: global batches it is computed from; 0 starts from the identity. With ``init_from`` the stem of
            those weights is replaced too, which fits an encoder to the scenes of another sensor without labels; 0 keeps
            it.
        shift: distance of the patches whose differences count as noise, pixels. This, ``power``, ``components`` and
            ``brightness`` are of stems per sensor or scene, and of the fit to other scenes later; the one stem per run
            is made without them, and where they are given it says so.
        power: 0: every direction counts alike; 0.5: by its signal-to-noise ratio.
        components: keep only so many directions; null: all.
        damping: share of the mean eigenvalue added to all.
        brightness: keep the direction that says how bright a patch is beside its window.
        lr_share: share of the learning rate for what comes before the trunk, once the stem is whitened. 0 leaves it as
            it is and is cheaper: nothing is back-propagated through the embedding. A whitened stem amplifies what
            was small in the embedding, so at a share of 1 the first 50 steps undo what it is for
            (measured on tree crowns, kNN: mean recall .64 before, .42 after).
    """

    per: Literal["run", "sensor", "scene"] = "run"
    batches: NonNegative = 0
    shift: Positive = WhitenRecipe.shift
    power: float = WhitenRecipe.power
    components: Positive | None = WhitenRecipe.components
    damping: Annotated[float, Field(gt=0)] = WhitenRecipe.damping
    brightness: bool = WhitenRecipe.brightness
    lr_share: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def on(self) -> bool:
        """Whether a stem is computed at all."""
        return self.per != "run" or self.batches > 0

    @property
    def only_later(self) -> list[str]:
        """Keys that differ from their defaults and that the one stem per run is made without."""
        keys = ("shift", "power", "components", "brightness") if self.per == "run" else ()
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]

    @property
    def recipe(self) -> WhitenRecipe:
        """How acquisitions are whitened, here and where the encoder is fitted to others."""
        return WhitenRecipe(self.shift, self.power, self.components, self.damping, self.brightness)

    @model_validator(mode="after")
    def _acts(self) -> WhitenConfig:
        if self.per != "run" and self.batches:
            raise ValueError(f"whiten.batches is of per: run; leave it out, per: {self.per} reads the shards")
        return self


class ScheduleConfig(Strict):
    """Strength of the views: a straight line over the first ``strength_steps``, constant after it.

    Attributes:
        strength_start: of the views at the first step; 0 leaves samples as they are.
        strength_end: from ``strength_steps`` on.
        strength_steps: length of the straight line.
    """

    strength_start: Annotated[float, Field(ge=0, le=1)] = 1.0
    strength_end: Annotated[float, Field(ge=0, le=1)] = 1.0
    strength_steps: NonNegative = 0


class OptimConfig(engine.OptimConfig):
    """The optimiser of any run, and what a step holds at once.

    Attributes:
        precision: ``bf16`` computes in half the memory; weights stay float32.
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch: Positive | None = Field(
        default=None, description="samples per process held with a graph at once; the result does not depend on it"
    )


class MonitorConfig(Strict):
    """What is watched besides the loss.

    Attributes:
        k: neighbours of the kNN.
    """

    every: NonNegative = Field(
        default=500, description="steps between evaluations by kNN and a linear probe; 0 switches them off"
    )
    shards: Names | None = Field(
        default=None, description="labelled shards to evaluate on; default those of data.shards"
    )
    k: Positive = 5
    max_samples: Positive = Field(
        default=512, description="labelled samples per domain; bounds the cost of an evaluation"
    )
    features_every: Positive = Field(default=20, description="steps between figures of collapse (rank, uniformity)")


class PretrainConfig(engine.RunConfig):
    """One run of ``specfm pretrain``."""

    other_names: ClassVar[Mapping[str, str]] = {
        "batch_size": "data.global_batch", "batch": "data.global_batch", "num_workers": "data.threads",
        "workers": "data.threads", "learning_rate": "optim.lr", "max_steps": "steps", "iterations": "steps",
        "backbone": "model.size or model.backbone", "arch": "model.size", "patch": "model.patch_size",
        "output_dir": "out", "loss": "objective", "augmentations": "views", "amp": "optim.precision",
        "grad_clip": "optim.clip", "warmup": "optim.warmup_steps", "mask_ratio": "objective.masked.ratio",
    }  # fmt: skip

    epochs: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="passes over the shards, turned into steps (which are not read then)"
    )
    init_from: str | None = Field(default=None, description="start from the weights of this release or run")
    data: DataConfig
    model: ModelConfig = ModelConfig()
    whiten: WhitenConfig = WhitenConfig()
    pairs: PairsConfig = PairsConfig()
    views: ViewConfig = ViewConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    curriculum: CurriculumConfig | None = Field(default=None, description="fewer bands and smaller windows at first")
    objective: ObjectiveConfig = ObjectiveConfig()
    ema: engine.EmaConfig | None = Field(
        default=None, description="watch and release a running average of the encoder's weights; null releases the last"
    )
    optim: OptimConfig = OptimConfig()
    sync: SyncConfig = Field(default=SyncConfig(), description="how processes keep their weights together")
    parallel: ParallelConfig = Field(
        default=ParallelConfig(), description="where parameters are while several processes train"
    )
    monitor: MonitorConfig = MonitorConfig()

    @model_validator(mode="after")
    def _fits(self) -> PretrainConfig:
        if self.init_from is not None and self.model.init_trunk is not None:
            raise ValueError("init_from brings a whole encoder and model.init_trunk its blocks; leave one out")
        if self.whiten.on and self.model.options.get("trunk", "stem") != "stem":
            raise ValueError("whiten needs a stem; leave whiten.per and whiten.batches out, or model.options.trunk")
        self._fits_whitened_targets()
        self._fits_parts()
        if self.model.backbone is not None:
            self._fits_a_backbone()
        elif (self.data.bands or "").startswith("pca"):
            what = "this encoder is told of every band (a model.backbone takes them)"
            raise ValueError("data.bands: " + NO_COMPONENTS.format(what=what))
        if self.data.global_batch % self.data.part_divisor:
            raise ValueError(
                f"data.global_batch {self.data.global_batch} is not a multiple of data.divisor {self.data.divisor}"
            )
        if self.data.simulated is not None and self.data.global_batch < 2 * self.data.part_divisor:
            raise ValueError(
                f"data.global_batch {self.data.global_batch} has no room for a part from shards and a simulated one of "
                f"{self.data.part_divisor} samples each; raise it, or lower data.divisor"
            )
        if self.whiten.per != "run" and self.model.options.get("aligned"):
            raise ValueError(
                "model.options.aligned maps the sensors of one stem onto each other, so whiten.per must be run"
            )
        if self.whiten.batches and self.model.options.get("pixel"):
            raise ValueError(
                "model.options.pixel has a stem of its own, which views do not tell; set whiten.per=sensor or scene in "
                "place of whiten.batches"
            )
        return self

    def _fits_whitened_targets(self) -> None:
        """Refuse samples that the noise of the shards says nothing of.

        Raises:
            ValueError: there are such.
        """
        masked = self.objective.chosen().get("masked")
        if masked is None or masked.target != "whitened":
            return
        if self.data.simulated is not None:
            raise ValueError("objective.masked.target=whitened has no noise of data.simulated; take another target")
        if self.curriculum is not None and any(stage.bands != 1 for stage in self.curriculum.listed()):
            raise ValueError(
                "objective.masked.target=whitened is measured in all bands; set curriculum.start_bands=1, or another "
                "target"
            )

    def _fits_parts(self) -> None:
        """Refuse what needs all parameters on every process.

        Raises:
            ValueError: it is asked for.
        """
        if self.parallel.strategy != "fsdp2":
            return
        for key, asked, why in (
            ("sync", self.sync.kind != "allreduce", "averages weights that every process holds whole"),
            ("model.compile", self.model.compile, "compiles blocks that are whole"),
            ("model.backbone", self.model.backbone is not None, "is one network without blocks to divide"),
        ):
            if asked:
                raise ValueError(f"{key} {why}; leave it out with parallel.strategy=fsdp2, or set it to ddp")

    def _fits_a_backbone(self) -> None:
        """Refuse what only our encoder can do.

        Raises:
            ValueError: it is asked for.
        """
        # by value: a resolved configuration lists every key
        plain = ModelConfig()
        ours = [key for key in ("size", "embedding", "patch_size") if getattr(self.model, key) != getattr(plain, key)]
        if ours:
            raise ValueError(f"model.{ours[0]} is of our encoder; leave it out with model.backbone")
        for key, asked in (
            ("whiten.batches", self.whiten.batches > 0),
            ("whiten.per", self.whiten.per != "run"),
            ("views.merge_probability", self.views.merge_probability > 0),
            ("curriculum", self.curriculum is not None),
            ("model.init_trunk", self.model.init_trunk is not None),
            ("data.simulated", self.data.simulated is not None),
            *((f"objective.{name}", name in self.objective.chosen()) for name in ("masked", "latent", "teacher")),
        ):
            if asked:
                raise ValueError(f"{key} is for our encoder, which reads wavelengths; leave it out with model.backbone")
