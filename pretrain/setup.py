"""What a run is made of: shards, sampler, modules; and how its state goes into a checkpoint and comes back."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import PretrainConfig
from pretrain.loader import Loader
from pretrain.objectives.band_prediction import BandPredictor
from pretrain.objectives.heads import projection_head
from pretrain.sampler import MixtureSampler
from pretrain.whiten import whiten_stem
from specfm.checkpoint import has_whitened_stem, load, save
from specfm.config import differences, digest, to_dict
from specfm.engine.checkpointing import read_tensors
from specfm.engine.optimizer import adamw, optimizer_tensors, restore_optimizer
from specfm.errors import UsageError
from specfm.models.encoder import Encoder
from specfm.models.registry import create_encoder
from specfm.shards import ShardReader, ShardSet

log = logging.getLogger(__name__)
BEFORE_TRUNK = ("embedding", "brightness", "stem")  # parts of the encoder that a whitened stem amplifies


def open_shards(config: PretrainConfig) -> ShardSet:
    """The store of the run."""
    data = config.data
    return ShardSet(list(data.shards), include=data.include, exclude=data.exclude)


def make_sampler(config: PretrainConfig, shards: ShardSet) -> MixtureSampler:
    """The sampler of the run; the same for any number of processes."""
    data = config.data
    return MixtureSampler(
        shards.sizes,
        shards.domains,
        data.global_batch,
        config.seed,
        domain_weights=data.weights or None,
        domains_per_batch=data.domains_per_batch,
        divisor=data.part_divisor,
    )


def doubts(config: PretrainConfig, shards: ShardSet, sampler: MixtureSampler) -> list[str]:
    """Sentences on what a run would do without complaint although it can hardly be meant."""
    found = []
    if few := sampler.repeats():
        listed = [f"{name} ({drawn} of {size})" for name, (drawn, size) in few.items()]
        found.append(
            f"a step holds copies of windows, since it draws more than there are, in {', '.join(listed)}; cut more "
            "(specfm shard --stride), lower data.global_batch, or leave these out (data.exclude)"
        )
    blind = sum(int((reader.valid_N == 0).sum()) for reader in shards.readers)
    if blind:
        found.append(
            f"{blind} of {len(shards)} windows have no valid pixel and teach nothing; cut the shards with "
            "specfm shard --min-valid"
        )
    if config.optim.warmup_steps >= config.steps > 1:
        found.append(
            f"optim.warmup_steps {config.optim.warmup_steps} is not below steps {config.steps}, so the learning rate "
            "only rises"
        )
    return found


def make_modules(config: PretrainConfig) -> nn.ModuleDict:
    """Encoder, projection head and, if its weight is not 0, the band-prediction head; weights from the seed alone.

    Raises:
        UsageError: ``init_from`` holds another architecture.
    """
    model, projection = config.model, config.objective.projection
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = create_encoder(model.size, model.embedding, model.patch_size, **model.options)
        width = encoder.num_features
        modules = nn.ModuleDict({"encoder": encoder})
        modules["projection"] = projection_head(
            width, projection.hidden, projection.dim, projection.layers, projection.norm
        )
        if config.objective.band_prediction.weight > 0:
            modules["band_prediction"] = BandPredictor(width, config.objective.band_prediction.rank)
    if config.init_from is not None:
        source = load(config.init_from)
        take_weights(encoder, source, config.init_from)
        encoder.card = source.card  # what it saw stays seen, what it whitened stays whitened
        encoder.library = source.library
    encoder.set_grad_checkpointing(model.grad_checkpointing)
    return modules


def whiten(config: PretrainConfig, shards: ShardSet, sampler: MixtureSampler, modules: nn.ModuleDict) -> None:
    """Start the encoder's stem from the first global batches, whatever the number of processes."""
    encoder, count = modules["encoder"], min(config.whiten.batches, config.steps)
    assert isinstance(encoder, Encoder)
    if count:
        crop, sides = config.views.crop, [min(reader.window) for reader in shards.readers]
        if crop is None or crop >= max(sides):
            log.warning(
                "views are as wide as the windows (%d pixels), so what neighbours share cannot be told from noise: "
                "set views.crop to less, or cut wider shards (specfm shard --window)", max(sides),
            )  # fmt: skip
        loader = Loader(shards, sampler, threads=config.data.threads, device=encoder.device)
        batches = (batch for _, batch in loader.iterate(0, count))
        whiten_stem(encoder, batches, config.views, config.seed, config.whiten.damping)


