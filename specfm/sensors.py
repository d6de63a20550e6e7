"""What a sensor measured: its bands, the quantity behind the numbers, and how stored numbers become physical ones."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any

from specfm.bands import BandGrid
from specfm.digests import digest_json
from specfm.errors import SpecfmError, UsageError

QUANTITIES = ("dn", "radiance", "toa_reflectance", "surface_reflectance")
LEVELS = ("raw", "L1", "L2")


@dataclass(frozen=True)
class IntegrationTime:
    """How long a sensor collected light for one frame.

    Attributes:
        value: one number for all bands, or one for each.
        unit: ``ms``; where the file names none, a text with its name of the time: equal names can be compared.
        said: as the file says it (``tint = 8.00``), for messages.
    """

    value: tuple[float, ...]
    unit: str
    said: str

    @classmethod
    def of_ms(cls, milliseconds: float) -> IntegrationTime:
        """A time that is not a file's word."""
        return cls((float(milliseconds),), "ms", f"{milliseconds:g} ms")


@dataclass(frozen=True)
class Sensor:
    """One sensor as a model is told about it.

    Attributes:
        bands: the band grid (nm).
        quantity: one of :data:`QUANTITIES`, or None if unknown.
        scale: ``physical = stored * scale + offset``.
        offset: in physical units.
        level: processing level, one of :data:`LEVELS`, or None.
        gsd_m: ground sampling distance in metres, or None.
        name: instrument name, or None.
        pretreatment: what was done to the physical values since (:mod:`specfm.pretreatment.steps`), in order; they are
            then no longer of the quantity.
    """

    bands: BandGrid
    quantity: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    level: str | None = None
    gsd_m: float | None = None
    name: str | None = None
    pretreatment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.quantity is not None and self.quantity not in QUANTITIES:
            raise SpecfmError(f"unknown quantity {self.quantity!r}; give one of {', '.join(QUANTITIES)}")
        if self.level is not None and self.level not in LEVELS:
            raise SpecfmError(f"unknown processing level {self.level!r}; give one of {', '.join(LEVELS)}")
        if not isinstance(self.bands, BandGrid):
            raise UsageError(
                f"a sensor's bands are a BandGrid, got {type(self.bands).__name__}; wrap wavelengths as "
                "specfm.BandGrid(centres_nm)"
            )
        for name, value, positive in (
            ("sensor scale", self.scale, True),
            ("sensor offset", self.offset, False),
            ("gsd_m", 1.0 if self.gsd_m is None else self.gsd_m, True),
        ):
            number = isinstance(value, Real) and math.isfinite(value)
            if not number or (positive and not value > 0):
                raise SpecfmError(f"{name} must be a {'positive ' if positive else ''}finite number, got {value!r}")

    def replace(self, **changes: Any) -> Sensor:
        """A copy with some attributes changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe description."""
        told = {**asdict(replace(self)), "bands": self.bands.to_dict(), "pretreatment": list(self.pretreatment)}
        if not self.pretreatment:  # spectra as measured are described, and digested, as ever
            del told["pretreatment"]
        return told

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Sensor:
        """Inverse of :meth:`to_dict`."""
        told = {**data, "pretreatment": tuple(data.get("pretreatment", ()))}
        return cls(**{**told, "bands": BandGrid.from_dict(data["bands"])})

    @property
    def digest(self) -> str:
        """16 hex digits over everything a model is told."""
        return digest_json(self.to_dict())
