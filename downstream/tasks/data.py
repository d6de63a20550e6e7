"""Labelled scenes (or pairs of them) as training tiles, labelled pixels as tests; one table of samples for all.

Shapes: H W scene pixels, T tile side, C bands, B tiles, N samples, I sample ids.
A training tile shows no pixel of another side of the split: it holds a training pixel, and the split keeps those at
least T pixels away from every validation and test pixel. The same holds for the tiles that score a test pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import chain
from typing import Any

import numpy as np
import torch

from downstream.protocols.weights import ClassWeights, weights_of_classes
from downstream.splits.options import GroupBy
from downstream.splits.samples import Samples, collect_samples
from downstream.splits.split import Split, load_splits, make_splits
from downstream.supervised.views import TURNS, View, turned_batch, turns_about_its_middle
from downstream.tasks.config import FinetuneConfig
from specfm.batch import BandTensors
from specfm.dense.tile_reader import scene_level
from specfm.digests import digest_parts
from specfm.errors import SpecfmError, UsageError
from specfm.grids import Grid, require_one_grid
from specfm.scene import ArraySource, Scene
from specfm.selected_scene import for_encoder, select_scenes
from specfm.window import read_window


@dataclass(frozen=True)
class Place:
    """One scene, or two dates of it, with the level of each date (None: each tile its own)."""

    dates: tuple[Scene, ...]
    levels: tuple[float | None, ...]
    bands: tuple[BandTensors, ...] = field(repr=False)

    @property
    def scene(self) -> Scene:
        """The (earlier) scene, which carries the labels."""
        return self.dates[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.scene.shape[0], self.scene.shape[1]

    def view(self, corners: Sequence[tuple[int, int]], height: int, width: int, turns: Sequence[int]) -> list[View]:
        """Tiles whose first pixels are ``corners``, per date; pixels past the scene's edge are invalid.

        ``turns``: 0 to 7 per tile, quarter turns (and a mirror from 4 on).
        """
        found = []
        for scene, level, bands in zip(self.dates, self.levels, self.bands, strict=True):
            cubes, masks = zip(*(read_tile(scene, r, c, height, width) for r, c in corners), strict=True)
            x, mask = turned_batch(cubes, turns), turned_batch(masks, turns)
            found.append(View(x, bands, mask, None if level is None else torch.full((len(corners),), level)))
        return found


def read_tile(scene: Scene, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A window of a scene (:func:`specfm.window.read_window`); of a list of spectra only its middle pixel is valid."""
    cube, mask = read_window(scene, row, col, height, width)
    if not scene.neighbours:
        alone = np.zeros_like(mask)
        alone[height // 2, width // 2] = True
        mask &= alone
    return cube, mask


def open_places(config: FinetuneConfig) -> list[Place]:
    """The labelled scenes of the card, in memory, so that tiles are cheap.

    Raises:
        UsageError: no scene matches, or a change task on a card of another task, or the reverse.
    """
    from specfm.cards import load_card

    card = load_card(config.data.card)
    if config.task == "change":
        listed: list[tuple[Scene, ...]] = list(card.pairs())
    elif card.task == "change":
        raise UsageError(f"the labels of {config.data.card} tell what changed between two dates; set task=change")
    else:
        listed = [(scene,) for scene in card.scenes()]
    wanted = config.data.scenes
    listed = [dates for dates in listed if wanted is None or fnmatch(dates[0].name, wanted)]
    if not listed:
        raise UsageError(f"no scene of {config.data.card} matches data.scenes={wanted!r}")
    if config.task != "classification" and any(not scene.neighbours for dates in listed for scene in dates):
        raise UsageError(f"{config.data.card} lists spectra, of which no map can be made; set task=classification")
    treated = {scene.sensor.pretreatment for dates in listed for scene in dates}
    if len(treated) > 1:
        raise UsageError(f"parts of {config.data.card} differ in pretreatment; a model learns from one kind of spectra")
    if config.data.bands is not None:
        flat = iter(select_scenes([scene for dates in listed for scene in dates], config.data.bands))
        listed = [tuple(next(flat) for _ in dates) for dates in listed]
    if config.data.second_sensor is not None:
        from specfm.simulate import resample_scene

        listed = [(before, resample_scene(after, config.data.second_sensor)) for before, after in listed]
    return [make_place(dates, config.data.level) for dates in listed]


def make_place(dates: Sequence[Scene], level: str = "scene") -> Place:
    """A place from scenes of one grid; labels on pixels that are invalid at a date are dropped.

    Raises:
        SpecfmError: different grids, or labels of another shape.
    """
    first = dates[0]
    for scene in dates[1:]:
        require_one_grid(Grid.of(first), Grid.of(scene))
    held = [scene.replace(source=ArraySource(scene.read()), path=None) for scene in dates]
    labels = held[0].labels_HW
    if labels is not None and len(held) > 1:
        seen = np.logical_and.reduce([scene.mask() for scene in held[1:]])
        if labels.shape == seen.shape:
            held[0] = held[0].replace(labels_HW=np.where(seen, labels, -1).astype(np.int32))
    levels = tuple(scene_level(scene) if level == "scene" else None for scene in held)
    return Place(tuple(held), levels, tuple(BandTensors.from_sensors(scene.sensor) for scene in held))


def seen_by(encoder: Any, place: Place, level: str) -> Place:
    """The place with the bands that an encoder is built for (:func:`specfm.selected_scene.for_encoder`)."""
    dates = [for_encoder(encoder, scene) for scene in place.dates]
    as_it_is = all(seen is scene for seen, scene in zip(dates, place.dates, strict=True))
    return place if as_it_is else make_place(dates, level)


def make_samples(places: Sequence[Place], config: FinetuneConfig) -> tuple[Samples, list[Split]]:
    """Every labelled pixel, and the splits of the configuration; both guard windows of ``guard + 1`` pixels.

    Raises:
        SpecfmError: as ``downstream.splits``.
        UsageError: likewise; split files of other data or with too narrow a guard.
    """
    rules = config.split
    scenes = [place.scene for place in places]
    widest = config.data.tile if any(scene.neighbours for scene in scenes) else 1
    window = widest if rules.guard is None else rules.guard + 1
    group_by: GroupBy = "group" if len(scenes) > 1 or config.task == "classification" else "auto"
    samples = collect_samples(scenes, window, group_by=group_by, max_per_class=rules.max_per_class)
    if rules.files:
        return samples, load_splits(rules.files, samples)
    splits = make_splits(
        samples, rules.rule, rules.seeds, test_share=rules.test_share, val_share=rules.val_share, block=rules.block,
        min_groups=rules.min_groups, min_samples=rules.min_samples,
    )  # fmt: skip
    return samples, splits


def content_digest(places: Sequence[Place], samples: Samples) -> str:
    """16 hex digits over samples, sensors and every stored value of every date."""
    scenes = [scene for place in places for scene in place.dates]
    read = (part for scene in scenes for part in (scene.sensor.digest, scene.read()))  # one scene at a time
    return digest_parts(chain([samples.digest], read))


def label_rasters(
    places: Sequence[Place], samples: Samples, ids_I: np.ndarray, classes: Sequence[int]
) -> list[np.ndarray]:
    """Per place an int64 raster ``[H, W]``: the position in ``classes`` of the chosen samples, -1 elsewhere."""
    index = {label: i for i, label in enumerate(classes)}
    rasters = [np.full(place.shape, -1, np.int64) for place in places]
    for scene, (row, col), label in zip(
        samples.scene_N[ids_I].tolist(), samples.rc_N2[ids_I].tolist(), samples.y_N[ids_I].tolist(), strict=True
    ):
        rasters[scene][row, col] = index[label]
    return rasters


@dataclass(frozen=True)
class Part:
    """Tiles of one place with what is known of them: ``label_B...`` is ``[B, T, T]``, or ``[B]`` for windows."""

    place: int
    views: list[View]
    labels: torch.Tensor
    corners: tuple[tuple[int, int], ...]


class Crops:
    """Training tiles as a pure function of the step.

    Args:
        places: the scenes.
        rasters: training labels only (see `label_rasters`).
        classes: K.
        config: tile and batch, shares of rare classes and boundaries, seed of the draws. Classification takes windows
            centred on their pixel in place of tiles that hold it anywhere.
    """

    def __init__(self, places: Sequence[Place], rasters: Sequence[np.ndarray], classes: int, config: FinetuneConfig):
        self.places, self.rasters, self.tile = places, rasters, config.data.tile
        self.seed, self.batch, self.crops = config.seed, config.data.batch, config.data.crops
        self.centred = config.task == "classification"
        found = [np.argwhere(raster >= 0) for raster in rasters]
        self.place_M = np.concatenate([np.full(len(rc), i) for i, rc in enumerate(found)])
        self.rc_M2 = np.concatenate(found)
        self.label_M = np.concatenate([raster[raster >= 0] for raster in rasters])
        if not len(self.label_M):
            raise SpecfmError("no training pixel is left; use smaller tiles or another split")
        self.counts_K = np.bincount(self.label_M, minlength=classes)
        self.share_M = self._shares()

    def _shares(self) -> np.ndarray:
        """How often each training pixel is drawn: evenly, by class and at boundaries, as the configuration mixes."""
        crops, total = self.crops, len(self.label_M)
        rare_M = 1 / self.counts_K[self.label_M]
        border = [near_border(raster, max(self.tile // 2, 1)) for raster in self.rasters]
        border_M = np.concatenate([b[r >= 0] for b, r in zip(border, self.rasters, strict=True)]).astype(float)
        boundary = crops.boundary if border_M.any() and not self.centred else 0.0
        share_M = (1 - crops.rare - boundary) / total + crops.rare * rare_M / rare_M.sum()
        return share_M + (boundary * border_M / border_M.sum() if boundary else 0.0)

    def class_weights(self, how: ClassWeights) -> torch.Tensor:
        """Weights ``[K]`` of the loss with mean 1 over the classes present."""
        weight_K = weights_of_classes(self.counts_K, how)
        return torch.from_numpy(weight_K / weight_K[weight_K > 0].mean()).float()

    def __call__(self, step: int) -> list[Part]:
        """The tiles of a step (from 0), place by place."""
        rng = np.random.default_rng([self.seed, 17, step])
        chosen = rng.choice(len(self.label_M), self.batch, p=self.share_M / self.share_M.sum())
        offset_B2 = rng.integers(0, self.tile, (self.batch, 2))
        turns_B = rng.integers(0, TURNS, self.batch) if self.crops.flip else np.zeros(self.batch, np.int64)
        if self.centred:
            offset_B2[:] = self.tile // 2
            turns_B[:] = turns_B if turns_about_its_middle(self.tile) else 0
        parts = []
        for index in np.unique(self.place_M[chosen]).tolist():
            mine = np.flatnonzero(self.place_M[chosen] == index)
            corners = [self._corner(index, self.rc_M2[chosen[i]], offset_B2[i]) for i in mine]
            turns = turns_B[mine].tolist()
            views = self.places[index].view(corners, self.tile, self.tile, turns)
            if self.centred:
                labels = torch.from_numpy(self.label_M[chosen[mine]])
            else:
                cut = (cut_raster(self.rasters[index], *corner, self.tile) for corner in corners)
                labels = turned_batch(cut, turns)
            parts.append(Part(index, views, labels, tuple(corners)))
        return parts

    def _corner(self, index: int, rc_2: np.ndarray, offset_2: np.ndarray) -> tuple[int, int]:
        """First pixel of the tile; moved inside the scene where it fits (it still holds the pixel)."""
        corner = [int(at - off) for at, off in zip(rc_2, offset_2, strict=True)]
        if self.centred:
            return corner[0], corner[1]
        height, width = self.places[index].shape
        row, col = (
            min(max(at, 0), size - self.tile) if size >= self.tile else 0
            for at, size in zip(corner, (height, width), strict=True)
        )
        return row, col


def cut_raster(raster: np.ndarray, row: int, col: int, tile: int) -> np.ndarray:
    """``[tile, tile]`` of labels from (row, col); -1 past the edge."""
    out = np.full((tile, tile), -1, np.int64)
    part = raster[max(row, 0) : row + tile, max(col, 0) : col + tile]
    r, c = max(-row, 0), max(-col, 0)
    out[r : r + part.shape[0], c : c + part.shape[1]] = part
    return out


def near_border(labels_HW: np.ndarray, reach: int) -> np.ndarray:
    """Labelled pixels with a pixel of another class within ``reach``: bool ``[H, W]``."""
    from scipy.ndimage import maximum_filter, minimum_filter

    size = 2 * reach + 1
    known = labels_HW >= 0
    high = maximum_filter(np.where(known, labels_HW, -1), size)
    low = minimum_filter(np.where(known, labels_HW, 1 << 30), size)  # the filter computes in float64
    return known & (high != low)


def batches(items: Any, size: int) -> Iterator[Any]:
    """Consecutive parts of ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
