"""The sum of gradients."""

from __future__ import annotations

import torch
from torch import nn

from specfm.engine.distributed import World
from specfm.engine.sync.all_reduce import AllReduce


def test_missing_gradients_are_zero_in_one_process_too():
    """Else weight decay would move an unused parameter with several ranks and not with one."""
    parameter = nn.Parameter(torch.ones(3))
    AllReduce(World(0, 1, torch.device("cpu"))).gradients([parameter])
    assert torch.equal(parameter.grad, torch.zeros(3))
