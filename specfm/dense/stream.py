"""Dense features of a scene of any size, written to a file while the scene is read: memory does not grow with it.

Shapes: B tiles, H W pixels, C bands, T tile side in patches, h w patches, D width.
Tiles of ``window`` pixels overlap by ``window - stride``; where they do, features are blended (see ``specfm.tiles``).
Other maps of a scene (``downstream.maps``) walk over it with the same pieces (``specfm.dense.tile_encoder``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.dense.tile_encoder import DenseEncoder, TileEncoder, cell_side, copies, encoder_plan
from specfm.dense.tile_reader import fitting_batch
from specfm.errors import UsageError
from specfm.progress import progress
from specfm.rasters.writers import open_raster, refuse_shared_name, scaled_geo
from specfm.tiles import Compute, Tile, blended_rows

if TYPE_CHECKING:
    from specfm.scene import Scene


def embed_to_file(
    encoder: DenseEncoder,
    scene: Scene,
    out: str | Path,
    *,
    window: int = 0,
    stride: int = 0,
    level: str = "scene",
    batch_size: int = 32,
    pca_png: str | Path | None = None,
    pca_tif: str | Path | None = None,
    even: bool = False,
    pixels: bool = False,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write one feature vector per patch of a scene, or per pixel.

    Args:
        encoder: a specfm encoder.
        scene: the scene; read tile by tile.
        out: ``.npy`` (with a ``.json`` of coordinates beside), ``.hdr`` (ENVI) or ``.tif``. Patches without a valid
            pixel are NaN.
        window: side of the tile that the encoder sees, pixels, a multiple of the patch (default 8 patches, or the only
            size that the encoder reads).
        stride: step between tiles, pixels (default half a window), a multiple of the patch.
        level: "scene" divides by one level for the whole scene, "sample" by each tile's own.
        batch_size: tiles per forward call.
        pca_png: also write a false-colour picture of the first three principal components of evened features, thinned
            if it is large.
        pca_tif: the same at full size as a raster (``.tif``, ``.hdr`` or ``.npy``) of bytes, 0 = no data.
        even: take out what features say of their place in a tile (see :class:`TileEncoder`), so that the tiles do not
            show; without it, they are the encoder's own.
        pixels: a feature for every pixel, of an encoder with pixel tokens.
        overwrite: replace existing files.
        facts: further facts to keep with the file (checkpoint digest).

    Returns:
        What was written: shape, patch, window, stride, coordinates of the first cell, share of patches with data.

    Raises:
        UsageError: a window or stride that is not a multiple of the patch, or an output that exists.
    """
    from specfm.rasters.false_colour import FalseColour, FalseColourFiles

    p = cell_side(encoder, pixels)
    plan = encoder_plan(encoder, scene, window, stride, pixels)
    height, width, depth = *plan.shape, int(encoder.num_features)
    written: dict[str, Any] = {
        **(facts or {}),
        "scene": scene.name, "patch": p, "window": plan.side * p, "stride": plan.stride * p, "level": level,
        "even": even, "first_centre_rc": [(p - 1) / 2, (p - 1) / 2], "step_px": p, "scene_shape": list(scene.shape),
    }  # fmt: skip
    batch_size = fitting_batch(batch_size, plan.side * p, scene.shape[2] * copies(encoder, pixels))
    if pca_tif is not None:
        refuse_shared_name(pca_tif, out, "--pca-tif")
    if pca_png is not None and Path(pca_png) in (Path(out), Path(pca_tif or "")):
        raise UsageError(f"{pca_png} is another output already; choose another --pca-png")
    with_data = 0
    with ExitStack() as stack:
        names = [f"feature {i + 1}" for i in range(depth)]
        raster = open_raster(
            out, (height, width, depth), "float32", geo=scaled_geo(scene.geo, p), band_names=names,
            nodata=float("nan"), facts=written, overwrite=overwrite,
        )  # fmt: skip
        writer = stack.enter_context(raster)
        pictures = stack.enter_context(
            FalseColourFiles(plan.shape, pca_png, pca_tif, scaled_geo(scene.geo, p), written, overwrite)
        )
        encode = TileEncoder(encoder, scene, level, even=even, pixels=pixels)

        def beside(tiles: Sequence[Tile]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            """Evened features after those to be written: pictures show the former."""
            tokens, valid = encode(tiles)
            evened = tokens if even else tokens - encode.of_place(tokens.shape[1], tokens.shape[2])
            return np.concatenate([tokens, evened], -1), valid

        compute: Compute = encode
        colours: FalseColour | None = None
        if pictures.wanted:
            compute = beside
            colours = FalseColour.fit(plan, TileEncoder(encoder, scene, level, even=True, pixels=pixels), batch_size)
        advance = stack.enter_context(progress(f"embed {scene.name}", plan.count))
        for first, done in blended_rows(plan, compute, batch_size, advance):
            writer.write(done[..., :depth])
            with_data += int(np.isfinite(done[..., 0]).sum())
            if colours is not None:
                pictures.write(first, colours(done[..., depth:]))
    return {**written, "shape": [height, width, depth], "with_data": with_data / (height * width)}
