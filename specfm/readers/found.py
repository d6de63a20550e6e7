"""What a format reader found in a file, before it is decided what the scene's sensor is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.scene import CubeSource, Geo
from specfm.sensors import Sensor


@dataclass
class Found:
    """A cube and the metadata its own file states. Everything not stated is None: readers never guess.

    Attributes:
        source: the numbers.
        path: the file that was named.
        wavelengths: (C,) as written, in ``units``; ``units`` None = the file does not say.
        fwhm: (C,) in the same units (``fwhm_units`` where the file states another).
        valid: (C,) True = usable (ENVI ``bbl``).
        labels_HW: index into ``label_names``, where the file has one (spectral libraries: one name per spectrum).
        sensor: a complete sensor, where the file states one (specfm's own scenes); the fields above are then empty.
        scene_fields: further fields of the Scene that the file states.
        class_names: names of the classes where the file is a class map and no cube, else None.
        described_by: the file the metadata come from, where it is not ``path`` (a header, a side file).
    """

    source: CubeSource
    path: Path
    wavelengths: ArrayLike | None = None
    units: str | None = None
    fwhm: ArrayLike | None = None
    fwhm_units: str | None = None
    valid: ArrayLike | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    quantity: str | None = None
    level: str | None = None
    gsd_m: float | None = None
    sensor_name: str | None = None
    geo: Geo | None = None
    name: str | None = None
    labels_HW: NDArray[np.int32] | None = None
    label_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    described_by: Path | None = None
    sensor: Sensor | None = None
    scene_fields: dict[str, Any] = field(default_factory=dict)

    def calibrate(self, gain_C: NDArray[np.float64], offset_C: NDArray[np.float64]) -> None:
        """Take over a calibration per band: as scale and offset where it is the same everywhere, else on reading."""
        if np.ptp(gain_C) == 0 and np.ptp(offset_C) == 0 and gain_C[0] > 0:
            self.scale, self.offset = float(gain_C[0]), float(offset_C[0])
        else:
            self.source = CalibratedSource(self.source, gain_C, offset_C, self.nodata)
            self.scale, self.offset, self.nodata = 1.0, 0.0, None

    @property
    def metadata_path(self) -> Path:
        """The file whose metadata these are (a header, or the data file itself)."""
        return self.described_by or self.path


@dataclass(frozen=True)
class CalibratedSource:
    """A cube with a gain and offset of its own in every band; reads as float32, already calibrated.

    A Sensor has one scale for all bands, so per-band calibration is applied on reading. ``nodata`` becomes NaN.
    """

    inner: CubeSource
    scale_C: NDArray[np.float64]
    offset_C: NDArray[np.float64]
    nodata: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        stored = self.inner.read(rows, cols, bands)
        pick = slice(None) if bands is None else bands
        values = (stored * self.scale_C[pick] + self.offset_C[pick]).astype(np.float32)
        if self.nodata is not None:
            values[stored == self.nodata] = np.nan
        return values
