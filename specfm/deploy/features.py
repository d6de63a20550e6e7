"""Dense features by an exported encoder, as ``specfm embed`` writes them, without torch.

Shapes: B tiles, H W pixels, T tile side in patches, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.dense.tile_reader import TileReader, fitting_batch, patch_plan, scene_level
from specfm.deploy.facts import fitting
from specfm.deploy.runtime import Deployed, date_inputs
from specfm.progress import progress
from specfm.rasters.writers import open_raster, scaled_geo
from specfm.scene import Scene
from specfm.tiles import Tile, TilePlan, blended_rows


def features_to_file(
    deployed: Deployed,
    scene: Scene,
    out: str | Path,
    *,
    stride: int = 0,
    batch_size: int = 8,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write one feature vector per patch of a scene.

    Args:
        deployed: an encoder.
        scene: read tile by tile.
        out: ``.npy`` (with a ``.json`` of coordinates beside), ``.hdr`` (ENVI) or ``.tif``; NaN without a valid pixel.
        stride: step between tiles, pixels, a multiple of the patch; 0 = half a tile.
        batch_size: tiles per call.
        overwrite: replace existing files.
        facts: further facts to keep with the file.

    A scene smaller than the tile, which is part of the graph, is padded with pixels that count as invalid.

    Returns:
        What was written: shape, patch, window, stride, coordinates of the first cell, share of patches with data.

    Raises:
        UsageError: bands that the encoder is not baked for, an odd stride, or an output that exists.
    """
    known = deployed.facts
    patch, rescale = known.patch, fitting(scene, known.sensor(0), str(deployed.path))
    asked = patch_plan(scene, patch, known.tile, stride, called="tile")
    height, width = asked.shape
    plan = TilePlan((max(height, asked.side), max(width, asked.side)), asked.side, asked.stride)
    level = scene_level(scene) if known.level == "scene" else None
    read = TileReader(scene, patch)
    depth = int(deployed.session.get_outputs()[0].shape[-1])
    written: dict[str, Any] = {
        **(facts or {}),
        "scene": scene.name, "patch": patch, "window": known.tile, "stride": plan.stride * patch, "level": known.level,
        "first_centre_rc": [(patch - 1) / 2, (patch - 1) / 2], "step_px": patch, "scene_shape": list(scene.shape),
    }  # fmt: skip

    def encode(tiles: Sequence[Tile]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        x_BTTC, mask_BTT = read(tiles)
        found = deployed(date_inputs(deployed.facts, 1, rescale(x_BTTC), mask_BTT, level, scene.sensor))
        grid = (len(tiles), plan.side, plan.side)
        return found["tokens_BND"].reshape(*grid, depth), found["valid_BN"].reshape(grid)

    with_data = 0
    names = [f"feature {i + 1}" for i in range(depth)]
    batch_size = fitting_batch(batch_size, known.tile, scene.shape[2])
    with open_raster(
        out, (height, width, depth), "float32", geo=scaled_geo(scene.geo, patch), band_names=names,
        nodata=float("nan"), facts=written, overwrite=overwrite,
    ) as writer, progress(f"run {scene.name}", plan.count) as advance:  # fmt: skip
        for first, rows_hwD in blended_rows(plan, encode, batch_size, advance):
            kept = rows_hwD[: max(height - first, 0), :width]
            writer.write(kept)
            with_data += int(np.isfinite(kept[..., 0]).sum())
    return {**written, "shape": [height, width, depth], "with_data": with_data / (height * width)}
