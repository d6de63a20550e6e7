"""Quantisation-aware training: weights and activations are rounded as the runtime will.

The gradient passes straight through the rounding (Jacob et al. 2018, arXiv 1712.05877).
Weights have one scale a channel (symmetric, 8 bits), activations one of each call (8 bits, zero among the levels).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from downstream.compress.magnitude import weights_of
from downstream.supervised.model import TaskModel

WEIGHT_TOP, LEVELS = 127, 255
TINY = 1e-12


class _Rounded(nn.Module):
    """A weight on the levels of 8 bits, channel by channel."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = (weight.detach().abs().flatten(1).amax(1) / WEIGHT_TOP).clamp_min(TINY)
        zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHT_TOP, WEIGHT_TOP)


def rounded_activation(x: Tensor) -> Tensor:
    """An activation on 256 levels between its least and its largest value."""
    low, high = x.detach().amin().clamp_max(0.0), x.detach().amax().clamp_min(0.0)
    scale = ((high - low) / LEVELS).clamp_min(TINY)
    zero = (-low / scale).round().clamp(0, LEVELS).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, LEVELS)


def _round_input(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (rounded_activation(given[0]), *given[1:])


class Rounding:
    """While it is entered, the layers of a model's trunk compute with rounded weights and inputs; afterwards they hold
    the weights that were learnt so, in full precision.

    Args:
        model: changed while entered.
    """

    def __init__(self, model: TaskModel) -> None:
        self.model = model
        self._hooks: list[Any] = []

    def __enter__(self) -> Rounding:
        for layer, name in weights_of(self.model):
            parametrize.register_parametrization(layer, name, _Rounded())
            self._hooks.append(layer.register_forward_pre_hook(_round_input))
        return self

    def __exit__(self, *error: object) -> None:
        for layer, name in weights_of(self.model):
            parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
