"""Running averages of weights: the recursion, what is copied, what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from specfm.engine.ema import average_of, follow, released, warmed_up


def test_an_average_is_a_copy_without_gradients() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    average = average_of(module)
    assert not average.training and module.training
    assert not any(p.requires_grad for p in average.parameters()) and all(p.requires_grad for p in module.parameters())
    with torch.no_grad():
        module[0].weight += 1
    assert not torch.equal(average[0].weight, module[0].weight)


def test_the_average_follows_its_recursion_and_buffers_are_copied() -> None:
    module = nn.BatchNorm1d(4)
    average = average_of(module)
    wanted = average.weight.clone()
    generator = torch.Generator().manual_seed(0)
    for decay in (0.0, 0.5, 0.9, 0.99):
        with torch.no_grad():
            module.weight.copy_(torch.randn(4, generator=generator))
            module.running_mean += 1
            module.num_batches_tracked += 1
        follow(average, module, decay)
        wanted = decay * wanted + (1 - decay) * module.weight.detach()
        torch.testing.assert_close(average.weight, wanted)
        assert torch.equal(average.running_mean, module.running_mean)
        assert average.num_batches_tracked == module.num_batches_tracked
    assert not average.weight.requires_grad


def test_what_is_held_is_copied_once_and_then_left_alone() -> None:
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    average = average_of(module)
    with torch.no_grad():
        module.weight += 1
        module.bias += 1
    follow(average, module, 0.0)
    assert torch.equal(average.weight, module.weight) and torch.equal(average.bias, module.bias)
    version = average.weight._version
    follow(average, module, 0.5)
    assert average.weight._version == version  # what is worked out from it, such as alignments, stays valid


def test_warm_up_ends_at_the_decay() -> None:
    assert warmed_up(0.999, 1) == pytest.approx(0.1)
    assert warmed_up(0.999, 91) == pytest.approx(0.91)
    assert warmed_up(0.9, 1000) == 0.9


def test_what_is_released() -> None:
    assert released(nn.ModuleDict({"encoder": nn.Identity()})) == "encoder"
    assert released(nn.ModuleDict({"encoder": nn.Identity(), "averaged": nn.Identity()})) == "averaged"
