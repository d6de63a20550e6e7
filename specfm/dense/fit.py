"""Fitting the stem of an encoder to one acquisition in closed form, without labels, in seconds and bounded memory.

Shapes: B windows, H W pixels of a window, C bands, D width.
Windows of the encoder's own size are read at even places, so that light and content are those that it meets in use.
Noise is what changes between disjoint patches a few pixels apart (``specfm.models.whitening``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from specfm.batch import BandTensors
from specfm.dense.home import HomeSpectra
from specfm.dense.tile_encoder import fitting_batch, refuse_odd_numbers
from specfm.digests import digest_parts
from specfm.errors import SpecfmError, UsageError
from specfm.library import FEWEST_BANDS, same_bands
from specfm.models.patches import Patches
from specfm.models.pixels import patch_middles
from specfm.models.stem import Stem
from specfm.models.whitening import Moments, WhitenRecipe
from specfm.progress import progress
from specfm.scene import Scene
from specfm.tiles import STRIP_BYTES
from specfm.window import read_window

if TYPE_CHECKING:
    from specfm.bands import BandGrid
    from specfm.library import Library
    from specfm.sensors import Sensor

log = logging.getLogger(__name__)
PATCHES = 50_000  # most patches that a fit looks at, over all scenes
WINDOWS = 256  # read at once
WINDOW_PATCHES = 3  # side of a window where the encoder's card names none


class FitEncoder(Protocol):
    """What a fit needs of an encoder: everything up to its stems."""

    patch_size: int
    num_features: int
    card: dict[str, Any]
    aligned: bool
    alignment: Any
    library: Library | None
    brightness: torch.nn.Linear | None
    training: bool

    @property
    def stem(self) -> Stem: ...

    @property
    def pixel_stem(self) -> Stem | None: ...

    @property
    def device(self) -> torch.device: ...

    def prepare(self, x_BHWC: Tensor, bands: BandTensors, mask_BHW: Tensor | None = None) -> Patches: ...

    def generated(self, patches: Patches) -> Tensor: ...

    def pixels(self, x_BHWC: Tensor, mask_BHW: Tensor | None, patches: Patches, place_Q2: Tensor) -> Patches: ...

    def train(self, mode: bool = True) -> Any: ...

    def align(self, on: bool = True, sensors: Sequence[Sensor | BandGrid | str] = ()) -> Any: ...


Fit = TypeVar("Fit", bound=FitEncoder)


def fit_encoder(
    encoder: Fit,
    scenes: Any | Iterable[Any],
    sensor: Sensor | BandGrid | str | None = None,
    *,
    shift: int | None = None,
    power: float | None = None,
    components: int | None = None,
    damping: float | None = None,
    brightness: bool | None = None,
    patches: int = PATCHES,
) -> Fit:
    """Give an encoder the whitened stem of one acquisition: one scene, or the plots of a site. No label is looked at.

    One stem is computed from all scenes together; of several sensors, from those of the first with 50 usable bands.
    ``card["fitted"]`` says from what. What is not given is as the encoder was pretrained (``card["whiten"]``), else
    shift 3, power 0.25, all components, damping 1e-5, without brightness. The sensor's spectra become the encoder's
    ``library`` (drawn anew, :mod:`specfm.dense.home`), so that others are aligned to it.

    Args:
        encoder: changed in place.
        scenes: a Scene, an (H, W, C) array with its ``sensor``, an (array, sensor) pair, or several of these.
        shift: distance of the patches whose differences count as noise, pixels.
        power: 0 = every direction counts alike, 0.5 = by its signal-to-noise ratio.
        components: keep only so many directions; 0 = all.
        damping: share of the mean noise that is added to that of every direction.
        brightness: keep the direction that says how bright a patch is beside its window.
        patches: look at no more than about so many, evenly spread over all scenes.

    Returns:
        The encoder.

    Raises:
        UsageError: an encoder trained on aligned tokens, no scene, a list of spectra, an odd option.
        SpecfmError: fewer pairs of neighbouring patches with data than directions, or a scene that is no scene.
    """
    recipe = WhitenRecipe.of(encoder.card).with_(
        shift=shift, power=power, components=components, damping=damping, brightness=brightness
    )
    found = acquisition(encoder, opened(scenes, sensor), recipe, patches)
    encoder.card = encoder.card | {"fitted": found.record}
    found.into(encoder)
    return encoder


def opened(scenes: Any | Iterable[Any], sensor: Sensor | BandGrid | str | None = None) -> list[Scene]:
    """The scenes that are meant by what ``fit`` takes.

    Raises:
        UsageError: none.
    """
    from specfm.dense.memory import as_scene

    if sensor is not None or isinstance(scenes, Scene | np.ndarray | Tensor):
        return [as_scene(cast(Any, scenes), sensor)]
    listed = list(scenes)
    if len(listed) == 2 and isinstance(listed[0], np.ndarray | Tensor) and not isinstance(listed[1], Scene):
        listed = [(listed[0], listed[1])]
    found = [as_scene(*each) if isinstance(each, tuple) else as_scene(each, None) for each in listed]
    if not found:
        raise UsageError("there is no scene to fit the encoder to; give one or several")
    return found


class Fitted:
    """Whitened maps of an acquisition, and what they were computed from.

    Attributes:
        maps: weight_DD and bias_D of the stem, and of the stem of pixel tokens where there is one.
        record: JSON-safe; goes into the card.
        library: spectra that other sensors are aligned by; None leaves the encoder's as it is.
    """

    def __init__(
        self, maps: list[tuple[Tensor, Tensor]], record: dict[str, Any], library: Library | None = None
    ) -> None:
        self.maps, self.record, self.library = maps, record, library

    def into(self, encoder: FitEncoder) -> None:
        """Set the encoder's stems to these maps; if it is aligned, then by these spectra from now on."""
        for stem, (weight_DD, bias_D) in zip(stems_of(encoder), self.maps, strict=True):
            stem.set(weight_DD, bias_D)
        if self.library is not None:
            before, encoder.library = encoder.alignment, self.library
            if before is not None:
                encoder.align(True, [sensor for _, sensor in before.sensors])


