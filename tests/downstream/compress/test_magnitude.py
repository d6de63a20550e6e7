"""Least weights to zero: how many, which, held while training; and their storage, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from downstream.compress.magnitude import schedule, settle, sparsity, weights_of, zero_weights
from downstream.compress.packed import pack, unpack, write_packed
from specfm.errors import SpecfmError, UsageError
from tests.downstream.compress.make import model, windows


def test_the_least_become_zero_and_stay_so_in_training() -> None:
    made, (view, y_B) = model(), windows()
    before = torch.cat([getattr(*each).detach().flatten() for each in weights_of(made)])
    zero_weights(made, 0.6)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    torch.nn.functional.cross_entropy(made.train()(view), y_B).backward()
    optimizer.step()
    settle(made)
    assert sparsity(made) == pytest.approx(0.6, abs=1e-3)
    after = torch.cat([getattr(*each).detach().flatten() for each in weights_of(made)])
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    zero_weights(made, 0.8)  # a second round counts those that are zero already
    settle(made)
    assert sparsity(made) == pytest.approx(0.8, abs=1e-3)
    assert set(made.state_dict()) == set(model().state_dict())


def test_rounds_are_steep_at_first() -> None:
    found = schedule(0.9, 3)
    assert found[-1] == pytest.approx(0.9) and found[0] == pytest.approx(0.9 * (1 - (2 / 3) ** 3))
    assert schedule(0.5, 1) == [0.5]
    for share in (0.0, 1.0):
        with pytest.raises(UsageError, match="between 0 and 1"):
            zero_weights(model(), share)


@pytest.mark.parametrize("zeros", [0.0, 0.05, 0.5, 0.99, 1.0])
def test_storage_gives_the_same_back(zeros: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a.weight": torch.randn(7, 11, 3, generator=generator),
        "b": torch.randn(13, generator=generator).half(),
        "steps": torch.arange(5),
        "scalar": torch.tensor(2.5),
    }
    for name in ("a.weight", "b"):
        tensors[name][torch.rand(tensors[name].shape, generator=generator) < zeros] = 0
    nbytes = write_packed(tensors, tmp_path / "packed.safetensors")
    assert nbytes == (tmp_path / "packed.safetensors").stat().st_size
    found = unpack(load_file(tmp_path / "packed.safetensors"))
    assert set(found) == set(tensors)
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())


def test_storage_is_small() -> None:
    weight = torch.randn(1000, 100)
    weight[torch.rand(weight.shape) < 0.9] = 0
    stored = sum(t.numel() * t.element_size() for t in pack({"w": weight}).values())
    assert stored < 0.15 * 4 * weight.numel()


def test_damaged_storage_is_a_sentence() -> None:
    whole = pack({"w": torch.tensor([0.0, 1.0, 0.0, 2.0])})
    for name, value in (("w.shape", torch.tensor([400])), ("w.values", torch.ones(3)), ("w.shape", torch.tensor([-4]))):
        with pytest.raises(SpecfmError, match="w: .* damaged"):
            unpack({**whole, name: value})
    with pytest.raises(SpecfmError, match="a part of the packed tensor is missing"):
        unpack({name: t for name, t in whole.items() if name != "w.values"})