def check_alignment(encoder: Encoder) -> None:
    """An encoder of aligned tokens needs spectra to be aligned by, and an embedding that stays as it is meanwhile.

    Raises:
        UsageError: it lacks one of them.
    """
    if not encoder.aligned:
        return
    if encoder.library is None:
        raise UsageError(
            "model.options.aligned: no sensor of the shards has the 50 bands from which spectra for the alignment are "
            "drawn; leave it out, or add a sensor that has"
        )
    if any(p.requires_grad for name, p in encoder.named_parameters() if name.split(".")[0] in BEFORE_TRUNK):
        raise UsageError(
            "model.options.aligned: the maps between cameras hold for one embedding; hold it with whiten.batches=16 "
            "(or init_from an encoder whose stem is whitened) and whiten.lr_share=0"
        )


def make_optimizer(config: PretrainConfig, modules: nn.ModuleDict, device: torch.device) -> torch.optim.AdamW:
    """The run's optimiser. Behind a whitened stem, what comes before the trunk learns at ``whiten.lr_share`` or not."""
    optim, encoder = config.optim, modules["encoder"]
    assert isinstance(encoder, Encoder)
    whitens = config.whiten.batches > 0 or has_whitened_stem(encoder.card)
    early = tuple(f"encoder.{name}." for name in BEFORE_TRUNK) if whitens else ()
    if whitens and config.whiten.lr_share == 0:
        for name, parameter in modules.named_parameters():
            parameter.requires_grad_(not name.startswith(early))
    return adamw(
        modules,
        optim.lr,
        optim.weight_decay,
        optim.betas,
        device,
        (lambda name: config.whiten.lr_share if name.startswith(early) else 1.0) if whitens else None,
    )


def take_weights(encoder: Encoder, source: Encoder, name: str | Path) -> None:
    """Copy the weights of ``source`` into ``encoder``, which must be of the same architecture.

    Raises:
        UsageError: it is not; the message lists what differs.
    """
    if differing := differences(source.config, encoder.config):
        listed = ", ".join(f"{key} {old!r} there, {new!r} here" for key, (old, new) in differing.items())
        raise UsageError(f"the model in {name} has another architecture than the configuration ({listed})")
    encoder.load_state_dict(source.state_dict())


def release_card(config: PretrainConfig, shards: ShardSet, step: int, before: dict[str, Any]) -> dict[str, Any]:
    """What a released encoder says about its training; ``before``: the card of the weights it started from, or {}."""
    from specfm import __version__

    def all_seen(key: str, names: Iterable[str]) -> list[str]:
        return sorted({*before.get(key, ()), *names})

    return {
        "trained_by": f"specfm {__version__} pretrain",
        "steps": step,
        "seed": config.seed,
        "domains": all_seen("domains", shards.domain_names),
        "sensors": all_seen("sensors", (reader.sensor.name or reader.sensor.digest for reader in shards.readers)),
        "scenes": all_seen("scenes", (name for reader in shards.readers for name in reader.scene_names)),
        "contents": all_seen("contents", (content for reader in shards.readers for content in _contents(reader))),
        "whitened": config.whiten.batches > 0 or has_whitened_stem(before),
        "window": config.views.crop or min(reader.window[0] for reader in shards.readers),
        "samples": len(shards),
        "data_fingerprint": shards.fingerprint,
        "config_digest": digest(config),
        "config": to_dict(config),
    }


def _contents(reader: ShardReader) -> list[str]:
    """Digests of the files that a shard was cut from, where its recipe tells (those of ``specfm shard`` do)."""
    scenes = reader.recipe.get("scenes", ())
    return [str(s["content"]) for s in scenes if isinstance(s, dict) and "content" in s]


def write_model(modules: nn.ModuleDict, folder: Path, card: dict[str, Any]) -> None:
    """Publish the encoder as a release folder."""
    encoder = modules["encoder"]
    assert isinstance(encoder, Encoder)
    save(encoder, folder, card)


def training_tensors(modules: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Training state other than the encoder's weights: heads and optimiser."""
    heads = {
        f"module/{name}": tensor for name, tensor in modules.state_dict().items() if not name.startswith("encoder.")
    }
    return heads | optimizer_tensors(optimizer, modules)


def training_state(
    config: PretrainConfig, shards: ShardSet, sampler: MixtureSampler, world_size: int
) -> dict[str, Any]:
    """JSON-safe training state. No stream of random numbers exists, so none is saved."""
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
    assert isinstance(encoder, Encoder)
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
