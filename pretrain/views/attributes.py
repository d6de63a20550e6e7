"""Attributes of a view: what training forgets to say, so that a model also learns to do without being told.

Shapes: G rows of metadata, 1 or one per sample.
"""

from __future__ import annotations

import torch

from pretrain.rng import Keys
from specfm.batch import BandTensors


def drop_attributes(bands: BandTensors, keys: Keys, share: float) -> BandTensors:
    """Each of quantity, level, GSD and sensor name becomes unknown with chance ``share``; bands are never dropped."""
    if share <= 0:
        return bands
    quantity_G, level_G, gsd_G, name_G = (
        keys.uniform(f"drop {name}") < share for name in ("quantity", "level", "gsd", "name")
    )
    names = bands.names
    if any(names):
        names = tuple(None if gone else name for gone, name in zip(name_G.tolist(), names, strict=True))
    return bands.replace(
        quantity_G=torch.where(quantity_G, -1, bands.quantity_G),
        level_G=torch.where(level_G, -1, bands.level_G),
        gsd_m_G=torch.where(gsd_G, torch.nan, bands.gsd_m_G),
        names=names,
    )
