"""A scene whose spectra are pretreated as they are read. Shapes: h rows, w columns, C bands of what is read.

Pretreatment stands outermost: what else is done to a scene (some bands chosen, specimens seen whole, other bands that
see it) is done to spectra as measured, whether it was asked for before pretreatment or after (:func:`beneath`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.digests import digest_parts
from specfm.errors import SpecfmError
from specfm.pretreatment.steps import Step, parse_steps, pretreat_spectra
from specfm.scene import Scene

AS_MEASURED = "none, as measured"


@dataclass(frozen=True)
class PretreatedSource:
    """The physical values of a scene after some steps; pixels that the scene holds for invalid are NaN."""

    measured: Scene
    steps: tuple[Step, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.measured.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def digest(self) -> str:
        """16 hex digits over what is done to the stored numbers."""
        scene = self.measured
        known = (scene.sensor.digest, scene.nodata, scene.saturation, getattr(scene.source, "digest", ""))
        return digest_parts([*map(str, self.steps), *map(str, known)])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        sensor, stored = self.measured.sensor, self.measured.read(rows, cols)  # a spectrum is pretreated as a whole
        good_hw = self.measured.mask_of(stored[..., sensor.bands.valid])
        physical_NC = stored[good_hw].astype(np.float32) * np.float32(sensor.scale) + np.float32(sensor.offset)
        found = np.full(stored.shape, np.nan, np.float32)
        found[good_hw], _ = pretreat_spectra(physical_NC, sensor.bands, self.steps)
        return found if bands is None else found[..., bands]


def pretreat(scene: Scene, steps: Sequence[str]) -> Scene:
    """A scene with pretreated spectra, computed for the part that is read.

    Its sensor says what was done (``pretreatment``) and of which quantity; bands without a value are unusable, and
    pixels that were invalid, or whose spectrum has no shape (snv of a flat one), stay so. Stored values are the result
    itself: float32, scale 1.

    Args:
        scene: any scene; steps go on from those that it went through already.
        steps: see :mod:`specfm.pretreatment.steps`; none gives the scene itself.

    Raises:
        UsageError: an unknown step, or an order that makes no sense.
        SpecfmError: complex numbers, too few bands, or for a filter none that lie side by side.
    """
    sensor = scene.sensor
    known = parse_steps(steps, sensor.pretreatment)
    if not known:
        return scene
    if scene.dtype.kind == "c":
        raise SpecfmError(f"{scene.where}: complex numbers have no spectrum to pretreat; leave pretreatment out")
    bands = sensor.bands
    for step in known:
        try:
            bands = step.narrowed(bands)
        except SpecfmError as error:
            raise SpecfmError(f"{scene.where}: {error}") from None
    told = (*sensor.pretreatment, *map(str, known))
    return scene.replace(
        source=PretreatedSource(scene, known),
        sensor=sensor.replace(bands=bands, scale=1.0, offset=0.0, pretreatment=told),
        nodata=None,
        saturation=None,
    )


def untreated(scene: Scene) -> Scene:
    """The scene before any pretreatment that is computed as it is read, with its labels as they are now."""
    first = scene
    while isinstance(first.source, PretreatedSource):
        first = first.source.measured
    if first is scene:
        return scene
    return scene.replace(source=first.source, sensor=first.sensor, nodata=first.nodata, saturation=first.saturation)


def measured(scene: Scene) -> Scene:
    """The scene as it was before any pretreatment, with its labels as they are now.

    Raises:
        SpecfmError: it comes from a file that holds pretreated spectra.
    """
    first = untreated(scene)
    if first.sensor.pretreatment:
        raise SpecfmError(
            f"{scene.where}: holds spectra pretreated by {', '.join(first.sensor.pretreatment)}, and this needs them "
            "as measured; give the scene from before"
        )
    return first


def beneath(scene: Scene, change: Callable[[Scene], Scene]) -> Scene:
    """What ``change`` makes of the scene as measured, pretreated as the scene was.

    Raises:
        SpecfmError: the scene comes from a file that holds pretreated spectra, or has no bands left to pretreat.
    """
    return pretreat(change(measured(scene)), scene.sensor.pretreatment)


def told(steps: Sequence[str]) -> str:
    """How a record says what was done to spectra."""
    return ", ".join(steps) or AS_MEASURED


def otherwise_taught(card: Mapping[str, Any] | None, scenes: Sequence[Scene]) -> str | None:
    """A sentence where an encoder learnt from spectra pretreated otherwise than those of the scenes.

    Args:
        card: of the model, with its record of pretraining (``pretreatment``: of each kind of spectra :func:`told`;
            older ones, without it, are of spectra as measured). None, or one without a record: nothing is known.
        scenes: those it is to be used on.
    """
    record = (card or {}).get("pretraining", card)
    if not isinstance(record, Mapping) or not any(key in record for key in ("scenes", "sensors", "domains")):
        return None
    learnt = list(record.get("pretreatment") or [AS_MEASURED])
    strange = sorted({told(scene.sensor.pretreatment) for scene in scenes} - set(learnt))
    if not strange:
        return None
    before, now = "; ".join(learnt), "; ".join(strange)
    return f"the encoder learnt from other spectra (pretreatment: {before}) than these ({now})"
