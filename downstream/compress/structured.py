"""Structured pruning: whole channels, heads and blocks are taken out, so that a model is smaller and faster anywhere.

torch-pruning follows which weights belong together. Of a transformer the hidden channels of each perceptron and whole
heads go, of a convolutional network the channels between its layers; the width of the features stays, so heads and
whatever reads the features need no change. Blocks go by :func:`drop_blocks`.

Shapes: B tiles, N tokens, D width, K channels of an image.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from downstream.supervised.model import TaskModel
from downstream.supervised.views import View
from specfm.errors import SpecfmError, UsageError
from specfm.models.backbone import AnyEncoder, Backbone
from specfm.models.registry import WIDTHS, build_encoder
from specfm.models.widths import widths_of

IMPORTANCE = ("magnitude", "taylor")
TOKENS = 9  # of the example that the trunk of a transformer is followed with


class _Trunk(nn.Module):
    """The blocks of a transformer alone: what is around them is not touched."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, tokens_BND: Tensor) -> Tensor:
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return tokens_BND


class _Network(nn.Module):
    """A convolutional network with a layer behind it that stands for all that reads its features."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.reader = net, nn.Conv2d(net.num_features, 1, 1)

    def forward(self, x_BKHW: Tensor) -> Tensor:
        return self.reader(self.net.forward_features(x_BKHW))


def blocks_of(encoder: AnyEncoder) -> nn.ModuleList | None:
    """The blocks of a transformer; None of a convolutional network."""
    blocks = encoder.net.__dict__.get("_modules", {}).get("blocks") if isinstance(encoder, Backbone) else encoder.blocks
    listed = blocks if isinstance(blocks, (nn.ModuleList, nn.Sequential)) else ()
    ready = all(hasattr(each, "attn") and hasattr(each, "mlp") for each in listed) and len(listed)
    return nn.ModuleList(listed) if ready else None


def prune_structured(
    model: TaskModel, ratio: float, importance: str, labelled: Sequence[tuple[View, Tensor]] = ()
) -> TaskModel:
    """A narrower copy of a model.

    Args:
        model: is not changed.
        ratio: share of the channels (and heads) to take out of every layer, above 0 and below 1.
        importance: ``magnitude`` (the least weights go) or ``taylor`` (those whose loss is least: |weight x gradient|,
            Molchanov et al. 2019, arXiv 1906.10771).
        labelled: tiles and classes that the gradients of ``taylor`` are of.

    Raises:
        UsageError: an unknown importance, a ratio outside its range, or taylor without tiles.
        SpecfmError: torch-pruning is missing, or nothing of this network can be taken out.
    """
    if importance not in IMPORTANCE:
        raise UsageError(f"importance is {importance!r}; choose one of {', '.join(IMPORTANCE)}")
    if not 0 < ratio < 1:
        raise UsageError(f"ratio is {ratio}; give the share of channels to take out, between 0 and 1")
    if importance == "taylor" and not labelled:
        raise UsageError("importance=taylor needs labelled tiles for its gradients; choose magnitude without them")
    try:
        import torch_pruning
    except ImportError:
        raise SpecfmError("structured pruning needs torch-pruning; install specfm[compress]") from None
    found = copy.deepcopy(model).eval().requires_grad_(True)
    if importance == "taylor":
        for view, y_B in labelled:
            F.cross_entropy(found(view), y_B).backward()
        rank = torch_pruning.importance.GroupTaylorImportance()
    else:
        rank = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    encoder, blocks = found.encoder, blocks_of(found.encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside layers (layer scales), which are pruned as they should
        if blocks is not None:
            _prune_transformer(torch_pruning, blocks, encoder.num_features, ratio, rank)
        else:
            _prune_convolutions(torch_pruning, encoder, ratio, rank)
    found.zero_grad(set_to_none=True)
    config = {key: value for key, value in encoder.config.items() if key != WIDTHS}
    encoder.config = {**config, WIDTHS: widths_of(encoder, build_encoder(config))}
    for parameter, before in zip(found.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)
    return found


def _prune_transformer(tools: Any, blocks: nn.ModuleList, width: int, ratio: float, rank: Any) -> None:
    trunk: Any = _Trunk(blocks)
    heads = {block.attn.qkv: block.attn.num_heads for block in trunk.blocks}
    kept = [layer for block in trunk.blocks for layer in (block.attn.proj, block.mlp.fc2)]
    most = max(heads.values())
    example = torch.randn(1, TOKENS, width, device=next(trunk.parameters()).device)
    pruner = tools.pruner.BasePruner(
        trunk, example, rank, pruning_ratio=ratio, ignored_layers=kept, num_heads=heads,
        prune_num_heads=most > 1, prune_head_dims=False, head_pruning_ratio=ratio,
    )  # fmt: skip
    pruner.step()
    for block in trunk.blocks:
        block.attn.num_heads = pruner.num_heads[block.attn.qkv]
        block.attn.attn_dim = block.attn.num_heads * block.attn.head_dim


def _prune_convolutions(tools: Any, encoder: Any, ratio: float, rank: Any) -> None:
    whole = _Network(encoder.net)
    example = torch.randn(1, encoder.channels, 9, 9, device=encoder.device)
    graph = tools.DependencyGraph().build_dependency(whole, example_inputs=example)
    group = graph.get_pruning_group(whole.reader, tools.prune_conv_in_channels, idxs=[0])
    kept = [whole.reader, *{dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)}]
    before = sum(p.numel() for p in whole.parameters())
    tools.pruner.BasePruner(whole, example, rank, pruning_ratio=ratio, ignored_layers=kept).step()
    if sum(p.numel() for p in whole.parameters()) == before:
        raise SpecfmError(
            f"of {encoder.config['backbone']} no channels can be taken out (one layer between image and features); "
            "choose a deeper network, or another method"
        )


def drop_blocks(model: TaskModel, count: int) -> TaskModel:
    """A shallower copy: without the last ``count`` blocks of a transformer of ours.

    Args:
        model: is not changed; its head reads the last block.
        count: blocks to take out; at least one stays.

    Raises:
        UsageError: more blocks than there are to spare, another network, or a head on several blocks.
    """
    encoder = model.encoder
    if isinstance(encoder, Backbone):
        raise UsageError(f"blocks is for encoders of ours, not {encoder.config['backbone']}; leave it out")
    depth = len(encoder.blocks)
    if not 1 <= count < depth:
        raise UsageError(f"blocks is {count}; of an encoder of {depth} blocks 1 to {depth - 1} can be taken out")
    if model.layers != [depth - 1]:
        raise UsageError("blocks can be taken out where the head reads the last one alone")
    keep = depth - count
    found = copy.deepcopy(model)
    found.encoder.blocks = found.encoder.blocks[:keep]  # type: ignore[assignment,index]
    gone = tuple(f"blocks.{number}." for number in range(keep, depth))
    widths = {name: w for name, w in encoder.config.get(WIDTHS, {}).items() if not f"{name}.".startswith(gone)}
    rest = {key: value for key, value in encoder.config.items() if key != WIDTHS}
    found.encoder.config = {**rest, "depth": keep, **({WIDTHS: widths} if widths else {})}
    found.layers = [keep - 1]
    return found
