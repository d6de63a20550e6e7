"""Projection heads: lightly's where lightly is installed, the same layers under the same names where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from specfm.errors import UsageError

Block = tuple[int, int, nn.Module | None, nn.Module | None, bool]


class PlainHead(nn.Module):
    """What :class:`lightly.models.modules.heads.ProjectionHead` builds from the same blocks: same keys, same values.

    Args:
        blocks: (features in, features out, normalisation, non-linearity, bias of the linear layer).
    """

    def __init__(self, blocks: Sequence[Block]):
        super().__init__()
        layers: list[nn.Module] = []
        for features_in, features_out, norm, activation, bias in blocks:
            layers.append(nn.Linear(features_in, features_out, bias=bias))
            layers += [module for module in (norm, activation) if module is not None]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features in) -> (B, features out)."""
        return self.layers(x)


def projection_head(features: int, hidden: int = 512, out: int = 128, layers: int = 2, norm: bool = True) -> nn.Module:
    """MLP from pooled features to the space NT-Xent works in.

    No BatchNorm: its statistics would make the loss depend on how a batch is split over ranks and micro-batches.

    Args:
        features: width of the encoder's pooled features.
        hidden: width inside the head.
        out: width of what it gives.
        layers: linear layers, at least 1.
        norm: LayerNorm after each hidden layer.

    Raises:
        UsageError: fewer than one layer.
    """
    if layers < 1:
        raise UsageError(f"a projection head needs at least 1 layer, got {layers}")
    widths = [features, *[hidden] * (layers - 1), out]
    blocks: list[Block] = []
    for index, (first, second) in enumerate(pairwise(widths)):
        last = index == layers - 1
        blocks.append(
            (first, second, nn.LayerNorm(second) if norm and not last else None, None if last else nn.GELU(), True)
        )
    try:
        from lightly.models.modules.heads import ProjectionHead
    except ImportError:
        return PlainHead(blocks)
    return ProjectionHead(blocks)
