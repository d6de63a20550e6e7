"""Where a scene looks like given pixels: a map of cosine similarity, and the best places.

Shapes: h w cells of a piece, D width, Q examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.features.standardise import Standardiser
from downstream.maps.paint import fitting_sample, paint, unit_rows
from specfm.dense.tile_encoder import TileEncoder, cell_side, copies, encoder_plan
from specfm.dense.tile_reader import fitting_batch
from specfm.errors import SpecfmError, UsageError
from specfm.files import atomic_write_bytes, refuse_existing
from specfm.models.backbone import AnyEncoder
from specfm.progress import progress
from specfm.rasters.quicklook import Thinned, enlarged, png_bytes
from specfm.rasters.writers import open_raster
from specfm.scene import Scene
from specfm.tiles import Tile, blend_block, blended_rows

VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


@dataclass(frozen=True)
class Place:
    """A pixel (row, col) at the middle of a patch, its similarity, and map coordinates where the scene has them."""

    row: int
    col: int
    similarity: float
    x: float | None = None
    y: float | None = None


class BestPlaces:
    """The most similar cells, none within ``apart`` cells of a better one; memory does not grow with the scene's height
    beyond one candidate per ``apart`` x ``apart`` block."""

    def __init__(self, apart: int) -> None:
        self.apart = max(apart, 1)
        self._best: dict[tuple[int, int], tuple[float, int, int]] = {}

    def add(self, first: int, similarity_hw: NDArray[Any]) -> None:
        """Rows of cells; NaN is skipped. Blocks are merged across calls."""
        filled = np.where(np.isfinite(similarity_hw), similarity_hw, -np.inf)
        for offset, row in enumerate(filled):
            for block in range(0, len(row), self.apart):
                col = block + int(row[block : block + self.apart].argmax())
                key = ((first + offset) // self.apart, block // self.apart)
                if row[col] > self._best.get(key, (-np.inf,))[0]:
                    self._best[key] = (float(row[col]), first + offset, col)

    def top(self, count: int, without: Sequence[tuple[int, int]]) -> list[tuple[float, int, int]]:
        """(similarity, row, col) of the best cells, at least ``apart`` from one another and from ``without``."""
        taken, kept = list(without), list[tuple[float, int, int]]()
        for value, row, col in sorted(self._best.values(), key=lambda item: (-item[0], item[1], item[2])):
            if len(kept) == count:
                break
            if all(max(abs(row - r), abs(col - c)) >= self.apart for r, c in taken):
                taken.append((row, col))
                kept.append((value, row, col))
        return kept


def search_to_file(
    encoder: AnyEncoder,
    scene: Scene,
    like_rc: Sequence[tuple[int, int]],
    out: str | Path,
    *,
    top: int = 10,
    apart: int = 0,
    seed: int = 0,
    window: int = 0,
    stride: int = 0,
    level: str = "scene",
    batch_size: int = 32,
    pixels: bool = False,
    preview: bool = True,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> list[Place]:
    """Write a map of similarity (-1..1, NaN = no data) to the nearest of some example pixels.

    Args:
        encoder: in any mode; it is not changed.
        scene: what is searched.
        like_rc: (row, col) of the examples, pixels of the scene.
        out: ``.tif``, ``.hdr`` or ``.npy``, on the scene's own pixels.
        top: how many best places to return.
        apart: least distance between them, pixels (default half a window).
        seed: of the sample that features are standardised by.
        window: as in :func:`specfm.dense.stream.embed_to_file`.
        stride: likewise.
        level: likewise.
        batch_size: likewise.
        pixels: likewise.
        preview: also write a PNG of the same name: similarity from dark (the least) to yellow (the most).
        overwrite: replace files that exist.
        facts: JSON-safe facts to keep beside the map.

    Raises:
        UsageError: no example, one outside the scene, a bad option, or a file that exists.
        SpecfmError: an example in a patch without data.
    """
    p = cell_side(encoder, pixels)
    plan = encoder_plan(encoder, scene, window, stride, pixels)
    batch_size = fitting_batch(batch_size, plan.side * p, scene.shape[2] * copies(encoder, pixels))
    apart = -(-apart // p) or max(plan.side // 2, 1)
    height, width = scene.shape[:2]
    if not like_rc:
        raise UsageError("give at least one example as --like ROW,COL")
    for row, col in like_rc:
        if not (0 <= row < height and 0 <= col < width):
            raise UsageError(f"--like {row},{col} lies outside {scene.where} of {height} x {width} pixels")
    told = {**(facts or {}), "scenes": [scene.name], "like": [list(rc) for rc in like_rc], "level": level}
    writer = open_raster(
        out, (height, width, 1), "float32", geo=scene.geo, band_names=["cosine similarity"], nodata=float("nan"),
        facts=told, overwrite=overwrite,
    )  # fmt: skip
    picture, thinned = Path(out).with_suffix(".png"), Thinned(plan.shape, 1)
    if preview:
        refuse_existing(picture, overwrite, "--out (or --no-preview)")
    best = BestPlaces(apart)
    cells = [(row // p, col // p) for row, col in like_rc]
    with writer, progress(f"search {scene.name}", plan.count) as advance:
        encode = TileEncoder(encoder, scene, level, even=True, pixels=pixels)
        scaling = Standardiser(fitting_sample(plan, encode, seed, batch_size, 2, [scene], "a search"))
        wanted_QD = np.stack([blend_block(plan, encode, Tile(*cell, 1, 1), batch_size)[0, 0] for cell in cells])
        for (row, col), feature_D in zip(like_rc, wanted_QD, strict=True):
            if not np.isfinite(feature_D).all():
                raise SpecfmError(f"--like {row},{col} lies where {scene.where} has no data; choose another pixel")
        wanted_QD = unit_rows(scaling(wanted_QD, np.float32))
        for first, features_hwD in blended_rows(plan, encode, batch_size, advance):
            similarity_hw = (unit_rows(scaling(features_hwD, np.float32)) @ wanted_QD.T).max(-1)
            best.add(first, similarity_hw)
            level_hw = np.clip(np.round(127.5 * (1 + np.nan_to_num(similarity_hw, nan=-2.0))), -1, 254) + 1
            thinned.add(first, level_hw.astype(np.uint8)[..., None])  # 0 = no data
            writer.write(paint(similarity_hw, first, p, [scene], np.nan)[..., None])
    if preview:
        atomic_write_bytes(picture, _picture(thinned.image[..., 0]))
    return [_place(scene, p, *found) for found in best.top(top, cells)]


def _picture(level_hw: NDArray[np.uint8]) -> bytes:
    """PNG of levels (0 = no data, 1 to 255) in the colours of viridis from the least to the greatest; rest clear."""
    known_hw = level_hw > 0
    low, high = (int(f(level_hw[known_hw])) if known_hw.any() else 0 for f in (np.min, np.max))
    share_hw = np.clip((level_hw.astype(float) - low) / max(high - low, 1), 0, 1)
    stops = np.linspace(0, 1, len(VIRIDIS))
    channels = [np.interp(share_hw, stops, [colour[i] for colour in VIRIDIS]) for i in range(3)]
    return png_bytes(enlarged(np.stack([*channels, 255.0 * known_hw], -1).astype(np.uint8)))


def _place(scene: Scene, patch: int, similarity: float, cell_row: int, cell_col: int) -> Place:
    row = min(cell_row * patch + patch // 2, scene.shape[0] - 1)
    col = min(cell_col * patch + patch // 2, scene.shape[1] - 1)
    if scene.geo is None or scene.geo.transform is None:
        return Place(row, col, similarity)
    x0, dx, rx, y0, ry, dy = scene.geo.transform
    x, y = x0 + (col + 0.5) * dx + (row + 0.5) * rx, y0 + (col + 0.5) * ry + (row + 0.5) * dy
    return Place(row, col, similarity, x, y)
