"""Which pixels of which scenes are classified: one table of samples shared by every method of a comparison.

Shape suffixes: N samples, 2 (row, col), HW scene pixels.
A sample is a labelled pixel and the window centred on it, or a specimen seen whole (``Scene.whole``).
Positions are kept twice: in the scene's own grid (to read it) and in a *frame*, the ground grid that scenes of one
coordinate system share, so that two files showing the same ground are known to overlap (two plots of a public
tree-species set do, completely).
Scenes without a ground reference are taken to show the same ground where they are the n-th of one group and size under
different sensors, as one scene seen through several sensors' bands is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from downstream.splits.options import GroupBy, SplitOptions, at_least
from specfm.digests import digest_parts
from specfm.errors import SpecfmError, UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """Labelled windows of a list of scenes.

    Attributes:
        y_N: class of each sample, an index into ``label_names``.
        scene_N: index into ``scene_names``.
        rc_N2: row and column of the labelled pixel in its scene.
        group_N: index into ``group_names``: what a split must keep together.
        frame_N: index of the ground grid; samples of different frames cannot overlap.
        frame_rc_N2: row and column in that grid, pixels.
        window: side of the window in pixels: everything an encoder sees for one sample.
        notices: sentences about samples left out, for the report.
        sensor_names: sensor of each scene (its name, or a digest where it has none).
    """

    y_N: np.ndarray
    scene_N: np.ndarray
    rc_N2: np.ndarray
    group_N: np.ndarray
    frame_N: np.ndarray
    frame_rc_N2: np.ndarray
    window: int
    label_names: tuple[str, ...]
    scene_names: tuple[str, ...]
    group_names: tuple[str, ...]
    notices: tuple[str, ...] = ()
    sensor_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y_N)

    @property
    def sensor_N(self) -> np.ndarray:
        """Sensor of each sample, an index into the sorted distinct ``sensor_names``."""
        return np.unique(self.sensor_names, return_inverse=True)[1].reshape(-1).astype(np.int64)[self.scene_N]

    @property
    def digest(self) -> str:
        """16 hex digits over positions, classes, groups and names: split files carry it and refuse other data."""
        arrays = (np.asarray(a, "<i8") for a in (self.y_N, self.scene_N, self.rc_N2, self.group_N))
        return digest_parts([*arrays, "\n".join([*self.label_names, *self.scene_names, *self.group_names])])

    def take(self, index: np.ndarray) -> Samples:
        """The samples at ``index`` (ids or mask), names unchanged."""
        return replace(
            self,
            y_N=self.y_N[index],
            scene_N=self.scene_N[index],
            rc_N2=self.rc_N2[index],
            group_N=self.group_N[index],
            frame_N=self.frame_N[index],
            frame_rc_N2=self.frame_rc_N2[index],
        )


def sensor_name(scene: Scene) -> str:
    """What tells the sensor of a scene from others: its name, or a digest of its bands where it has none."""
    return scene.sensor.name or scene.sensor.bands.digest


def _group(scene: Scene) -> str:
    return scene.group or scene.name


def _frame_of(scene: Scene, counts: dict[object, int]) -> tuple[tuple[object, ...], int, int]:
    """Key of the ground grid of a scene, and the scene's first row and column in it.

    ``counts`` remembers how many scenes of one sensor, group and size came before.
    """
    own = ("scene", _group(scene), *scene.shape[:2])
    nth = counts[own, sensor_name(scene)] = counts.get((own, sensor_name(scene)), -1) + 1
    geo = getattr(scene, "geo", None)
    if geo is None or not geo.crs_wkt or not geo.transform:
        return (*own, nth), 0, 0
    x0, dx, rx, y0, ry, dy = (float(v) for v in geo.transform)
    if rx or ry or not dx or not dy:  # rotated grids: fall back to the scene's own
        return (*own, nth), 0, 0
    return (geo.crs_wkt, round(dx, 9), round(dy, 9)), round(y0 / dy), round(x0 / dx)


def _check_labels(scene: Scene) -> np.ndarray:
    labels_HW = scene.labels_HW
    if labels_HW is None:
        raise SpecfmError(f"scene {scene.name!r} has no labels; give its card a labels entry, or probe another scene")
    if tuple(labels_HW.shape) != tuple(scene.shape[:2]):
        raise SpecfmError(
            f"labels of scene {scene.name!r} are {labels_HW.shape[0]} x {labels_HW.shape[1]} but the cube is "
            f"{scene.shape[0]} x {scene.shape[1]}; mend the labels entry of its card"
        )
    return np.asarray(labels_HW)


def _nothing_labelled(scenes: Sequence[Scene], invalid: int) -> SpecfmError:
    listed = ", ".join(scene.name for scene in scenes[:3]) + (", ..." if len(scenes) > 3 else "")
    if invalid:
        return SpecfmError(
            f"every labelled pixel of {listed} lies on invalid data ({invalid} pixels); look at the files and at "
            "nodata and saturation of the card"
        )
    return SpecfmError(
        f"no pixel of {listed} is labelled; look at the labels entry of the card (path, unlabelled, remap)"
    )


def _valid_where(scene: Scene, wanted_HW: np.ndarray, strip: int = 256) -> np.ndarray:
    """Validity of the wanted pixels; rows without any are not read, the others at most ``strip`` at a time.

    That of a specimen seen whole is not its middle pixel's (a ring has none there): any valid pixel will do.
    """
    if scene.whole:
        return wanted_HW & scene.mask().any()
    valid_HW = np.zeros(wanted_HW.shape, bool)
    rows = np.flatnonzero(wanted_HW.any(1))
    for low in range(int(rows[0]), int(rows[-1]) + 1, strip):
        here = rows[(rows >= low) & (rows < low + strip)]
        if len(here):
            part = slice(int(here[0]), int(here[-1]) + 1)
            valid_HW[part] = scene.mask(part, slice(None))
    return valid_HW


def asked_window(scenes: Sequence[Scene], window: int | None) -> int | None:
    """The side of windows asked for, pixels; 1 where all scenes are lists of spectra, whatever the default.

    Raises:
        UsageError: a larger window is asked for of lists of spectra.
    """
    if not scenes or any(scene.neighbours for scene in scenes):
        return window
    if window is not None and window > 1:
        raise UsageError(
            f"window {window}: {scenes[0].name} lists spectra that are no neighbours on the ground; leave --window "
            "out, or give 1"
        )
    return 1


def collect_samples(
    scenes: Sequence[Scene],
    window: int,
    *,
    group_by: GroupBy = SplitOptions.group_by,
    max_per_class: int | None = None,
    seed: int = 0,
) -> Samples:
    """List every labelled, valid pixel of ``scenes`` as a sample.

    Args:
        scenes: scenes with ``labels_HW`` (-1 = unlabelled); all must share ``label_names``.
        window: side in pixels of the window centred on a sample.
        group_by: "group" = the scene's group (plot, scan, flight line), "object" = its ``groups_HW`` (crown, specimen),
            "auto" = groups when there are several, else objects, else the scene.
        max_per_class: at most so many samples per class and group (and sensor), drawn with ``seed``.
        seed: seed of that draw.

    Raises:
        SpecfmError: no labels, labels of another shape, differing label names.
        UsageError: a window or option that makes no sense.
    """
    if window < 1:
        raise UsageError(f"window must be at least 1 pixel, not {window}")
    if not scenes:
        raise SpecfmError("no scene to probe; the card lists none")
    names = tuple(scenes[0].label_names)
    scene_groups = [_group(s) for s in scenes]
    if group_by == "auto":
        several = len(set(scene_groups)) > 1
        has_objects = any(s.groups_HW is not None for s in scenes)
        group_by = "object" if has_objects and not several else "group"
    frames: dict[tuple[object, ...], int] = {}
    counts: dict[object, int] = {}
    group_ids: dict[str, int] = {}
    columns: list[tuple[np.ndarray, ...]] = []
    invalid = 0
    rng = np.random.default_rng([seed, 7])
    for i, scene in enumerate(scenes):
        labels_HW = _check_labels(scene)
        key, row0, col0 = _frame_of(scene, counts)
        if tuple(scene.label_names) != names:
            raise SpecfmError(f"scene {scene.name!r} has other label names than {scenes[0].name!r}; probe them apart")
        labelled_HW = labels_HW >= 0
        if not labelled_HW.any():
            continue
        valid_HW = _valid_where(scene, labelled_HW)
        invalid += int((labelled_HW & ~valid_HW).sum())
        rc_n2 = np.argwhere(labelled_HW & valid_HW).astype(np.int64)
        if not len(rc_n2):
            continue
        y_n = labels_HW[rc_n2[:, 0], rc_n2[:, 1]].astype(np.int64)
        if y_n.max() >= len(names):
            raise SpecfmError(f"scene {scene.name!r} has label {int(y_n.max())} but only {len(names)} label names")
        if group_by == "object" and scene.groups_HW is not None:
            objects_n = scene.groups_HW[rc_n2[:, 0], rc_n2[:, 1]]
            values, inverse_n = np.unique(objects_n, return_inverse=True)
            ids = [group_ids.setdefault(f"{scene_groups[i]}/{v}", len(group_ids)) for v in values.tolist()]
            group_n = np.asarray(ids, dtype=np.int64)[inverse_n]
        else:
            group_n = np.full(len(y_n), group_ids.setdefault(scene_groups[i], len(group_ids)), dtype=np.int64)
        frame = frames.setdefault(key, len(frames))
        columns.append(
            (y_n, np.full(len(y_n), i), rc_n2, group_n, np.full(len(y_n), frame), rc_n2 + np.array([row0, col0]))
        )
    if not columns:
        raise _nothing_labelled(scenes, invalid)
    y_N, scene_N, rc_N2, group_N, frame_N, frame_rc_N2 = (
        np.concatenate([c[j] for c in columns]) for j in range(len(columns[0]))
    )
    notices = [f"{invalid} labelled pixels lie on invalid data and are left out"] if invalid else []
    if window > 1 and any(not scene.neighbours for scene in scenes):
        notices.append("of the windows of lists of spectra only the labelled pixel is seen")
    samples = Samples(
        y_N, scene_N, rc_N2, group_N, frame_N, frame_rc_N2, window, names,
        tuple(s.name for s in scenes), tuple(group_ids), tuple(notices), tuple(sensor_name(s) for s in scenes),
    )  # fmt: skip
    if max_per_class is None:
        return samples
    at_least(1, {"--max-per-class": max_per_class})
    order_N = rng.permutation(len(samples))
    _, cell_N = np.unique(np.stack([y_N, group_N, samples.sensor_N], 1), axis=0, return_inverse=True)
    cell_shuffled = cell_N.reshape(-1)[order_N]
    by_cell = np.argsort(cell_shuffled, kind="stable")
    sorted_cells = cell_shuffled[by_cell]
    starts = np.flatnonzero(np.r_[True, sorted_cells[1:] != sorted_cells[:-1]])
    sizes = np.diff(np.r_[starts, len(sorted_cells)])
    rank = np.arange(len(sorted_cells)) - np.repeat(starts, sizes)
    keep = np.sort(order_N[by_cell[rank < max_per_class]])
    kept = samples.take(keep)
    if len(kept) < len(samples):
        note = f"{len(kept)} of {len(samples)} labelled pixels kept (at most {max_per_class} per class and group)"
        kept = replace(kept, notices=(*samples.notices, note))
    return kept
