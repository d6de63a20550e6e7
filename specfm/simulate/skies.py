"""Clear skies: what sun and air do to a reflectance on its way to a sensor, and what a correction believes they did.

Sun and transmittance are those of the Bird simple spectral model (Bird and Riordan, NREL TR-215-2436, 1984) as kept by
pvlib (BSD, ``pvlib.spectrum.spectrl2``), at its 122 wavelengths, made once for a fixed set of conditions. The model
looks from the ground up; what a sensor above needs besides follows from it:

* two-way transmittance of the beam: its own, at the air mass of both ways together (band models do not multiply);
* diffuse transmittance of the way up: that of the way down at the angle of view (reciprocity);
* path radiance: what is scattered up, which of molecules is as much as is scattered down, of haze the share that goes
  backwards; single scattering, the gases of the way down;
* spherical albedo: from the irradiance over a black and over a white ground.

Radiance of a pixel of reflectance r in surroundings of mean reflectance e (as in 6S, Vermote et al., IEEE TGRS 35,
1997): ``(direct * sun + diffuse * sky) * r / (1 - bounce * e) + around * e / (1 - bounce * e) + path``.

Shapes: J skies, L fine wavelengths (``GRID_NM``), M wavelengths of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.simulate.spectra import GRID_NM

SKIES = 512
PER_UM = 1000.0  # W m-2 nm-1 -> W m-2 um-1
# What haze scatters backwards per unit of what it scatters forwards: the model's forward shares at asymmetry 0.65 are
# 0.78 to 0.92, the higher the sun the larger.
BACKWARD = 0.2


@dataclass(frozen=True)
class Conditions:
    """What a sky is made of; each (J,) float64.

    Attributes:
        zenith_deg: of the sun.
        view_deg: of the sensor, from the nadir.
        below: share of the air below the sensor.
        water_cm: precipitable water. ozone_atm_cm.
        pressure_pa: at the ground.
        day: of the year.
        haze: optical depth of aerosol at 500 nm.
        exponent: of its Angstrom law.
        albedo: its single scattering albedo.
    """

    zenith_deg: NDArray[np.float64]
    view_deg: NDArray[np.float64]
    below: NDArray[np.float64]
    water_cm: NDArray[np.float64]
    ozone_atm_cm: NDArray[np.float64]
    pressure_pa: NDArray[np.float64]
    day: NDArray[np.float64]
    haze: NDArray[np.float64]
    exponent: NDArray[np.float64]
    albedo: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Skies:
    """Products of sky and air at the fine wavelengths; each float32 (J, L), radiances in W m-2 sr-1 um-1.

    Attributes:
        direct_JL: radiance of a white pixel lit by the sun alone.
        diffuse_JL: lit by the sky alone.
        around_JL: radiance that white surroundings add through scattering.
        path_JL: that of the air.
        bounce_JL: spherical albedo of the air.
        white_JL: radiance of a white surface without air under this sun: E0 cos(zenith) / pi.
        through_JL: transmittance of the beam, down and up.
    """

    direct_JL: NDArray[np.float32]
    diffuse_JL: NDArray[np.float32]
    around_JL: NDArray[np.float32]
    path_JL: NDArray[np.float32]
    bounce_JL: NDArray[np.float32]
    white_JL: NDArray[np.float32]
    through_JL: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.path_JL)


def draw_conditions(count: int = SKIES) -> Conditions:
    """Conditions evenly spread (Halton points, always the same) over what is flown in: clear, sun above 20 degrees."""
    from scipy.stats import qmc

    u = qmc.Halton(10, scramble=False).random(count + 1)[1:]  # the first point is the corner
    return Conditions(
        zenith_deg=10 + 60 * u[:, 0],
        view_deg=25 * u[:, 1],
        below=0.3 + 0.7 * np.minimum(2 * u[:, 2], 1),  # half from space, half from aeroplanes
        water_cm=0.3 * (5 / 0.3) ** u[:, 3],
        ozone_atm_cm=0.25 + 0.15 * u[:, 4],
        pressure_pa=75_000 + 26_000 * np.sqrt(u[:, 5]),
        day=1 + 364 * u[:, 6],
        haze=0.03 * (0.4 / 0.03) ** u[:, 7],
        exponent=0.6 + 1.1 * u[:, 8],
        albedo=0.85 + 0.13 * u[:, 9],
    )


def believed(true: Conditions, water: float, haze: float) -> Conditions:
    """Conditions as an atmospheric correction estimates them.

    Args:
        true: as they are.
        water: relative error of water vapour, a standard deviation.
        haze: error of the optical depth, a standard deviation; kinds of haze are taken for one in the middle of their
            range.
    """
    from scipy.special import ndtri
    from scipy.stats import qmc

    error = ndtri(qmc.Halton(3, scramble=False).random(len(true.haze) + 1)[1:])
    changed = {
        "water_cm": true.water_cm * np.exp(water * error[:, 0]),
        "haze": np.maximum(true.haze + haze * error[:, 1], 0.0),
        "exponent": np.full_like(true.exponent, 1.14),
        "albedo": np.full_like(true.albedo, 0.92),
    }
    return Conditions(**{f.name: changed.get(f.name, getattr(true, f.name)) for f in fields(true)})


def make_skies(conditions: Conditions) -> Skies:
    """The products of conditions; a fifth of a second for 512.

    Raises:
        SpecfmError: pvlib is not installed.
    """
    sun, view = np.cos(np.radians(conditions.zenith_deg)), np.cos(np.radians(conditions.view_deg))
    # air mass: Kasten and Young 1989
    down, up = 1 / (sun + 0.50572 * (96.07995 - conditions.zenith_deg) ** -1.6364), conditions.below / view

    def model(zenith_deg: NDArray[np.float64], air: NDArray[np.float64], ground: float = 0.0, haze: bool = True) -> Any:
        return _spectrl2(conditions, zenith_deg, air, ground, conditions.haze if haze else np.zeros_like(sun))

    black, white = model(conditions.zenith_deg, down), model(conditions.zenith_deg, down, ground=1.0)
    both = model(conditions.zenith_deg, down + up)
    clean, above = model(conditions.zenith_deg, down, haze=False), model(conditions.view_deg, up)
    beam, extra = black["dni"], black["dni_extra"]
    climb = both["dni"] / np.maximum(beam, 1e-12)  # of the beam, on its way up
    total = beam * sun + black["dhi"]
    # white / black = 1 + bounce / (1 - bounce)
    bounce = 1 - total / np.maximum(beam * sun + white["dhi"], 1e-12)
    hazed = np.maximum(black["dhi"] - clean["dhi"], 0)
    path = conditions.below * (np.minimum(clean["dhi"], black["dhi"]) + BACKWARD * hazed)
    scattered = above["dhi"] / (extra * view)
    products = {
        "direct": beam * sun * climb / np.pi * PER_UM,
        "diffuse": black["dhi"] * climb / np.pi * PER_UM,
        "around": total * scattered / np.pi * PER_UM,
        "path": path / np.pi * PER_UM,
        "bounce": np.where(total > 1e-9, bounce, 0),
        "white": extra * sun / np.pi * PER_UM,
        "through": both["dni"] / extra,
    }
    at_nm = np.asarray(black["wavelength"], np.float64)
    line_LM = np.stack([np.interp(GRID_NM, at_nm, row) for row in np.eye(len(at_nm))], axis=1)
    return Skies(**{f"{name}_JL": (line_LM @ value).T.astype(np.float32) for name, value in products.items()})


def _spectrl2(
    given: Conditions, zenith_deg: NDArray[np.float64], air: NDArray[np.float64], ground: float, haze: NDArray[Any]
) -> Any:
    try:
        from pvlib.spectrum import spectrl2
    except ImportError:
        raise SpecfmError("clear skies need pvlib; install it with pip install 'pvlib>=0.11'") from None
    return spectrl2(
        apparent_zenith=zenith_deg,
        aoi=zenith_deg,
        surface_tilt=0.0,
        ground_albedo=ground,
        surface_pressure=given.pressure_pa,
        relative_airmass=air,
        precipitable_water=given.water_cm,
        ozone=given.ozone_atm_cm,
        aerosol_turbidity_500nm=haze,
        dayofyear=given.day,
        scattering_albedo_400nm=given.albedo,
        alpha=given.exponent,
    )


@lru_cache(maxsize=4)
def standard_skies(water_error: float = 0.08, haze_error: float = 0.03) -> tuple[Skies, Skies]:
    """``SKIES`` skies, and the same as a correction with these errors believes them to be (see :func:`believed`)."""
    true = draw_conditions()
    return make_skies(true), make_skies(believed(true, water_error, haze_error))
