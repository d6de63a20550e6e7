"""Whole specimens: which pixels of a scan show one, and each as a square view of one size with its mask.

A specimen is a number of ``scene.groups_HW`` where the scene has them, else all that a mask leaves of the scene. A view
shows it and nothing else: pixels off it are no data. Its values are averages over the specimen's own pixels by a
triangle as wide as an output pixel (as wide as an input one where the view is larger than the specimen), so that no
background bleeds in at the rim; a pixel of the view is valid where at least half of that triangle lies on the specimen.
Averaged are spectra as measured; where they are pretreated, views are (:func:`specfm.pretreatment.beneath`).

Shapes: H W pixels of a scene, h w of the specimen's box, s side of a view, C bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.digests import digest_parts
from specfm.errors import SpecfmError, UsageError
from specfm.objects import no_data_value
from specfm.pretreatment import beneath, untreated
from specfm.scene import CubeSource, Scene

BLOCK_BYTES = 64 << 20  # of float32 values of a scene held while some rows of a view are made
MOST_BLANK = 0.5  # share of a view's pixel that may lie off the specimen


@dataclass(frozen=True, eq=False)
class Specimen:
    """One specimen of a scene.

    Attributes:
        scene: where it lies.
        number: in ``scene.groups_HW``, or None for the whole scene.
        row: first pixel row of its box.
        col: first pixel column of its box.
        mask_hw: its valid pixels within the box.
        label: the class of most of its labelled pixels, -1 without any.
    """

    scene: Scene
    number: int | None
    row: int
    col: int
    mask_hw: NDArray[np.bool_]
    label: int

    @property
    def name(self) -> str:
        """Of the scene, with the number where specimens have one."""
        return self.scene.name if self.number is None else f"{self.scene.name}#{self.number}"


def find_specimens(scene: Scene, mask_HW: NDArray[np.bool_] | None = None) -> list[Specimen]:
    """The specimens of a scene, by number.

    Args:
        scene: the scan.
        mask_HW: pixels that may belong to one (object pixels); None = all that are valid as measured.

    Raises:
        SpecfmError: no pixel of the scene shows one.
    """
    mask_HW = untreated(scene).mask() if mask_HW is None else mask_HW
    groups_HW = np.where(mask_HW, 0 if scene.groups_HW is None else scene.groups_HW, -1)
    numbers = [number for number in np.unique(groups_HW).tolist() if number >= 0]
    if not numbers:
        raise SpecfmError(
            f"{scene.where}: no pixel shows a specimen; look at its masks, the groups of its card and the threshold"
        )
    found = []
    for number in numbers:
        on_HW = groups_HW == number
        rows, cols = np.flatnonzero(on_HW.any(1)), np.flatnonzero(on_HW.any(0))
        box = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
        labels = np.empty(0, int) if scene.labels_HW is None else scene.labels_HW[on_HW]
        labels = labels[labels >= 0]
        label = int(np.bincount(labels).argmax()) if len(labels) else -1
        found.append(
            Specimen(scene, None if scene.groups_HW is None else number, int(rows[0]), int(cols[0]), on_HW[box], label)
        )
    return found


def specimens_of(scenes: Iterable[Scene], pixels: Callable[[Scene], NDArray[np.bool_]] = Scene.mask) -> list[Specimen]:
    """The specimens of scenes, scene by scene.

    Args:
        scenes: the scans.
        pixels: says of a scene before pretreatment which pixels may belong to one; default the valid ones. Object
            pixels: :func:`specfm.shards.windows.valid_pixels` with its options.

    Raises:
        UsageError: a list of spectra.
        SpecfmError: a scene without a specimen.
    """
    found = []
    for scene in scenes:
        if not scene.neighbours:
            raise UsageError(f"{scene.where}: is a list of spectra, in which no specimen can be seen whole")
        found += find_specimens(scene, pixels(untreated(scene)))
    return found


def whole_views(
    scenes: Iterable[Scene], side: int, pixels: Callable[[Scene], NDArray[np.bool_]] = Scene.mask
) -> list[Scene]:
    """Every specimen of the scenes as a scene of ``side`` x ``side`` pixels of its own; cubes are read when views are.

    A view keeps its scene's group (the scene itself where it states none) and its specimen's number (``groups_HW``),
    so that splits hold by either. It is one sample: its middle pixel (side // 2) carries the label.

    Args:
        scenes: the scans.
        side: of a view, pixels.
        pixels: as of :func:`specimens_of`.

    Raises:
        UsageError: a side below 2, a list of spectra.
        SpecfmError: a scene without a specimen.
    """
    return [whole_view(each, side) for each in specimens_of(scenes, pixels)]


def whole_view(specimen: Specimen, side: int) -> Scene:
    """One specimen as a square scene that shows nothing else (see :func:`whole_views`)."""
    if side < 2:
        raise UsageError(f"whole specimens are seen on 2 x 2 pixels or more, not {side}")
    return beneath(specimen.scene, lambda scene: _view(scene, specimen, side))


def _view(scene: Scene, specimen: Specimen, side: int) -> Scene:
    fill = no_data_value(scene)
    source = WholeSource(scene.source, specimen.row, specimen.col, specimen.mask_hw, side, fill)
    labels_ss = np.full((side, side), -1, np.int32)
    labels_ss[side // 2, side // 2] = specimen.label
    gsd_m = scene.sensor.gsd_m and scene.sensor.gsd_m * source.scale
    return scene.replace(
        source=source,
        sensor=scene.sensor.replace(gsd_m=gsd_m),
        name=specimen.name,
        geo=None,
        nodata=fill,
        labels_HW=labels_ss if scene.labels_HW is not None else None,
        groups_HW=None if specimen.number is None else np.full((side, side), specimen.number),
        group=scene.group or scene.name,
        whole=True,
    )


@dataclass(frozen=True, eq=False)
class WholeSource:
    """A box of a cube on ``side`` x ``side`` pixels; ``fill`` where the specimen is not, and nowhere else.

    Whole numbers stay whole; a mean that is ``fill`` by chance becomes the number beside it.
    """

    under: CubeSource
    row: int
    col: int
    mask_hw: NDArray[np.bool_]
    side: int
    fill: float

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.side, self.side, self.under.shape[2]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.under.dtype

    @property
    def scale(self) -> float:
        """Pixels of the scene to a pixel of the view."""
        return max(self.mask_hw.shape) / self.side

    @property
    def digest(self) -> str:
        """16 hex digits over what is done to the stored numbers."""
        said = f"whole {self.side} of {self.mask_hw.shape} at {self.row},{self.col}"
        return digest_parts([said, self.mask_hw, str(getattr(self.under, "digest", ""))])

    @cached_property
    def mask_ss(self) -> NDArray[np.bool_]:
        """Pixels of the view that show the specimen."""
        return self._share_ss >= 1 - MOST_BLANK

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        count = self.under.shape[2] if bands is None else len(bands)
        mask_rc = self.mask_ss[np.ix_(rows, cols)]
        found_rcC = np.empty((*mask_rc.shape, count), np.float32)
        down_rh, right_cw = self._down_sh[list(rows)], self._right_sw[list(cols)]
        most = max(1, BLOCK_BYTES // (4 * self.mask_hw.shape[1] * count))  # rows of the scene at once
        each = max(1, int(most / self.scale) - 2)
        for start in range(0, len(rows), each):
            some = slice(start, start + each)
            used = np.flatnonzero((down_rh[some] > 0).any(0))
            if not len(used):
                found_rcC[some] = 0
                continue
            top, bottom = int(used[0]), int(used[-1]) + 1
            columns = range(self.col, self.col + self.mask_hw.shape[1])
            stored_hwC = self.under.read(range(self.row + top, self.row + bottom), columns, bands).astype(np.float32)
            stored_hwC[~self.mask_hw[top:bottom]] = 0
            across_hcC = np.einsum("hwC,cw->hcC", stored_hwC, right_cw, optimize=True)
            found_rcC[some] = np.einsum("hcC,rh->rcC", across_hcC, down_rh[some, top:bottom], optimize=True)
        found_rcC /= np.maximum(self._share_ss[np.ix_(rows, cols)], 1e-6)[..., None]
        if self.dtype.kind not in "iu":
            return np.where(mask_rc[..., None], found_rcC, np.float32(self.fill)).astype(self.dtype)
        info = np.iinfo(self.dtype)
        stored_rcC = np.rint(found_rcC).astype(self.dtype)
        stored_rcC[stored_rcC == self.fill] = self.fill - 1 if self.fill == info.max else self.fill + 1
        stored_rcC[~mask_rc] = self.fill
        return stored_rcC

    @cached_property
    def _down_sh(self) -> NDArray[np.float32]:
        return _triangles(self.mask_hw.shape[0], self.side, self.scale)

    @cached_property
    def _right_sw(self) -> NDArray[np.float32]:
        return _triangles(self.mask_hw.shape[1], self.side, self.scale)

    @cached_property
    def _share_ss(self) -> NDArray[np.float32]:
        return self._down_sh @ self.mask_hw.astype(np.float32) @ self._right_sw.T


def _triangles(size: int, side: int, scale: float) -> NDArray[np.float32]:
    """weights_sh: how much each of ``size`` pixels has in each of ``side``, which they lie in the middle of.

    A row sums to 1 where its whole triangle lies on the pixels.
    """
    half = max(scale, 1.0)
    middle_s = (np.arange(side) + 0.5) * scale - 0.5 - (scale * side - size) / 2
    reach = int(np.ceil(half)) + 1
    place_j = np.arange(-reach - int(scale * side), size + reach + int(scale * side))
    weight_sj = np.maximum(0, 1 - np.abs(place_j - middle_s[:, None]) / half)
    weight_sj /= weight_sj.sum(1, keepdims=True)
    return weight_sj[:, (place_j >= 0) & (place_j < size)].astype(np.float32)
