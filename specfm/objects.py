"""Which pixels of a scan show an object, and a scan in which nothing else is data: no background, no scale bar.

Shapes: H W pixels, h rows, w columns, c bands of what is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from specfm.digests import digest_parts
from specfm.errors import SpecfmError
from specfm.scene import CubeSource, Scene
from specfm.tiles import STRIP_BYTES


def object_pixels(
    scene: Scene,
    threshold: float | Literal["otsu"],
    dark: bool = False,
    bright: Scene | None = None,
    within_HW: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """mask_HW: valid pixels whose mean over usable bands, in stored units, lies beyond a threshold.

    Args:
        scene: the scan.
        threshold: a level, or ``otsu`` (:func:`otsu`) of the valid pixels.
        dark: objects lie below it, not above.
        bright: the same pixels before what takes brightness out, whose levels count; default the scene itself.
        within_HW: where objects may lie.
    """
    height, width, channels = scene.shape
    mask_HW = np.zeros((height, width), bool)
    level_HW = np.zeros((height, width), np.float32)
    step = max(1, STRIP_BYTES // (width * channels * scene.dtype.itemsize))
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        stored = scene.read(rows, bands=_usable(scene))
        mask_HW[rows] = scene.mask_of(stored)
        as_measured = stored if bright is None else bright.read(rows, bands=_usable(bright))
        level_HW[rows] = as_measured.mean(-1, dtype=np.float64)
    if within_HW is not None:
        mask_HW &= within_HW
    if mask_HW.any():
        level = otsu(level_HW[mask_HW]) if isinstance(threshold, str) else threshold
        mask_HW &= level_HW <= level if dark else level_HW > level
    return mask_HW


def _usable(scene: Scene) -> NDArray[np.int64] | None:
    valid_C = scene.sensor.bands.valid
    return None if valid_C.all() else np.flatnonzero(valid_C)


def otsu(values: NDArray[np.floating[Any]], bins: int = 256) -> float:
    """The level that separates two classes with the largest variance between them (Otsu 1979).

    Of one class alone the highest.

    Example:
        >>> 0.2 < otsu(np.r_[np.full(50, 0.1), np.full(5, 0.9)]) < 0.9
        True
    """
    counts, edges = np.histogram(values, bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts)[:-1], counts[::-1].cumsum()[::-1][1:]
    sum_below = np.cumsum(counts * middles)[:-1]
    sum_above = (counts * middles).sum() - sum_below
    possible = (below > 0) & (above > 0)
    if not possible.any():
        return float(values.max())
    gap = sum_below / np.maximum(below, 1) - sum_above / np.maximum(above, 1)
    between = np.where(possible, below * above * gap**2, -1.0)
    ties = np.flatnonzero(between >= between.max() * (1 - 1e-12))  # an empty gap between two peaks: cut in its middle
    return float(edges[1:-1][ties].mean())


def tidied(mask_HW: NDArray[np.bool_], fill_holes: bool, smallest_px: int) -> NDArray[np.bool_]:
    """Objects with their holes filled and without pieces of fewer pixels (neighbours by side or corner)."""
    from scipy import ndimage

    if fill_holes:
        mask_HW = ndimage.binary_fill_holes(mask_HW)
    if smallest_px > 1:
        pieces_HW, count = ndimage.label(mask_HW, np.ones((3, 3)))
        sizes = np.bincount(pieces_HW.ravel(), minlength=count + 1)
        sizes[0] = 0
        mask_HW = (sizes >= smallest_px)[pieces_HW]
    return np.asarray(mask_HW, bool)


def numbered(mask_HW: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Objects that touch no other, numbered from 1 by where they begin, row by row; -1 where none is."""
    from scipy import ndimage

    pieces_HW = ndimage.label(mask_HW, np.ones((3, 3)))[0].astype(np.int64)
    return np.where(pieces_HW > 0, pieces_HW, -1)


def pieces(mask_HW: NDArray[np.bool_], of_largest: float = 0.0) -> int:
    """Number of objects that touch no other and have at least this share of the pixels of the largest."""
    sizes = np.bincount(numbered(mask_HW)[mask_HW])
    return int((sizes[sizes > 0] >= of_largest * sizes.max(initial=0)).sum())


def on_objects(scene: Scene, mask_HW: NDArray[np.bool_]) -> Scene:
    """The scene with nothing but objects in it: other pixels are no data, and carry neither label nor group.

    Raises:
        SpecfmError: a mask of another size, or complex numbers.
    """
    if mask_HW.shape != scene.shape[:2]:
        raise SpecfmError(f"{scene.where}: is {scene.shape[:2]} pixels, its object mask {mask_HW.shape}")
    if scene.dtype.kind == "c":
        raise SpecfmError(f"{scene.where}: complex numbers have no value that stands for no data; leave object out")
    fill = no_data_value(scene)
    labels_HW, groups_HW = (
        None if numbers_HW is None else np.where(mask_HW, numbers_HW, -1)
        for numbers_HW in (scene.labels_HW, scene.groups_HW)
    )
    source = ObjectSource(scene.source, mask_HW, fill, scene.nodata is None)
    return scene.replace(source=source, nodata=fill, labels_HW=labels_HW, groups_HW=groups_HW, objects_alone=True)


def no_data_value(scene: Scene) -> float:
    """What stands for no data: the scene's own value, else NaN or the end of its type that measurements keep off."""
    if scene.dtype.kind not in "iu":
        return float("nan") if scene.nodata is None else scene.nodata
    info = np.iinfo(scene.dtype)
    if scene.nodata is not None and info.min <= scene.nodata <= info.max and float(scene.nodata).is_integer():
        return int(scene.nodata)
    return int(info.max if scene.dtype.kind == "u" else info.min)


@dataclass(frozen=True, eq=False)
class ObjectSource:
    """Reads like ``under``, with ``fill`` where no object is.

    Attributes:
        fresh: ``fill`` meant nothing before; a whole number that is it by chance becomes the one beside it.
    """

    under: CubeSource
    mask_HW: NDArray[np.bool_]
    fill: float
    fresh: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.under.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.under.dtype

    @property
    def digest(self) -> str:
        """16 hex digits over what is done to the stored numbers."""
        return digest_parts(["objects", self.mask_HW, str(self.fill), str(getattr(self.under, "digest", ""))])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        stored_hwc = np.array(self.under.read(rows, cols, bands))  # a copy: memory of others is not written to
        if self.fresh and self.dtype.kind in "iu":
            stored_hwc[stored_hwc == self.fill] = (
                self.fill - 1 if self.fill == np.iinfo(self.dtype).max else self.fill + 1
            )
        stored_hwc[~self.mask_HW[np.ix_(rows, cols)]] = self.fill
        return stored_hwc
