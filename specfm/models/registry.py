"""Names to modules: sizes of the trunk, registered embeddings, and the function that builds an encoder from both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.models.backbone import AnyEncoder, Backbone
from specfm.models.embeddings import (
    BasisEmbedding,
    DofaEmbedding,
    FixedEmbedding,
    HyperEmbedding,
    SpecAwareEmbedding,
    SpectralAttentionEmbedding,
)
from specfm.models.encoder import Encoder
from specfm.models.networks import create_network
from specfm.models.options import check_options
from specfm.models.timm_surface import HEAD_OPTIONS
from specfm.models.widths import narrow
from specfm.plugins import plugin
from specfm.sensor_table import as_sensor
from specfm.sensors import Sensor


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of a trunk."""

    dim: int
    depth: int
    heads: int


SIZES = {
    "nano": Size(192, 4, 3),
    "tiny": Size(192, 12, 3),
    "small": Size(384, 12, 6),
    "base": Size(768, 12, 12),
    "large": Size(1024, 24, 16),
}

WIDTHS = "widths"  # of layers that were pruned, in a configuration
TRUNK = (
    *("dim", "depth", "heads", "mlp_ratio", "drop_path", "layer_scale", "level", "normalise", "gsd_reference_m"),
    *("aligned", "brightness", "pixel", "trunk"),
)


def _defaults(of: Callable[..., nn.Module]) -> dict[str, Any]:
    """Options and what they are when not given."""
    empty = inspect.Parameter.empty
    return {k: p.default for k, p in inspect.signature(of).parameters.items() if p.default is not empty}


# Each class says in ``claims`` which of the nine properties of the design it holds; the tests hold it to them.
EMBEDDINGS: dict[str, Callable[..., nn.Module]] = {
    "hyper": HyperEmbedding,
    "basis": BasisEmbedding,
    "fixed": FixedEmbedding,
    "dofa": DofaEmbedding,
    "specaware": SpecAwareEmbedding,
    "spectral_attention": SpectralAttentionEmbedding,
}


def _brought(embedding: str) -> Callable[..., nn.Module]:
    """The class of an embedding that another package brings.

    Raises:
        UsageError: none does.
        PluginError: it is none.
    """
    found = plugin("specfm.embeddings", embedding, tuple(EMBEDDINGS))
    loaded = found.load()
    if not (isinstance(loaded, type) and issubclass(loaded, nn.Module)):
        raise found.failed("is no subclass of torch.nn.Module")
    return loaded


def create_encoder(size: str = "nano", embedding: str = "hyper", patch_size: int = 8, **options: Any) -> Encoder:
    """Build an encoder with random weights (torch's global generator; nothing is downloaded).

    Args:
        size: one of :data:`SIZES`.
        embedding: one of :data:`EMBEDDINGS`, or one that an installed package brings (:mod:`specfm.plugins`).
        patch_size: 1 and up.
        options: ``dim``, ``depth``, ``heads``, ``mlp_ratio``, ``drop_path``, ``layer_scale``, ``level``,
            ``normalise``, ``gsd_reference_m``, ``aligned``, ``brightness``, ``pixel`` and ``trunk`` go to the trunk,
            all others to the embedding.

    Raises:
        UsageError: an unknown size, embedding or option, or a value that an option cannot have.
    """
    if size not in SIZES:
        raise UsageError(f"unknown encoder size {size!r}; choose one of {', '.join(SIZES)}")
    make = EMBEDDINGS.get(embedding) or _brought(embedding)
    # plain numbers, because the configuration is kept as JSON
    patch_size, *values = (v.item() if isinstance(v, np.generic) else v for v in (patch_size, *options.values()))
    options = dict(zip(options, values, strict=True))
    trunk: dict[str, Any] = {"dim": SIZES[size].dim, "depth": SIZES[size].depth, "heads": SIZES[size].heads}
    trunk |= {k: options[k] for k in TRUNK if k in options}
    check_options({"patch_size": patch_size, **trunk, **options})
    rest = {k: v for k, v in options.items() if k not in trunk}
    try:
        module = make(trunk["dim"], patch_size, **rest)
    except (TypeError, KeyError) as error:
        raise UsageError(f"embedding {embedding!r} does not take these options ({error})") from None
    # With every default, so that a checkpoint still loads where a later version has others.
    trunk = {k: v for k, v in _defaults(Encoder).items() if k in TRUNK} | trunk
    whole = _defaults(make) | rest | trunk | {"size": size, "embedding": embedding}
    config = {k: list(v) if isinstance(v, tuple) else v for k, v in whole.items()} | {"patch_size": patch_size}
    return Encoder(module, patch_size, config=config, **trunk)


