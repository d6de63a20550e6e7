"""Simulated scenes whose materials are known, and any scene seen through another sensor's bands.

The ground (which material where, how it varies, how it is lit) depends on the seed only, the noise on seed and sensor:
two sensors with one seed look at the same ground.

Shapes: H rows, W columns, C bands, K materials, V variations, L fine wavelengths.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from specfm.bands import BandGrid
from specfm.config import Strict, build_config
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment import beneath
from specfm.scene import CubeSource, Scene
from specfm.sensor_table import get_row
from specfm.sensors import Sensor
from specfm.simulate import light
from specfm.simulate.fields import abundances, blobs, material_map, smooth_field
from specfm.simulate.materials import FINE_NM, VARIATIONS, SceneMaterial, get_materials

ROWS = 32  # rows made at once; the noise is drawn per such block, so this number is part of the result
# stored type, scale, nodata and level of each form
FORMS: dict[str, tuple[str, float, float, str]] = {
    "surface_reflectance": ("int16", 1e-4, -9999.0, "L2"),
    "toa_reflectance": ("uint16", 1e-4, 0.0, "L1"),
    "radiance": ("int16", 0.02, -9999.0, "L1"),  # W m-2 sr-1 um-1
    "dn": ("uint16", 1.0, 0.0, "raw"),
}
FULL_WELL = 4095.0  # counts at which the 12-bit sensor of form "dn" saturates


class SimulationConfig(Strict):
    """How a scene is made. Scans of a laboratory (`write_simulation`) read ``quantity`` and ``variability`` alone.

    Attributes:
        quantity: what is stored; None takes what the instrument's products usually hold (reflectance if unknown).
        blob: width of a patch of one material in pixels.
        blur: point spread in pixels, which mixes the materials at the borders of blobs.
        label_above: pixels whose largest share does not exceed this are unlabelled.
        variability: within-class variation; 1 = the deviations written with the materials.
        illumination: relative deviation of the smooth brightness field; ``gain`` that of the whole scene.
        tilt: relative deviation of the smooth spectral tilt field, from end to end of 340-2600 nm.
        humidity: relative deviation of the gas absorption between scenes (radiance, counts and top-of-air reflectance).
        snr: signal to noise at the mean level of a band (shot-like); inf-like values such as 1e9 switch it off.
        stripes: relative gain error of the detector columns of a push-broom scanner.
        nodata: share of pixels without data, lost in a corner as after rotation to a map grid.
    """

    quantity: Literal["dn", "radiance", "toa_reflectance", "surface_reflectance"] | None = None
    blob: float = Field(default=6.0, gt=0)
    blur: float = Field(default=0.7, ge=0)
    label_above: float = Field(default=0.5, ge=0, lt=1)
    variability: float = Field(default=1.0, ge=0)
    illumination: float = Field(default=0.10, ge=0)
    gain: float = Field(default=0.08, ge=0)
    tilt: float = Field(default=0.05, ge=0)
    humidity: float = Field(default=0.15, ge=0)
    snr: float = Field(default=150.0, gt=0)
    stripes: float = Field(default=0.0, ge=0)
    nodata: float = Field(default=0.0, ge=0, le=0.9)


def simulate_scene(
    sensor: Sensor | str,
    materials: Sequence[str | SceneMaterial] | None = None,
    shape: tuple[int, int] = (64, 64),
    seed: int = 0,
    *,
    name: str | None = None,
    group: str | None = None,
    **options: Any,
) -> Scene:
    """Make a scene whose material is known at every pixel.

    Args:
        sensor: a `Sensor` or the name of a known instrument.
        materials: names out of ``MATERIALS`` (None = all of them), or materials of a library
            (:func:`specfm.simulate.measured.measured_materials`).
        shape: (H, W).
        seed: the same seed gives the same scene, byte for byte; the ground does not depend on the sensor.
        name: of the scene; by default made of sensor and seed.
        group: of the scene; by default made likewise.
        **options: see `SimulationConfig`.

    Returns:
        A scene in memory: stored integers, ``labels_HW`` (index into ``label_names``), ``groups_HW`` (blobs) and
        ``domain`` (the sensor's name); its sensor carries quantity, scale and level.

    Raises:
        UsageError: unknown sensor, material or option.
        SpecfmError: no band of the sensor lies where the materials are known (340-2600 nm, or a library's range).

    Example:
        >>> scene = simulate_scene("emit", ["grass", "water"], shape=(16, 16), seed=1)
        >>> scene.shape, scene.label_names
        ((16, 16, 285), ('grass', 'water'))
    """
    config = build_config(options, SimulationConfig, "simulate_scene")
    if min(shape) < 1 or seed < 0:
        raise UsageError(f"shape must be at least 1 x 1 and seed at least 0, got {shape} and {seed}")
    chosen = get_materials(materials)
    known = get_row(sensor) if isinstance(sensor, str) else None
    described = known.sensor if known is not None else sensor
    assert isinstance(described, Sensor)
    quantity = config.quantity or described.quantity or (known.quantity if known else "surface_reflectance")
    dtype, scale, nodata, level = FORMS[quantity]
    humidity = float(np.exp(config.humidity * np.random.default_rng([seed, 5]).standard_normal()))
    bands, spectra = _band_spectra(described.bands, chosen, quantity, humidity)
    ground = _Ground(shape, len(chosen), seed, config)
    label = described.name or "sensor"
    noise_key = zlib.crc32(f"{described.bands.digest} {quantity}".encode())
    cube_HWC = np.empty((*shape, len(bands)), dtype)
    gain_WC = _stripes(np.random.default_rng([seed, 3, noise_key]), shape[1], len(bands), config.stripes)
    for number, start in enumerate(range(0, shape[0], ROWS)):
        rows = slice(start, min(start + ROWS, shape[0]))
        rng = np.random.default_rng([seed, 4, noise_key, number])
        physical = _noisy(ground.render(rows, spectra, bands) * gain_WC, spectra.level_C, config.snr, rng)
        limits = np.iinfo(dtype)
        highest = FULL_WELL if quantity == "dn" else limits.max
        # the value that means nodata never comes from a measurement
        lowest = nodata + 1 if nodata == limits.min or nodata == 0 else limits.min
        cube_HWC[rows] = np.clip(np.rint(physical / scale), lowest, highest).astype(dtype)
    cube_HWC[ground.lost_HW] = nodata
    cube_HWC[:, :, ~bands.valid] = nodata
    return Scene.from_array(
        cube_HWC,
        described.replace(bands=bands, quantity=quantity, scale=scale, offset=0.0, level=level),
        name=name or f"{label}_{seed}",
        nodata=nodata,
        saturation=FULL_WELL if quantity == "dn" else None,
        labels_HW=ground.labels_HW,
        label_names=tuple(material.name for material in chosen),
        group=group if group is not None else f"{label}_{seed}",
        groups_HW=ground.blobs_HW,
        domain=label,
    )


@dataclass(frozen=True)
class _Spectra:
    """basis_KVC: mean and variations of each material as the sensor stores them; air_C: what the air adds."""

    basis_KVC: NDArray[np.float64]
    air_C: NDArray[np.float64]
    level_C: NDArray[np.float64]


def _band_spectra(
    bands: BandGrid, materials: Sequence[SceneMaterial], quantity: str, humidity: float
) -> tuple[BandGrid, _Spectra]:
    """Integrate light times reflectance over each band (the product first: a band does not average them apart)."""
    lows_nm, highs_nm = zip(*(material.range_nm for material in materials), strict=True)
    low_nm, high_nm = max(lows_nm), min(highs_nm)
    fine = BandGrid(FINE_NM, np.ones_like(FINE_NM), (low_nm <= FINE_NM) & (high_nm >= FINE_NM))
    seen, matrix_CL = fine.resample(bands)
    if not seen.valid.any():
        raise SpecfmError(f"no band of this sensor lies in {low_nm:g}-{high_nm:g} nm, where materials are known")
    factor_L, air_L = np.ones_like(FINE_NM), np.zeros_like(FINE_NM)
    if quantity != "surface_reflectance":
        factor_L, air_L = light.transmittance(humidity), light.path_reflectance()
    if quantity in ("radiance", "dn"):
        to_radiance_L = light.solar_irradiance() * 0.75 / np.pi  # the sun at about 41 degrees from the zenith
        factor_L, air_L = factor_L * to_radiance_L, air_L * to_radiance_L
    if quantity == "dn":
        # counts above the dark level; bright soil fills about two thirds of the well
        response_L = light.detector_response()
        factor_L, air_L = factor_L * response_L, air_L * response_L
        exposure = 0.65 * FULL_WELL / np.max(0.45 * (matrix_CL @ factor_L))
        factor_L, air_L = factor_L * exposure, air_L * exposure
    basis_KVL = np.stack([material.basis() for material in materials])
    basis_KVC = (basis_KVL * factor_L) @ matrix_CL.T
    air_C = matrix_CL @ air_L
    return seen, _Spectra(basis_KVC, air_C, basis_KVC[:, 0].mean(0) + air_C)


class _Ground:
    """Everything about the ground that no sensor changes: shares, variation, light, missing corner."""

    def __init__(self, shape: tuple[int, int], count: int, seed: int, config: SimulationConfig):
        rng = np.random.default_rng([seed, 0])
        map_HW = material_map(rng, shape, count, config.blob / 2)
        self.shares_HWK = abundances(map_HW, count, config.blur)
        self.blobs_HW = blobs(map_HW)
        self.labels_HW = self.shares_HWK.argmax(-1).astype(np.int32)
        self.labels_HW[self.shares_HWK.max(-1) <= config.label_above] = -1
        self.lost_HW = self._corner(shape, config.nodata)
        self.labels_HW[self.lost_HW] = -1
        rng = np.random.default_rng([seed, 1])
        # a shift of each class in this scene, a smooth part within it, a pixel-to-pixel part
        shift_KV = 0.3 * rng.standard_normal((count, VARIATIONS))
        smooth_HWV = np.stack([smooth_field(rng, shape, config.blob) for _ in range(VARIATIONS)], -1)
        grain_HWV = rng.standard_normal((*shape, VARIATIONS))
        self.shift_KV = config.variability * shift_KV
        self.varied_HWV = config.variability * (0.7 * smooth_HWV + 0.5 * grain_HWV)
        rng = np.random.default_rng([seed, 2])
        gain = np.exp(config.gain * rng.standard_normal())
        self.light_HW = gain * np.exp(config.illumination * smooth_field(rng, shape, 2 * config.blob))
        self.tilt_HW = config.tilt * smooth_field(rng, shape, 2 * config.blob)

    def render(self, rows: slice, spectra: _Spectra, bands: BandGrid) -> NDArray[np.float64]:
        """(h, W, C) noiseless physical values of some rows."""
        mean_KC = spectra.basis_KVC[:, 0] + np.einsum("kv,kvc->kc", self.shift_KV, spectra.basis_KVC[:, 1:])
        shares_hWK = self.shares_HWK[rows].astype(np.float64)
        signal = shares_hWK @ mean_KC
        for v in range(VARIATIONS):
            signal += (shares_hWK * self.varied_HWV[rows, :, v, None]) @ spectra.basis_KVC[:, 1 + v]
        signal = np.maximum(signal, 0.5 * spectra.basis_KVC[:, 0].min(0))  # no variation makes light negative
        centres_C = np.where(bands.valid, bands.wavelengths_nm, FINE_NM.mean())
        place_C = (centres_C - FINE_NM.mean()) / (FINE_NM[-1] - FINE_NM[0])
        signal *= self.light_HW[rows, :, None] * (1 + self.tilt_HW[rows, :, None] * place_C)
        return signal + spectra.air_C

    @staticmethod
    def _corner(shape: tuple[int, int], share: float) -> NDArray[np.bool_]:
        """(H, W) True in the lower left corner cut off by a slanted edge that takes ``share`` of the pixels."""
        slant_HW = np.arange(shape[0])[:, None] * 0.8 - np.arange(shape[1])[None] * 1.0
        lost_HW = np.zeros(shape, bool)
        lost_HW.ravel()[np.argsort(-slant_HW, axis=None, kind="stable")[: int(share * lost_HW.size)]] = True
        return lost_HW


def _stripes(rng: np.random.Generator, width: int, count: int, strength: float) -> NDArray[np.float64]:
    """(W, C) gain of each detector element; half of its error is common to a column, half its own."""
    column_W1, own_WC = rng.standard_normal((width, 1)), rng.standard_normal((width, count))
    return 1 + strength * np.sqrt(0.5) * (column_W1 + own_WC)


def _noisy(
    signal: NDArray[np.float64], level_C: NDArray[np.float64], snr: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Add shot-like noise: at the band's mean level the ratio is ``snr``; a floor stands for read-out noise."""
    sigma = np.sqrt(np.maximum(signal, 0) * level_C + (0.2 * level_C.mean()) ** 2) / snr
    return signal + sigma * rng.standard_normal(signal.shape)


@dataclass(frozen=True)
class _Resampled:
    """A scene's physical values seen through other bands, computed when they are read."""

    scene: Scene
    matrix_KC: NDArray[np.float32]
    usable_C: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return (*self.scene.shape[:2], len(self.matrix_KC))

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return np.dtype(np.float32)

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        matrix_kC = self.matrix_KC if bands is None else self.matrix_KC[bands]
        needed = np.flatnonzero((matrix_kC != 0).any(0))
        if not len(needed):
            return np.full((len(rows), len(cols), len(matrix_kC)), np.nan, np.float32)
        weights_kc = matrix_kC[:, needed]
        values = self.scene.values(rows, cols, self.usable_C[needed])
        missing = np.isnan(values)
        seen = np.where(missing, np.float32(0), values) @ weights_kc.T
        if missing.any():  # a target band is lost where a band that it draws on is
            seen[missing.astype(np.float32) @ np.abs(weights_kc).T > 1e-6] = np.nan
        seen[..., ~(weights_kc != 0).any(1)] = np.nan  # bands outside the scene's range hold no measurement
        return seen


def resample_scene(scene: Scene, target: Sensor | str) -> Scene:
    """See a scene through another sensor's bands (Gaussian responses), lazily: nothing is read before it is asked for.

    Args:
        scene: any scene; its bad bands are not used. A pretreated one is seen as it was measured, then pretreated.
        target: whose bands to use. Bands that the scene does not cover come out unusable (``bands.valid``), as NaN.

    Returns:
        A scene of physical float32 values with the source's quantity, level, GSD, labels and groups; it moves in
        splits with the scene.

    Raises:
        SpecfmError: the two sensors have no range in common.
    """
    wanted = get_row(target).sensor if isinstance(target, str) else target
    if scene.sensor.pretreatment:
        return beneath(scene, lambda light: resample_scene(light, wanted))
    usable_C = np.flatnonzero(scene.sensor.bands.valid)
    seen, matrix_KC = scene.sensor.bands.subset(usable_C).resample(wanted.bands)
    if not seen.valid.any():
        raise SpecfmError(f"{scene.where}: none of the target's bands lies in the range of {scene.sensor.bands!r}")
    source: CubeSource = _Resampled(scene, matrix_KC.astype(np.float32), usable_C)  # type: ignore[assignment]
    sensor = scene.sensor.replace(bands=seen, scale=1.0, offset=0.0, name=wanted.name)
    label = f"{scene.name}@{wanted.name or 'resampled'}"
    return scene.replace(
        source=source, sensor=sensor, name=label, path=None, nodata=None, saturation=None,
        group=scene.group or scene.name,
    )  # fmt: skip
