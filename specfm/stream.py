"""Dense features of a scene of any size, written to a file while the scene is read: memory does not grow with it.

Shapes: H W pixels, C bands, T tile side in patches, h w patches, D width.
Tiles of ``window`` pixels overlap by ``window - stride``; where they do, features are blended (see ``specfm.tiles``).
All tiles share the scene's one brightness level by default, so that there are no seams.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import UsageError
from specfm.tiles import RowBlender, Tile, tile_rows
from specfm.writers import open_raster, scaled_geo, stretch, write_png

if TYPE_CHECKING:
    from specfm.models.encoder import Encoder
    from specfm.scene import Scene

PCA_TILES = 64  # tiles that the false-colour axes are fitted on


class TileEncoder:
    """Encodes tiles of one scene; knows nothing of their order or blending."""

    def __init__(self, encoder: Encoder, scene: Scene, window: int, level: str = "scene") -> None:
        from specfm.dense import scene_level

        self.encoder, self.scene, self.patch = encoder, scene, encoder.patch_size
        if window < self.patch or window % self.patch:
            raise UsageError(f"window {window} is not a multiple of the encoder's patch of {self.patch} pixels")
        if level not in ("scene", "sample"):
            raise UsageError(f"unknown level {level!r}; scene or sample")
        self.side = window // self.patch
        self.shape = (-(-scene.shape[0] // self.patch), -(-scene.shape[1] // self.patch))
        by_scene = level == "scene" and encoder.level != "none"
        self.level = scene_level(scene) if by_scene else None

    def __call__(self, tiles: Sequence[Tile]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Features ``[B, T, T, D]`` of tiles of one size, and which patches have a valid pixel ``[B, T, T]``."""
        import torch

        cubes, masks = zip(*(self._read(tile) for tile in tiles), strict=True)
        level_B = None
        if self.level is not None:
            level_B = torch.full((len(tiles),), self.level, device=self.encoder.device)
        with torch.inference_mode():
            found = self.encoder(
                torch.from_numpy(np.stack(cubes)), self.scene.sensor, torch.from_numpy(np.stack(masks)), level_B=level_B
            )
        grid = (len(tiles), tiles[0].height, tiles[0].width)
        tokens = found.tokens_BND.float().cpu().numpy().reshape(*grid, -1)
        return tokens, found.token_mask_BN.cpu().numpy().reshape(grid)

    def _read(self, tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        p = self.patch
        rows = slice(tile.row * p, min((tile.row + tile.height) * p, self.scene.shape[0]))
        cols = slice(tile.col * p, min((tile.col + tile.width) * p, self.scene.shape[1]))
        cube = self.scene.read(rows, cols).astype(np.float32)
        mask = np.asarray(self.scene.mask(rows, cols), bool)
        pad = ((0, tile.height * p - cube.shape[0]), (0, tile.width * p - cube.shape[1]))
        return np.pad(cube, (*pad, (0, 0))), np.pad(mask, pad)


def _pca_axes(encode: TileEncoder, rows: list[list[Tile]], batch_size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean ``[D]`` and axes ``[D, 3]`` fitted on evenly spaced tiles; signs fixed, so that reruns look the same."""
    tiles = [tile for row in rows for tile in row]
    chosen = [tiles[i] for i in np.unique(np.linspace(0, len(tiles) - 1, PCA_TILES).astype(int))]
    found = []
    for start in range(0, len(chosen), batch_size):
        tokens, valid = encode(chosen[start : start + batch_size])
        found.append(tokens[valid])
    cells = np.concatenate(found).astype(np.float64)
    if not len(cells):
        return np.zeros(encode.encoder.num_features), np.zeros((encode.encoder.num_features, 3))
    mean = cells.mean(0)
    _, axes = np.linalg.eigh((cells - mean).T @ (cells - mean))
    axes = axes[:, ::-1][:, :3]
    return mean, axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])


def embed_to_file(
    encoder: Encoder,
    scene: Scene,
    out: str | Path,
    *,
    window: int = 0,
    stride: int = 0,
    level: str = "scene",
    batch_size: int = 32,
    pca_png: str | Path | None = None,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write one feature vector per patch of a scene.

    Args:
        encoder: a specfm encoder.
        scene: the scene; read tile by tile.
        out: ``.npy`` (with a ``.json`` of coordinates beside), ``.hdr`` (ENVI) or ``.tif``. Patches without a valid
            pixel are NaN.
        window: side of the tile that the encoder sees, pixels (default 8 patches), a multiple of the patch.
        stride: step between tiles, pixels (default half a window), a multiple of the patch.
        level: "scene" divides by one level for the whole scene, "sample" by each tile's own.
        batch_size: tiles per forward call.
        pca_png: also write a false-colour picture of the first three principal components.
        overwrite: replace existing files.
        facts: further facts to keep with the file (checkpoint digest).

    Returns:
        What was written: shape, patch, window, stride, coordinates of the first cell.

    Raises:
        UsageError: a window or stride that is not a multiple of the patch, or an output that exists.
    """
    from rich.console import Console
    from rich.progress import Progress

    p = encoder.patch_size
    window = window or 8 * p
    stride = stride or max(window // (2 * p), 1) * p
    if stride < p or stride % p:
        raise UsageError(f"stride {stride} is not a multiple of the encoder's patch of {p} pixels")
    if pca_png is not None and Path(pca_png).exists() and not overwrite:
        raise UsageError(f"{pca_png} exists; choose another --pca-png or pass --overwrite")
    encoder.eval()
    encode = TileEncoder(encoder, scene, window, level)
    rows = list(tile_rows(encode.shape, encode.side, stride // p))
    height, width = encode.shape
    depth = int(encoder.num_features)
    written: dict[str, Any] = {
        **(facts or {}),
        "scene": scene.name, "patch": p, "window": window, "stride": stride, "level": level,
        "first_centre_rc": [(p - 1) / 2, (p - 1) / 2], "step_px": p, "scene_shape": list(scene.shape),
    }  # fmt: skip
    names = [f"feature {i + 1}" for i in range(depth)]
    writer = open_raster(
        out, (height, width, depth), "float32", geo=scaled_geo(scene.geo, p), band_names=names,
        nodata=float("nan"), facts=written, overwrite=overwrite,
    )  # fmt: skip
    console = Console(stderr=True)
    image_hw3 = np.full((height, width, 3), np.nan, np.float32)
    with writer, Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"embed {scene.name}", total=len(rows) * len(rows[0]))
        axes = _pca_axes(encode, rows, batch_size) if pca_png is not None else None
        blender = RowBlender(width, depth)
        for index, row in enumerate(rows):
            for start in range(0, len(row), batch_size):
                part = row[start : start + batch_size]
                tokens, valid = encode(part)
                for tile, values, ok in zip(part, tokens, valid, strict=True):
                    blender.add(tile, values, ok)
                progress.advance(task, len(part))
            done_above = rows[index + 1][0].row if index + 1 < len(rows) else height
            first, done = blender.finish_above(done_above)
            writer.write(done)
            if axes is not None:
                image_hw3[first : first + len(done)] = (done - axes[0]) @ axes[1]
    if pca_png is not None:
        write_png(pca_png, stretch(image_hw3), overwrite=overwrite)
    return {**written, "shape": [height, width, depth]}
