"""What code written for models of timm asks of a model, for encoders and backbones alike.

The one difference to timm: a cube goes with its bands, so ``x, bands`` stand where timm has ``x``; and a call returns
:class:`Features`, of which :meth:`TimmSurface.forward_head` makes logits.

Shapes: B samples, N tokens, h w token grid, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from specfm.batch import Batch
from specfm.errors import UsageError
from specfm.models.features import Features

POOLS = ("avg", "token", "")
HEAD_OPTIONS = ("num_classes", "global_pool")  # of ``config``, where there is a classifier


class TimmSurface:
    """Attributes and methods under the names of timm.

    Attributes:
        num_classes: K of the classifier, 0 without one.
        global_pool: ``avg`` (mean of valid tokens), ``token`` (the class token) or empty (every token alone).
        head: the classifier; saved and loaded with the encoder.
        feature_info: of each block ``module``, ``num_chs`` and ``reduction`` (pixels of the image per position).
    """

    num_features: int
    patch_size: int
    blocks: nn.ModuleList
    config: dict[str, Any]
    card: dict[str, Any]
    get_intermediate_layers: Callable[..., tuple[Features, ...]]
    head: nn.Module
    num_classes: int
    global_pool: str

    def _start_surface(self) -> None:
        """Called by the constructor: no classifier."""
        self.head, self.num_classes, self.global_pool = nn.Identity(), 0, "avg"

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        one = {"num_chs": self.num_features, "reduction": self.patch_size}
        return [{"module": f"blocks.{i}", **one} for i in range(len(self.blocks))]

    @property
    def num_prefix_tokens(self) -> int:
        return int(getattr(self, "class_token", None) is not None)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Facts in timm's keys. Images of any size and number of bands are taken, and none is normalised beforehand."""
        window = self.card.get("window")
        return {
            "architecture": self.config.get("backbone") or self.config.get("size"),
            "num_classes": self.num_classes,
            "input_size": (None, window, window),
            "fixed_input_size": False,
            "pool_size": None,
            "mean": None,
            "std": None,
            "first_conv": None,
            "classifier": "head",
            "license": self.card.get("license"),
        }

    def get_classifier(self) -> nn.Module:
        """The classifier; ``nn.Identity`` without one."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new linear classifier on top, or take it off.

        Args:
            num_classes: K; 0 takes it off.
            global_pool: see the class; None leaves it.

        Raises:
            UsageError: an unknown pooling, or a class token that the encoder does not have.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in POOLS:
            raise UsageError(f"unknown global_pool {pool!r}; choose one of {', '.join(map(repr, POOLS))}")
        if pool == "token" and not self.num_prefix_tokens:
            raise UsageError("this encoder has no class token; take global_pool 'avg'")
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
            raise UsageError(f"num_classes is a whole number from 0, not {num_classes!r}")
        self.num_classes, self.global_pool = num_classes, pool
        rest = {key: value for key, value in self.config.items() if key not in HEAD_OPTIONS}
        if num_classes == 0:
            self.head, self.config = nn.Identity(), rest
            return
        # where the weights are
        like = next(p for p in self.parameters() if p.is_floating_point())  # type: ignore[attr-defined]
        head = nn.Linear(self.num_features, num_classes).to(like)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.head, self.config = head, {**rest, "num_classes": num_classes, "global_pool": pool}

    def forward_head(self, x: Features | Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features, through the classifier.

        Args:
            x: what a call returned, which knows its valid tokens; or tokens_BND, all of them valid.
            pre_logits: stop before the classifier.

        Returns:
            Logits [B, K] ([B, N, K] without pooling), or features [B, D] where there is no classifier.
        """
        if isinstance(x, Features):
            pooled = {"avg": x.pooled_BD, "token": x.class_BD, "": x.tokens_BND}[self.global_pool]
        elif self.global_pool == "token":
            raise UsageError("tokens alone hold no class token; give what the encoder returned")
        else:
            pooled = x.mean(1) if self.global_pool == "avg" else x
        assert pooled is not None
        return pooled if pre_logits else self.head(pooled)

    def forward_intermediates(
        self,
        x: Tensor | Batch,
        bands: Any = None,
        mask_BHW: Tensor | None = None,
        *,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features after chosen blocks, in the order of the blocks.

        Args:
            x: as in a call.
            bands: as in a call.
            mask_BHW: as in a call.
            indices: the last so many blocks, or block numbers from 0, negative ones from the end; None: all.
            return_prefix_tokens: pairs of (map or tokens, class token [B, 1, D]).
            norm: through the final norm.
            stop_early: run no block after the last chosen one.
            output_fmt: ``NCHW`` (maps [B, D, h, w]) or ``NLC`` (tokens_BND).
            intermediates_only: leave out the final tokens.

        Returns:
            (final tokens_BND, list of intermediates), or the list alone. Where a token has no valid pixel its values
            mean nothing.

        Raises:
            UsageError: a block or format that does not exist, or maps of a batch whose parts differ in size.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise UsageError(f"unknown output_fmt {output_fmt!r}; choose NCHW or NLC")
        if return_prefix_tokens and not self.num_prefix_tokens:
            raise UsageError("this encoder has no class token; leave return_prefix_tokens out")
        depth = len(self.blocks)
        if isinstance(indices, int):
            asked = [*range(depth - indices, depth)] if 0 < indices <= depth else [depth]
        else:
            asked = list(range(depth) if indices is None else indices)
        if not asked or any(not -depth <= i < depth for i in asked):
            raise UsageError(f"the encoder has blocks 0 to {depth - 1}, so it cannot give indices={indices!r}")
        chosen = sorted({i % depth for i in asked})
        last = chosen[-1] if stop_early or intermediates_only else depth - 1
        *found, final = self.get_intermediate_layers(x, bands, mask_BHW, n=[*chosen, last], norm=False)
        through: Callable[[Tensor], Tensor] = getattr(self, "norm", nn.Identity())
        intermediates = [
            _shown(each, through if norm else nn.Identity(), output_fmt, return_prefix_tokens) for each in found
        ]
        return intermediates if intermediates_only else (through(final.tokens_BND), intermediates)


def _shown(of: Features, through: Callable[[Tensor], Tensor], output_fmt: str, prefix: bool) -> Any:
    shown = through(of.tokens_BND)
    if output_fmt == "NCHW":
        if len(set(of.grid_hw)) != 1:
            raise UsageError("the parts of this batch differ in size, so there are no maps of one; take output_fmt NLC")
        height, width = of.grid_hw[0]
        shown = shown[:, : height * width].mT.reshape(len(shown), -1, height, width)
    return (shown, through(torch.unsqueeze(of.class_BD, 1))) if prefix and of.class_BD is not None else shown