def create_backbone(
    backbone: str,
    bands: BandGrid | Sensor | str | dict[str, Any],
    *,
    stride: int | None = 1,
    level: str = "none",
    drop_path: float = 0.0,
    mixtures: int | None = None,
    options: dict[str, Any] | None = None,
) -> Backbone:
    """Build a network with random weights and a stem for the bands of one sensor (nothing is downloaded).

    Args:
        backbone: ``timm:NAME``, such as timm:resnet50 or timm:vit_tiny_patch16_224, or a small network of ours
            (``small:mlp``, ``small:cnn1d``, ``small:cnn2d``, ``small:cnn3d``; :mod:`specfm.models.small`).
        bands: those it will see; unusable ones are left out. A dict is :meth:`BandGrid.to_dict`'s.
        stride: of the stem, pixels; a network made for images of 224 pixels and a stride of 4 would leave nothing of a
            window of 9. Of a transformer it is the side of its patch. None keeps what timm has.
        level: ``none`` or ``sample``, see :class:`Backbone`.
        drop_path: as in timm.
        mixtures: so many of the bands, that the stem sees in place of them: what varies most beside the noise, found
            in training tiles without labels by whoever trains it (:func:`specfm.models.mixtures.fit_mixtures`).
        options: further keyword arguments of ``timm.create_model``, or of the small network.

    Raises:
        UsageError: no such model, one that cannot be built like this, or a value that an option cannot have.
    """
    if level not in ("none", "sample"):
        raise UsageError(f"backbone option level must be none or sample, got {level!r}")
    if stride is not None and (isinstance(stride, bool) or not isinstance(stride, int) or stride < 1):
        raise UsageError(f"backbone option stride must be a whole number of at least 1, or null, got {stride!r}")
    grid = BandGrid.from_dict(bands) if isinstance(bands, dict) else as_sensor(bands).bands
    count = int(grid.valid.sum())
    if not count:
        raise UsageError("a backbone needs at least one usable band")
    if mixtures is not None and (type(mixtures) is not int or not 1 <= mixtures <= count):
        raise UsageError(f"backbone option mixtures must be a whole number from 1 to {count} bands, got {mixtures!r}")
    net, patch = create_network(
        backbone, count if mixtures is None else mixtures, stride, drop_path, dict(options or {})
    )
    config = {
        "backbone": backbone, "bands": grid.to_dict(), "stride": stride, "level": level, "drop_path": drop_path,
        "mixtures": mixtures, "options": dict(options or {}),
    }  # fmt: skip
    return Backbone(net, grid, mixtures, patch, level, config)


def build_encoder(config: Mapping[str, Any]) -> AnyEncoder:
    """An encoder or a backbone from its ``config``, with random weights.

    Raises:
        SpecfmError: widths that its layers cannot have.
        UsageError: see :func:`create_encoder` and :func:`specfm.models.create_backbone`.
    """
    plain = {key: value for key, value in config.items() if key not in (*HEAD_OPTIONS, WIDTHS)}
    encoder = create_backbone(**plain) if "backbone" in plain else create_encoder(**plain)
    if widths := config.get(WIDTHS):
        narrow(encoder, widths)
        encoder.config = {**encoder.config, WIDTHS: dict(widths)}
    if classifier := {key: config[key] for key in HEAD_OPTIONS if key in config}:
        encoder.reset_classifier(**classifier)
    return encoder


def fresh_like(encoder: AnyEncoder, **changes: Any) -> AnyEncoder:
    """The same architecture with random weights, and what it knows of its training data beside weights.

    Args:
        encoder: whose architecture is taken.
        changes: options that differ, such as ``drop_path``.
    """
    fresh = build_encoder({**encoder.config, **changes})
    fresh.take_statistics(encoder)
    return fresh
