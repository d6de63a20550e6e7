"""What a caller hands over becomes a Scene: arrays and tensors with their sensor, xarray, a mapping of image and bands.

Shapes: H rows, W columns, C bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from specfm.sensors import Sensor

BAND_AXES = ("wavelength", "wavelengths", "band", "bands", "channel")
IMAGES, CENTRES = ("image", "cube", "data"), ("wavelengths_nm", "wavelengths", "wavelength", "wvs")


def as_scene(given: Any, sensor: Sensor | BandGrid | str | None) -> Scene:
    """The scene itself, or one over what is given.

    Args:
        given: a Scene; an (H, W, C) array or tensor with its ``sensor``; an xarray DataArray of two axes and one of
            bands; a mapping of ``image`` (H, W, C or C, H, W) and ``wavelengths_nm``, or ``wavelengths`` with their
            ``units``; or a list of spectra: an (N, C) array, or a pandas DataFrame with a row for each whose columns
            are bands, called by their wavelength and unit (``450 nm``) where no ``sensor`` says them.
        sensor: of an array; of the others it wins over what they say.

    Raises:
        SpecfmError: anything else, an array without a sensor, a Scene with one, wavelengths without units.
    """
    if isinstance(given, Scene):
        if sensor is not None:
            raise SpecfmError("a Scene carries its own sensor; use scene.replace(sensor=...) to change it")
        return given
    if isinstance(given, Mapping):
        return _of_mapping(given, sensor)
    if hasattr(given, "dims") and hasattr(given, "coords"):
        return _of_xarray(given, sensor)
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):
        return _of_table(given, sensor)
    if not isinstance(given, np.ndarray | Tensor):
        raise UsageError(
            f"features are taken of a Scene, an (H, W, C) array or tensor, spectra (N, C), an xarray DataArray, a "
            "DataFrame of spectra or a mapping of image and wavelengths_nm, not of a "
            f"{type(given).__name__}; open a file by specfm.read_scene(path), wrap a list in numpy.array"
        )
    if sensor is None:
        raise UsageError("an array does not say what was measured; pass sensor= (a Sensor, BandGrid or known name)")
    cube = _numbers(given)
    count = len(_bands(sensor))
    if cube.ndim == 3 and cube.shape[2] != count == cube.shape[0]:
        raise SpecfmError(
            f"an array of shape {cube.shape} has its {count} bands first; bands go last: moveaxis(x, 0, -1)"
        )
    return _spectra(cube, sensor) if cube.ndim == 2 else Scene.from_array(cube, sensor)


def _spectra(spectra_NC: np.ndarray, sensor: Sensor | BandGrid | str) -> Scene:
    return Scene.from_array(spectra_NC[:, None], sensor, neighbours=False, name="spectra")


def _of_table(given: Any, sensor: Sensor | BandGrid | str | None) -> Scene:
    from specfm.readers.names import from_names

    if sensor is None:
        names = [str(name) for name in given.columns]
        told = from_names("columns", names)
        if told is None or told.centres_C is None or told.units is None:
            raise UsageError(
                "a DataFrame of spectra has bands as columns, called by wavelength and unit (450 nm); call them so, or "
                "pass sensor= (a Sensor, BandGrid or known name)"
            )
        sensor = BandGrid.from_units(told.centres_C, told.units, told.fwhm_C)
    try:
        spectra_NC = given.to_numpy(dtype=np.float32)
    except (TypeError, ValueError):
        raise UsageError("a DataFrame of spectra holds numbers alone; pick the columns that are bands") from None
    return _spectra(spectra_NC, sensor)


def _numbers(given: Any) -> np.ndarray:
    if isinstance(given, Tensor):
        numbers = given.detach().cpu()
        return (numbers if numbers.dtype.itemsize > 2 or not numbers.is_floating_point() else numbers.float()).numpy()
    return np.asarray(given)


def _bands(sensor: Sensor | BandGrid | str) -> BandGrid:
    from specfm.sensor_table import as_sensor

    return as_sensor(sensor).bands


def _of_mapping(given: Mapping[str, Any], sensor: Sensor | BandGrid | str | None) -> Scene:
    image = next((given[name] for name in IMAGES if name in given), None)
    if image is None:
        raise SpecfmError(f"a mapping with {', '.join(map(str, given))} has no image; name the cube 'image'")
    name = next((name for name in CENTRES if name in given), None)
    if sensor is None:
        if name is None:
            raise SpecfmError("a mapping does not say what was measured; add wavelengths_nm, or pass sensor=")
        sensor = _grid(given[name], given.get("fwhm_nm", given.get("fwhm")), _units(name, given.get("units")))
    cube, count = _numbers(image), len(_bands(sensor))
    if cube.ndim != 3 or count not in (cube.shape[0], cube.shape[2]):
        raise SpecfmError(f"an image of shape {cube.shape} has no axis of {count} bands, first or last")
    if cube.shape[0] == cube.shape[2]:
        raise SpecfmError(f"of an image of shape {cube.shape} nobody knows which axis is that of bands; pass an array")
    return Scene.from_array(cube if cube.shape[2] == count else np.moveaxis(cube, 0, -1), sensor)


def _of_xarray(given: Any, sensor: Sensor | BandGrid | str | None) -> Scene:
    axis = next((name for name in BAND_AXES if name in given.dims), None)
    if axis is None or len(given.dims) != 3:
        raise SpecfmError(
            f"a DataArray with the axes {', '.join(map(str, given.dims))} has no two axes and one of bands; call it "
            "wavelength"
        )
    if sensor is None:
        centres = next((given.coords[name] for name in ("wavelength", axis) if name in given.coords), None)
        if centres is None:
            raise SpecfmError("a DataArray without a coordinate wavelength does not say its bands; pass sensor=")
        units = centres.attrs.get("units") or given.attrs.get("units")
        fwhm = given.coords["fwhm"].values if "fwhm" in given.coords else None
        grid = _grid(centres.values, fwhm, _units("wavelength", units))
        if "good_band" in given.coords:
            grid = BandGrid(grid.wavelengths_nm, grid.fwhm_nm, np.asarray(given.coords["good_band"].values, bool))
        quantity = given.attrs.get("quantity")
        known = quantity in ("dn", "radiance", "toa_reflectance", "surface_reflectance")
        sensor = Sensor(grid, quantity if known else None)
    name = given.name if isinstance(given.name, str) else "array"
    return Scene.from_array(given.transpose(..., axis).values, sensor, name=name)


def _units(name: str, stated: Any) -> str:
    """The unit of wavelengths: by their name, or as stated.

    Raises:
        SpecfmError: neither.
    """
    if name.endswith("_nm"):
        return "nm"
    if not stated:
        raise SpecfmError(
            f"the coordinate or key {name} states no units, which are never guessed; call it wavelengths_nm, state "
            "units, or pass sensor="
        )
    return str(stated)


def _grid(centres: Any, fwhm: Any, units: str) -> BandGrid:
    widths = None if fwhm is None else np.asarray(_numbers(fwhm), np.float64)
    return BandGrid.from_units(np.asarray(_numbers(centres), np.float64), units, widths)
