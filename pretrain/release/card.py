"""What a released encoder says about its pretraining, and the release itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn

from pretrain.config import PretrainConfig
from specfm.checkpoint import has_whitened_stem, release_of
from specfm.config import digest, to_dict
from specfm.engine.ema import released
from specfm.models.backbone import Backbone
from specfm.models.encoder import Encoder
from specfm.pretreatment import told
from specfm.release import Release
from specfm.shards import ShardSet


def release_card(config: PretrainConfig, shards: ShardSet, step: int, before: dict[str, Any]) -> dict[str, Any]:
    """What a released encoder says about its training; ``before``: the card of the weights it started from, or {}."""
    from specfm import __version__

    def all_seen(key: str, names: Iterable[str]) -> list[str]:
        return sorted({*before.get(key, ()), *names})

    simulated = config.data.simulated
    return {
        "trained_by": f"specfm {__version__} pretrain",
        "steps": step,
        "seed": config.seed,
        "domains": all_seen("domains", shards.domain_names),
        "sensors": all_seen("sensors", (reader.sensor.name or reader.sensor.digest for reader in shards.readers)),
        "simulated_sensors": all_seen("simulated_sensors", [] if simulated is None else simulated.instruments()),
        "scenes": all_seen("scenes", (name for reader in shards.readers for name in reader.scene_names)),
        "pretreatment": all_seen("pretreatment", (told(reader.sensor.pretreatment) for reader in shards.readers)),
        "contents": all_seen("contents", (content for reader in shards.readers for content in reader.contents)),
        "whitened": config.whiten.on or has_whitened_stem(before),
        "whiten": {"per": config.whiten.per, **config.whiten.recipe.to_dict()},
        # a stem that is taken over stays what it was
        **({} if config.whiten.on else {key: before[key] for key in ("whiten", "fitted") if key in before}),
        "window": _window(config, shards),
        "samples": len(shards),
        "data_fingerprint": shards.fingerprint,
        "config_digest": digest(config),
        "config": to_dict(config),
        "weights": f"running average over steps, decay {ema.decay}" if (ema := config.ema) else "of the last step",
    }


def _window(config: PretrainConfig, shards: ShardSet) -> int:
    """Side of what most samples were seen as, pixels: a crop is never larger than the window that it is cut from."""
    samples: Counter[int] = Counter()
    for reader in shards.readers:
        samples[min(config.views.crop or reader.window[0], reader.window[0])] += len(reader)
    return max(samples, key=lambda side: (samples[side], side))


def model_release(modules: nn.ModuleDict, card: dict[str, Any], whole: bool = True) -> Release:
    """The release of the encoder as it is now, or of its average where one is kept.

    ``whole``: with the stems of scenes, beside those of domains.
    """
    encoder = modules[released(modules)]
    assert isinstance(encoder, Encoder | Backbone)
    every = encoder.stems
    if every is not None and not whole:
        encoder.stems = every.domains()
    try:
        return release_of(encoder, card)
    finally:
        encoder.stems = every
