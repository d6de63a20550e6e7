"""A network of timm in place of our encoder: for a camera whose bands never change.

What it needs of the data before the first step is fitted here, on training batches alone: the standardisation of its
bands and, where it sees principal components in place of them (``data.bands=pca:N``), these.

Shapes: C bands, N components.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pretrain.config import PretrainConfig
from specfm.band_selection import BandSelection
from specfm.batch import Batch
from specfm.errors import UsageError
from specfm.models import Backbone, create_backbone
from specfm.reducers import Principal
from specfm.shards import ShardSet


def make_backbone(config: PretrainConfig, shards: ShardSet) -> Backbone:
    """The backbone of the run, with random weights and a channel for each usable band (or component).

    Raises:
        UsageError: shards of several band lists, or an option that the network does not have.
    """
    model, first = config.model, shards.readers[0]
    for reader in shards.readers[1:]:
        if reader.sensor.bands != first.sensor.bands:
            raise UsageError(
                f"model.backbone serves one list of bands, and {reader.path.name} has others than {first.path.name}; "
                "leave some out (data.include), or train our encoder (without model.backbone)"
            )
    assert model.backbone is not None
    components = components_of(config)
    usable = int(first.sensor.bands.valid.sum())
    if components is not None and components > usable:
        raise UsageError(f"data.bands: {components} components of {usable} usable bands; ask for fewer")
    try:
        return create_backbone(model.backbone, first.sensor.bands, mixtures=components, **model.options)
    except TypeError as error:
        raise UsageError(f"model.options: a backbone does not take these ({error})") from None


def components_of(config: PretrainConfig) -> int | None:
    """How many principal components stand in place of bands; None for bands."""
    wanted = None if config.data.bands is None else BandSelection.parse(config.data.bands)
    return wanted.count if wanted is not None and wanted.kind == "pca" else None


@torch.no_grad()
def fit_backbone(backbone: Backbone, batches: Iterable[Batch]) -> None:
    """Standardisation and components, from training batches as stored."""
    parts = (part for batch in batches for part in batch.to(backbone.device).parts)
    moments = backbone.fit_statistics((part.x_BHWC, part.bands, part.mask_BHW) for part in parts)
    if backbone.mix_KC is not None:
        plan = Principal(backbone.bands, moments).plan(backbone.bands, len(backbone.mix_KC))
        backbone.mix_KC.copy_(torch.from_numpy(plan.matrix_KC[:, backbone.bands.valid].copy()))
