"""What the views of pretraining may do to a sample."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from specfm.config import Strict
from specfm.pretreatment import parse_steps

# `mild` kept features above their random init on a sensor that was never pretrained on; `strong`, used from the first
# step, put them far below it while the loss looked healthy: it is meant for the end of a schedule, and for ablation.
PRESETS: dict[str, dict[str, Any]] = {
    "mild": {},
    "strong": {
        "keep_low": 0.4,
        "window_probability": 1.0,
        "window_low": 0.4,
        "merge_probability": 0.5,
        "gain": 0.2,
        "tilt": 0.1,
        "noise": 0.04,
        "pixel_dropout": 0.1,
    },
}


class ViewConfig(Strict):
    """Ranges of the random changes at strength 1; keys that are given win over the preset's.

    Attributes:
        preset: ``mild`` or ``strong``.
        crop: side of the spatial crop in pixels (None, or larger than the window: the whole window).
        min_overlap: share of a crop's area that any two views of a sample have in common at least.
        dihedral: random flips and quarter turns (flips and half turns where the crop is not square). Not scaled by
            strength.
        band_draw: ``sample`` draws the bands of a view anew for every sample, ``part`` once for all samples of a domain
            in a step, as if another sensor had seen them all. Band codes are then computed once, not once a sample
            (as where nothing of the bands is drawn): several times cheaper, with as many sensors over a run.
        keep_low: least share of the usable bands kept by the random subset.
        keep_high: largest share.
        min_bands: never fewer bands than this, where the sample has them.
        window_probability: chance of keeping only a contiguous spectral window.
        window_low: its least share.
        merge_probability: chance of averaging adjacent bands.
        merge_max: how many at most.
        gain: factor in 1 +- gain.
        tilt: smooth change of illumination over wavelength, at most this much.
        noise: standard deviation relative to the sample's mean level (0.02 is an SNR of 50).
        pixel_dropout: share of pixels masked out.
        pretreatment: what some samples of a view are pretreated by, in order (``[snv]``, ``[sg1:40nm]``,
            :mod:`specfm.pretreatment.steps`), after all else, as laboratories do it before they model.
        pretreatment_share: how many of them; the others are seen as measured.
        attribute_dropout: chance that each of quantity, level, GSD and sensor name is not told.
    """

    preset: Literal["mild", "strong"] = "mild"
    crop: int | None = Field(default=None, ge=1)
    min_overlap: float = Field(default=0.5, ge=0.0, le=1.0)
    dihedral: bool = True
    band_draw: Literal["sample", "part"] = "sample"
    keep_low: float = Field(default=0.5, gt=0.0, le=1.0)
    keep_high: float = Field(default=1.0, gt=0.0, le=1.0)
    min_bands: int = Field(default=3, ge=1)
    window_probability: float = Field(default=0.0, ge=0.0, le=1.0)
    window_low: float = Field(default=0.6, gt=0.0, le=1.0)
    merge_probability: float = Field(default=0.0, ge=0.0, le=1.0)
    merge_max: int = Field(default=3, ge=1)
    gain: float = Field(default=0.1, ge=0.0, lt=1.0)
    tilt: float = Field(default=0.05, ge=0.0, lt=1.0)
    noise: float = Field(default=0.02, ge=0.0)
    pixel_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    attribute_dropout: float = Field(default=0.2, ge=0.0, le=1.0)
    pretreatment: tuple[str, ...] = ()
    pretreatment_share: float = Field(default=0.5, ge=0.0, le=1.0)

    @property
    def pretreats(self) -> bool:
        """Whether any sample is pretreated."""
        return bool(self.pretreatment) and self.pretreatment_share > 0

    def tells_alike(self, strength: float) -> bool:
        """True if nothing that is told of bands and sensor is drawn: what holds for one sample holds for all."""
        all_bands = self.keep_low == 1.0 and self.window_probability == 0.0
        merged = self.merge_max > 1 and self.merge_probability > 0.0
        drawn = self.attribute_dropout > 0.0 or self.pretreats
        return strength == 0.0 or (all_bands and not merged and not drawn)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**PRESETS.get(str(values.get("preset", "mild")), {}), **values}

    @model_validator(mode="after")
    def _ordered(self) -> ViewConfig:
        if self.keep_low > self.keep_high:
            raise ValueError(f"keep_low {self.keep_low} is above keep_high {self.keep_high}")
        parse_steps(self.pretreatment)
        return self
