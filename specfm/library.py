"""A library of spectra that goes with an encoder: like those that it was pretrained on, a little of everything.

No measured spectrum goes into one, which may travel further than the data: the mean and the main directions of what was
measured are worked out, and spectra drawn from them.

Shapes: L spectra, S steps of 5 nm, C bands, P points that a spectrum was measured at, M measured spectra, K directions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.bands import MAX_NM, MIN_NM, BandGrid
from specfm.digests import digest_parts
from specfm.documents import parse_json
from specfm.errors import SpecfmError
from specfm.sensors import QUANTITIES, Sensor

STEP_NM = 5.0
FEWEST_STEPS, MOST_STEPS = 20, 4000  # 100 nm to 20 um
MOST_SPECTRA = 1000  # a megabyte or two beside the weights
FEWEST_BANDS = 50  # of a sensor that can stand for others
DIRECTIONS = 8


@dataclass(frozen=True)
class Library:
    """Spectra on bands of 5 nm, as one ideal sensor would measure them, or on the bands of the sensor that did.

    Attributes:
        low_nm: centre of the first step.
        spectra_LS: float32 physical values.
        quantity_L: int64 index into :data:`specfm.sensors.QUANTITIES`, -1 unknown.
        home: sensor whose bands, all usable, the spectra are on; None: steps of 5 nm.

    Raises:
        SpecfmError: shapes that do not fit, too few or too many steps or spectra, values that are not finite.
    """

    low_nm: float
    spectra_LS: NDArray[np.float32]
    quantity_L: NDArray[np.int64]
    home: Sensor | None = None

    def __post_init__(self) -> None:
        shape = self.spectra_LS.shape
        if len(shape) != 2 or self.quantity_L.shape != shape[:1]:
            raise SpecfmError(f"spectra of shape {shape} do not fit {self.quantity_L.shape} quantities")
        if not (2 <= shape[0] <= MOST_SPECTRA and FEWEST_STEPS <= shape[1] <= MOST_STEPS):
            raise SpecfmError(
                f"{shape[0]} spectra of {shape[1]} steps; a library has 2 to {MOST_SPECTRA} of {FEWEST_STEPS} to "
                f"{MOST_STEPS}"
            )
        if self.home is not None:
            bands = self.home.bands
            if not (len(bands) == shape[1] and bands.valid.all() and bands.wavelengths_nm.min() == self.low_nm):
                raise SpecfmError("its bands are not those of its spectra")
        if not (self.low_nm >= MIN_NM and self.high_nm <= MAX_NM):
            raise SpecfmError(f"wavelengths from {self.low_nm} to {self.high_nm} nm are not those of a sensor")
        if not (np.isfinite(self.spectra_LS).all() and np.abs(self.spectra_LS).max() < 1e12):
            raise SpecfmError("values are not finite")
        if self.quantity_L.min() < -1 or self.quantity_L.max() >= len(QUANTITIES):
            raise SpecfmError("a quantity is none of the known ones")

    def __len__(self) -> int:
        return len(self.spectra_LS)

    @property
    def high_nm(self) -> float:
        """Centre of the last step."""
        if self.home is not None:
            return float(self.home.bands.wavelengths_nm.max())
        return self.low_nm + STEP_NM * (self.spectra_LS.shape[1] - 1)

    @cached_property
    def grid(self) -> BandGrid:
        """Bands that the spectra are on."""
        if self.home is not None:
            return self.home.bands
        steps = self.spectra_LS.shape[1]
        return BandGrid(self.low_nm + STEP_NM * np.arange(steps), np.full(steps, STEP_NM))

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all of it."""
        return digest_parts([self.to_bytes()])

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        from safetensors.numpy import save

        low = np.array([self.low_nm], np.float64)
        tensors: dict[str, NDArray[Any]] = {"spectra_LS": self.spectra_LS, "quantity_L": self.quantity_L, "low_nm": low}
        return save(tensors, None if self.home is None else {"home": json.dumps(self.home.to_dict())})

    @classmethod
    def from_bytes(cls, data: bytes) -> Library:
        """Inverse of :meth:`to_bytes`.

        Raises:
            SpecfmError: not such a file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
            spectra, quantity, low = (tensors[name] for name in ("spectra_LS", "quantity_L", "low_nm"))
            if (spectra.dtype, quantity.dtype, low.dtype) != (np.float32, np.int64, np.float64) or low.shape != (1,):
                raise SpecfmError("its arrays are of other types")
            told = (
                parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], "its header")
                .get("__metadata__", {})
                .get("home")
            )
            home = None if told is None else Sensor.from_dict(parse_json(told, "its home"))
            return cls(float(low[0]), spectra, quantity, home)
        except (
            ArithmeticError,
            AttributeError,
            RecursionError,
            KeyError,
            TypeError,
            ValueError,
            SpecfmError,
            SafetensorError,
        ) as error:
            raise SpecfmError(f"not a library of spectra ({error})") from None

    def seen_through(self, bands: BandGrid) -> NDArray[np.float32]:
        """view_LC: as other bands, all usable, would have measured the spectra; 0 in bands outside their range."""
        if self.home is not None and np.array_equal(bands.wavelengths_nm, self.home.bands.wavelengths_nm):
            return self.spectra_LS
        matrix_CS = self.grid.resample(bands, min_coverage=0.5)[1]
        return (self.spectra_LS.astype(np.float64) @ matrix_CS.T).astype(np.float32)


def redrawn(
    measured_MC: NDArray[np.float64], weights_C: NDArray[np.float64], count: int, directions: int = DIRECTIONS
) -> NDArray[np.float64] | None:
    """spectra_LC: normal draws with the mean and the main directions of measured spectra of mean level 1.

    Brightness is left out, since an encoder divides it out too. Draws lie within two deviations in each direction and
    are not negative where nothing measured was. None if the spectra are too few, or too alike, to hide in each other.
    """
    level_M1 = (np.abs(measured_MC) @ weights_C)[:, None]
    shape_MC = measured_MC[level_M1[:, 0] > 0] / level_M1[level_M1[:, 0] > 0]
    if len(shape_MC) < 2 * min(directions, shape_MC.shape[1]):
        return None
    mean_C = shape_MC.mean(0)
    _, values_K, vectors_KC = np.linalg.svd(shape_MC - mean_C, full_matrices=False)
    deviation_K = values_K[:directions] / len(shape_MC) ** 0.5
    if (deviation_K > 1e-4).sum() < 2:
        return None
    drawn_LK = np.clip(np.random.default_rng(0).standard_normal((count, len(deviation_K))), -2, 2)
    spectra_LC = mean_C + (drawn_LK * deviation_K) @ vectors_KC[:directions]
    spectra_LC = np.where(shape_MC.min(0) >= 0, np.maximum(spectra_LC, 0), spectra_LC)
    return np.asarray(spectra_LC * level_M1.mean())


def on_steps(
    wavelengths_nm_P: NDArray[np.float64], spectra_LP: NDArray[np.float64], low_nm: float, steps: int
) -> NDArray[np.float32]:
    """spectra_LS: between measured points, gaps too, straight lines; outside, the value at the end."""
    order = np.argsort(wavelengths_nm_P, kind="stable")
    at = low_nm + STEP_NM * np.arange(steps)
    return np.stack([np.interp(at, wavelengths_nm_P[order], spectrum[order]) for spectrum in spectra_LP]).astype(
        np.float32
    )


def same_bands(one: BandGrid, other: BandGrid, within_nm: float = 0.5) -> bool:
    """True if two grids have the same usable bands, nearly and whatever their order."""
    first, second = (np.sort(grid.wavelengths_nm[grid.valid]) for grid in (one, other))
    return len(first) == len(second) and bool((np.abs(first - second) <= within_nm).all())


def merge(libraries: Iterable[Library | None]) -> Library | None:
    """One library of all that are given, over the range they share, thinned to the most a library holds.

    A library that shares less than 0.9 of the first one's range is left out; None entries are passed over. None if no
    library is given. Of several, none keeps its own bands.
    """
    there = [each for each in libraries if each is not None]
    if len(there) < 2:
        return there[0] if there else None
    first = there[0]
    kept = [first]
    low, high = first.low_nm, first.high_nm
    for each in there[1:]:
        shared = min(high, each.high_nm), max(low, each.low_nm)
        if shared[0] - shared[1] >= 0.9 * (first.high_nm - first.low_nm):
            (high, low), kept = shared, [*kept, each]
    steps = int((high - low) // STEP_NM) + 1
    thin = -(-sum(map(len, kept)) // MOST_SPECTRA)
    spectra = [
        on_steps(each.grid.wavelengths_nm, each.spectra_LS[::thin].astype(np.float64), low, steps) for each in kept
    ]
    return Library(low, np.concatenate(spectra), np.concatenate([each.quantity_L[::thin] for each in kept]))
