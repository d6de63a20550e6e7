"""Whether the sensors of a set of scenes need their features aligned, can be, and an encoder aligned for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from specfm.errors import UsageError
from specfm.library import same_bands

if TYPE_CHECKING:
    from specfm.scene import Scene
    from specfm.sensors import Sensor

log = logging.getLogger(__name__)


def wants_alignment(scenes: Sequence[Scene], wanted: bool | None) -> bool:
    """``wanted``; where that is None, whether the scenes were seen through different bands."""
    if wanted is not None:
        return wanted
    first = scenes[0].sensor.bands
    return any(not same_bands(first, scene.sensor.bands) for scene in scenes[1:])


def can_align(encoder: Any, sensors: Sequence[Sensor]) -> bool:
    """True if the encoder comes with a library that covers all sensors, and its tokens can be mapped."""
    from specfm.batch import BandTensors
    from specfm.models.alignment import Alignment

    library = getattr(encoder, "library", None)
    if library is None or getattr(encoder, "pixel", False) or getattr(encoder, "fixed_side", None) is not None:
        return False
    alignment = Alignment(library)
    return all(alignment.covers(BandTensors.from_sensors(each))[0] for each in sensors)


@contextmanager
def in_use(encoder: Any) -> Iterator[None]:
    """Within it the encoder, if any, is in evaluation, with the alignment that training set aside; then as before."""
    training = getattr(encoder, "training", False)
    if training:
        encoder.eval()
    try:
        yield
    finally:
        if training:
            encoder.train()


@contextmanager
def aligned(
    encoder: Any, scenes: Sequence[Scene], wanted: bool | None, together: bool = True, others: Sequence[Sensor] = ()
) -> Iterator[bool]:
    """Within it the encoder is aligned if asked for (None: if the scenes need it and it can); says whether it is.

    ``together``: the sensors of the scenes are compared with each other, so all are put as the poorest of them would
    tell it; else as one ideal sensor would. ``others``: further sensors of the comparison.

    Raises:
        UsageError: ``wanted`` of an encoder that cannot be aligned, or not for the sensors of these scenes; an encoder
            that is always aligned, of pretreated spectra.
    """
    with in_use(encoder):
        before = getattr(encoder, "alignment", None)
        if encoder is not None and any(scene.sensor.pretreatment for scene in scenes):
            if wanted or before is not None:
                raise UsageError(
                    "sensors are aligned by spectra as measured, and these are pretreated; leave the pretreatment out"
                    + (" or --align" if wanted and before is None else "")
                )
            wanted = False
        on = encoder is not None and (wants_alignment(scenes, wanted) if before is None or wanted is not None else True)
        if on and not wanted and getattr(encoder, "library", None) is None:
            on = False
        if on and not can_align(encoder, [*(scene.sensor for scene in scenes), *others]):
            if wanted and getattr(encoder, "library", None) is None:
                raise UsageError(
                    "an encoder that comes without a library of spectra cannot be aligned; leave --align out"
                )
            if wanted and getattr(encoder, "pixel", False):
                raise UsageError("an encoder with pixel tokens cannot be aligned; leave --align out")
            one_size = getattr(encoder, "fixed_side", None) is not None
            if wanted and one_size:
                raise UsageError("an encoder that reads windows of one size cannot be aligned; leave --align out")
            if wanted:
                raise UsageError("the encoder's library of spectra does not cover all sensors here; leave --align out")
            why = "the encoder reads windows of one size" if one_size else "its library does not cover all sensors"
            log.warning("features are not aligned: %s", why)
            on = before is not None and encoder.aligned  # a trunk made for aligned tokens keeps those that there are
        compared = together and (bool(others) or wants_alignment(scenes, None))
        sensors = [*(scene.sensor for scene in scenes), *others] if compared else []
        if hasattr(encoder, "align") and (on != (before is not None) or (on and sensors)):
            encoder.align(on, sensors)
        try:
            yield on
        finally:
            if hasattr(encoder, "align"):
                encoder.alignment = before
