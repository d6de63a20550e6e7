"""Change between two dates: the grids must agree; without a trained model, the distance of embeddings and Otsu's cut.

Shapes: n sampled cells, h w cells of a piece, D width of one date.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.features.standardise import Standardiser
from downstream.maps.paint import fitting_sample, paint, unit_rows
from specfm.dense.tile_encoder import TileEncoder, encoder_plan
from specfm.dense.tile_reader import fitting_batch
from specfm.grids import Grid, require_one_grid
from specfm.models.backbone import AnyEncoder
from specfm.objects import otsu
from specfm.progress import progress
from specfm.rasters.class_map import CHANGE_COLOURS, ClassMapWriter, Legend
from specfm.rasters.writers import RasterWriter, open_raster, refuse_shared_name
from specfm.scene import Scene
from specfm.tiles import Tile, blended_rows

NAMES = ("unchanged", "changed")


class PairEncoder:
    """Features of the same tiles at both dates, one after the other along the last axis."""

    def __init__(self, encoder: AnyEncoder, before: Scene, after: Scene, level: str) -> None:
        self.dates = [TileEncoder(encoder, scene, level, even=True) for scene in (before, after)]

    def __call__(self, tiles: Sequence[Tile]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Features ``[B, T, T, 2 D]``, and patches valid at both dates ``[B, T, T]``."""
        (one, valid_one), (two, valid_two) = (date(tiles) for date in self.dates)
        return np.concatenate([one, two], -1), valid_one & valid_two


@dataclass(frozen=True)
class Distance:
    """One minus the cosine of the two dates' standardised features, 0..2.

    Each date is standardised by itself: what differs everywhere (season, light, instrument) is no change of a place.
    """

    before: Standardiser
    after: Standardiser

    @classmethod
    def fit(cls, cells_n2D: NDArray[Any]) -> Distance:
        """From a sample of cells of both dates."""
        one, two = np.split(cells_n2D, 2, axis=1)
        return cls(Standardiser(one), Standardiser(two))

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Distance of ``[..., 2 D]`` features; NaN where one is missing."""
        one, two = np.split(features, 2, axis=-1)
        cosine = (unit_rows(self.before(one, np.float32)) * unit_rows(self.after(two, np.float32))).sum(-1)
        return (1.0 - cosine).astype(np.float32)


def distance_to_file(
    encoder: AnyEncoder,
    before: Scene,
    after: Scene,
    out: str | Path,
    *,
    distance: str | Path | None = None,
    threshold: float | None = None,
    seed: int = 0,
    window: int = 0,
    stride: int = 0,
    level: str = "scene",
    batch_size: int = 16,
    preview: bool = True,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> tuple[float, dict[str, float]]:
    """Write an unsupervised map of change on the scenes' own pixels: 1 unchanged, 2 changed, 0 no data at a date.

    Args:
        encoder: in any mode; it is not changed.
        before: the first date, of any sensor.
        after: the second date on the same grid, of any sensor.
        out: ``.tif``, ``.hdr`` (ENVI Classification) or ``.npy``.
        distance: also write the distance (float32) here.
        threshold: distance from which a pixel counts as changed; None = Otsu's, on a random sample of patches.
        seed: of that sample.
        window: as in :func:`specfm.dense.stream.embed_to_file`.
        stride: likewise.
        level: likewise.
        batch_size: likewise.
        preview: also write a PNG of the same name with a legend.
        overwrite: replace files that exist.
        facts: JSON-safe facts to keep beside the map.

    Returns:
        The threshold, and the share of both classes among the pixels with data.

    Raises:
        SpecfmError: other grids, or no common data.
        UsageError: a bad option, or a file that exists.
    """
    require_one_grid(Grid.of(before), Grid.of(after))
    p = encoder.patch_size
    plan = encoder_plan(encoder, before, window, stride)
    batch_size = fitting_batch(batch_size, plan.side * p, before.shape[2] + after.shape[2])
    shape_HW = before.shape[:2]
    told: dict[str, Any] = {
        **(facts or {}),
        "scenes": [before.name, after.name], "task": "change", "method": "embedding distance", "seed": seed,
        "window": plan.side * p, "stride": plan.stride * p, "level": level,
    }  # fmt: skip
    if distance is not None:
        refuse_shared_name(distance, out, "--probabilities")
    with ExitStack() as stack:
        legend = Legend.of(NAMES, CHANGE_COLOURS)
        writer = ClassMapWriter(out, shape_HW, legend, geo=before.geo, facts=told, preview=preview, overwrite=overwrite)
        stack.enter_context(writer)
        extra: RasterWriter | None = None
        if distance is not None:
            extra = open_raster(
                distance, (*shape_HW, 1), "float32", geo=before.geo, band_names=["embedding distance"],
                nodata=float("nan"), facts=told, overwrite=overwrite,
            )  # fmt: skip
            stack.enter_context(extra)
        encode = PairEncoder(encoder, before, after, level)
        sample_n2D = fitting_sample(plan, encode, seed, batch_size, 2, [before, after], "a map of change")
        measure = Distance.fit(sample_n2D)
        cut = otsu(measure(sample_n2D)) if threshold is None else threshold
        writer.tell(threshold=cut)
        advance = stack.enter_context(progress(f"change {before.name}", plan.count))
        for first, features_hw2D in blended_rows(plan, encode, batch_size, advance):
            found_HW = paint(measure(features_hw2D), first, p, [before, after], np.nan)
            writer.write(np.where(np.isfinite(found_HW), 1 + (found_HW > cut), 0))
            if extra is not None:
                extra.write(found_HW[..., None])
    return cut, writer.shares()
