"""What of a pretraining goes into a checkpoint besides its encoder, under which names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pretrain import setup
from pretrain.release.card import model_release
from pretrain.state import restore, training_state, training_tensors
from specfm.engine.checkpointing import Checkpointer
from tests.pretrain.runs import debug_config, make_shards


def test_heads_keep_their_names_and_state_that_is_no_parameter_comes_back(tmp_path: Path) -> None:
    """Old checkpoints know ``projection.*`` and ``band_prediction.*``; an objective's own state is a buffer."""
    config = debug_config(tmp_path / "run", make_shards(tmp_path), "objective.band_prediction.weight=0.5")
    shards = setup.open_shards(config)
    sampler = setup.make_sampler(config, shards)

    def made(centre: float) -> tuple[nn.ModuleDict, Any]:
        modules, objectives = setup.make_modules(config)
        objectives["nt_xent"].heads["projection"].register_buffer("centre", torch.full((3,), centre))
        return modules, setup.make_optimizer(config, modules, torch.device("cpu"))

    modules, optimizer = made(7.0)
    tensors = training_tensors(modules, optimizer)
    assert {"module/projection.layers.0.weight", "module/band_prediction.token.weight"} <= tensors.keys()
    assert not [name for name in tensors if name.startswith("module/encoder")]
    state = training_state(config, shards, sampler.state(), 1)
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    checkpoint = checkpointer.save(1, model_release(modules, {}).publish, tensors, state)
    assert checkpoint is not None
    other, optimizer = made(0.0)
    restore(checkpoint, state, config, shards, sampler.state(), other, optimizer)
    assert torch.equal(other.state_dict()["projection.centre"], torch.full((3,), 7.0))
