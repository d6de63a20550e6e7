"""Maps of classes or changes from the probabilities of tiles, whoever computes these: nothing here needs torch.

Shapes: B tiles, T tile side, H W pixels, h rows of a piece, K classes.
Tiles of the size that the model was trained on overlap; their outer pixels (the halo) only serve as surroundings, and
probabilities of the rest are blended before a class is chosen, so that tiles leave no seams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.supervised.decide import decide
from specfm.dense.tile_reader import TileReader, fitting_batch, scene_level
from specfm.errors import UsageError
from specfm.pretreatment import pretreat
from specfm.progress import progress
from specfm.rasters.class_map import CHANGE_COLOURS, ClassMapWriter, Legend
from specfm.rasters.writers import RasterWriter, open_raster, refuse_shared_name
from specfm.scene import Scene
from specfm.selected_scene import selected_again
from specfm.tiles import Compute, Tile, TilePlan, blended_rows


@dataclass(frozen=True)
class MapModel:
    """What a map needs to know of a model.

    Attributes:
        task: classification, segmentation or change.
        classes: names of the K classes.
        tile: side of the tiles it was trained on, pixels.
        patch: of its encoder, pixels.
        level: ``scene``: all tiles are divided by one brightness level; ``sample``: each by its own.
        threshold: probability above which a pixel counts as changed (change only).
        whole_windows: a window gets one class that says nothing of its parts: a map takes one window a pixel.
        colours_K3: of the classes; None: the usual ones.
    """

    task: str
    classes: tuple[str, ...]
    tile: int
    patch: int
    level: str = "scene"
    threshold: float | None = None
    whole_windows: bool = False
    colours_K3: NDArray[np.uint8] | None = None

    @property
    def legend(self) -> Legend:
        """Names and colours of its maps."""
        own = CHANGE_COLOURS if self.task == "change" and self.colours_K3 is None else self.colours_K3
        return Legend.of(self.classes, own)

    def decide(self, probabilities_K: NDArray[Any]) -> NDArray[np.int64]:
        """Class per pixel of ``[..., K]`` probabilities; -1 invalid."""
        return decide(self.task, self.threshold, probabilities_K)


@dataclass(frozen=True)
class Date:
    """Tiles of one scene as a model is given them.

    Attributes:
        scene: that they are of.
        x_BTTC: float32, as stored.
        mask_BTT: valid pixels.
        level: of the scene, None where each tile has its own.
    """

    scene: Scene
    x_BTTC: NDArray[np.float32]
    mask_BTT: NDArray[np.bool_]
    level: float | None


Probabilities = Callable[[Sequence[Date]], NDArray[np.float32]]
"""From the same tiles at one date, or at two, to ``[B, T, T, K]``; zeros where a pixel is invalid."""


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


def unsaid_quantity(scene: Scene, card: dict[str, Any]) -> str | None:
    """A sentence where a scene does not say what was measured, so that :func:`as_taught` cannot tell if it fits."""
    learnt_from = card.get("quantities") or []
    if scene.sensor.quantity is not None or not learnt_from:
        return None
    return (
        f"{scene.where} does not say what was measured, and the model learnt from {', '.join(learnt_from)}: of counts "
        "its map would mean nothing; say it with --quantity, or name the scan as its card gives it (CARD:SCENE)"
    )


def background_told(scene: Scene, card: dict[str, Any]) -> str | None:
    """A sentence where the model learnt from objects alone, and a scene shows their background too."""
    if not card.get("objects_alone") or scene.objects_alone:
        return None
    return (
        f"{scene.where}: the model learnt from objects alone and knows no background, which gets a class too here; "
        "name the scan as CARD:SCENE of a card that says what its objects are (object)"
    )


def _kind(quantity: str) -> str:
    """Of a quantity: reflectance above the air or below it is one kind, counts and radiance are others."""
    return quantity.rpartition("_")[2]


class TilePredictor:
    """Probabilities of tiles, from the same place of one scene, or of two for a change model.

    Args:
        scenes: as the model was taught (:func:`as_taught`).
        scene_level_wanted: whether tiles are divided by the level of their scene.
        probabilities: the model.
    """

    def __init__(self, scenes: Sequence[Scene], scene_level_wanted: bool, probabilities: Probabilities) -> None:
        self.scenes, self.probabilities = list(scenes), probabilities
        self.readers = [TileReader(scene, 1) for scene in self.scenes]
        self._scene_level_wanted = scene_level_wanted

    @cached_property
    def levels(self) -> list[float | None]:
        """Of each scene, None where each tile has its own; read when first asked for."""
        return [scene_level(scene) if self._scene_level_wanted else None for scene in self.scenes]

    def __call__(self, tiles: Sequence[Tile]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probabilities ``[B, T, T, K]`` and pixels that are valid in all scenes ``[B, T, T]``."""
        dates = [
            Date(reader.scene, *reader(tiles), level) for reader, level in zip(self.readers, self.levels, strict=True)
        ]
        found = self.probabilities(dates)
        return found, np.logical_and.reduce([date.mask_BTT for date in dates]) & (found.sum(-1) > 0)


def classes_to_file(
    model: MapModel,
    predict: Compute,
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
    """Write the map of a model on the scene's own pixels.

    Args:
        model: what is known of it.
        predict: probabilities of tiles, such as a :class:`TilePredictor`.
        scenes: one scene, or two dates on one grid for a change model (see ``downstream.maps.change``).
        out: ``.tif``, ``.hdr`` (ENVI Classification) or ``.npy``; 0 = no data, 1.. = the model's classes in order.
        probabilities: also write one float32 band per class here.
        layout: stride and halo of the tiles.
        batch_size: tiles per call.
        preview: also write a PNG of the same name with a legend.
        overwrite: replace existing files.
        facts: further facts to keep with the map.

    Returns:
        Share of every class among the pixels with data.

    Raises:
        UsageError: a bad layout, one name for two files, or a file that exists.
    """
    first_scene, names = scenes[0], list(model.classes)
    height, width = first_scene.shape[:2]
    layout = layout or Layout()
    if model.whole_windows:
        layout = layout.one_window_a_pixel(model.tile)
    plan = layout.plan((height, width), model.tile, model.patch)
    batch_size = fitting_batch(batch_size, model.tile, sum(scene.shape[2] for scene in scenes))
    told = {
        **(facts or {}),
        "scenes": [scene.name for scene in scenes], "task": model.task, "tile": plan.side, "stride": plan.stride,
        "halo": plan.halo, "level": model.level, "threshold": model.threshold,
    }  # fmt: skip
    if probabilities is not None:
        refuse_shared_name(probabilities, out, "--probabilities")
    with ExitStack() as stack:
        writer = ClassMapWriter(
            out, (height, width), model.legend, geo=first_scene.geo, facts=told, preview=preview, overwrite=overwrite
        )
        stack.enter_context(writer)
        extra: RasterWriter | None = None
        if probabilities is not None:
            extra = open_raster(
                probabilities, (height, width, len(names)), "float32", geo=first_scene.geo, band_names=names,
                nodata=float("nan"), facts=told, overwrite=overwrite,
            )  # fmt: skip
            stack.enter_context(extra)
        advance = stack.enter_context(progress(f"{model.task} {first_scene.name}", plan.count))
        for first, blended in blended_rows(plan, predict, batch_size, advance):
            rows_hWK = blended[: max(height - first, 0), :width]
            writer.write(model.decide(np.nan_to_num(rows_hWK)) + 1)
            if extra is not None:
                extra.write(rows_hWK)
    return writer.shares()
