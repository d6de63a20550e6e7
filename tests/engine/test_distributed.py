"""One process among many."""

from __future__ import annotations

import errno

import pytest
import torch

from specfm.engine.distributed import World
from specfm.errors import SpecfmError, sentence


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
