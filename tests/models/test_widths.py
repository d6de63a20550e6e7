"""Widths of pruned layers: written, applied, and refused where a file is damaged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from specfm.errors import SpecfmError
from specfm.models import build_encoder, create_encoder
from specfm.models.widths import narrow, widths_of


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3, groups=6)
        self.norm, self.line = nn.BatchNorm2d(6), nn.Linear(6, 5)
        self.gamma = nn.Parameter(torch.ones(6))


def test_there_and_back() -> None:
    widths = {
        "conv": [3, 4, 3, 3], "depthwise": [3, 1, 3, 3], "norm": [3], "line": [5, 3], "gamma": [3],
    }  # fmt: skip
    module = Scaled()
    narrow(nn.ModuleDict({"net": module}), {f"net.{name}": width for name, width in widths.items()})
    assert module.depthwise.groups == 3 and module.norm.num_features == 3 and module.line.in_features == 3
    x = module.norm(module.depthwise(module.conv(torch.rand(2, 4, 9, 9))))
    assert module.line(x.mean((2, 3)) * module.gamma).shape == (2, 5)
    held = nn.ModuleDict({"net": module})
    assert widths_of(held, nn.ModuleDict({"net": Scaled()})) == {f"net.{name}": width for name, width in widths.items()}


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"blocks.0.mlp.fc9": [3, 24]}, "the widths name 'blocks.0.mlp.fc9'"),
        ({"blocks.0.mlp.fc1": [999, 24]}, r"make blocks.0.mlp.fc1 \[999, 24\]"),
        ({"blocks.0.mlp.fc1": [0, 24]}, "make blocks.0.mlp.fc1"),
        ({"blocks.0.mlp.fc1": [24]}, "make blocks.0.mlp.fc1"),
        ({"blocks.0.mlp.fc1": [True, "24"]}, "make blocks.0.mlp.fc1"),
        ({"blocks.0.attn": 9}, "9 heads of 3"),
        ({"blocks.0": 2}, "the widths name 'blocks.0'"),
    ],
)
def test_damaged_widths_are_refused(widths: dict[str, object], message: str) -> None:
    config = create_encoder("nano", patch_size=3, dim=24, depth=1, heads=3).config
    with pytest.raises(SpecfmError, match=message):
        build_encoder({**config, "widths": widths})