def acquisition(
    encoder: FitEncoder, scenes: Sequence[Scene], recipe: WhitenRecipe | None = None, patches: int = PATCHES
) -> Fitted:
    """The maps of one acquisition; arguments and errors as those of :func:`fit_encoder`. The encoder is not changed."""
    if encoder.aligned:
        raise UsageError(
            "this encoder was trained on tokens of sensors aligned with each other, and a stem of its own for one of "
            "them would undo that; leave fit out, or take an encoder that is not aligned"
        )
    recipe = recipe or WhitenRecipe.of(encoder.card)
    scenes, left_out = of_one_sensor(scenes)
    if left_out:
        log.warning(
            "fitted to %s alone, of %d bands: noise belongs to a sensor, and others are aligned to this one (%s)",
            scenes[0].sensor.name or "a sensor without a name", int(scenes[0].sensor.bands.valid.sum()),
            ", ".join(left_out[:3]) + (" and others" if len(left_out) > 3 else ""),
        )  # fmt: skip
    moments, seen = empty_moments(encoder), []
    stride = _stride(encoder, scenes, recipe, patches)
    side = window_side(encoder, recipe)
    spectra = HomeSpectra(sum(math.prod(map(len, _corners(scene, side, stride))) for scene in scenes))
    with progress("fit without labels", len(scenes)) as advance:
        for scene in scenes:
            before = moments[0].count
            digest = _add_scene(encoder, moments, spectra, scene, recipe, stride)
            seen.append({"name": scene.name, "digest": digest, "patches": moments[0].count - before})
            advance()
    maps = whitened(encoder, moments, recipe, " and ".join(dict.fromkeys(scene.where for scene in scenes[:3])))
    record = {
        "labels": None, "scenes": seen, "recipe": recipe.to_dict(), "patches": moments[0].count,
        "pairs": moments[0].pairs, "left_out": left_out,
    }  # fmt: skip
    return Fitted(maps, record, None if encoder.pixel_stem is not None else spectra.library())


def of_one_sensor(scenes: Sequence[Scene]) -> tuple[list[Scene], list[str]]:
    """The scenes of the first sensor that can stand for others (50 usable bands), and the names of the other scenes.

    If there is none, of the one with most bands. Lists of spectra count where there is nothing else.
    """
    if len(scenes) < 2:
        return list(scenes), []

    def alike(one: Scene, other: Scene) -> bool:
        same = one.sensor.quantity == other.sensor.quantity and one.neighbours == other.neighbours
        return same and same_bands(one.sensor.bands, other.sensor.bands)

    first = max(scenes, key=lambda scene: (scene.neighbours, min(int(scene.sensor.bands.valid.sum()), FEWEST_BANDS)))
    kept = [scene for scene in scenes if alike(scene, first)]
    return kept, [scene.name for scene in scenes if not alike(scene, first)]


def stems_of(encoder: FitEncoder) -> list[Stem]:
    """The stems that are fitted."""
    return [stem for stem in (encoder.stem, encoder.pixel_stem) if stem is not None]


def empty_moments(encoder: FitEncoder) -> list[Moments]:
    """Nothing summed yet, for each of :func:`stems_of`."""
    return [Moments(encoder.num_features, encoder.device) for _ in stems_of(encoder)]


