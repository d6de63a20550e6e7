"""Layers narrower than a configuration alone would make them, by name: what pruning has physically removed.

``config["widths"]`` holds, for each changed layer, the shape of its weight, and for an attention the number of its
heads. Everything else follows from these: a network is built as usual, narrowed, and then takes its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from specfm.errors import SpecfmError

Widths = dict[str, Any]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm)
HEADS = "num_heads"  # attribute of timm's attention


def widths_of(narrow: nn.Module, whole: nn.Module) -> Widths:
    """What differs in a narrowed module from the whole one.

    Args:
        narrow: as pruned.
        whole: of the same configuration, unpruned.
    """
    found: Widths = {}
    originals = dict(whole.named_modules())
    for name, module in narrow.named_modules():
        theirs = originals[name]
        if isinstance(weight := getattr(module, "weight", None), torch.Tensor):
            shape = list(weight.shape)
            if shape != list(theirs.weight.shape):  # type: ignore[union-attr,arg-type]
                found[name] = shape
        for own, value in module.named_parameters(recurse=False):
            if own not in ("weight", "bias") and value.shape != getattr(theirs, own).shape:
                found[f"{name}.{own}"] = list(value.shape)
        if isinstance(getattr(module, HEADS, None), int) and getattr(module, HEADS) != getattr(theirs, HEADS):
            found[name] = int(getattr(module, HEADS))
    return found


def narrow(module: nn.Module, widths: Mapping[str, Any]) -> None:
    """Give layers the shapes of :func:`widths_of`; their weights are then to be loaded.

    Raises:
        SpecfmError: a layer that is not there, or a shape that it cannot have.
    """
    layers, single = dict(module.named_modules()), dict(module.named_parameters())
    for name, width in widths.items():
        layer = layers.get(name)
        if isinstance(width, int) and isinstance(getattr(layer, HEADS, None), int):
            _heads(layer, name, width)
        elif isinstance(width, list) and isinstance(layer, (nn.Linear, *CONVOLUTIONS, *NORMS)):
            _shape(layer, name, width)
        elif isinstance(width, list) and name in single:
            place, _, own = name.rpartition(".")
            _check(name, width, list(single[name].shape))
            setattr(layers[place], own, nn.Parameter(single[name].new_empty(width)))
        else:
            raise SpecfmError(f"the widths name {name!r}, of which the network has no such layer; the file is damaged")


def _heads(attention: Any, name: str, heads: int) -> None:
    if not 1 <= heads <= attention.num_heads:
        raise SpecfmError(f"the widths give {name} {heads} heads of {attention.num_heads}; the file is damaged")
    attention.num_heads = heads
    attention.attn_dim = heads * attention.head_dim


def _shape(layer: Any, name: str, shape: list[int]) -> None:
    before = list(layer.weight.shape)
    _check(name, shape, before)
    layer.weight = nn.Parameter(layer.weight.new_empty(shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_empty(shape[0]))
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(shape)
    elif isinstance(layer, NORMS):
        layer.num_features = shape[0]
        for buffer in ("running_mean", "running_var"):
            setattr(layer, buffer, getattr(layer, buffer).new_zeros(shape[0]))
    else:
        depthwise = layer.groups > 1 and before[1] == 1
        if layer.groups > 1 and not depthwise:
            raise SpecfmError(f"{name} is a convolution in groups, which cannot be narrowed")
        layer.groups = shape[0] if depthwise else 1
        layer.out_channels, layer.in_channels = shape[0], shape[0] if depthwise else shape[1]


def _check(name: str, shape: list[int], before: list[int]) -> None:
    fits = len(shape) == len(before) and shape[2:] == before[2:]
    if not fits or not all(isinstance(n, int) and 1 <= n <= most for n, most in zip(shape, before, strict=True)):
        raise SpecfmError(f"the widths make {name} {shape}, which what was {before} cannot be; the file is damaged")
