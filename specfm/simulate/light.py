"""Sunlight and air, smooth and plausible: what turns surface reflectance into what a sensor above the ground sees.

Shapes: L fine wavelengths (``FINE_NM``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specfm.simulate.materials import FINE_NM

SUN_KELVIN = 5778.0
SUN_SOLID_ANGLE = 6.8e-5  # sr, seen from the Earth
# Gaussian stand-ins for the gas bands: centre nm, sigma nm, optical depth at nadir (O2 B and A, H2O, CO2)
GASES = (
    *((687, 2.5, 0.25), (762, 3.0, 1.0), (725, 8.0, 0.12), (820, 10.0, 0.12), (940, 18.0, 0.75), (1130, 18.0, 0.85)),
    *((1268, 5.0, 0.12), (1380, 32.0, 4.5), (1575, 6.0, 0.06), (1605, 6.0, 0.06), (1875, 38.0, 5.0)),
    *((2010, 9.0, 0.5), (2060, 9.0, 0.3), (2600, 90.0, 3.0)),
)


def solar_irradiance() -> NDArray[np.float64]:
    """(L,) irradiance of a 5778 K black body outside the atmosphere, W m-2 um-1."""
    metres = FINE_NM * 1e-9
    planck = 1.191042972e-16 / metres**5 / np.expm1(1.438776877e-2 / (metres * SUN_KELVIN))  # W m-2 sr-1 m-1
    return planck * SUN_SOLID_ANGLE * 1e-6


def transmittance(humidity: float = 1.0, air_mass: float = 2.2) -> NDArray[np.float64]:
    """(L,) share of light that survives the way down and up; ``humidity`` scales the optical depth of all gas bands."""
    depth_L = 0.09 * (FINE_NM / 550.0) ** -4 + 0.06 * (FINE_NM / 550.0) ** -1.2  # molecules, haze
    for centre, sigma, optical_depth in GASES:
        depth_L = depth_L + humidity * optical_depth * np.exp(-0.5 * ((FINE_NM - centre) / sigma) ** 2)
    return np.exp(-air_mass * depth_L)


def path_reflectance() -> NDArray[np.float64]:
    """(L,) reflectance of the air itself, strong in the blue."""
    return 0.045 * (FINE_NM / 450.0) ** -3.6


def detector_response() -> NDArray[np.float64]:
    """(L,) counts per radiance of an uncalibrated sensor: a broad hump, falling to the ends of its range."""
    return 0.25 + np.exp(-0.5 * ((np.log(FINE_NM) - np.log(900.0)) / 0.55) ** 2)
