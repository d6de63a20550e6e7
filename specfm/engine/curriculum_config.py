"""What a run can be told of its curriculum (:mod:`specfm.engine.curriculum`)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from specfm.config import Strict
from specfm.engine.config import Positive

Amount = Annotated[float, Field(gt=0)]
COMPONENTS = ("pca", "ica", "factors")


class StageConfig(Strict):
    """One stage: up to 1 a number is a share of what there is, above 1 it counts bands (components) or pixels.

    Attributes:
        bands: of every sensor.
        size: side of the window.
        share: of the run's compute, relative to other stages.
    """

    bands: Amount = 1.0
    size: Amount = 1.0
    share: Amount = 1.0


class CurriculumConfig(Strict):
    """How a run works its way up to all bands and whole windows.

    Attributes:
        stages: how many, evenly spaced from ``start_bands`` and ``start_size`` to all, or a list of them.
        reducer: ``merge`` adjacent bands, a ``window`` of the spectrum, ``uniform`` (every n-th), ``regions`` (some of
            each), ``list``; or components, for networks with a stem of fixed channels: ``pca``, ``ica``, ``factors``.
        bands: of reducer ``list``: band numbers from 1, the most important first.
        start_bands: ``bands`` of the first stage, see :class:`StageConfig`.
        start_size: its ``size``.
        window: how a window gets smaller: ``shrink`` (mean over areas; networks of timm that classify windows),
            ``crop`` (its middle, or in pretraining any part), or ``auto``: shrink where that is possible.
        budget: share of ``steps`` that the run takes (beta of the paper); the learning rate's schedule shrinks with it.
        cost: ``measured`` times a few steps of each stage first, ``formula`` is k^band_exponent * side^2.
        band_exponent: how the cost of ``formula`` grows with the number of bands.
        repeats: steps timed at each stage.
    """

    stages: Annotated[int, Field(ge=1, le=100)] | tuple[StageConfig, ...] = 4
    reducer: Literal["merge", "window", "uniform", "regions", "list", "pca", "ica", "factors"] = "merge"
    bands: tuple[int, ...] = ()
    start_bands: Amount = 0.25
    start_size: Amount = 0.5
    window: Literal["auto", "shrink", "crop"] = "auto"
    budget: Annotated[float, Field(gt=0, le=1)] = 1.0
    cost: Literal["measured", "formula"] = "measured"
    band_exponent: Annotated[float, Field(ge=0)] = 1.0
    repeats: Positive = 3

    @model_validator(mode="after")
    def _rises(self) -> CurriculumConfig:
        if not isinstance(self.stages, int):
            if not self.stages:
                raise ValueError("stages is empty; give one stage at least, or a number of them")
            for name in ("bands", "size"):
                values = [getattr(stage, name) for stage in self.stages]
                if any(value > 1 for value in values) and any(value < 1 for value in values):
                    raise ValueError(f"{name} of stages mixes shares and numbers: {values}")
                if any(after != 1 and (before == 1 or after < before) for before, after in pairwise(values)):
                    raise ValueError(f"stages never get smaller, but {name} of stages goes {values} (1 is all)")
        elif self.start_bands > 1 or self.start_size > 1:
            raise ValueError("start_bands and start_size are shares up to 1; list the stages to give numbers")
        if self.cost == "formula" and any(s.bands > 1 or s.size > 1 for s in self.listed()):
            raise ValueError("cost formula takes stages in shares up to 1; take cost measured for numbers")
        if (self.reducer == "list") != bool(self.bands):
            raise ValueError("reducer list goes with bands: [...], the numbers from 1, and bands with reducer list")
        return self

    def listed(self) -> tuple[StageConfig, ...]:
        """The stages, one by one."""
        if not isinstance(self.stages, int):
            return self.stages
        up = [i / (self.stages - 1) if self.stages > 1 else 1.0 for i in range(self.stages)]
        return tuple(
            StageConfig(
                bands=self.start_bands + t * (1 - self.start_bands), size=self.start_size + t * (1 - self.start_size)
            )
            for t in up
        )

    @property
    def physical(self) -> bool:
        """Whether reduced bands have wavelengths."""
        return self.reducer not in COMPONENTS
