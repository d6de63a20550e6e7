"""Surfaces seen by two sensors, made on the fly: one surface, two lights, two airs, two sensors, the same quantity.

A step has a few slots. A slot has one pair of sensors, one quantity and one range of spectra; all its samples share
them, so that among them no sensor tells a pair apart. Light, air and errors are drawn for each side of each sample, so
neither do they. What is left in common is the surface.

Shapes: N samples of a slot, H W window, C bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from specfm.bands import BandGrid
from specfm.config import Strict
from specfm.digests import digest_json, digest_parts
from specfm.errors import UsageError
from specfm.sensor_table import get_row, known_sensors
from specfm.sensors import Sensor
from specfm.simulate.responses import draw_sensor, responses
from specfm.simulate.seen import LEVEL_OF, SensorErrors, View
from specfm.simulate.skies import standard_skies
from specfm.simulate.spectra import read_library
from specfm.simulate.surfaces import Ground, Pool

SLOT, SENSOR = 1, 2  # streams of random numbers
DRAWN_RANGES_NM = ((400.0, 1000.0), (400.0, 2450.0), (950.0, 2450.0))
DRAWN_CHANCE = (0.35, 0.85, 1.0)  # cumulative
WIDEST = 64  # window, pixels
COMMON = 0.5  # of one sensor's bands lie in the other's range

Quantity = Literal["surface_reflectance", "toa_reflectance", "radiance"]


class SurfacePairsConfig(Strict):
    """What is simulated.

    Attributes:
        libraries: where spectra come from: ``earthlib`` (shipped), dataset cards, files, ECOSTRESS folders; see
            :mod:`specfm.simulate.spectra`.
        sensors: known instruments; default all.
        exclude: those to leave out, to be tested on.
        drawn: share of sensors that are drawn at random instead.
        drawn_sensors: how many there are of these.
        quantities: what both sides of a pair hold, drawn evenly.
        window: side in pixels.
        slots: pairs of sensors in a step.
        siblings: samples in a row with one layout of patches and other materials.
        errors: of sensors and light.
        water_error: what an atmospheric correction believes of water vapour, relative standard deviation.
        haze_error: what it believes of haze, standard deviation of its optical depth.
    """

    libraries: tuple[str, ...] = Field(default=("earthlib",), min_length=1)
    sensors: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    drawn: float = Field(default=0.3, ge=0, le=1)
    drawn_sensors: int = Field(default=32, ge=1)
    quantities: tuple[Quantity, ...] = Field(
        default=("surface_reflectance", "toa_reflectance", "radiance"), min_length=1
    )
    window: int = Field(default=9, ge=1, le=WIDEST)
    slots: int = Field(default=4, ge=1)
    siblings: int = Field(default=4, ge=1)
    errors: SensorErrors = SensorErrors()
    water_error: float = Field(default=0.08, ge=0)
    haze_error: float = Field(default=0.03, ge=0)

    def instruments(self) -> list[str]:
        """Known instruments that are simulated.

        Raises:
            UsageError: an unknown one.
        """
        names = list(known_sensors()) if self.sensors is None else [get_row(name).name for name in self.sensors]
        left_out = {get_row(name).name for name in self.exclude}
        return [name for name in dict.fromkeys(names) if name not in left_out]


@dataclass(frozen=True)
class Slot:
    """What the samples of a slot of a step share.

    Attributes:
        first: index of the sensor of the first views.
        second: of the second views.
        sensors: what each side tells: its usable bands, quantity, name.
        views: of each side.
        pool: spectra that both see.
    """

    first: int
    second: int
    sensors: tuple[Sensor, Sensor]
    views: tuple[View, View]
    pool: Pool


class SurfacePairs:
    """Simulated pairs of windows; a sample is a function of (seed, step, slot's place in it, its own number).

    Args:
        config: what is simulated.
        seed: of all of it.

    Attributes:
        names: of sensors, those drawn at random ``drawn_00`` and on.
        bands: of each.

    Raises:
        UsageError: unknown library or sensor, a sensor whose range no library covers.
        SpecfmError: unreadable library.

    Example:
        >>> pairs = SurfacePairs(SurfacePairsConfig(sensors=("emit", "sentinel2")), seed=0)
        >>> slot = pairs.slot(step=0, place=0)
        >>> first, second = pairs.windows(0, slot, numbers=[0, 1])
        >>> first.shape == (2, 9, 9, len(slot.sensors[0].bands))
        True
    """

    def __init__(self, config: SurfacePairsConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.names = config.instruments()
        if not self.names and config.drawn < 1:
            raise UsageError("no sensor is left to simulate; name some that are not excluded, or set drawn to 1")
        self.bands = [get_row(name).bands for name in self.names]
        self._known = len(self.names)
        self.libraries = [read_library(name) for name in config.libraries]
        self.ground = Ground(self.libraries, config.window, config.siblings)
        for name, bands in zip(self.names, self.bands, strict=True):
            if not self.ground.pools_for(bands):
                raise UsageError(
                    f"no library covers half the bands of {name}: {self._ranges()}; add one, or exclude it"
                )
        if config.drawn > 0:
            for number in range(config.drawn_sensors):
                self.names.append(f"drawn_{number:02d}")
                self.bands.append(self._drawn(number))
        self.skies, self.believed = standard_skies(config.water_error, config.haze_error)
        self._partners = [self._partners_of(i) for i in range(len(self.names))]

    def _ranges(self) -> str:
        return ", ".join(
            f"{library.name} {library.range_nm[0]:g}-{library.range_nm[1]:g} nm" for library in self.libraries
        )

    def _drawn(self, number: int) -> BandGrid:
        rng = np.random.default_rng([self.seed, SENSOR, number])
        while True:
            low, high = DRAWN_RANGES_NM[int(np.searchsorted(DRAWN_CHANCE, rng.random(), side="right"))]
            bands = draw_sensor(low, high, rng)
            if self.ground.pools_for(bands):
                return bands

    def _partners_of(self, index: int) -> NDArray[np.int64]:
        """Sensors that look at the same part of the spectrum; itself is one."""
        return np.array(
            [i for i, other in enumerate(self.bands) if _common(self.bands[index], other) and self._pools(index, i)]
        )

    def _pools(self, first: int, second: int) -> list[Pool]:
        return self.ground.pools_for(self.bands[first], self.bands[second])

    def slot(self, step: int, place: int) -> Slot:
        """The pair of sensors of a slot of a step."""
        rng = np.random.default_rng([self.seed, SLOT, step, place])
        first = self._choose(np.arange(len(self.names)), rng)
        second = self._choose(self._partners[first], rng)
        pools = self._pools(first, second)
        pool = pools[rng.integers(len(pools))]
        quantity = self.config.quantities[rng.integers(len(self.config.quantities))]
        views = tuple(self._view(i, pool, quantity) for i in (first, second))
        sensors = tuple(
            Sensor(
                BandGrid(self.bands[i].wavelengths_nm, self.bands[i].fwhm_nm, view.valid_C),
                quantity,
                level=LEVEL_OF[quantity],
                name=self.names[i] if i < self._known else None,
            )
            for i, view in zip((first, second), views, strict=True)
        )
        return Slot(first, second, sensors, views, pool)  # type: ignore[arg-type]

    def _choose(self, allowed: NDArray[np.int64], rng: np.random.Generator) -> int:
        known, drawn = allowed[allowed < self._known], allowed[allowed >= self._known]
        random = rng.random() < self.config.drawn
        group = (drawn if len(drawn) else known) if random else (known if len(known) else drawn)
        return int(group[rng.integers(len(group))])

    def _view(self, index: int, pool: Pool, quantity: str) -> View:
        seen_by = responses(self.bands[index], *pool.range_nm)
        return View(seen_by, quantity, self.skies, self.believed, self.config.errors)

    def windows(self, step: int, slot: Slot, numbers: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """x_NHWC of the first and of the second sensor. Bands that are not valid are 0.

        Args:
            step: of the run.
            slot: of that step.
            numbers: of the samples in the step, any of them, in any order.
        """
        side, given = self.config.window, list(numbers)
        surfaces = self.ground.make(slot.pool, self.seed, step, given)
        seen = [view.see(surfaces, self.seed, step, given, i) for i, view in enumerate(slot.views)]
        return tuple(x_NPC.reshape(len(given), side, side, -1) for x_NPC in seen)  # type: ignore[return-value]

    @cached_property
    def digest(self) -> str:
        """16 hex digits over seed, settings and spectra: with the number of samples a step they fix every sample."""
        spectra = digest_parts([self.ground.spectra.spectra_NL, self.ground.spectra.class_N])
        return digest_json([self.seed, self.config.model_dump(mode="json"), spectra])


def _common(one: BandGrid, other: BandGrid) -> bool:
    def inside(a: BandGrid, b: BandGrid) -> float:
        a_nm, b_nm = a.wavelengths_nm[a.valid], b.wavelengths_nm[b.valid]
        return float(((a_nm >= b_nm.min()) & (a_nm <= b_nm.max())).mean())

    return max(inside(one, other), inside(other, one)) >= COMMON
