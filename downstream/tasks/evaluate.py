"""Probabilities of chosen pixels or of a whole scene, and the threshold of a change map.

Shapes: H W scene pixels, T tile side, N samples, I sample ids, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from downstream.splits.samples import Samples
from downstream.supervised.model import TaskModel
from downstream.supervised.views import View, to_device
from downstream.tasks.data import Place, batches
from specfm.tiles import blend_weights, starts


@torch.inference_mode()
def predict_samples(
    model: TaskModel, places: Sequence[Place], samples: Samples, ids_I: np.ndarray, batch: int = 64
) -> np.ndarray:
    """Class probabilities of the chosen samples, in their order: ``[I, K]``.

    Classification sees the window centred on each pixel; dense tasks the lattice of half-overlapping tiles, of which
    only those that hold a chosen pixel are computed.
    """
    model.eval()
    out_IK = np.zeros((len(ids_I), model.classes), np.float32)
    for index, place in enumerate(places):
        mine = np.flatnonzero(samples.scene_N[ids_I] == index)
        if not len(mine):
            continue
        rc_n2 = samples.rc_N2[ids_I[mine]]
        if model.task == "classification":
            out_IK[mine] = predict_windows(model, place, rc_n2, batch)
        else:
            wanted_HW = np.zeros(place.shape, bool)
            wanted_HW[rc_n2[:, 0], rc_n2[:, 1]] = True
            out_IK[mine] = predict_place(model, place, batch, wanted_HW)[rc_n2[:, 0], rc_n2[:, 1]]
    return out_IK


@torch.inference_mode()
def predict_windows(model: TaskModel, place: Place, rc_n2: np.ndarray, batch: int = 64) -> np.ndarray:
    """Class probabilities ``[n, K]`` of the windows centred on pixels (row, col)."""
    half, found = model.tile // 2, np.zeros((len(rc_n2), model.classes), np.float32)
    for part in batches(np.arange(len(rc_n2)), batch):
        corners = [(int(r) - half, int(c) - half) for r, c in rc_n2[part]]
        view = place.view(corners, model.tile, model.tile, [0] * len(corners))[0]
        found[part] = model(to_device(view, model.device)).float().softmax(1).cpu().numpy()
    return found


def predict_place(model: TaskModel, place: Place, batch: int = 64, wanted_HW: np.ndarray | None = None) -> np.ndarray:
    """Blended probabilities ``[H, W, K]`` of a scene in memory; zeros where nothing is valid or no tile was wanted.

    Args:
        model: a trained model.
        place: the scene, or both dates of it.
        batch: tiles at once.
        wanted_HW: compute only tiles that hold one of these pixels (each of them is then complete), or only their
            windows where the model sees these as wholes.
    """
    if model.sees_windows_whole:
        wanted_HW = place.scene.mask() if wanted_HW is None else wanted_HW
        seen = np.zeros((*place.shape, model.classes), np.float32)
        seen[wanted_HW] = predict_windows(model, place, np.argwhere(wanted_HW), batch)
        return seen
    (height, width), tile = place.shape, model.tile
    stride = max(tile // 2, 1)
    corners = [
        (r, c)
        for r in starts(height, tile, stride)
        for c in starts(width, tile, stride)
        if wanted_HW is None or wanted_HW[r : r + tile, c : c + tile].any()
    ]
    total = np.zeros((height, width, model.classes), np.float32)
    weight = np.zeros((height, width), np.float32)
    tapered = blend_weights(tile, tile)
    for part in batches(corners, batch):
        views = [to_device(view, model.device) for view in place.view(part, tile, tile, [0] * len(part))]
        one, two = views[0], views[1] if len(views) > 1 else View(None, None)  # type: ignore[arg-type]
        found = model.predict_tile(
            one.x_BHWC, one.bands, one.mask_BHW, one.level_B, two.x_BHWC, two.bands, two.mask_BHW, two.level_B
        )
        for (r, c), values in zip(part, found.cpu().numpy(), strict=True):
            h, w = min(tile, height - r), min(tile, width - c)
            share = tapered[:h, :w] * (values[:h, :w].sum(-1) > 0)
            total[r : r + h, c : c + w] += values[:h, :w] * share[..., None]
            weight[r : r + h, c : c + w] += share
    return np.where(weight[..., None] > 0, total / np.maximum(weight, 1e-12)[..., None], 0.0)


def best_threshold(score_N: np.ndarray, changed_N: np.ndarray) -> tuple[float, float]:
    """The threshold on ``score > threshold`` with the best F1 of *changed*, and that F1.

    It lies half-way between two scores; without a changed sample it is above all of them.
    """
    order = np.argsort(-np.asarray(score_N, np.float64), kind="stable")
    score, hit = np.asarray(score_N, np.float64)[order], np.asarray(changed_N, bool)[order]
    if not hit.any():
        return float(score[0]) if len(score) else 0.5, 0.0
    hits = hit.cumsum()
    f1 = 2 * hits / (np.arange(1, len(hit) + 1) + hits[-1])
    f1[:-1][score[:-1] == score[1:]] = -1  # equal scores cannot be told apart
    best = int(f1.argmax())
    below = score[best + 1] if best + 1 < len(score) else score[best] - 1e-6 * max(abs(score[best]), 1.0)
    return float((score[best] + below) / 2), float(f1[best])
