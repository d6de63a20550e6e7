"""Maps made by an exported model: as ``specfm predict`` and ``specfm change`` make them, without torch.

Shapes: B tiles, T tile side, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.maps.class_maps import Date, Layout, MapModel, TilePredictor, as_taught, classes_to_file
from specfm.deploy.facts import fitting
from specfm.deploy.runtime import Deployed, date_inputs
from specfm.scene import Scene


def tile_predictor(deployed: Deployed, scenes: Sequence[Scene]) -> TilePredictor:
    """Probabilities that an exported model gives to tiles.

    Raises:
        UsageError: a scene whose bands the model is not baked for.
    """
    facts = deployed.facts
    taught = [as_taught(scene, facts.taught) for scene in scenes]
    rescale = [fitting(scene, facts.sensor(date), str(deployed.path)) for date, scene in enumerate(taught)]

    def probabilities(dates: Sequence[Date]) -> NDArray[np.float32]:
        given: dict[str, Any] = {}
        for number, (date, put) in enumerate(zip(dates, rescale, strict=True), 1):
            given |= date_inputs(deployed.facts, number, put(date.x_BTTC), date.mask_BTT, date.level, date.scene.sensor)
        return deployed(given)["probabilities_BHWK"]

    return TilePredictor(taught, facts.level == "scene", probabilities)


def run_to_file(
    deployed: Deployed, scenes: Sequence[Scene], out: str | Path, *, layout: Layout | None = None, **options: Any
) -> dict[str, float]:
    """Write the map of an exported model; the options of :func:`downstream.maps.class_maps.classes_to_file`."""
    facts = deployed.facts
    level = "sample" if facts.level == "sample" else "scene"
    model = MapModel(
        facts.kind, facts.classes, facts.tile, facts.patch, level, facts.threshold, facts.whole_windows,
        np.array(facts.palette, np.uint8),
    )  # fmt: skip
    return classes_to_file(model, tile_predictor(deployed, scenes), scenes, out, layout=layout, **options)
