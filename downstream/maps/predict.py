"""Maps of a trained task model: classes of one scene, or changes between two, streamed in bounded memory.

Shapes: B tiles, T tile side, H W pixels, h rows of a piece, K classes.
Tiles of the size that the model was trained on overlap; their outer pixels (the halo) only serve as surroundings, and
probabilities of the rest are blended before a class is chosen, so that tiles leave no seams.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from specfm.band_selection import selected_again
from specfm.checkpoint import has_whitened_stem
from specfm.dense.tile_encoder import TileReader, fitting_batch, scene_levels
from specfm.errors import UsageError
from specfm.pretreatment import pretreat
from specfm.progress import progress
from specfm.rasters.class_map import CHANGE_COLOURS, ClassMapWriter, Legend
from specfm.rasters.writers import RasterWriter, open_raster, refuse_shared_name
from specfm.scene import Scene
from specfm.tiles import Tile, TilePlan, blended_rows

if TYPE_CHECKING:
    from downstream.supervised.model import TaskModel


@dataclass(frozen=True)
class Layout:
    """How a model walks over scenes, pixels; 0 and None stand for the default.

    Attributes:
        stride: step between tiles. The default is the largest one up to a quarter of a tile (of tiny tiles: beyond)
            that has no divisor in common with the encoder's patch: tiles that cover a pixel then cut it into patches at
            different places, and the map hardly depends on where any of them lie. A model that sees windows as wholes
            takes one a pixel.
        halo: outer pixels of a tile that are only surroundings (default an eighth of a tile).
        origin: shift of the lattice of tiles, for checks.
    """

    stride: int = 0
    halo: int | None = None
    origin: tuple[int, int] = (0, 0)

    def one_window_a_pixel(self, tile: int) -> Layout:
        """The layout whose tiles count with their middle pixel only, as far as stride and halo are not given."""
        halo = (tile - 1) // 2 if self.halo is None else self.halo
        return replace(self, stride=self.stride or 1, halo=halo)

    def plan(self, shape_HW: tuple[int, int], tile: int, patch: int) -> TilePlan:
        """Tiles over a scene; where a side is shorter than a tile, the grid reaches beyond it.

        Raises:
            UsageError: a negative size, or gaps between tiles.
        """
        halo = tile // 8 if self.halo is None else self.halo
        steps = [step for step in range(2, tile - 2 * halo + 1) if math.gcd(step, patch) == 1]
        stride = self.stride or max((step for step in steps if step <= tile / 4), default=min(steps, default=1))
        for name, size in (("stride", stride), ("halo", halo), ("origin", min(self.origin))):
            if size < 0:
                raise UsageError(f"{name} {size} is below 0")
        height, width = (max(size, tile) for size in shape_HW)
        return TilePlan((height, width), tile, stride, halo, self.origin)


def as_taught(scene: Scene, card: dict[str, Any]) -> Scene:
    """The bands of a scene that a model learnt from, pretreated as it was taught; ``card`` tells of its training.

    Raises:
        UsageError: another kind of measurement, pretreated otherwise, or without these bands.
    """
    learnt_from, holds = card.get("quantities") or [], scene.sensor.quantity
    if learnt_from and holds and _kind(holds) not in map(_kind, learnt_from):
        raise UsageError(
            f"{scene.where}: holds {holds}, and the model learnt from {', '.join(learnt_from)}; name a scan as its "
            "card gives it (CARD:SCENE), or give its references: --white FILE --dark FILE"
        )
    wanted, has = tuple(card.get("pretreatment", ())), scene.sensor.pretreatment
    if has not in ((), wanted):
        learnt = ", ".join(wanted) or "spectra as measured"
        raise UsageError(f"{scene.where}: is pretreated by {', '.join(has)}; the model learnt from {learnt}")
    if taught := card.get("bands"):
        scene = selected_again(scene, taught["selection"], taught["wavelengths_nm"])
    return scene if has == wanted else pretreat(scene, wanted)


def _kind(quantity: str) -> str:
    """Of a quantity: reflectance above the air or below it is one kind, counts and radiance are others."""
    return quantity.rpartition("_")[2]


def fit_to(model: TaskModel, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Fit the stem of a model's encoder to the scenes that are to be mapped, without labels; the record of it.

    Raises:
        UsageError: a model that learnt behind a stem that nothing was fitted to, or what ``encoder.fit`` refuses.
    """
    known = dict(model.card.get("pretraining") or {})
    if not has_whitened_stem(known):
        raise UsageError(
            "the model learnt behind a stem that was fitted to nothing, so another one would be strange to it; leave "
            "--fit out, or fine-tune with fit=true"
        )
    model.encoder.card = known
    model.encoder.fit([as_taught(scene, model.card) for scene in scenes])
    record: dict[str, Any] = model.encoder.card["fitted"]
    return record


