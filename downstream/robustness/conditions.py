"""Conditions that a probe is tested under: fewer bands, wrong wavelengths, other sensors, noise, other light.

Every condition is a scene made of a scene: same size, labels and ground, other bands or other values, computed when
they are read. The labelled pixels stay the same, so that one split serves all conditions.

Shape suffixes: HW scene pixels, hw window pixels, C bands of the scene, K bands of the condition.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from downstream.features.peers import RGB_NM, RGB_WITHIN_NM
from downstream.robustness.options import SENSORS, SNRS, STEPS
from specfm.bands import BandGrid
from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from specfm.scene import Scene

CLEAN = "as measured"
SHUFFLED = "wavelengths shuffled"
GAINS: tuple[float, ...] = (0.5, 2.0)
TILT = 0.3  # at the two ends of the range

F32 = NDArray[np.float32]
Change = Callable[[F32, range, range], F32]  # (physical values [h, w, K], rows, columns) -> other values


@dataclass(frozen=True)
class Condition:
    """A name for the table, a family to sort by, and what makes the scene (raising SpecfmError where it cannot)."""

    name: str
    family: str
    alter: Callable[[Scene], Scene]


def conditions(
    sensors: tuple[str, ...] = SENSORS, steps: tuple[int, ...] = STEPS, snrs: tuple[float, ...] = SNRS, seed: int = 0
) -> list[Condition]:
    """The suite, in table order; the first is the scene as it is.

    Args:
        sensors: known instruments whose grids are simulated.
        steps: n of "every n-th band".
        snrs: signal-to-noise ratios.
        seed: of the shuffle, of the random half and of the noise.
    """
    return [
        Condition(CLEAN, "bands", lambda scene: scene),
        Condition("RGB bands only", "bands", rgb_bands),
        *(Condition(f"every {n}th band", "bands", partial(every_nth, n=n)) for n in steps),
        Condition("random half of the bands", "bands", partial(random_half, seed=seed)),
        Condition(SHUFFLED, "wavelengths", partial(shuffled_wavelengths, seed=seed)),
        *(Condition(f"as {name}", "sensor", partial(simulated, sensor=name)) for name in sensors),
        *(Condition(f"SNR {snr:g}", "noise", partial(noisy, snr=snr, seed=seed)) for snr in snrs),
        *(Condition(f"light x {gain:g}", "light", partial(scaled, gain=gain)) for gain in GAINS),
        Condition(f"light tilted +-{TILT:.0%}", "light", tilted),
    ]


@dataclass(frozen=True, eq=False)
class _Altered:
    """Physical values of some bands of a scene, changed as they are read; pixels that are not valid become NaN."""

    scene: Scene
    keep_K: NDArray[np.int64]
    change: Change | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.scene.shape[:2], len(self.keep_K))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> F32:
        values = self.scene.values(rows, cols, self.keep_K)
        if self.change is not None:
            values = self.change(values, rows, cols)
        values[~self.scene.mask(rows, cols)] = np.nan
        return values if bands is None else values[:, :, bands]


def _altered(scene: Scene, label: str, keep_K: NDArray[np.int64] | None = None, change: Change | None = None) -> Scene:
    keep_K = np.arange(scene.shape[2]) if keep_K is None else keep_K
    sensor = scene.sensor.replace(bands=scene.sensor.bands.subset(keep_K), scale=1.0, offset=0.0)
    return scene.replace(
        source=_Altered(scene, keep_K, change), sensor=sensor, name=f"{scene.name}@{label}", path=None, nodata=None,
        saturation=None,
    )  # fmt: skip


def _usable(scene: Scene) -> NDArray[np.int64]:
    """Usable bands by rising wavelength."""
    bands = scene.sensor.bands
    usable_C = np.flatnonzero(bands.valid)
    return usable_C[np.argsort(bands.wavelengths_nm[usable_C], kind="stable")]


def rgb_bands(scene: Scene) -> Scene:
    """The three bands nearest to red, green and blue."""
    usable_C = _usable(scene)
    centre_C = scene.sensor.bands.wavelengths_nm[usable_C]
    nearest = [int(np.argmin(np.abs(centre_C - nm))) for nm in RGB_NM]
    if any(abs(centre_C[i] - nm) > RGB_WITHIN_NM for i, nm in zip(nearest, RGB_NM, strict=True)):
        raise SpecfmError(f"no band within {RGB_WITHIN_NM:g} nm of red, green and blue")
    return _altered(scene, "rgb", np.sort(usable_C[nearest]))


def every_nth(scene: Scene, n: int) -> Scene:
    """Every n-th usable band, from the middle of the first n on."""
    usable_C = _usable(scene)
    if len(usable_C) < 2 * n:
        raise SpecfmError(f"{len(usable_C)} usable bands are too few to keep every {n}th")
    return _altered(scene, f"every{n}", np.sort(usable_C[n // 2 :: n]))


def random_half(scene: Scene, seed: int = 0) -> Scene:
    """Half of the usable bands, drawn once for every grid of so many bands."""
    usable_C = _usable(scene)
    if len(usable_C) < 4:
        raise SpecfmError(f"{len(usable_C)} usable bands are too few to halve")
    drawn = np.random.default_rng([seed, 17, len(usable_C)]).permutation(usable_C)[: len(usable_C) // 2]
    return _altered(scene, f"half{seed}", np.sort(drawn))


def shuffled_wavelengths(scene: Scene, seed: int = 0) -> Scene:
    """True values, each told with the centre and width of another usable band: whoever reads wavelengths is misled."""
    bands = scene.sensor.bands
    usable_C = np.flatnonzero(bands.valid)
    if len(usable_C) < 4:
        raise SpecfmError(f"{len(usable_C)} usable bands are too few to shuffle")
    drawn = np.random.default_rng([seed, 19, len(usable_C)]).permutation(usable_C)
    centres_C, fwhm_C = bands.wavelengths_nm.copy(), bands.fwhm_nm.copy()
    centres_C[usable_C], fwhm_C[usable_C] = bands.wavelengths_nm[drawn], bands.fwhm_nm[drawn]
    wrong = scene.sensor.replace(bands=BandGrid(centres_C, fwhm_C, bands.valid))
    return scene.replace(sensor=wrong, name=f"{scene.name}@shuffled{seed}")


def simulated(scene: Scene, sensor: str) -> Scene:
    """The scene through another sensor's bands, Gaussian responses; its unusable bands are dropped."""
    from specfm.sensor_table import get_row
    from specfm.simulate import resample_scene

    target = get_row(sensor).sensor.bands
    if scene.sensor.name == get_row(sensor).name:
        raise SpecfmError(f"the scene was measured by {sensor} itself")
    try:
        seen = resample_scene(scene, sensor)
    except SpecfmError:
        own = scene.sensor.bands.wavelengths_nm[_usable(scene)]
        low, high = np.nanmin(target.wavelengths_nm), np.nanmax(target.wavelengths_nm)
        raise SpecfmError(
            f"its bands ({low:.0f}-{high:.0f} nm) lie outside the scene's ({own[0]:.0f}-{own[-1]:.0f} nm)"
        ) from None
    return _altered(seen, "kept", np.flatnonzero(seen.sensor.bands.valid)).replace(name=seen.name)


