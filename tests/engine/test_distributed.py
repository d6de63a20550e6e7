"""One process among many."""

from __future__ import annotations

import errno
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn

from specfm.engine.distributed import World
from specfm.engine.sync import buckets
from specfm.errors import SpecfmError, sentence
from tests.distributed.ranks import on_ranks


def test_every_rank_tells_an_error_of_the_operating_system_alike(monkeypatch):
    """Whichever of them comes first is the one that is heard."""
    sent = []

    def broadcast(world, value):
        sent.append(value)
        return sent[0]

    def fail():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/full")

    monkeypatch.setattr(World, "_broadcast_json", broadcast)
    told = []
    for rank in range(2):
        with pytest.raises((OSError, SpecfmError)) as caught:
            World(rank, 2, torch.device("cpu")).on_main(fail)
        told.append(sentence(caught.value))
    assert told == ["runs/full: no space left on device; free some space or choose another place"] * 2


class _Mixed(nn.Module):
    """Weights, buffers of three types, one that is empty, a weight that is not contiguous."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.lines = nn.ModuleList(nn.Linear(5, 7) for _ in range(4))
        self.turned = nn.Parameter(torch.randn(6, 4).T)
        self.norm = nn.BatchNorm2d(3)
        self.norm.num_batches_tracked.fill_(seed)
        self.register_buffer("there", torch.rand(9) > 0.5)
        self.register_buffer("none", torch.zeros(0, 3))


def _given(world: World, limit: int) -> tuple[int, list[list[float]]]:
    sent, plain = [], dist.broadcast
    with (
        mock.patch.object(buckets, "BUCKET_ELEMENTS", limit),
        mock.patch.object(dist, "broadcast", lambda *a, **k: sent.append(1) or plain(*a, **k)),
    ):
        module = _Mixed(world.rank)
        world.broadcast_module(module)
    return len(sent), [tensor.double().flatten().tolist() for tensor in module.state_dict().values()]


@pytest.mark.parametrize(("limit", "messages"), [(1 << 24, 3), (40, 11)])
def test_every_rank_has_what_rank_0_has_in_few_messages(limit: int, messages: int) -> None:
    wanted = [tensor.double().flatten().tolist() for tensor in _Mixed(0).state_dict().values()]
    for sent, values in on_ranks(3, _given, limit):
        assert values == wanted
        assert sent == messages
