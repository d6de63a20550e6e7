"""What a split moves as a whole (groups, blocks, scenes), and which windows share a pixel.

Shape suffixes: N samples, G groups, I a list of sample ids.
Two windows of side w overlap exactly where both the row and the column distance of their centres are below w.
"""

from __future__ import annotations

import numpy as np

from downstream.splits.samples import Samples


def overlapping(samples: Samples, these_I: np.ndarray, others_I: np.ndarray, window: int | None = None) -> np.ndarray:
    """Which of ``these_I`` have a window that shares a pixel with a window of ``others_I``: bool per id."""
    side = samples.window if window is None else window
    return nearest_distance(samples, these_I, others_I) < side


def nearest_distance(samples: Samples, these_I: np.ndarray, others_I: np.ndarray) -> np.ndarray:
    """Chebyshev distance in pixels from each of ``these_I`` to the nearest of ``others_I``; inf in another frame."""
    from scipy.spatial import cKDTree

    distance_I = np.full(len(these_I), np.inf)
    frame_these, frame_others = samples.frame_N[these_I], samples.frame_N[others_I]
    for frame in np.intersect1d(frame_these, frame_others):
        mine = np.flatnonzero(frame_these == frame)
        tree = cKDTree(samples.frame_rc_N2[others_I[frame_others == frame]].astype(np.float64))
        distance_I[mine] = tree.query(samples.frame_rc_N2[these_I[mine]].astype(np.float64), p=np.inf)[0]
    return distance_I


def _compact(*columns: np.ndarray) -> np.ndarray:
    return np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def default_block(samples: Samples) -> int:
    """Side of a spatial block in pixels: two windows, or a sixth of the smaller extent of the labelled ground."""
    extents = []
    for frame in np.unique(samples.frame_N):
        rc = samples.frame_rc_N2[samples.frame_N == frame]
        extents.append(int((rc.max(0) - rc.min(0)).min()) + 1)
    return max(2 * samples.window, max(extents) // 6, 4)


def _joined_groups(samples: Samples) -> np.ndarray:
    """Group -> unit. Groups of different files whose windows touch on the ground are one unit.

    Most plots of the public NEON tree-species set lie side by side in pairs and cut the same crowns apart (and two show
    the same ground), so they move together. Objects within one file are left apart: there the guard band does the work.
    """
    from scipy.spatial import cKDTree

    unit_G = np.arange(len(samples.group_names))
    boxes: dict[int, tuple[int, np.ndarray, np.ndarray, np.ndarray]] = {}
    for scene in np.unique(samples.scene_N).tolist():
        mine_I = np.flatnonzero(samples.scene_N == scene)
        rc = samples.frame_rc_N2[mine_I]
        boxes[scene] = (int(samples.frame_N[mine_I[0]]), rc.min(0), rc.max(0), mine_I)
    scenes = list(boxes)
    for i, a in enumerate(scenes):
        for b in scenes[i + 1 :]:
            (frame_a, low_a, high_a, I_a), (frame_b, low_b, high_b, I_b) = boxes[a], boxes[b]
            gap = np.maximum(low_b - high_a, low_a - high_b).max()
            if frame_a != frame_b or gap >= samples.window:
                continue
            tree = cKDTree(samples.frame_rc_N2[I_a].astype(np.float64))
            near, at = tree.query(samples.frame_rc_N2[I_b].astype(np.float64), p=np.inf)
            for one, other in zip(I_a[at[near < samples.window]], I_b[near < samples.window], strict=True):
                x, y = unit_G[samples.group_N[one]], unit_G[samples.group_N[other]]
                if x != y:
                    unit_G[unit_G == max(x, y)] = min(x, y)
    return unit_G


def by_groups(samples: Samples) -> bool:
    """Whether the units of rule "sensor" are groups (from three on) or spatial blocks."""
    return len(np.unique(_joined_groups(samples)[samples.group_N])) >= 3


def ground_is_shared(samples: Samples, unit_N: np.ndarray) -> bool:
    """Whether a unit is seen by more than one sensor."""
    return len(np.unique(np.stack([unit_N, samples.sensor_N], 1), axis=0)) > len(np.unique(unit_N))


def units_of(samples: Samples, rule: str, block: int) -> np.ndarray:
    """Unit of every sample under a rule: ``[N]``. Random pixels use blocks for their intervals only."""
    if rule == "group" or (rule == "sensor" and by_groups(samples)):
        return _compact(_joined_groups(samples)[samples.group_N])
    if rule == "scene":
        return _compact(samples.scene_N)
    low = samples.frame_rc_N2.min(0)
    cell_N2 = (samples.frame_rc_N2 - low) // block
    return _compact(samples.frame_N, cell_N2[:, 0], cell_N2[:, 1])
