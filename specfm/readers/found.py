"""What a format reader found in a file, before it is decided what the scene's sensor is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.digests import digest_parts
from specfm.errors import SpecfmError
from specfm.readers.recoded import FilledSource, recode
from specfm.scene import CubeSource, Geo, is_nodata

log = logging.getLogger(__name__)


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
        scene_fields: further fields of the Scene that the file states.
        class_names: names of the classes where the file is a class map and no cube, else None.
        described_by: the file the metadata come from, where it is not ``path`` (a header, a side file).
        gains: gain and offset per band, (C,) each; they win over ``scale`` and ``offset``. See :meth:`settle`.
        calibrated_by: the file that states them, where it is not ``metadata_path``.
        fills_C: (C,) stored value that means "not measured" where bands have different ones, NaN = this band has none.
        fills: further stored values that mean "not measured", besides ``nodata``.
        valid_range: lowest and highest stored value that is a measurement.
        saturation: count from which a value is saturated; it holds where the stored numbers are counts.
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
    pretreatment: tuple[str, ...] = ()
    geo: Geo | None = None
    name: str | None = None
    labels_HW: NDArray[np.int32] | None = None
    label_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    described_by: Path | None = None
    gains: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    calibrated_by: Path | None = None
    fills_C: NDArray[np.float64] | None = None
    fills: tuple[float, ...] = ()
    valid_range: tuple[float, float] | None = None
    saturation: float | None = None
    scene_fields: dict[str, Any] = field(default_factory=dict)

    @property
    def is_scaled(self) -> bool:
        """Whether the file states how stored numbers become physical ones, so that these are no counts."""
        return self.gains is not None or self.scale is not None or self.offset is not None

    def state_nodata(self, stated_C: Sequence[float | None]) -> None:
        """Take nodata as a file states it band by band: one value where all bands agree (NaN equals NaN)."""
        different = {"nan" if value is not None and np.isnan(value) else value for value in stated_C}
        if len(different) == 1:
            self.nodata = stated_C[0]
            return
        log.info("%s: its bands have different nodata values; each is masked by its own", self.path)
        self.fills_C = np.array([np.nan if value is None else value for value in stated_C], np.float64)

    def settle(
        self, scale: float | None, offset: float | None, nodata: float | None
    ) -> tuple[float | None, float | None]:
        """Let what the user says win over the file's nodata and gains, then apply gains that differ between bands.

        ``nodata`` is a stored number, so it must be known before any gain is applied; a scale or an offset said by the
        user takes the place of the gains or the offsets of all bands.

        A limit of counts is dropped where the stored numbers are none.

        Returns:
            Scale and offset to be used with ``source`` from now on; None = the user and the gains say nothing.

        Raises:
            SpecfmError: the gain of a band is zero or not finite, or its offset is not finite.
        """
        if self.saturation is not None and not self.is_scaled:
            self.scene_fields["saturation"] = self.saturation
        if nodata is not None:
            self.nodata, self.fills, self.fills_C = float(nodata), (), None
        if self.fills_C is not None:
            self.source = FilledSource(self.source, self.fills_C)
        if self.fills or self.valid_range is not None:
            self.source, self.nodata = recode(self.source, self.nodata, self.fills, self.valid_range)
        if self.gains is None:
            for name, stated, said in (("scale", self.scale, scale), ("offset", self.offset, offset)):
                if said is None and stated is not None and not (np.isfinite(stated) and (name == "offset" or stated)):
                    raise SpecfmError(
                        f"{self._calibration_path}: states the {name} {stated:g}; correct it, or say --{name}"
                    )
            return scale, offset
        gain_C, offset_C = (
            stated if said is None else np.full(len(stated), float(said))
            for stated, said in zip(self.gains, (scale, offset), strict=True)
        )
        self._refuse_unusable(gain_C, offset_C)
        if np.ptp(gain_C) == 0 and np.ptp(offset_C) == 0 and (gain_C[0] > 0 or scale is not None):
            return float(gain_C[0]), float(offset_C[0])
        self.source = CalibratedSource(self.source, gain_C, offset_C, self.nodata)
        self.nodata = None
        return 1.0, 0.0

    def _refuse_unusable(self, gain_C: NDArray[np.float64], offset_C: NDArray[np.float64]) -> None:
        """Gains of zero make every value alike, numbers that are none make none; in a bad band nobody looks at them."""
        used_C = np.ones(len(gain_C), bool)
        if self.valid is not None and np.shape(self.valid) == used_C.shape:
            used_C = np.asarray(self.valid, bool)
        for name, value_C, bad_C in (
            ("gain", gain_C, (gain_C == 0) | ~np.isfinite(gain_C)),
            ("offset", offset_C, ~np.isfinite(offset_C)),
        ):
            if (bad_C & used_C).any():
                band = int(np.flatnonzero(bad_C & used_C)[0])
                raise SpecfmError(
                    f"{self._calibration_path}: states the {name} {value_C[band]:g} for band "
                    f"{band + 1}; correct it, or say --{'scale' if name == 'gain' else name} for all bands"
                )

    @property
    def _calibration_path(self) -> Path:
        return self.calibrated_by or self.metadata_path

    @property
    def metadata_path(self) -> Path:
        """The file whose metadata these are (a header, or the data file itself)."""
        return self.described_by or self.path


@dataclass(frozen=True)
class CalibratedSource:
    """A cube with a gain and offset of its own in every band; reads as float32, already calibrated.

    A Sensor has one scale for all bands, so per-band calibration is applied on reading. ``nodata`` becomes NaN, and so
    does a pixel stored as zero in all its bands: an offset would make numbers of that fill. Complex numbers stay so.
    """

    inner: CubeSource
    gain_C: NDArray[np.float64]
    offset_C: NDArray[np.float64]
    nodata: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.complex64 if self.inner.dtype.kind == "c" else np.float32)

    @property
    def digest(self) -> str:
        """16 hex digits over what is done to the stored numbers."""
        inner = [own] if (own := getattr(self.inner, "digest", None)) else []
        lists = (np.asarray(v, np.float64) for v in (self.gain_C, self.offset_C))
        return digest_parts([repr(self.nodata), *lists, *inner])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        stored = self.inner.read(rows, cols, bands)
        pick = slice(None) if bands is None else bands
        values = (stored * self.gain_C[pick] + self.offset_C[pick]).astype(self.dtype)
        if self.nodata is not None:
            values[is_nodata(stored, self.nodata)] = np.nan
        if self.offset_C.any():
            values[self._fill(stored, rows, cols, bands)] = np.nan
        return values

    def _fill(
        self, stored: NDArray[Any], rows: range, cols: range, bands: NDArray[np.int64] | None
    ) -> NDArray[np.bool_]:
        """``[h, w]`` True where all bands are zero; the bands that were not asked for are read for rows in doubt."""
        zero_hw = np.asarray(~stored.any(axis=2))
        if self.shape[2] < 2:
            return np.zeros_like(zero_hw)
        if bands is not None:
            for i in np.flatnonzero(zero_hw.any(axis=1)):
                zero_hw[i] &= ~self.inner.read(rows[i : i + 1], cols, None)[0].any(axis=-1)
        return zero_hw