class TilePredictor:
    """Probabilities of tiles, from the same place of one scene, or of two for a change model."""

    def __init__(self, model: TaskModel, scenes: Sequence[Scene]) -> None:
        self.model, self.scenes = model.eval(), [as_taught(scene, model.card) for scene in scenes]
        self.readers = [TileReader(scene, 1) for scene in self.scenes]
        self.levels = [scene_levels(scene, model.encoder, model.level) for scene in self.scenes]

    def __call__(self, tiles: Sequence[Tile]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probabilities ``[B, T, T, K]`` and pixels that are valid in all scenes ``[B, T, T]``."""
        words: dict[str, Any] = {}
        valid_BTT: NDArray[np.bool_] | None = None
        for number, (reader, level) in enumerate(zip(self.readers, self.levels, strict=True), 1):
            turn = "" if number == 1 else str(number)
            cubes, masks = reader(tiles)
            valid_BTT = masks if valid_BTT is None else valid_BTT & masks
            words |= {f"x{turn}_BHWC": cubes, f"bands{turn}": reader.scene.sensor, f"mask{turn}_BHW": masks}
            if level is not None:
                words[f"level{turn}_B"] = torch.full((len(tiles),), level, device=self.model.device)
        assert valid_BTT is not None
        probabilities = self.model.predict_tile(**words).float().cpu().numpy()
        return probabilities, valid_BTT & (probabilities.sum(-1) > 0)


def predict_to_file(
    model: TaskModel,
    scenes: Sequence[Scene],
    out: str | Path,
    *,
    probabilities: str | Path | None = None,
    layout: Layout | None = None,
    batch_size: int = 8,
    preview: bool = True,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Write the map of a task model on the scene's own pixels.

    Args:
        model: see :class:`downstream.supervised.model.TaskModel`.
        scenes: one scene, or two dates on one grid for a change model (see ``downstream.maps.change``).
        out: ``.tif``, ``.hdr`` (ENVI Classification) or ``.npy``; 0 = no data, 1.. = the model's classes in order.
        probabilities: also write one float32 band per class here.
        layout: stride and halo of the tiles.
        batch_size: tiles per forward call.
        preview: also write a PNG of the same name with a legend.
        overwrite: replace existing files.
        facts: further facts to keep with the map.

    Returns:
        Share of every class among the pixels with data.

    Raises:
        UsageError: a bad layout, one name for two files, or a file that exists.
    """
    first_scene, patch, names = scenes[0], model.encoder.patch_size, list(model.label_names)
    height, width = first_scene.shape[:2]
    layout = layout or Layout()
    if model.sees_windows_whole:
        layout = layout.one_window_a_pixel(model.tile)
    plan = layout.plan((height, width), model.tile, patch)
    batch_size = fitting_batch(batch_size, model.tile, sum(scene.shape[2] for scene in scenes))
    legend = Legend.of(names, CHANGE_COLOURS if model.task == "change" else None)
    told = {
        **(facts or {}),
        "scenes": [scene.name for scene in scenes], "task": model.task, "tile": plan.side, "stride": plan.stride,
        "halo": plan.halo, "level": model.level, "threshold": model.threshold,
    }  # fmt: skip
    if probabilities is not None:
        refuse_shared_name(probabilities, out, "--probabilities")
    with ExitStack() as stack:
        writer = ClassMapWriter(
            out, (height, width), legend, geo=first_scene.geo, facts=told, preview=preview, overwrite=overwrite
        )
        stack.enter_context(writer)
        extra: RasterWriter | None = None
        if probabilities is not None:
            extra = open_raster(
                probabilities, (height, width, len(names)), "float32", geo=first_scene.geo, band_names=names,
                nodata=float("nan"), facts=told, overwrite=overwrite,
            )  # fmt: skip
            stack.enter_context(extra)
        predict = TilePredictor(model, scenes)
        advance = stack.enter_context(progress(f"{model.task} {first_scene.name}", plan.count))
        for first, blended in blended_rows(plan, predict, batch_size, advance):
            rows_hWK = blended[: max(height - first, 0), :width]
            writer.write(model.decide(np.nan_to_num(rows_hWK)) + 1)
            if extra is not None:
                extra.write(rows_hWK)
    return writer.shares()
