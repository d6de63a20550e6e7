"""NT-Xent between two views as an objective: projection head, false negatives, loss.

Shapes: B samples, E width of the projection.
"""

from __future__ import annotations

from torch import Tensor, nn

from pretrain.objectives.base import VIEWS, MicroBatch, Objective, Rows, Surroundings
from pretrain.objectives.collapse import projection_figures
from pretrain.objectives.config import NtXentConfig, ProjectionConfig
from pretrain.objectives.heads import projection_head
from pretrain.objectives.negatives import build_rule
from pretrain.objectives.nt_xent import NegativeRule, nt_xent
from pretrain.pairs.pairing import Pairs


def make_projection(config: ProjectionConfig, around: Surroundings) -> nn.Module:
    """(B, D) -> (B, E); the identity without layers."""
    default = 2 if around.pairs.kind == "views" else 0
    layers = default if config.layers is None else config.layers
    return projection_head(around.width, config.hidden, config.dim, layers, config.norm) if layers else nn.Identity()


class NtXent(Objective):
    """Two views of a sample are alike, and unlike those of all others in the global batch."""

    def __init__(self, config: NtXentConfig, around: Surroundings) -> None:
        self.config, self.weight = config, config.weight
        self.projection = make_projection(config.projection, around)
        self.heads = {"projection": self.projection}

    def rows(self, part: MicroBatch) -> Rows:
        """Projections of both views, by the name of the view."""
        # of all views in one call, as the encoder made them
        projected = self.projection(part.features.pooled_BD).float().split(len(part.pairs))
        return dict(zip(VIEWS, projected, strict=True))

    def prepare(self, pairs: Pairs) -> NegativeRule | None:
        return build_rule(pairs, self.config.negatives)  # on the raw windows, not on their views

    def couple(self, rows: Rows, prepared: NegativeRule | None) -> tuple[Tensor, dict[str, float]]:
        z1_BE, z2_BE = rows.values()
        return nt_xent(z1_BE, z2_BE, self.config.temperature, prepared, self.config.tile)

    def watch(self, rows: Rows) -> dict[str, float]:
        z1_BE, z2_BE = rows.values()
        return projection_figures(z1_BE, z2_BE)
