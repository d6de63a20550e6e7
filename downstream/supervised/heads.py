"""Heads: from an encoder's token maps of one or several layers to class scores.

Shapes: B samples, D token width, L layers, h w token grid, K classes, S channels of a head. Token maps are ``[B, D, h,
w]``, zero where a token has no valid pixel. Norms are per position (not over the map), so that a score depends on its
surroundings only through convolutions and a map hardly changes with the place of the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from downstream.features.standardise import Standardiser
from specfm.errors import UsageError


class Standardise(nn.Module):
    """The standardiser of L kinds of features in a model: fixed before training and saved with it; at first it does
    nothing.
    """

    mean_LD: Tensor
    factor_LD: Tensor

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_LD", torch.zeros(layers, width))
        self.register_buffer("factor_LD", torch.ones(layers, width))

    @torch.no_grad()
    def take(self, layer: int, fitted: Standardiser) -> None:
        """Standardise a layer as ``fitted`` does."""
        self.mean_LD[layer] = torch.from_numpy(fitted.mean_D)
        self.factor_LD[layer] = torch.from_numpy(fitted.factor_D)

    def forward(self, x: Tensor, layer: int = 0) -> Tensor:
        """Standardised features of a layer, ``[..., D]``."""
        return (x - self.mean_LD[layer]) * self.factor_LD[layer]


class LinearHead(nn.Module):
    """One linear map of the concatenated layers at each token."""

    def __init__(self, layers: int, width: int, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.score = nn.Conv2d(layers * width, classes, 1)
        nn.init.normal_(self.score.weight, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.score(self.drop(torch.cat(list(maps), 1)))


class PooledHead(nn.Module):
    """One linear map of a window's pooled features, as a linear probe is, so that it can start from one."""

    def __init__(self, layers: int, width: int, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.score = nn.Linear(width, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.score(self.drop(maps[0]).movedim(1, -1)).movedim(-1, 1)


class FpnHead(nn.Module):
    """Feature pyramid on a plain ViT (Lin et al. 2017, arXiv 1612.03144; the pyramid as in ViTDet, arXiv 2203.16527).

    Layers from shallow to deep become maps of 2, 1, 1/2 and 1/4 of the token grid; a top-down path adds the coarse to
    the fine ones, and all are summed at the finest. Output: twice the token grid.
    """

    def __init__(self, layers: int, width: int, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.ConvTranspose2d(width, channels, 2, 2), _norm(channels), nn.GELU())
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels if i == 0 else width, channels, 1) for i in range(max(layers, 1))
        )
        self.smooth = nn.ModuleList(_conv(channels, channels) for _ in range(max(layers, 1)))
        self.drop = nn.Dropout(dropout)
        self.score = nn.Conv2d(channels, classes, 1)

    def pyramid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``[B, S, .., ..]`` from fine to coarse after the top-down path."""
        levels = []
        for i, x in enumerate(maps):
            if i == 0:
                x = self.fine(x)
            elif i > 1:
                x = F.avg_pool2d(x, 2 ** (i - 1), ceil_mode=True, count_include_pad=False)
            levels.append(self.lateral[i](x))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + _resize(levels[i], levels[i - 1].shape[-2:])
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = self.pyramid(maps)
        total = levels[0]
        for x in levels[1:]:
            total = total + _resize(x, total.shape[-2:])
        return self.score(self.drop(total))


class UperHead(FpnHead):
    """UPerNet (Xiao et al. 2018, arXiv 1807.10221): the pyramid, with pooled context on its deepest layer."""

    BINS = (1, 2, 3, 6)

    def __init__(self, layers: int, width: int, classes: int, channels: int, dropout: float) -> None:
        super().__init__(layers, width, classes, channels, dropout)
        self.context = nn.ModuleList(nn.Conv2d(width, channels, 1) for _ in self.BINS)
        self.gather = _conv(width + len(self.BINS) * channels, width)
        self.fuse = _conv(max(layers, 1) * channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        deep = maps[-1]
        pooled = [
            _resize(conv(F.adaptive_avg_pool2d(deep, bins)), deep.shape[-2:])
            for bins, conv in zip(self.BINS, self.context, strict=True)
        ]
        levels = self.pyramid([*maps[:-1], self.gather(torch.cat([deep, *pooled], 1))])
        size = levels[0].shape[-2:]
        return self.score(self.drop(self.fuse(torch.cat([_resize(x, size) for x in levels], 1))))


HEADS: dict[str, type[LinearHead] | type[PooledHead] | type[FpnHead]] = {
    "linear": LinearHead, "pooled": PooledHead, "fpn": FpnHead, "upernet": UperHead,
}  # fmt: skip
ON_WINDOWS = ("linear", "pooled")  # heads that can give one class to a whole window
FUSIONS = ("difference", "concatenation", "cross_attention")


def make_head(kind: str, layers: int, width: int, classes: int, channels: int = 64, dropout: float = 0.1) -> nn.Module:
    """A head by name.

    Args:
        kind: one of :data:`HEADS`.
        layers: L.
        width: D of every layer.
        classes: K.
        channels: S.
        dropout: before the last layer.

    Raises:
        UsageError: unknown name.
    """
    if kind not in HEADS:
        raise UsageError(f"unknown head {kind!r}; choose one of {', '.join(HEADS)}")
    return HEADS[kind](layers, width, classes, channels, dropout)


class Fusion(nn.Module):
    """Two dates to one, token by token.

    ``difference``: the absolute difference. ``concatenation``: both, so that the head learns what to compare.
    ``cross_attention``: what attention on the other date cannot explain of each date (forgives small misregistration).

    Args:
        kind: one of :data:`FUSIONS`.
        width: D.
        heads: of the attention; must divide D.
    """

    def __init__(self, kind: str, width: int, heads: int = 4) -> None:
        super().__init__()
        if kind not in FUSIONS:
            raise UsageError(f"unknown fusion {kind!r}; choose one of {', '.join(FUSIONS)}")
        self.kind = kind
        self.width = width if kind == "difference" else 2 * width
        self.attention: nn.MultiheadAttention | None = None
        if kind == "cross_attention":
            heads = next(n for n in (heads, 3, 2, 1) if width % n == 0)
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, one_BND: Tensor, two_BND: Tensor, mask1_BN: Tensor, mask2_BN: Tensor) -> Tensor:
        """``[B, N, width]``."""
        if self.attention is None:
            if self.kind == "difference":
                return (two_BND - one_BND).abs()
            return torch.cat([one_BND, two_BND], -1)
        left_BND = one_BND - self._explained(one_BND, two_BND, mask2_BN)
        right_BND = two_BND - self._explained(two_BND, one_BND, mask1_BN)
        return torch.cat([left_BND, right_BND], -1)

    def _explained(self, query_BND: Tensor, other_BND: Tensor, mask_BN: Tensor) -> Tensor:
        assert self.attention is not None
        hidden_BN = ~(
            mask_BN | ~mask_BN.any(1, keepdim=True)
        )  # nothing valid: attend everywhere rather than to nothing
        return self.attention(query_BND, other_BND, other_BND, key_padding_mask=hidden_BN, need_weights=False)[0]


def _norm(channels: int) -> nn.Module:
    from timm.layers import LayerNorm2d

    return LayerNorm2d(channels)


def _conv(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), _norm(out), nn.GELU())


def _resize(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    return (
        x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
    )