def noisy(scene: Scene, snr: float, seed: int = 0) -> Scene:
    """White noise whose deviation in a band is that band's mean over the labelled rows, divided by ``snr``.

    The noise of a pixel depends on the seed, the scene's name and the pixel alone, not on the window that is read.
    """
    sigma_C = np.abs(_band_means(scene)) / snr
    key, width = zlib.crc32(scene.name.encode()), scene.shape[1]

    def change(values_hwC: F32, rows: range, cols: range) -> F32:
        for i, row in enumerate(rows):
            rng = np.random.default_rng([seed, 23, key, row])
            values_hwC[i] += (
                rng.standard_normal((width, len(sigma_C)), np.float32)[cols.start : cols.stop : cols.step] * sigma_C
            )
        return values_hwC

    return _altered(scene, f"snr{snr:g}", change=change)


def _band_means(scene: Scene, strip: int = 64) -> F32:
    """Mean physical value of each band over the valid pixels of the rows that hold labels (all rows without labels)."""
    height, _, count = scene.shape
    rows = np.arange(height) if scene.labels_HW is None else np.flatnonzero((scene.labels_HW >= 0).any(1))
    total_C, pixels = np.zeros(count), 0
    for start in range(int(rows[0]), int(rows[-1]) + 1, strip) if len(rows) else ():
        part = slice(start, min(start + strip, int(rows[-1]) + 1))
        good = scene.values(part)[scene.mask(part)]
        total_C += np.nan_to_num(good, nan=0.0, posinf=0.0, neginf=0.0).sum(0, dtype=np.float64)
        pixels += len(good)
    return (total_C / max(pixels, 1)).astype(np.float32)


def scaled(scene: Scene, gain: float) -> Scene:
    """Every value times one factor, as under a higher sun or in shade."""
    return _altered(scene, f"gain{gain:g}", change=lambda values, rows, cols: values * np.float32(gain))


def tilted(scene: Scene) -> Scene:
    """A gain that rises evenly with wavelength from 1 - TILT to 1 + TILT over the usable range."""
    bands = scene.sensor.bands
    usable = bands.wavelengths_nm[bands.valid]
    middle, half = (usable.max() + usable.min()) / 2, max(float(np.ptp(usable)) / 2, 1e-9)
    gain_C = np.nan_to_num(1 + TILT * (bands.wavelengths_nm - middle) / half, nan=1.0).astype(np.float32)
    return _altered(scene, "tilt", change=lambda values, rows, cols: values * gain_C)
