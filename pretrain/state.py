"""How the state of a pretraining goes into a checkpoint and comes back.

The encoder is a release folder; heads (with their buffers: state of an objective that is no parameter) and optimiser
are tensors by name; the rest is JSON. No stream of random numbers exists, so none is saved.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import PretrainConfig
from pretrain.sampler import MixtureSampler
from specfm.checkpoint import load, take_weights
from specfm.config import to_dict
from specfm.engine.checkpointing import read_tensors
from specfm.engine.optimizer import optimizer_tensors, restore_optimizer
from specfm.errors import UsageError
from specfm.models.backbone import Backbone
from specfm.models.encoder import Encoder
from specfm.shards import ShardSet

log = logging.getLogger(__name__)


def training_tensors(modules: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Training state other than the encoder's weights: heads and optimiser."""
    heads = {
        f"module/{name}": tensor for name, tensor in modules.state_dict().items() if not name.startswith("encoder.")
    }
    return heads | optimizer_tensors(optimizer, modules)


def training_state(
    config: PretrainConfig, shards: ShardSet, sampler: MixtureSampler, world_size: int
) -> dict[str, Any]:
    """JSON-safe training state."""
    from specfm import __version__

    return {
        "config": to_dict(config),
        "data_fingerprint": shards.fingerprint,
        "sampler": sampler.state(),
        "world_size": world_size,
        "versions": {"specfm": __version__, "torch": torch.__version__},
    }


def restore(
    checkpoint: Path,
    state: dict[str, Any],
    config: PretrainConfig,
    shards: ShardSet,
    sampler: MixtureSampler,
    modules: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Take up a verified checkpoint, whose ``state.json`` is ``state``.

    Raises:
        UsageError: other data (unless ``data.allow_changed``) or another architecture.
    """
    if state["data_fingerprint"] != shards.fingerprint:
        text = (
            f"the shards have changed since {checkpoint} was written: fingerprint "
            f"{state['data_fingerprint'][:16]} then, {shards.fingerprint[:16]} now"
        )
        if not config.data.allow_changed:
            raise UsageError(f"{text}; restore them, or pass data.allow_changed=true")
        log.warning("%s; going on because data.allow_changed=true", text)
    elif state["sampler"] != sampler.state():
        log.warning("the batches differ from those before the checkpoint (%s)", "seed, batch size, weights or domains")
    encoder = modules["encoder"]
    assert isinstance(encoder, Encoder | Backbone)
    source = load(checkpoint / "model")
    take_weights(encoder, source, checkpoint)
    encoder.card = source.card  # what it saw before stays seen, also where the shards have changed
    tensors = read_tensors(checkpoint)
    heads = {name.removeprefix("module/"): tensor for name, tensor in tensors.items() if name.startswith("module/")}
    own = {name: tensor for name, tensor in modules.state_dict().items() if not name.startswith("encoder.")}
    if {n: t.shape for n, t in heads.items()} != {n: t.shape for n, t in own.items()}:
        raise UsageError(f"the heads in {checkpoint} differ from the configuration's (objective.*); start a new run")
    modules.load_state_dict({**modules.state_dict(), **heads})
    restore_optimizer(optimizer, modules, tensors)
