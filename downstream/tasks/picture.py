"""The map of a task model beside the truth, as one PNG.

Shapes: H W scene pixels, K classes.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from downstream.supervised.model import TaskModel
from downstream.tasks.evaluate import predict_place
from specfm.files import atomic_write_bytes
from specfm.rasters.class_map import CHANGE_COLOURS, palette
from specfm.rasters.figure import plain_figure

if TYPE_CHECKING:
    from downstream.tasks.train import TaskData

log = logging.getLogger(__name__)
MOST = 4  # scenes shown: those with the most test pixels


def draw_maps(model: TaskModel, data: TaskData, path: Path, batch: int = 64) -> Path | None:
    """Write truth, map and mistakes on test pixels of the first split; None (and a note) without matplotlib.

    Args:
        model: trained on the first split.
        data: scenes, samples, splits.
        path: of the PNG.
        batch: tiles at once.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.patches import Patch
    except ImportError:
        log.info("no map: matplotlib is not installed (pip install 'specfm[viz]')")
        return None
    samples, split, classes = data.samples, data.splits[0], data.classes(0)
    count_P = np.bincount(samples.scene_N[split.test_I], minlength=len(data.places))
    chosen = [int(i) for i in np.argsort(-count_P, kind="stable")[:MOST] if count_P[i]]
    colours = palette(len(classes)) if model.task != "change" else np.array(CHANGE_COLOURS, np.uint8)
    height, width = np.max([data.places[i].shape for i in chosen], axis=0)
    figure = plain_figure(figsize=(11, max(3.6 * len(chosen) * height / width, 2.2) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, index in zip(axes, chosen, strict=True):
        place = data.places[index]
        truth_HW = np.full(place.shape, -1)
        labels_HW = place.scene.labels_HW
        assert labels_HW is not None
        for position, label in enumerate(classes):
            truth_HW[labels_HW == label] = position
        tested_HW = np.zeros(place.shape, bool)
        rc_n2 = samples.rc_N2[split.test_I[samples.scene_N[split.test_I] == index]]
        tested_HW[rc_n2[:, 0], rc_n2[:, 1]] = True
        # one window a pixel takes long: only those that are judged
        wanted_HW = tested_HW if model.sees_windows_whole else None
        found_HW = model.decide(predict_place(model, place, batch, wanted_HW))
        verdict = np.full((*place.shape, 3), 255, np.uint8)
        verdict[tested_HW & (found_HW == truth_HW)] = (120, 180, 120)
        verdict[tested_HW & (found_HW != truth_HW)] = (200, 30, 30)
        pictures = (_coloured(truth_HW, colours), _coloured(found_HW, colours), verdict)
        names = ("truth", "map", "test pixels: right (green), wrong (red)")
        for axis, picture, name in zip(row, pictures, names, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(f"{place.scene.name}: {name}" if name == "truth" else name, fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
    handles = [Patch(color=c / 255, label=n) for c, n in zip(colours, model.label_names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())
    return path


def _coloured(classes_HW: np.ndarray, colours_K3: np.ndarray) -> np.ndarray:
    return np.where((classes_HW >= 0)[..., None], colours_K3[classes_HW.clip(0)], 255).astype(np.uint8)
