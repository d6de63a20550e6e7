"""NT-Xent between two views as an objective: projection head, false negatives, loss.

Shapes: B samples, E width of the projection.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from pretrain.objectives.base import MicroBatch, Objective, Rows, Surroundings
from pretrain.objectives.collapse import projection_figures
from pretrain.objectives.heads import projection_head
from pretrain.objectives.negatives import NegativesConfig, build_rule
from pretrain.objectives.nt_xent import NegativeRule, nt_xent
from specfm.batch import Batch
from specfm.config import Strict
from specfm.engine.config import Positive


class ProjectionConfig(Strict):
    """Projection head (lightly's, without BatchNorm)."""

    hidden: Positive = 256
    dim: Positive = 128
    layers: Positive = 2
    norm: bool = Field(default=True, description="LayerNorm after each hidden layer")


class NtXentConfig(Strict):
    """NT-Xent and its negatives."""

    temperature: Annotated[float, Field(ge=0.025)] = 0.2
    tile: Annotated[int, Field(ge=2)] = Field(default=1024, description="rows of logits held at once")
    negatives: NegativesConfig = NegativesConfig()
    projection: ProjectionConfig = ProjectionConfig()


class NtXent(Objective):
    """Two views of a sample are alike, and unlike those of all others in the global batch."""

    def __init__(self, config: NtXentConfig, around: Surroundings) -> None:
        head = config.projection
        self.config = config
        self.projection = projection_head(around.width, head.hidden, head.dim, head.layers, head.norm)
        self.heads = {"projection": self.projection}

    def rows(self, part: MicroBatch) -> Rows:
        """Projections of both views, by the name of the view."""
        # of all views in one call, as the encoder made them
        projected = self.projection(part.features.pooled_BD).float().split(len(part.raw))
        return dict(zip(part.views, projected, strict=True))

    def prepare(self, raw: Batch) -> NegativeRule | None:
        return build_rule(raw, self.config.negatives)  # on the raw windows, not on their views

    def couple(self, rows: Rows, prepared: NegativeRule | None) -> tuple[Tensor, dict[str, float]]:
        z1_BE, z2_BE = rows.values()
        return nt_xent(z1_BE, z2_BE, self.config.temperature, prepared, self.config.tile)

    def watch(self, rows: Rows) -> dict[str, float]:
        z1_BE, z2_BE = rows.values()
        return projection_figures(z1_BE, z2_BE)
