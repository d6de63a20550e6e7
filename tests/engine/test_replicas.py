"""Replicas that differ are noticed, and named (fault 44)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from specfm.engine.distributed import World
from specfm.engine.replicas import ReplicasDifferError, alike, odd_ranks, refuse_different, tensor_digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_any_change_of_bits_changes_the_digest(dtype):
    x = (torch.arange(7 * 11) % 2 + torch.arange(7 * 11) % 3).to(dtype).reshape(7, 11)
    digest = tensor_digest(x)
    assert digest.shape == (2,) and torch.equal(digest, tensor_digest(x.clone()))
    assert torch.equal(digest, tensor_digest(x.t().contiguous().t()))  # values count, not their layout
    for place in (0, 5, 76):
        y = x.clone().view(-1)
        y[place] = y[place] + 1 if dtype != torch.bool else ~y[place]
        assert not (digest == tensor_digest(y)).any(), place
    exchanged = x.clone().view(-1)
    exchanged[[0, 1]] = exchanged[[1, 0]]
    assert not torch.equal(digest, tensor_digest(exchanged))


def test_nan_and_the_sign_of_zero_are_bits_like_others():
    x = torch.tensor([0.0, 1.0, torch.nan])
    assert torch.equal(tensor_digest(x), tensor_digest(x.clone()))
    assert not torch.equal(tensor_digest(x), tensor_digest(torch.tensor([-0.0, 1.0, torch.nan])))


def test_the_digest_does_not_depend_on_how_it_is_cut(monkeypatch):
    from specfm.engine import replicas

    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    whole = tensor_digest(x)
    monkeypatch.setattr(replicas, "_CHUNK", 7)
    assert torch.equal(tensor_digest(x), whole)
    assert tensor_digest(torch.empty(0)).tolist() == [0, 0]


def test_the_odd_ones_are_those_unlike_most():
    rows = torch.tensor([[1, 2], [1, 2], [1, 2], [1, 2]])
    assert odd_ranks(rows) == []
    assert odd_ranks(rows + torch.tensor([[5], [0], [0], [0]])) == [0]
    assert odd_ranks(rows + torch.tensor([[0], [0], [1], [2]])) == [2, 3]
    assert odd_ranks(rows[:2] + torch.tensor([[0], [1]])) == [1]


@dataclass(frozen=True)
class Beside(World):
    """Rank 0 of three; what the others send is made of what it sends itself."""

    spoil: int = 0

    def gather_rows(self, x: Tensor) -> Tensor:
        other = x.clone()
        other.view(-1)[2 if x.numel() > 2 else 0] += self.spoil
        return torch.cat([x, x, other])


@pytest.mark.parametrize(("tensors", "where"), [({"a": 1, "b": 2}, "first in b"), ({}, "the state beside")])
def test_the_message_names_rank_and_tensor(tensors, where):
    held = {name: torch.full((4,), float(value)) for name, value in tensors.items()}

    class Second(Beside):
        def gather_rows(self, x: Tensor) -> Tensor:
            return super().gather_rows(x) if x.dim() == 3 or not held else torch.cat([x, x, x])

    world = Second(0, 3, torch.device("cpu"), spoil=1)
    with pytest.raises(ReplicasDifferError, match=f"rank 2 differ from those of the others at step 5, .*{where}"):
        refuse_different(world, held, {"step": 5}, "at step 5")


def test_one_process_has_nothing_to_compare():
    refuse_different(World(0, 1, torch.device("cpu")), {}, {}, "")


def test_running_statistics_are_each_processs_own():
    """Every process sees other samples; what is trained, and how often, is the same."""
    modules = nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "synced": nn.SyncBatchNorm(3)})
    left_out = set(modules.state_dict()) - set(alike(modules))
    assert left_out == {"body.1.running_mean", "body.1.running_var"}
    assert set(alike(nn.BatchNorm1d(3))) == {"weight", "bias", "num_batches_tracked"}
