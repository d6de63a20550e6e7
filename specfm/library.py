"""A library of spectra that goes with an encoder: like those that it was pretrained on, a little of everything.

Shapes: L spectra, C bands, S steps of a dense grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.errors import SpecfmError
from specfm.sensors import Sensor

STEP_NM = 5.0  # spectra are brought to steps of this size before other bands see them
LEAST_COVERED = 0.8  # share of bands that a spectrum must cover to be seen through them
SAME_NM = 0.5  # bands that lie no further apart count as the same


@dataclass(frozen=True)
class Library:
    """Spectra like those that an encoder was pretrained on, each list with the sensor that would have measured them.

    Attributes:
        sensors: scale 1 and offset 0. spectra_LC: one float32 array per sensor, physical values.
    """

    sensors: tuple[Sensor, ...]
    spectra_LC: tuple[NDArray[np.float32], ...]

    def __post_init__(self) -> None:
        if not self.sensors or len(self.sensors) != len(self.spectra_LC):
            raise SpecfmError("a library of spectra needs one array for each of its sensors, and at least one")
        for sensor, spectra in zip(self.sensors, self.spectra_LC, strict=True):
            if spectra.ndim != 2 or not len(spectra) or spectra.shape[1] != len(sensor.bands):
                raise SpecfmError(f"spectra of shape {spectra.shape} do not fit a sensor of {len(sensor.bands)} bands")
            if not np.isfinite(spectra[:, sensor.bands.valid]).all():
                raise SpecfmError("a library of spectra holds values that are not finite")
        low, high = self._range_nm
        if not high - low > 10 * STEP_NM:
            raise SpecfmError("the sensors of a library of spectra must share a range of wavelengths")

    @cached_property
    def _range_nm(self) -> tuple[float, float]:
        used = [sensor.bands.wavelengths_nm[sensor.bands.valid] for sensor in self.sensors]
        return max(float(each.min()) for each in used), min(float(each.max()) for each in used)

    @cached_property
    def common_grid(self) -> BandGrid:
        """Bands every 5 nm over the range that all sensors see."""
        centres = np.arange(self._range_nm[0], self._range_nm[1] + 1e-6, STEP_NM)
        return BandGrid(centres, np.full(len(centres), STEP_NM))

    def __iter__(self) -> Iterator[tuple[Sensor, NDArray[np.float32]]]:
        """Each sensor with its spectra."""
        return zip(self.sensors, self.spectra_LC, strict=True)

    def to_bytes(self) -> bytes:
        """As a safetensors file, sensors as JSON in its header."""
        from safetensors.numpy import save

        described = json.dumps([sensor.to_dict() for sensor in self.sensors])
        return save({f"spectra_{i}": each for i, each in enumerate(self.spectra_LC)}, {"sensors": described})

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all of it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return sum(len(spectra) for spectra in self.spectra_LC)

    @classmethod
    def from_bytes(cls, data: bytes) -> Library:
        """Inverse of :meth:`to_bytes`.

        Raises:
            SpecfmError: not such a file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            length = int.from_bytes(data[:8], "little")
            described = json.loads(data[8 : 8 + length])["__metadata__"]["sensors"]
            sensors = tuple(Sensor.from_dict(each) for each in json.loads(described))
            tensors = load(data)
            return cls(sensors, tuple(tensors[f"spectra_{i}"].astype(np.float32) for i in range(len(sensors))))
        except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
            raise SpecfmError(f"not a library of spectra ({error})") from None


def see_through(
    bands: BandGrid, spectra_LC: NDArray[np.float32], target: BandGrid
) -> tuple[NDArray[np.bool_], NDArray[np.float32]] | None:
    """(covered_C, view_LC): spectra as the target's bands would have measured them; None if too little is covered.

    Gaps of the spectra are bridged by straight lines, since the target may have bands there.
    """
    order = np.flatnonzero(bands.valid)[np.argsort(bands.wavelengths_nm[bands.valid], kind="stable")]
    centres = bands.wavelengths_nm[order]
    if len(order) < 2 or not target.valid.any():
        return None
    steps = np.arange(centres[0], centres[-1] + STEP_NM, STEP_NM)
    dense = BandGrid(steps, np.full(len(steps), STEP_NM))
    covered, matrix_CS = dense.resample(target, min_coverage=0.5)
    if covered.valid.sum() < LEAST_COVERED * target.valid.sum():
        return None
    straight_LS = np.stack([np.interp(steps, centres, spectrum[order]) for spectrum in spectra_LC])
    return covered.valid, (straight_LS @ matrix_CS.T).astype(np.float32)


def same_bands(one: BandGrid, other: BandGrid) -> bool:
    """True if two grids have the same usable bands, to SAME_NM and whatever their order."""
    first, second = (np.sort(grid.wavelengths_nm[grid.valid]) for grid in (one, other))
    return len(first) == len(second) and bool((np.abs(first - second) <= SAME_NM).all())


def merge(libraries: Iterable[Library | None]) -> Library | None:
    """Those that there are as one, None if there are none.

    A sensor that several have is taken from the first; one that sees less than 0.9 of what the first of all sees is
    left out.
    """
    found: dict[str, tuple[Sensor, NDArray[np.float32]]] = {}
    for library in libraries:
        for sensor, spectra_LC in library or ():
            first = next(iter(found.values()), (sensor, spectra_LC))[0]
            if _shared_share(first.bands, sensor.bands) >= 0.9:
                found.setdefault(sensor.digest, (sensor, spectra_LC))
    if not found:
        return None
    return Library(tuple(sensor for sensor, _ in found.values()), tuple(spectra for _, spectra in found.values()))


def _shared_share(one: BandGrid, other: BandGrid) -> float:
    """Share of the range of ``one`` that ``other`` sees too."""
    (low, high), (left, right) = (
        (grid.wavelengths_nm[grid.valid].min(), grid.wavelengths_nm[grid.valid].max()) for grid in (one, other)
    )
    return float((min(high, right) - max(low, left)) / (high - low)) if high > low else 0.0