def whitened(
    encoder: FitEncoder, moments: Sequence[Moments], recipe: WhitenRecipe, where: str
) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each stem.

    Raises:
        SpecfmError: fewer pairs of neighbouring patches than directions; ``where`` they were looked for is named.
    """
    fewest, width = min(each.pairs for each in moments), len(moments[0].mean_D)
    if fewest < width:
        raise SpecfmError(
            f"{where}: {fewest} pairs of neighbouring patches with data are too few to tell the noise of {width} "
            "directions; fit several scenes of the acquisition together, or a larger piece of it"
        )
    try:
        brightness_D = None if encoder.brightness is None else encoder.brightness.weight.detach()[:, 0]
        return [each.whitened(recipe, brightness_D) for each in moments]
    except SpecfmError as error:
        raise SpecfmError(f"{where}: {error}") from None


@torch.no_grad()
def add_windows(
    encoder: FitEncoder,
    moments: Sequence[Moments],
    x_BHWC: Tensor,
    bands: BandTensors,
    mask_BHW: Tensor | None,
    step: int,
) -> None:
    """Take tokens of windows into the moments of :func:`stems_of`; only patches all of whose pixels are valid count.

    Args:
        step: cells between patches that are compared.
    """
    patches = encoder.prepare(x_BHWC, bands, mask_BHW)
    moments[0].add_lattice(encoder.generated(patches), patches.pixels_BN >= 1, patches.grid_hw, step)
    if encoder.pixel_stem is not None:
        places = patch_middles(patches.grid_hw, encoder.patch_size, encoder.device)
        pixels = encoder.pixels(x_BHWC, mask_BHW, patches, places)
        moments[1].add_lattice(encoder.generated(pixels), pixels.token_mask_BN, patches.grid_hw, step)


def window_side(encoder: FitEncoder, recipe: WhitenRecipe) -> int:
    """Side of the windows that are read, pixels: as pretrained, and wide enough to hold two patches to compare."""
    patch = encoder.patch_size
    window = encoder.card.get("window") or 0
    known = (max(window) if isinstance(window, list | tuple) else int(window)) // patch
    return max(known or WINDOW_PATCHES, recipe.step(patch) + 1) * patch


def _stride(encoder: FitEncoder, scenes: Sequence[Scene], recipe: WhitenRecipe, patches: int) -> int:
    """Pixels between windows, the same in all scenes, so that these hold about as many patches as wanted."""
    if patches < 1:
        raise UsageError(f"a fit needs patches to look at, not {patches}")
    side = window_side(encoder, recipe)
    places = sum(max(s.shape[0] - side + 1, 1) * max(s.shape[1] - side + 1, 1) for s in scenes)
    return max(1, math.ceil(math.sqrt(places * (side // encoder.patch_size) ** 2 / patches)))


def _corners(scene: Scene, side: int, stride: int) -> tuple[range, range]:
    """First rows and first columns of the windows that are read."""
    rows, cols = (range(0, max(size - side, 0) + 1, stride) for size in scene.shape[:2])
    return rows, cols


def _add_scene(
    encoder: FitEncoder,
    moments: Sequence[Moments],
    spectra: HomeSpectra,
    scene: Scene,
    recipe: WhitenRecipe,
    stride: int,
) -> str:
    """Take in the windows of a scene; a digest of what was read."""
    side = window_side(encoder, recipe)
    if not scene.neighbours:
        raise UsageError(
            f"{scene.where}: is a list of spectra without neighbours, so nothing says what is noise; fit the encoder "
            "to the scene that they are from, or leave fit out"
        )
    refuse_odd_numbers(scene)
    bands, step = BandTensors.from_sensors(scene.sensor), recipe.step(encoder.patch_size)
    rows, cols = _corners(scene, side, stride)
    before, encoder.alignment = encoder.alignment, None
    training = encoder.training
    encoder.train(False)
    parts: list[str] = [scene.sensor.digest]
    try:
        for row in rows:
            for some in _beside(cols, side, scene.shape[2]):
                # in one piece: many formats read whole lines anyway
                strip_HWC, mask_HW = read_window(scene, row, some[0], side, some[-1] + side - some[0])
                x_BHWC = np.stack([strip_HWC[:, col - some[0] :][:, :side] for col in some])
                mask_BHW = np.stack([mask_HW[:, col - some[0] :][:, :side] for col in some])
                parts.append(digest_parts([x_BHWC, mask_BHW]))
                spectra.add(scene.sensor, x_BHWC, mask_BHW, encoder.patch_size)
                add_windows(encoder, moments, torch.from_numpy(x_BHWC), bands, torch.from_numpy(mask_BHW), step)
    finally:
        encoder.train(training)
        encoder.alignment = before
    return digest_parts(parts)


def _beside(cols: range, side: int, bands: int) -> Iterator[range]:
    """First columns of windows of one row that are read, and then encoded, at once."""
    pixel = side * bands * 4  # bytes of a column of a strip in float32
    fit_in = (STRIP_BYTES // pixel - side) // cols.step + 1
    most = max(1, min(fit_in, fitting_batch(WINDOWS, side, bands)))
    for start in range(0, len(cols), most):
        yield cols[start : start + most]
