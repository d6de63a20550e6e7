"""What a pretraining is made of: shards, sampler, encoder, objectives, optimiser."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain import stems
from pretrain.backbone import components_of, fit_backbone, make_backbone
from pretrain.config import PretrainConfig
from pretrain.loader import Loader
from pretrain.objectives.base import Objective, Surroundings
from pretrain.objectives.registry import make_objectives
from pretrain.pairs.nearest import NearestElsewhere
from pretrain.pairs.pairing import Pairing
from pretrain.pairs.same_object import SameObject
from pretrain.pairs.simulated import SimulatedPairs
from pretrain.sampler import MixtureSampler
from pretrain.whiten import whiten_stem
from specfm.checkpoint import has_whitened_stem, load, read_heads, take_weights
from specfm.engine.curriculum import shortened
from specfm.engine.distributed import World
from specfm.engine.ema import AVERAGED, average_of
from specfm.engine.optimizer import adamw
from specfm.errors import UsageError
from specfm.models.backbone import AnyEncoder, Backbone
from specfm.models.embeddings.published import misfits
from specfm.models.encoder import Encoder
from specfm.models.registry import create_encoder
from specfm.models.stem import Stem
from specfm.models.trunk_weights import load_trunk
from specfm.shards import ShardSet

log = logging.getLogger(__name__)
NORMALISE_BATCHES = 16  # global batches that statistics of the data are taken from
STEMS = ("stem", "pixel_stem")
BEFORE_TRUNK = ("embedding", "brightness", *STEMS)  # parts of the encoder that a whitened stem amplifies


def open_shards(config: PretrainConfig) -> ShardSet:
    """The store of the run."""
    data = config.data
    return ShardSet(list(data.shards), include=data.include, exclude=data.exclude, bands=read_bands(config))


def settled(config: PretrainConfig) -> PretrainConfig:
    """The configuration with the steps that the run takes: those of its epochs, and what a curriculum's budget leaves.

    An epoch is as many samples as the shards have windows, drawn as the mixture draws them.
    """
    if config.epochs is not None:
        sampler = make_sampler(config, open_shards(config))
        steps = max(1, math.ceil(config.epochs * sampler.steps_per_epoch))
        log.info("epochs %g: %d steps of %d samples", config.epochs, steps, config.data.global_batch)
        config = config.model_copy(update={"steps": steps, "epochs": None})
    return shortened(config, config.curriculum)


def read_bands(config: PretrainConfig) -> str | None:
    """Bands of the shards to read; a backbone makes components of all of them itself."""
    return None if components_of(config) is not None else config.data.bands


def make_sampler(config: PretrainConfig, shards: ShardSet) -> MixtureSampler:
    """The sampler of the run; the same for any number of processes."""
    data = config.data
    return MixtureSampler(
        shards.sizes,
        shards.domains,
        data.global_batch - data.simulated_batch,
        config.seed,
        domain_weights=data.weights or None,
        domains_per_batch=data.domains_per_batch,
        divisor=data.part_divisor,
    )


def make_pairing(config: PretrainConfig, shards: ShardSet, world: World, folder: Path) -> Pairing | None:
    """What second views are made of; None: of the sample itself."""
    if config.pairs.kind == "nearest_elsewhere":
        return NearestElsewhere(config.pairs, shards, config.model.patch_size, config.seed, world, folder)
    return SameObject(config.pairs, shards, config.seed) if config.pairs.kind == "same_object" else None


def make_simulated(config: PretrainConfig, shards: ShardSet, world: World) -> SimulatedPairs | None:
    """Where simulated samples come from; None: nowhere."""
    data = config.data
    if data.simulated is None:
        return None
    return SimulatedPairs(
        data.simulated,
        config.seed,
        data.simulated_batch,
        data.part_divisor,
        shards,
        world.rank,
        world.size,
        threads=data.threads,
        prefetch=data.prefetch,
        device=world.device,
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
    blind = sum(reader.blind for reader in shards.readers)
    if blind:
        found.append(
            f"{blind} of {len(shards)} windows have no valid pixel and teach nothing; cut the shards with "
            "specfm shard --min-valid"
        )
    if config.model.backbone is not None and config.optim.micro_batch:
        found.append(
            "optim.micro_batch: statistics of a batch (BatchNorm, as ResNet has) are those of a micro-batch, so the "
            "result depends on it"
        )
    if config.optim.warmup_steps >= config.steps > 1:
        found.append(
            f"optim.warmup_steps {config.optim.warmup_steps} is not below steps {config.steps}, so the learning rate "
            "only rises"
        )
    return found


def make_modules(config: PretrainConfig, shards: ShardSet | None = None) -> tuple[nn.ModuleDict, dict[str, Objective]]:
    """Encoder, heads and, if one is kept, the encoder's average, and the objectives of the heads; from the seed alone.

    ``shards`` tell the bands of a ``model.backbone``; our encoder needs none.

    Raises:
        UsageError: ``init_from`` or ``model.init_trunk`` hold another architecture.
    """
    model = config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder: AnyEncoder
        if model.backbone is None:
            encoder = create_encoder(model.size, model.embedding, model.patch_size, **model.options)
        else:
            assert shards is not None, "a backbone is built for the bands of shards"
            encoder = make_backbone(config, shards)
        size = encoder.num_features, encoder.patch_size
        around = Surroundings(*size, config.views, config.seed, config.pairs, encoder)
        objectives = make_objectives(config.objective.chosen(), around)
    if model.init_trunk is not None:
        assert isinstance(encoder, Encoder)  # the configuration refuses it with a backbone
        load_trunk(encoder, model.init_trunk)
    if config.init_from is not None:
        source = load(config.init_from)
        take_weights(encoder, source, config.init_from)
        encoder.card = source.card  # what it saw stays seen, what it whitened stays whitened
        encoder.library = source.library
    encoder.set_grad_checkpointing(model.grad_checkpointing)
    heads = {name: head for objective in objectives.values() for name, head in objective.heads.items()}
    if config.init_from is not None:
        take_heads(heads, read_heads(config.init_from), config.init_from)
    average = {} if config.ema is None else {AVERAGED: average_of(encoder)}
    return nn.ModuleDict({"encoder": encoder, **heads, **average}), objectives


def take_heads(heads: dict[str, nn.Module], given: dict[str, Tensor], source: str) -> None:
    """Copy what a release brings along for the heads of this run.

    Raises:
        UsageError: a head of other names or sizes; the message lists them.
    """
    for name, head in heads.items():
        mine = {key.removeprefix(f"{name}."): tensor for key, tensor in given.items() if key.startswith(f"{name}.")}
        if not mine:
            continue
        if problems := misfits(mine, head.state_dict()):
            raise UsageError(
                f"the head {name} in {source} differs from the configuration's (objective.{name}): "
                f"{'; '.join(problems[:6])}; set it as there"
            )
        head.load_state_dict(mine)
        log.info("%s: the head %s goes on from there", source, name)


def normalise(config: PretrainConfig, shards: ShardSet, sampler: MixtureSampler, modules: nn.ModuleDict) -> None:
    """Fit what the encoder normalises by on the first global batches, unless it comes with it (``init_from``)."""
    encoder = modules["encoder"]
    assert isinstance(encoder, Encoder | Backbone)
    loader = Loader(shards, sampler, threads=config.data.threads, device=encoder.device)
    batches = (batch for _, batch in loader.iterate(0, NORMALISE_BATCHES))
    if isinstance(encoder, Backbone):
        if config.init_from is None:
            fit_backbone(encoder, batches)
    elif encoder.normaliser is not None and not encoder.normaliser.fitted:
        encoder.fit_normaliser(batches)


def whiten(config: PretrainConfig, shards: ShardSet, sampler: MixtureSampler, modules: nn.ModuleDict) -> None:
    """Start the encoder's stem from the first global batches, or those of all acquisitions from the shards.

    Whatever the number of processes; the others need room for what comes (:func:`make_room`).
    """
    encoder, count = modules["encoder"], min(config.whiten.batches, config.steps)
    if config.whiten.per != "run":
        assert isinstance(encoder, Encoder)
        stems.compute(encoder, shards, config.whiten.per, config.whiten.recipe)
    elif count:
        assert isinstance(encoder, Encoder)
        crop, sides = config.views.crop, [min(reader.window) for reader in shards.readers]
        if crop is None or crop >= max(sides):
            log.warning(
                "views are as wide as the windows (%d pixels), so what neighbours share cannot be told from noise: "
                "set views.crop to less, or cut wider shards (specfm shard --window)", max(sides),
            )  # fmt: skip
        later = config.whiten.only_later
        if later:
            log.warning(
                "whiten.%s: of stems per sensor or scene (whiten.per=sensor); the stem of this run is made without, "
                "and only a later fit to other scenes follows it", ", whiten.".join(later),
            )  # fmt: skip
        loader = Loader(shards, sampler, threads=config.data.threads, device=encoder.device)
        batches = (batch for _, batch in loader.iterate(0, count))
        whiten_stem(encoder, batches, config.views, config.seed, config.whiten.damping)


def make_room(config: PretrainConfig, shards: ShardSet, modules: nn.ModuleDict) -> None:
    """Room for the stems of all acquisitions, on every process."""
    encoder = modules["encoder"]
    assert isinstance(encoder, Encoder | Backbone)
    if config.whiten.per != "run":
        assert isinstance(encoder, Encoder)
        stems.allocate(encoder, shards, config.whiten.per)
    elif config.whiten.batches:
        encoder.stems = None  # of the weights it started from


def make_router(config: PretrainConfig, shards: ShardSet, encoder: AnyEncoder) -> stems.StemRouter:
    """Which stem each sample goes through."""
    per, stem = config.whiten.per, getattr(encoder, "stem", None)
    own = stem if isinstance(stem, Stem) else None
    return stems.StemRouter(None if per == "run" else per, len(shards.domain_names), own)


def check_alignment(encoder: AnyEncoder) -> None:
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
            "model.options.aligned: the maps between sensors hold for one embedding; hold it with whiten.batches=16 "
            "(or init_from an encoder whose stem is whitened) and whiten.lr_share=0"
        )


def make_optimizer(config: PretrainConfig, modules: nn.ModuleDict, device: torch.device) -> torch.optim.AdamW:
    """The run's optimiser. Behind a whitened stem, what comes before the trunk learns at ``whiten.lr_share`` or not."""
    optim, encoder = config.optim, modules["encoder"]
    assert isinstance(encoder, Encoder | Backbone)
    whitens = config.whiten.on or has_whitened_stem(encoder.card)
    early = tuple(f"encoder.{name}." for name in BEFORE_TRUNK) if whitens else ()
    held = early if config.whiten.lr_share == 0 else ()
    if config.whiten.per != "run":
        held += tuple(f"encoder.{name}." for name in STEMS)
    if held:
        for name, parameter in modules.named_parameters():
            if name.startswith(held):
                parameter.requires_grad_(False)
    return adamw(
        modules,
        optim.lr,
        optim.weight_decay,
        optim.betas,
        device,
        (lambda name: config.whiten.lr_share if name.startswith(early) else 1.0) if whitens else None,
    )
