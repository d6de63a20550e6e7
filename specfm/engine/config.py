"""Settings that every training run has, typed: encoder, optimiser, checkpoints, guard, mirrors of the record."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from specfm.config import Strict

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
# one value may stand for a list of one, as in ``data.shards=folder``
OneOrMore = BeforeValidator(lambda value: (value,) if isinstance(value, str | int) else value)
Names = Annotated[tuple[str, ...], OneOrMore]


class ModelConfig(Strict):
    """A new encoder.

    Attributes:
        size: of the trunk, see :func:`specfm.create_encoder`.
        embedding: how a patch of any bands becomes a token (``hyper`` by default; the others are controls).
        patch_size: side of a patch, pixels.
    """

    size: str = "nano"
    embedding: str = "hyper"
    patch_size: Positive = 3
    options: dict[str, Any] = Field(default_factory=dict, description="further options of specfm.create_encoder")

    @field_validator("options")
    @classmethod
    def _not_twice(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in ("size", "embedding", "patch_size"):
            if key in value:
                raise ValueError(f"set {key} beside options, not in them")
        return value


class OptimConfig(Strict):
    """AdamW with timm's parameter groups, warm-up and cosine.

    Attributes:
        lr: highest learning rate, reached after ``warmup_steps``.
        min_lr: learning rate at the last step.
        weight_decay: of AdamW; biases and norms have none.
        betas: of AdamW.
        warmup_steps: steps over which the learning rate rises.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-3
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    warmup_steps: NonNegative = 50
    clip: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="largest global gradient norm; 0 switches clipping off"
    )


class EmaConfig(Strict):
    """A running average of the encoder's weights, which is watched and released instead of the last step's."""

    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.999, description="share of the average kept in a step; 0.999 averages over about 1,000 steps"
    )
    warmup: bool = Field(default=True, description="start with less: no more than n / (9 + n) after n steps")


class CheckpointConfig(Strict):
    """When training state is saved and what is kept of it."""

    every: Positive = Field(default=500, description="steps between checkpoints; the last step always saves one")
    keep: Positive = Field(default=2, description="newest valid checkpoints kept, besides the best by its score")
    milestone_every: NonNegative = Field(
        default=0, description="checkpoints at multiples of it are kept for good; 0 keeps none"
    )
    retry_s: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="pause before a failed save is tried again, seconds"
    )
    beside: bool = Field(
        default=True, description="write while steps go on, from a copy in the memory of rank 0; false: steps wait"
    )


class GuardConfig(Strict):
    """When a run gives up."""

    bad_in_a_row: NonNegative = Field(default=3, description="more non-finite steps in a row end the run (exit code 4)")
    bad_per_1000: NonNegative = Field(default=10, description="more non-finite steps among the last 1,000 end the run")
    stall_s: Annotated[float, Field(ge=0)] = Field(
        default=1800.0, description="longest stage, s (exit code 5); 0 = none"
    )
    peer_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=600.0, description="longest wait for another process, seconds"
    )
    collect_garbage_every: Positive = Field(
        default=200, description="steps between collections, on all processes at once"
    )


class WandbConfig(Strict):
    """Mirror of metrics.jsonl.

    Attributes:
        project: the project of wandb.
    """

    mode: Literal["disabled", "offline", "online", "auto"] = Field(
        default="disabled", description="auto: online if this machine is logged in, else offline"
    )
    project: str = "specfm"


class RunConfig(Strict):
    """What a training loop needs to know of any run; a run's own configuration extends it.

    Attributes:
        seed: decides every random number of the run.
        steps: steps of the optimiser.
        device: ``auto`` takes CUDA where there is one.
    """

    out: str = Field(description="run folder; must not exist unless resuming")
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    steps: Positive = 1000
    device: Literal["auto", "cpu", "cuda"] = "auto"
    optim: OptimConfig = OptimConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    wandb: WandbConfig = WandbConfig()
    tensorboard: bool = Field(default=False, description="mirror metrics.jsonl as event files in OUT/tensorboard")

    @model_validator(mode="after")
    def _lr_falls(self) -> RunConfig:
        if self.optim.min_lr > self.optim.lr:
            raise ValueError(f"optim.min_lr {self.optim.min_lr} is above optim.lr {self.optim.lr}")
        return self
