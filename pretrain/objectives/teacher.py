"""Distillation without labels: a new encoder says in its own features what a finished one says in its.

The teacher sees the whole of a crop: all bands, without noise, gain or holes. The student sees a view of it. A linear
map brings the student's pooled feature to the teacher's width (Romero et al. 2015, FitNets, arXiv 1412.6550), where
each target is normalised over its features. No sample is another's negative, and the teacher does not move, so nothing
can collapse. The student may be of any size, embedding and patch.

Shapes: B samples, V views, D width of the student, E of the teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.objectives.base import VIEWS, MicroBatch, Objective, Surroundings
from pretrain.objectives.config import TeacherConfig
from pretrain.objectives.latent import UNCHANGED
from pretrain.views.view import make_view
from specfm.checkpoint import load
from specfm.errors import UsageError
from specfm.models.encoder import Encoder

if TYPE_CHECKING:
    from specfm.shards import ShardSet


class Teacher(Objective):
    """Features of a fixed encoder as targets; a mean over samples and both views.

    The teacher is no head: it is loaded by its name again when a run goes on.

    Raises:
        UsageError: the teacher is a network for one list of bands.
    """

    def __init__(self, config: TeacherConfig, around: Surroundings) -> None:
        found = load(config.encoder)
        if not isinstance(found, Encoder):
            raise UsageError(f"objective.teacher.encoder: {config.encoder} is a network for one list of bands")
        self.config, self.around, self.weight = config, around, config.weight
        self._teacher = found.eval().requires_grad_(False)
        self._whole = around.views.model_copy(update=UNCHANGED)
        self.regressor = nn.Linear(around.width, found.num_features)
        self.heads = {"teacher_regressor": self.regressor}

    def start(self, encoder: Encoder, shards: ShardSet) -> None:
        self._teacher.to(encoder.device)

    def separate(self, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        said_BE = self.regressor(part.features.pooled_BD).float()
        with torch.autocast(said_BE.device.type, enabled=False):
            target_BE = torch.cat([self.target(part, view) for view in range(len(VIEWS))])
            apart_B = F.smooth_l1_loss(said_BE, target_BE, reduction="none", beta=self.config.beta).mean(1)
            alike_B = F.cosine_similarity(said_BE.detach(), target_BE)
        return apart_B.mean(), {"teacher/cosine": alike_B.mean()}

    @torch.no_grad()
    def target(self, part: MicroBatch, view: int) -> Tensor:
        """What the teacher makes of the crop behind a view ``[B, E]``, normalised over its features."""
        side = part.pairs.sides[view]
        seen = make_view(side, self._whole, self.around.seed, part.step, view, part.strength)
        pooled_BE = self._teacher.to(part.encoder.device)(seen).pooled_BD.float()
        return F.layer_norm(pooled_BE, pooled_BE.shape[-1:])
