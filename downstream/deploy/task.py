"""A task model as a graph: from tiles of one date, or of two from two sensors, to scores and probabilities of pixels.

Shapes: B tiles, H W pixels, C bands, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from downstream.maps.class_maps import as_taught
from downstream.maps.predict import map_model
from downstream.supervised.model import TaskModel
from downstream.supervised.views import View
from specfm.deploy.bake import KnownBands, bake, with_own_parts
from specfm.deploy.encoder import example_of, trained_range
from specfm.deploy.facts import Facts
from specfm.deploy.free import FreeBands
from specfm.scene import Scene
from specfm.sensors import Sensor

OUTPUTS = ("probabilities_BHWK", "scores_BKHW")
# what of a card is done to a scene before the model sees it, or has to be told of one that is otherwise
TAUGHT = ("quantities", "pretreatment", "bands", "objects_alone")


class _PerDate(nn.Module):
    """The encoder of a change model, baked anew for each date's bands; the trunk is one."""

    def __init__(self, baked: Sequence[tuple[Any, KnownBands]]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoder for encoder, _ in baked)
        self._known = [known for _, known in baked]
        self.patch_size = baked[0][0].patch_size

    def get_intermediate_layers(self, x: Tensor, bands: Any, *given: Any, **options: Any) -> Any:
        """Those of the encoder that was baked for these bands."""
        for encoder, known in zip(self.encoders, self._known, strict=True):
            if known.gave(bands):
                return encoder.get_intermediate_layers(x, bands, *given, **options)  # type: ignore[operator]
        raise AssertionError("bands that no encoder was baked for")


class TaskGraph(nn.Module):
    """A task model with plain tensors in and out.

    Args:
        model: is not changed.
        sensors: that it is baked for, one a date; None: bands are inputs.
    """

    def __init__(self, model: TaskModel, sensors: Sequence[Sensor | None]) -> None:
        super().__init__()
        self.scene_level = model.level == "scene" and model.encoder.level != "none"
        self.model = with_own_parts(model).eval()
        baked = [bake(model.encoder, sensor) for sensor in sensors if sensor is not None]
        if len(baked) == 1:
            self.model.encoder = baked[0][0]
        elif baked:
            self.model.encoder = _PerDate(baked)  # type: ignore[assignment]
        self.known = (
            nn.ModuleList(known for _, known in baked) if baked else nn.ModuleList(FreeBands() for _ in sensors)
        )

    def forward(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        """As :data:`OUTPUTS` names them, from x_BHWC, mask_BHW, level_B of the scene and free bands of each date."""
        each, views = len(given) // len(self.known), []
        for date, known in enumerate(self.known):
            x_BHWC, mask_BHW, *more = given[date * each : (date + 1) * each]
            level_B = more.pop(0) if self.scene_level else None
            views.append(View(x_BHWC, known.tensors(*more), mask_BHW, level_B))  # type: ignore[operator]
        scores_BKHW = self.model.dense_scores(*views)
        return self.model.probabilities(scores_BKHW, *views), scores_BKHW


def taught_sensor(sensor: Sensor, card: dict[str, Any]) -> Sensor:
    """The sensor of scenes of this one as a model was taught: its bands selected, its spectra pretreated.

    Raises:
        UsageError: it lacks the bands that the model learnt from.
    """
    nothing = np.zeros((1, 1, len(sensor.bands)), np.float32)
    return as_taught(Scene.from_array(nothing, sensor, name=sensor.name or "the sensor"), card).sensor


def task_graph(model: TaskModel, sensors: Sequence[Sensor | None]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module to export, and an example of its inputs.

    Args:
        model: is not changed.
        sensors: one a date, as taught (:func:`taught_sensor`); None: bands are inputs.
    """
    graph = TaskGraph(model, sensors)
    example: dict[str, Tensor] = {}
    for number, sensor in enumerate(sensors, 1):
        example |= example_of(sensor, model.tile, graph.scene_level, "" if number == 1 else str(number))
    with torch.no_grad():
        graph.eval()(*example.values())
    for known in graph.known:
        if isinstance(known, KnownBands):
            known.recording = False
    return graph, example


def task_facts(model: TaskModel, sensors: Sequence[Sensor | None], weights: str, version: str) -> Facts:
    """What is written beside the graph of a task model."""
    told = map_model(model)
    level = model.level if model.encoder.level != "none" or model.level == "sample" else "none"
    red_green_blue = tuple((int(r), int(g), int(b)) for r, g, b in told.legend.colours_K3)
    cards = (model.card, model.card.get("pretraining") or {})
    spans = [span for card in cards if (span := trained_range(model.encoder, card))]
    known = tuple(each for each in sensors if each is not None)
    return Facts(
        model.task, known, model.tile, told.patch, level, weights, version,
        classes=told.classes, palette=red_green_blue, threshold=model.threshold, whole_windows=told.whole_windows,
        taught={name: model.card[name] for name in TAUGHT if model.card.get(name)},
        trained_nm=(min(low for low, _ in spans), max(high for _, high in spans)) if spans else None,
    )  # fmt: skip
