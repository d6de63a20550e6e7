"""Fitting the stem of an encoder to one acquisition in closed form, without labels, in seconds and bounded memory.

Shapes: B windows, H W pixels of a window, C bands, D width.
Windows of the encoder's own size are read at even places, so that light and content are those that it meets in use.
Noise is what changes between disjoint patches a few pixels apart (``specfm.models.whitening``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from torch import Tensor

from specfm.dense.fit_tokens import (
    FitEncoder,
    stems_of,
    whitened,
)
from specfm.dense.survey import Survey
from specfm.errors import UsageError
from specfm.library import FEWEST_BANDS, same_bands
from specfm.progress import progress
from specfm.scene import Scene
from specfm.whiten_recipe import WhitenRecipe

if TYPE_CHECKING:
    from specfm.bands import BandGrid
    from specfm.library import Library
    from specfm.sensors import Sensor

log = logging.getLogger(__name__)
PATCHES = 50_000  # most patches that a fit looks at, over all scenes


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
        sensor: of arrays that say none themselves.
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
    from specfm.dense.given import as_scene

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
            before, encoder.library = encoder.aligned_to, self.library
            if before is not None:
                encoder.align(True, before)
                encoder.train(encoder.training)  # in training it is set aside again


def acquisition(
    encoder: FitEncoder,
    scenes: Sequence[Scene],
    recipe: WhitenRecipe | None = None,
    patches: int = PATCHES,
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
    survey, seen = Survey(encoder, scenes, recipe, patches), []
    with progress("fit without labels", len(scenes)) as advance:
        for scene in scenes:
            before = survey.moments[0].count
            digest = survey.add(scene)
            seen.append({"name": scene.name, "digest": digest, "patches": survey.moments[0].count - before})
            advance()
    maps = whitened(encoder, survey.moments, recipe, " and ".join(dict.fromkeys(scene.where for scene in scenes[:3])))
    record = {
        "labels": None, "scenes": seen, "recipe": recipe.to_dict(), "patches": survey.moments[0].count,
        "pairs": survey.moments[0].pairs, "left_out": left_out,
    }  # fmt: skip
    return Fitted(maps, record, None if encoder.pixel_stem is not None else survey.spectra.library())


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
