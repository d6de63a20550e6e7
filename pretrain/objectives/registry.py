"""All objectives by name; those of other packages have a file of their own (:mod:`pretrain.objectives.plugins`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pretrain.objectives.band_prediction import BandPrediction
from pretrain.objectives.base import Objective, Surroundings
from pretrain.objectives.contrastive import NtXent
from pretrain.objectives.latent import Latent
from pretrain.objectives.local import Local
from pretrain.objectives.masked import Masked
from pretrain.objectives.plugins import objective_class
from pretrain.objectives.teacher import Teacher
from pretrain.objectives.vicreg import VicReg

# From settings and surroundings to the objective; a new one is one file and a line here.
OBJECTIVES: dict[str, Callable[[Any, Surroundings], Objective]] = {
    "nt_xent": NtXent,
    "local": Local,
    "vicreg": VicReg,
    "masked": Masked,
    "latent": Latent,
    "band_prediction": BandPrediction,
    "teacher": Teacher,
}


def make_objectives(settings: dict[str, Any], around: Surroundings) -> dict[str, Objective]:
    """The objectives of a run by name, in the order given; weights of their heads come from torch's random numbers."""
    return {name: (OBJECTIVES.get(name) or objective_class(name))(each, around) for name, each in settings.items()}
