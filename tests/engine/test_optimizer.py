"""The optimiser: its groups, and its state by parameter name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from specfm.engine.optimizer import (
    adamw,
    clip_gradients,
    depth_of,
    optimizer_tensors,
    restore_optimizer,
    set_lr,
    share_of_lr,
)
from specfm.errors import UsageError


def _modules(seed: int) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.LayerNorm(8)})


def _train(modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        loss = modules["b"](modules["a"](torch.randn(5, 4))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(modules.parameters(), 1.0)
        set_lr(optimizer, 0.1 / (step + 1))
        optimizer.step()


def test_optimizer_state_by_name_resumes_bitwise():
    cpu = torch.device("cpu")
    whole = _modules(0)
    optimizer = adamw(whole, 0.1, 0.05, (0.9, 0.95), cpu)
    _train(whole, optimizer, range(3))
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, whole).items()}
    weights = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    _train(whole, optimizer, range(3, 6))

    again = _modules(1)
    again.load_state_dict(weights)
    second = adamw(again, 0.1, 0.05, (0.9, 0.95), cpu)
    restore_optimizer(second, again, tensors)
    _train(again, second, range(3, 6))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name

    next(again.parameters()).requires_grad_(False)
    name = next(name for name, _ in again.named_parameters())
    with pytest.raises(UsageError, match=f"^{name} was trained before the checkpoint and is to be held now"):
        restore_optimizer(second, again, tensors)


def test_vectors_are_not_decayed():
    optimizer = adamw(_modules(0), 0.1, 0.05, (0.9, 0.95), torch.device("cpu"))
    decayed = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed == {1: 0.0, 2: 0.05}


def test_layers_learn_the_faster_the_deeper() -> None:
    share = share_of_lr(0.5, 4, head=10)
    names = ["embedding.x", "stem.weight", "blocks.0.a", "blocks.3.a", "norm.weight"]
    assert [depth_of(name, 4) for name in names] == [0, 0, 1, 4, 5]
    assert [share(f"model.encoder.{name}") for name in names] == [0.5**5, 0.5**5, 0.5**4, 0.5, 1.0]
    assert share("model.head.score.weight") == 10
    modules = nn.ModuleDict({"model": nn.ModuleDict({"head": nn.Linear(2, 2), "encoder": nn.Linear(2, 2)})})
    optimizer = adamw(modules, 1.0, 0.1, (0.9, 0.9), torch.device("cpu"), share)
    set_lr(optimizer, 2.0)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rates = {name: of[id(p)]["lr"] for name, p in modules.named_parameters()}
    assert rates["model.head.weight"] == rates["model.head.bias"] == 20
    assert rates["model.encoder.weight"] == pytest.approx(2 * 0.5**5)
    decays = {name: of[id(p)]["weight_decay"] for name, p in modules.named_parameters()}
    assert decays["model.head.weight"] == 0.1 and decays["model.head.bias"] == 0
