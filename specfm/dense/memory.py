"""Dense features of a whole scene in memory: one feature per patch, with coordinates.

Shapes: H W pixels, C bands, h w patches, D width. Scenes larger than memory: ``specfm embed`` writes the
same numbers to a file while it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from specfm.bands import BandGrid
from specfm.brief import brief
from specfm.dense.given import as_scene
from specfm.dense.tile_encoder import DenseEncoder, TileEncoder, cell_side, copies, encoder_plan
from specfm.dense.tile_reader import fitting_batch
from specfm.models.one_size import refuse_other_side
from specfm.rows import from_columns
from specfm.scene import Scene
from specfm.selected_scene import for_encoder
from specfm.sensors import Sensor
from specfm.tiles import blended_rows

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import DataArray

SPECTRA_AT_ONCE = 4096


@dataclass(frozen=True)
class DenseFeatures:
    """Features of a scene; its cells are patches, or pixels.

    Attributes:
        features_hwD: float32, NaN where a cell has no valid pixel.
        rows_h: pixel rows of the centres of cells in the scene.
        cols_w: pixel columns of them.
        x_w: map coordinates of the centres, None without a (north-up) geo reference.
        y_h: likewise.
    """

    features_hwD: np.ndarray
    rows_h: np.ndarray
    cols_w: np.ndarray
    x_w: np.ndarray | None = None
    y_h: np.ndarray | None = None

    __repr__ = brief

    def to_xarray(self) -> DataArray:
        """[row, col, feature], with the places of cells in the scene and, where known, on the map as coordinates."""
        import xarray

        numbers_D = np.arange(self.features_hwD.shape[2])
        coords: dict[str, Any] = {"row": self.rows_h, "col": self.cols_w, "feature": numbers_D}
        for name, axis, values in (("y", "row", self.y_h), ("x", "col", self.x_w)):
            if values is not None:
                coords[name] = (axis, values)
        return xarray.DataArray(self.features_hwD, coords, ("row", "col", "feature"), "features")

    def to_dataframe(self) -> DataFrame:
        """A line for each cell that has data: its ``row`` and ``col`` (and ``x``, ``y``), then ``f1``, ``f2`` ...

        Raises:
            UsageError: pandas is not installed.
        """
        with_data = np.argwhere(np.isfinite(self.features_hwD).all(-1))
        columns: dict[str, Any] = {"row": self.rows_h[with_data[:, 0]], "col": self.cols_w[with_data[:, 1]]}
        if self.x_w is not None and self.y_h is not None:
            columns |= {"x": self.x_w[with_data[:, 1]], "y": self.y_h[with_data[:, 0]]}
        cells_nD = self.features_hwD[tuple(with_data.T)]
        return from_columns(columns | {f"f{i}": values for i, values in enumerate(cells_nD.T, 1)})


def embed_scene(
    encoder: DenseEncoder,
    scene: Scene | np.ndarray | Tensor,
    sensor: Sensor | BandGrid | str | None = None,
    *,
    tile: int = 0,
    stride: int = 0,
    level: str = "scene",
    batch_size: int = 32,
    pixels: bool = False,
) -> DenseFeatures:
    """Embed every patch of a scene, or every pixel.

    The scene is walked in square tiles that overlap; where they do, features are blended. With ``stride`` = ``tile``
    each tile is encoded by itself and a patch sees its own tile only.

    Args:
        encoder: in any mode and on any device; it is not changed.
        scene: a Scene, an (H, W, C) array or tensor with its ``sensor`` (a Sensor, a BandGrid or a known name), or what
            else says its bands itself (:func:`specfm.dense.given.as_scene`). Of a list of spectra (N, C), also as a
            DataFrame with a row for each, every one is seen by itself, and features are (N, 1, D).
        sensor: of an array; a Scene has its own.
        tile: side of a tile, pixels (default 8 patches, or the only size that the encoder reads).
        stride: step between tiles, pixels (default half a tile).
        level: ``scene`` divides by one level for the whole scene (no seams), ``sample`` by each tile's own.
        batch_size: tiles encoded at once.
        pixels: a feature for every pixel, of an encoder with pixel tokens.

    Raises:
        SpecfmError: neither scene nor array, an array without a sensor, an unknown ``level``, a tile or stride that the
            patch size does not divide, or tiles of a list of spectra.
    """
    scene = as_scene(scene, sensor)
    if not scene.neighbours and tile != 1:  # which the road below takes one by one too, by the level of all
        return _embed_spectra(encoder, scene)
    p = cell_side(encoder, pixels)
    plan = encoder_plan(encoder, scene, tile, stride, pixels, "tile")
    out = np.empty((*plan.shape, encoder.num_features), np.float32)
    was_training = encoder.training
    encode = TileEncoder(encoder, scene, level, pixels=pixels)
    batch_size = fitting_batch(batch_size, plan.side * p, scene.shape[2] * copies(encoder, pixels))
    try:
        for first, rows_hwD in blended_rows(plan, encode, batch_size):
            out[first : first + len(rows_hwD)] = rows_hwD
    finally:
        encoder.train(was_training)
    rows_h, cols_w = (np.arange(size) * p + (p - 1) / 2 for size in plan.shape)
    x_w = y_h = None
    if scene.geo is not None and scene.geo.transform is not None:
        x0, dx, shear_x, y0, shear_y, dy = scene.geo.transform
        if shear_x == 0 and shear_y == 0:
            x_w, y_h = x0 + (cols_w + 0.5) * dx, y0 + (rows_h + 0.5) * dy
    return DenseFeatures(out, rows_h, cols_w, x_w, y_h)


def _embed_spectra(encoder: DenseEncoder, scene: Scene) -> DenseFeatures:
    """Each spectrum as a window of one pixel: side by side they are no neighbours."""
    scene = for_encoder(encoder, scene)
    refuse_other_side(encoder, 1, "window")
    height, width, channels = scene.shape
    out = np.empty((height, width, encoder.num_features), np.float32)
    step = max(1, SPECTRA_AT_ONCE // width)
    was_training = encoder.training
    encoder.eval()
    try:
        for top in range(0, height, step):
            stored = scene.read(slice(top, min(top + step, height)))
            x_BHWC = torch.from_numpy(stored.astype(np.float32).reshape(-1, 1, 1, channels))
            mask_BHW = torch.from_numpy(scene.mask_of(stored).reshape(-1, 1, 1))
            with torch.inference_mode():
                pooled_BD = encoder(x_BHWC.to(encoder.device), scene.sensor, mask_BHW.to(encoder.device)).pooled_BD
            found_BD = pooled_BD.float().cpu().numpy()
            found_BD[~mask_BHW[:, 0, 0].numpy()] = np.nan
            out[top : top + len(stored)] = found_BD.reshape(len(stored), width, -1)
    finally:
        encoder.train(was_training)
    return DenseFeatures(out, np.arange(height, dtype=float), np.arange(width, dtype=float))
