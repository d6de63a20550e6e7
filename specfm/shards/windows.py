"""Which windows of a scene become samples, and their labels, groups and instances.

Shapes: H W pixels of the scene, h w of a window, N windows, C bands.

``group`` says what splits keep together: the scene's group (plot, specimen, flight line), else its name.
``instance_id`` says what makes a negative false: the group number of the centre pixel (a crown, a specimen) where the
scene has such numbers, else the block of window size that holds the window's centre. Windows that overlap without
sharing a block are told by ``scene_id`` and ``origin``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.objects import object_pixels
from specfm.pretreatment import measured
from specfm.scene import Scene
from specfm.shards.options import WindowOptions
from specfm.shards.schema import stable_id
from specfm.tiles import STRIP_BYTES


@dataclass(frozen=True)
class ScenePlan:
    """The windows of one scene that are kept.

    Attributes:
        origin_N2: as stored.
        label_N: as stored.
        group: as stored.
        instance_N: as stored.
        mask_HW: valid (object) pixels.
        candidates: windows looked at.
        reason: why none is kept ("" if some are).
    """

    origin_N2: NDArray[np.int32]
    label_N: NDArray[np.int32]
    instance_N: NDArray[np.int64]
    group: int
    group_name: str
    mask_HW: NDArray[np.bool_]
    candidates: int
    reason: str = ""

    def __len__(self) -> int:
        return len(self.origin_N2)

    def masks(self, rows: slice, window: tuple[int, int]) -> NDArray[np.bool_]:
        """Pixel masks [n,h,w] of some windows."""
        height, width = window
        return np.stack([self.mask_HW[r : r + height, c : c + width] for r, c in self.origin_N2[rows]])


def starts(size: int, window: int, stride: int) -> NDArray[np.int64]:
    """First pixels of the windows along one axis; empty where the scene is smaller than the window.

    Example:
        >>> starts(10, 4, 4).tolist()
        [0, 4, 6]
    """
    if size < window:
        return np.empty(0, np.int64)
    regular = np.arange(0, size - window + 1, stride, dtype=np.int64)
    return regular if regular[-1] == size - window else np.append(regular, size - window)


def plan_scene(scene: Scene, options: WindowOptions, background_HW: NDArray[np.bool_] | None = None) -> ScenePlan:
    """Read a scene once in strips of rows and choose its windows.

    Args:
        scene: labels, groups, nodata and saturation are taken from it.
        options: see :class:`WindowOptions`.
        background_HW: True where a pixel is background.

    Raises:
        SpecfmError: the background mask does not fit the scene.
    """
    height, width = options.window
    rows, cols = (starts(s, w, t) for s, w, t in zip(scene.shape[:2], options.window, options.stride, strict=True))
    group_name = scene.group or scene.name
    if not scene.neighbours and options.window != (1, 1):
        return _empty(scene, group_name, 0, "a list of spectra, of which windows hold one: shard it with --window 1")
    if not len(rows) or not len(cols):
        size = "x".join(map(str, scene.shape[:2]))
        return _empty(scene, group_name, 0, f"{size} pixels are smaller than the window")
    mask_HW = valid_pixels(scene, options, background_HW)
    origin_N2 = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2)
    kept = _window_sums(mask_HW, origin_N2, options.window) >= max(options.min_valid * height * width, 1)
    candidates = len(origin_N2)
    origin_N2 = origin_N2[kept]
    label_N = _labels(scene, origin_N2, options)
    reason = "" if len(origin_N2) else f"no window has {options.min_valid:.0%} valid pixels"
    if options.labelled_only:
        origin_N2, label_N = origin_N2[label_N >= 0], label_N[label_N >= 0]
        reason = reason or ("" if len(origin_N2) else "no window is labelled")
    if reason:
        return _empty(scene, group_name, candidates, reason)
    instance_N = _instances(scene, group_name, origin_N2, options.window)
    group = stable_id("group", scene.domain, group_name)
    return ScenePlan(origin_N2.astype(np.int32), label_N, instance_N, group, group_name, mask_HW, candidates)


def _empty(scene: Scene, group_name: str, candidates: int, reason: str) -> ScenePlan:
    none = np.zeros(0, np.int32)
    mask = np.zeros(scene.shape[:2], bool)
    return ScenePlan(none.reshape(0, 2), none, none.astype(np.int64), 0, group_name, mask, candidates, reason)


def valid_pixels(
    scene: Scene, options: WindowOptions, background_HW: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """mask_HW: valid pixels, of objects alone where the options tell these from background.

    Raises:
        SpecfmError: the background mask does not fit the scene.
    """
    if background_HW is not None and background_HW.shape != scene.shape[:2]:
        raise SpecfmError(f"background mask is {background_HW.shape}, {scene.where} is {scene.shape[:2]}")
    within_HW = None if background_HW is None else ~background_HW
    if options.object_threshold is None:
        mask_HW = scene.mask()
        return mask_HW if within_HW is None else mask_HW & within_HW
    cut = options.object_threshold
    before = measured(scene)  # a pretreatment takes brightness out
    bright = None if before is scene else before
    return object_pixels(scene, "otsu" if isinstance(cut, str) else cut, options.dark_objects, bright, within_HW)


def _window_sums(mask_HW: NDArray[np.bool_], origin_N2: NDArray[Any], window: tuple[int, int]) -> NDArray[np.int64]:
    """Valid pixels per window, through an integral image."""
    table = np.zeros((mask_HW.shape[0] + 1, mask_HW.shape[1] + 1), np.int64)
    table[1:, 1:] = mask_HW.cumsum(0, dtype=np.int64).cumsum(1)
    top, left = origin_N2.T
    bottom, right = top + window[0], left + window[1]
    sums: NDArray[np.int64] = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return sums


def _labels(scene: Scene, origin_N2: NDArray[Any], options: WindowOptions) -> NDArray[np.int32]:
    if scene.labels_HW is None:
        return np.full(len(origin_N2), -1, np.int32)
    height, width = options.window
    if options.label == "centre":
        top, left = origin_N2.T
        return scene.labels_HW[top + height // 2, left + width // 2].astype(np.int32)
    found = np.full(len(origin_N2), -1, np.int32)
    for n, (top, left) in enumerate(origin_N2):
        inside = scene.labels_HW[top : top + height, left : left + width]
        if (labelled := inside[inside >= 0]).size:
            found[n] = np.bincount(labelled).argmax()  # ties go to the smaller class number
    return found


def _instances(scene: Scene, group_name: str, origin_N2: NDArray[Any], window: tuple[int, int]) -> NDArray[np.int64]:
    height, width = window
    centre_N2 = origin_N2 + np.array([height // 2, width // 2])
    numbers = None if scene.groups_HW is None else scene.groups_HW[centre_N2[:, 0], centre_N2[:, 1]]
    known: dict[tuple[Any, ...], int] = {}
    found = np.zeros(len(origin_N2), np.int64)
    for n, (row, col) in enumerate(centre_N2.tolist()):
        if numbers is not None and numbers[n] >= 0:
            key: tuple[Any, ...] = ("instance", scene.domain, group_name, int(numbers[n]))
        else:
            key = ("block", scene.domain, scene.name, row // height, col // width)
        if key not in known:
            known[key] = stable_id(*key)
        found[n] = known[key]
    return found


def cut(scene: Scene, origin_n2: NDArray[Any], window: tuple[int, int]) -> NDArray[Any]:
    """Read the rows and columns that some windows span, once, and copy the windows out: [n,h,w,C] as stored."""
    height, width = window
    top, left = origin_n2.min(0)
    bottom, right = origin_n2.max(0) + np.array([height, width])
    strip = scene.read(slice(int(top), int(bottom)), slice(int(left), int(right)))
    block = np.empty((len(origin_n2), height, width, strip.shape[2]), strip.dtype)
    for n, (row, col) in enumerate(origin_n2 - np.array([top, left])):
        block[n] = strip[row : row + height, col : col + width]
    return block


def blocks(plan: ScenePlan, scene: Scene, window: tuple[int, int]) -> list[slice]:
    """Runs of windows whose strip and whose copies both stay near :data:`STRIP_BYTES`."""
    row_bytes = scene.shape[1] * scene.shape[2] * scene.dtype.itemsize
    most_rows = max(window[0], STRIP_BYTES // row_bytes)
    most = max(1, STRIP_BYTES // (window[0] * window[1] * scene.shape[2] * scene.dtype.itemsize))
    tops, cuts, first = plan.origin_N2[:, 0], [0], 0
    for n in range(1, len(plan)):
        if tops[n] + window[0] - tops[first] > most_rows or n - first >= most:
            cuts.append(n)
            first = n
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(plan)], strict=True)]
