"""How the state of a pretraining goes into a checkpoint and comes back.

What would be released (the encoder, or its average) is a release folder; the encoder beside its average, heads (with
their buffers: state of an objective that is no parameter) and optimiser are tensors by name; the rest is JSON. No
stream of random numbers exists, so none is saved.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import PretrainConfig
from pretrain.stems import acquisitions, share_stems
from specfm.checkpoint import load, take_weights
from specfm.config import to_dict
from specfm.engine.checkpointing import read_tensors
from specfm.engine.ema import released
from specfm.engine.optimizer import optimizer_tensors, restore_optimizer
from specfm.errors import UsageError
from specfm.models.backbone import Backbone
from specfm.models.encoder import Encoder
from specfm.shards import ShardSet

log = logging.getLogger(__name__)


def training_tensors(modules: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Training state other than the weights that would be released: the other modules and the optimiser."""
    others = {f"module/{name}": tensor for name, tensor in _others(modules).items()}
    return others | optimizer_tensors(optimizer, modules)


def _others(modules: nn.ModuleDict) -> dict[str, Tensor]:
    """State of all modules but the one that would be released."""
    prefix = f"{released(modules)}."
    return {name: tensor for name, tensor in modules.state_dict().items() if not name.startswith(prefix)}


def training_state(config: PretrainConfig, shards: ShardSet, draws: dict[str, Any], world_size: int) -> dict[str, Any]:
    """JSON-safe training state; ``draws``: what decides which samples a step holds."""
    from specfm import __version__

    return {
        "config": to_dict(config),
        "data_fingerprint": shards.fingerprint,
        "sampler": draws,
        "world_size": world_size,
        "versions": {"specfm": __version__, "torch": torch.__version__},
    }


def restore(
    checkpoint: Path,
    state: dict[str, Any],
    config: PretrainConfig,
    shards: ShardSet,
    draws: dict[str, Any],
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
    elif state["sampler"] != draws:
        differs = "seed, batch size, weights, domains or what is simulated"
        log.warning("the batches differ from those before the checkpoint (%s)", differs)
    encoder, kept = modules["encoder"], modules[released(modules)]
    assert isinstance(encoder, Encoder | Backbone) and isinstance(kept, Encoder | Backbone)
    source = load(checkpoint / "model")
    per, then = config.whiten.per, state["config"]["whiten"].get("per", "run")
    held = [] if source.stems is None else list(source.stems.acquisitions)
    if per != then or (per != "run" and held != acquisitions(shards, per)):
        raise UsageError(
            f"the stems in {checkpoint} are of other domains or scenes than those of whiten.per={per} and the shards; "
            "resume with what config.yaml in the run folder says, or start a new run"
        )
    take_weights(kept, source, checkpoint)
    encoder.stems = kept.stems
    encoder.card = source.card  # what it saw before stays seen, also where the shards have changed
    tensors = read_tensors(checkpoint)
    others = {name.removeprefix("module/"): tensor for name, tensor in tensors.items() if name.startswith("module/")}
    if {n: t.shape for n, t in others.items()} != {n: t.shape for n, t in _others(modules).items()}:
        raise UsageError(
            f"the heads in {checkpoint} differ from the configuration's (objective.*, ema); start a new run"
        )
    modules.load_state_dict({**modules.state_dict(), **others})
    share_stems(modules)
    restore_optimizer(optimizer, modules, tensors)
