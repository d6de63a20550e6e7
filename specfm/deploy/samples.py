"""Tiles of a scene as inputs of an exported model, for calibrating static integers.

Shapes: B tiles, T tile side, C bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from specfm.dense.tile_reader import TileReader, scene_level
from specfm.deploy.facts import Facts, fitting
from specfm.deploy.runtime import date_inputs
from specfm.errors import UsageError
from specfm.scene import Scene
from specfm.tiles import Tile

TILES, BATCH = 256, 64


def samples_of(scene: Scene, facts: Facts, model: str) -> Iterator[dict[str, Any]]:
    """Batches of at most :data:`TILES` tiles that are spread evenly over a scene and show at least one valid pixel.

    Args:
        scene: as the model was taught (bands, pretreatment).
        facts: of the model; it takes one date.
        model: what the user calls it, for messages.

    Raises:
        UsageError: a model of two dates, other bands than it is baked for, or no valid pixel in any tile.
    """
    if len(facts.sensors) > 1 or facts.kind == "change":
        raise UsageError(
            f"static integers are for models of one date, and {model} takes two; leave --calibrate out: with --int8 "
            "alone activations are scaled as they come"
        )
    rescale = fitting(scene, facts.sensor(0), model)
    level = scene_level(scene) if facts.level == "scene" else None
    reader, side = TileReader(scene, 1), facts.tile
    height, width = scene.shape[:2]
    rows, cols = (np.arange(max(1, -(-size // side))) * side for size in (height, width))
    places = [(int(row), int(col)) for row in rows for col in cols]
    chosen = [places[i] for i in np.unique(np.linspace(0, len(places) - 1, min(TILES, len(places))).astype(int))]
    seen = 0
    for start in range(0, len(chosen), BATCH):
        tiles = [Tile(row, col, side, side) for row, col in chosen[start : start + BATCH]]
        x_BTTC, mask_BTT = reader(tiles)
        there_B = mask_BTT.any((1, 2))
        if there_B.any():
            seen += int(there_B.sum())
            yield date_inputs(facts, 1, rescale(x_BTTC[there_B]), mask_BTT[there_B], level, scene.sensor)
    if not seen:
        raise UsageError(f"{scene.where}: has no valid pixel to calibrate on; choose another scene for --calibrate")
