"""Maps of a trained task model: classes of one scene, or changes between two, streamed in bounded memory.

How the tiles are laid out, blended and written is in ``downstream.maps.class_maps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from downstream.maps.class_maps import Date, Layout, MapModel, TilePredictor, as_taught, classes_to_file
from specfm.checkpoint import has_whitened_stem
from specfm.errors import UsageError
from specfm.scene import Scene
from specfm.selected_scene import for_encoder

if TYPE_CHECKING:
    from downstream.supervised.model import TaskModel


def fit_to(model: TaskModel, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Fit the stem of a model's encoder to the scenes that are to be mapped, without labels; the record of it.

    Raises:
        UsageError: a model that learnt behind a stem that nothing was fitted to, or what ``encoder.fit`` refuses.
    """
    known = dict(model.card.get("pretraining") or {})
    if not has_whitened_stem(known):
        raise UsageError(
            "the model learnt behind a stem that was fitted to nothing, so another one would be strange to it; leave "
            "--fit out, or fine-tune with fit=true"
        )
    model.encoder.card = known
    model.encoder.fit([as_taught(scene, model.card) for scene in scenes])
    record: dict[str, Any] = model.encoder.card["fitted"]
    return record


def map_model(model: TaskModel) -> MapModel:
    """What a map needs to know of a task model."""
    return MapModel(
        model.task, model.label_names, model.tile, model.encoder.patch_size, model.level, model.threshold,
        model.sees_windows_whole,
    )  # fmt: skip


def tile_predictor(model: TaskModel, scenes: Sequence[Scene]) -> TilePredictor:
    """Probabilities that a task model gives to tiles."""
    model.eval()

    def probabilities(dates: Sequence[Date]) -> NDArray[np.float32]:
        words: dict[str, Any] = {}
        for number, date in enumerate(dates, 1):
            turn = "" if number == 1 else str(number)
            words |= {f"x{turn}_BHWC": date.x_BTTC, f"bands{turn}": date.scene.sensor, f"mask{turn}_BHW": date.mask_BTT}
            if date.level is not None:
                words[f"level{turn}_B"] = torch.full((len(date.x_BTTC),), date.level, device=model.device)
        return model.predict_tile(**words).float().cpu().numpy()

    wanted = model.level == "scene" and model.encoder.level != "none"
    seen = [as_taught(for_encoder(model.encoder, scene), model.card) for scene in scenes]
    return TilePredictor(seen, wanted, probabilities)


def predict_to_file(
    model: TaskModel, scenes: Sequence[Scene], out: str | Path, *, layout: Layout | None = None, **options: Any
) -> dict[str, float]:
    """Write the map of a task model on the scene's own pixels; the options of
    :func:`downstream.maps.class_maps.classes_to_file`.
    """
    return classes_to_file(map_model(model), tile_predictor(model, scenes), scenes, out, layout=layout, **options)
