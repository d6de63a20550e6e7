"""Surfaces as a sensor sees them: light, shadow, air, gains and noise of the sensor, and the correction of the air.

Shapes: N samples, P pixels of a window, K materials of a window, L fine wavelengths, C bands, R rows seen at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from specfm.config import Strict
from specfm.simulate.draws import FIELD_SCALES, Draws, normals
from specfm.simulate.responses import Responses
from specfm.simulate.skies import Skies
from specfm.simulate.surfaces import Surfaces

F32 = NDArray[np.float32]
SIDES = 3  # streams of random numbers: 3 and on, one per side
LEVEL_OF = {"radiance": "L1", "toa_reflectance": "L1", "surface_reflectance": "L2"}
REFERENCE = 0.3  # reflectance of the target at which an SNR is stated, under the mean of the skies
READOUT = 0.1  # of the noise variance at the reference in the median band does not come from light
KNOTS = 8  # of a smooth gain error
DARK = 0.1  # transmittance, down and up, below which a band of a reflectance product is bad
LOWEST, HIGHEST = -0.2, 2.0  # what a reflectance product holds


class SensorErrors(Strict):
    """What a sensor and its calibration do wrong, and how light falls.

    Attributes:
        snr: range of the signal-to-noise ratio of the median band at 30 % reflectance, drawn log-evenly. Noise of
            other bands and brightnesses follows from their light: photons and a floor.
        gain: relative deviation of a calibration error that is smooth over wavelength.
        band_gain: the same of each band for itself.
        stripes: the same of the columns of a push-broom scanner, each band for itself.
        shadow: chance that a shadow falls into a window.
        light: relative deviation of a window's illumination, by slope and height of the sun.
        relief: the same within a window.
    """

    snr: tuple[float, float] = (60.0, 600.0)
    gain: float = Field(default=0.02, ge=0)
    band_gain: float = Field(default=0.004, ge=0)
    stripes: float = Field(default=0.0, ge=0)
    shadow: float = Field(default=0.2, ge=0, le=1)
    light: float = Field(default=0.12, ge=0)
    relief: float = Field(default=0.04, ge=0)

    @field_validator("snr")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"a range of positive ratios, the lower first, got {value[0]:g} to {value[1]:g}")
        return value


@dataclass(frozen=True, eq=False)
class Reference:
    """What noise and dark bands of a sensor are judged by; each (C,).

    Attributes:
        photons_C: variance of the noise per radiance, in units of that of the median band at the reference.
        floor_C: radiance that is one such unit of light.
        bright_C: bool, the air is not dark there.
        hats_CK: interpolates a smooth error from its knots.
    """

    photons_C: F32
    floor_C: F32
    bright_C: NDArray[np.bool_]
    hats_CK: F32


@lru_cache(maxsize=512)
def reference(seen_by: Responses, skies: Skies) -> Reference:
    """The reference of a sensor under these skies (kept)."""
    mean_L = REFERENCE * (skies.direct_JL + skies.diffuse_JL + skies.around_JL).mean(0) + skies.path_JL.mean(0)
    radiance_C = seen_by.matrix_CL @ mean_L
    through_C = seen_by.matrix_CL @ np.median(skies.through_JL, axis=0)
    valid_C = seen_by.bands.valid
    light_C = seen_by.centre_nm_C * seen_by.width_nm_C  # photons per radiance
    photons_C = light_C / np.median((light_C * radiance_C)[valid_C])
    centre_C = seen_by.centre_nm_C
    place_C = (centre_C - centre_C.min()) / max(float(np.ptp(centre_C)), 1.0) * (KNOTS - 1)
    hats_CK = np.maximum(1 - np.abs(place_C[:, None] - np.arange(KNOTS)), 0)
    return Reference(
        ((1 - READOUT) * photons_C).astype(np.float32),
        (1 / photons_C).astype(np.float32),
        through_C > DARK,
        hats_CK.astype(np.float32),
    )


class View:
    """How one sensor sees samples of a step. All light is random, drawn by the side's own stream.

    Args:
        seen_by: the sensor.
        quantity: radiance (W m-2 sr-1 um-1), toa_reflectance or surface_reflectance.
        skies: true ones.
        believed: as the correction believes, in the same order.
        errors: of the sensor; None: neither noise nor errors, and light as it comes.
    """

    def __init__(
        self, seen_by: Responses, quantity: str, skies: Skies, believed: Skies, errors: SensorErrors | None
    ) -> None:
        self.seen_by, self.quantity, self.errors = seen_by, quantity, errors
        self.skies, self.believed = skies, believed
        self.reference = reference(seen_by, skies)
        self.valid_C = seen_by.bands.valid
        if quantity == "surface_reflectance":
            self.valid_C = self.valid_C & self.reference.bright_C

    def see(self, surfaces: Surfaces, seed: int, step: int, numbers: Sequence[int], side: int) -> F32:
        """x_NPC float32 of the samples; 0 in bands that are not valid."""
        errors = self.errors or SensorErrors(shadow=0, light=0, relief=0)
        draws = Draws(seed, SIDES + side, step, numbers)
        sky_N = draws.integer(len(self.skies))
        lit_NP2 = self._lit(draws, errors, surfaces.weights_NPK.shape[1])
        rows_NRC = self._rows(surfaces, sky_N)
        count = 2 * surfaces.weights_NPK.shape[2] + 1
        gain_place_N, noise_place_N, stripe_place_N = draws.uniform(), draws.uniform(), draws.uniform()
        snr_N = draws.between(*errors.snr, log=True)
        sun_NPK = surfaces.weights_NPK * lit_NP2[:, :, :1]
        sky_NPK = surfaces.weights_NPK * lit_NP2[:, :, 1:]
        mixed_NPR = np.concatenate([sun_NPK, sky_NPK, np.ones_like(sun_NPK[:, :, :1])], axis=2)
        x_NPC = np.empty((len(numbers), mixed_NPR.shape[1], len(self.valid_C)), np.float32)
        for n, x_PC in enumerate(x_NPC):  # one at a time: it stays in the cache, and no sample sees another
            signal_RC, correction_RC = rows_NRC[n, :count], rows_NRC[n, count:]
            if self.errors is None:
                np.matmul(mixed_NPR[n], signal_RC, out=x_PC)
            else:
                np.matmul(mixed_NPR[n], signal_RC * self._gains(gain_place_N[n], errors), out=x_PC)
                if errors.stripes:
                    x_PC *= self._stripes(stripe_place_N[n], errors.stripes, len(x_PC))
                self._add_noise(x_PC, snr_N[n], noise_place_N[n])
            self._correct(x_PC, correction_RC)
        x_NPC[..., ~self.valid_C] = 0
        return x_NPC

    def _lit(self, draws: Draws, errors: SensorErrors, pixels: int) -> F32:
        """lit_NP2: direct sun and sky at each pixel, 1 = a level plane in the open."""
        side = round(pixels**0.5)
        slope_N = np.exp(errors.light * draws.normal())[:, None, None]
        relief_NHW = errors.relief * draws.window(side, draws.integer(len(FIELD_SCALES)))
        # the edge of a shadow: a smooth field cut at a random height, more or less sharply
        edge_NHW = (
            draws.window(side, 2 + draws.integer(len(FIELD_SCALES) - 2)) - draws.between(-0.5, 1.0)[:, None, None]
        )
        sharp_N, depth_N = draws.between(2, 20, log=True), draws.between(0.3, 1.0)
        falls_N = draws.uniform() < errors.shadow
        dark_NHW = (falls_N * depth_N)[:, None, None] / (1 + np.exp(-sharp_N[:, None, None] * edge_NHW))
        sun_NHW = slope_N * np.maximum(1 + relief_NHW, 0.1) * (1 - dark_NHW)
        lit = np.stack([sun_NHW, 1 - 0.3 * dark_NHW], axis=-1)
        return lit.reshape(len(lit), pixels, 2).astype(np.float32)

    def _rows(self, surfaces: Surfaces, sky_N: NDArray[np.int64]) -> F32:
        """rows_NRC: each material lit by the sun, by the sky; the air with the surroundings; then the correction's."""
        skies, believed, around_NL = self.skies, self.believed, surfaces.around_NL
        again_NL = 1 / (1 - skies.bounce_JL[sky_N] * around_NL)
        materials_NKL = surfaces.reflectance_NKL
        rows: list[NDArray[Any]] = [
            materials_NKL * (skies.direct_JL[sky_N] * again_NL)[:, None],
            materials_NKL * (skies.diffuse_JL[sky_N] * again_NL)[:, None],
            (skies.around_JL[sky_N] * around_NL * again_NL + skies.path_JL[sky_N])[:, None],
        ]
        if self.quantity == "toa_reflectance":
            rows.append(skies.white_JL[sky_N][:, None])
        if self.quantity == "surface_reflectance":
            white_NL = believed.direct_JL[sky_N] + believed.diffuse_JL[sky_N] + believed.around_JL[sky_N]
            rows.append(np.stack([white_NL, believed.path_JL[sky_N], believed.bounce_JL[sky_N]], axis=1))
        rows_NRL = np.concatenate(rows, axis=1, dtype=np.float32)
        count, depth, fine = rows_NRL.shape
        # compressed rows times columns: each number is a sum in the same order however many columns there are
        seen_CM = self.seen_by.matrix_CL @ np.ascontiguousarray(rows_NRL.reshape(count * depth, fine).T)
        return np.ascontiguousarray(seen_CM.T).reshape(count, depth, -1)

    def _gains(self, place: float, errors: SensorErrors) -> F32:
        """(C,) factors near 1."""
        drawn = normals(place, KNOTS + len(self.valid_C))
        smooth_C = self.reference.hats_CK @ drawn[:KNOTS]
        return 1 + np.float32(errors.gain) * smooth_C + np.float32(errors.band_gain) * drawn[KNOTS:]

    def _stripes(self, place: float, strength: float, pixels: int) -> F32:
        """(P, C) factors, alike along a column of the window."""
        side, bands = round(pixels**0.5), len(self.valid_C)
        column_WC = 1 + np.float32(strength) * normals(place, side * bands).reshape(side, bands)
        return np.tile(column_WC, (side, 1))

    def _add_noise(self, x_PC: F32, snr: float, place: float) -> None:
        """Noise variance grows as the light, above a floor: SNR is ``snr`` at the reference in the median band."""
        spread_PC = x_PC * self.reference.photons_C
        spread_PC += np.float32(READOUT)
        np.maximum(spread_PC, np.float32(0), out=spread_PC)
        np.sqrt(spread_PC, out=spread_PC)
        spread_PC *= self.reference.floor_C * np.float32(1 / snr)
        spread_PC *= normals(place, x_PC.size).reshape(x_PC.shape)
        x_PC += spread_PC

    def _correct(self, x_PC: F32, rows_RC: F32) -> None:
        """From radiance to the quantity, in place."""
        if self.quantity == "radiance":
            return
        white_C = np.maximum(rows_RC[0], np.float32(1e-6))
        if self.quantity == "toa_reflectance":
            x_PC *= 1 / white_C
        else:  # y = (L - path) / white, r = y / (1 + bounce y)
            x_PC -= rows_RC[1]
            x_PC *= 1 / white_C
            again_PC = x_PC * rows_RC[2]
            again_PC += np.float32(1)
            x_PC /= np.maximum(again_PC, np.float32(0.2), out=again_PC)
        np.minimum(x_PC, np.float32(HIGHEST), out=x_PC)
        np.maximum(x_PC, np.float32(LOWEST), out=x_PC)
