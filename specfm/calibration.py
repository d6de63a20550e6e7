"""White and dark reference calibration of lab scans: reflectance = (raw - dark) / (white - dark).

Shapes: H W pixels of the scan, C bands; references are [lines, W, C] or any [lines, columns, C].

References are averaged over lines, so a push-broom camera keeps one value per column and band (its detector elements
differ); where the reference is not as wide as the scan, over columns too. The result is int16 with scale 1e-4, so that
noise about zero stays what it is; beyond -3.2767 and 3.2767 it is cut. What is not good in the raw scan (nodata, not
finite, saturated, all bands zero), or whose white reference is not above the dark one, gets the value :data:`MASKED`,
which is the scene's nodata. A band without a usable white reference in most columns is marked bad instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.errors import SpecfmError
from specfm.scene import Scene
from specfm.tiles import STRIP_BYTES

log = logging.getLogger(__name__)
SCALE = 1e-4
MASKED = -32768
LARGEST = 32767


@dataclass(frozen=True)
class CalibratedSource:
    """A raw cube seen as reflectance, computed for the part that is read."""

    raw: Scene  # says itself which of its values are good
    dark_WC: NDArray[np.float32]  # one row where the reference has no columns of its own
    span_WC: NDArray[np.float32]  # white - dark; NaN where not usable

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.raw.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int16)

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        stored = self.raw.read(rows, cols)  # all bands: whether a pixel is fill shows in all of them
        columns = np.asarray(cols) if len(self.span_WC) > 1 else np.zeros(1, np.int64)
        ratio = (stored.astype(np.float32) - self.dark_WC[columns]) / self.span_WC[columns]
        good = np.isfinite(ratio) & self.raw.good_of(stored)
        usable = stored[..., self.raw.sensor.bands.valid]
        if usable.shape[-1] >= 2:
            good &= (usable != 0).any(-1, keepdims=True)
        scaled = np.clip(np.rint(np.where(good, ratio, 0) / SCALE), -LARGEST, LARGEST)
        found = np.where(good, scaled, MASKED).astype(np.int16)
        return found if bands is None else found[..., bands]


def calibrate(scene: Scene, white: Scene, dark: Scene, saturation: float | None = None) -> Scene:
    """A scan as reflectance; nothing is read of it before the result is.

    Args:
        scene: raw counts.
        white, dark: reference scans with the same bands, raw counts.
        saturation: raw value from which a count is saturated; default the scene's own, else its integer type's largest.

    Returns:
        The scene with quantity ``surface_reflectance``, level L2, scale 1e-4, int16, nodata -32768.

    Raises:
        SpecfmError: references with other bands or of other wavelengths, or white nowhere brighter than dark.
    """
    for reference, kind in ((white, "white"), (dark, "dark")):
        _refuse_other_bands(scene, reference, kind)
    per_column = white.shape[1] == dark.shape[1] == scene.shape[1]
    white_WC, dark_WC = _mean(white, per_column), _mean(dark, per_column)
    if not per_column:
        log.warning("%s: references are not as wide as the scan; one value per band is used", scene.where)
    span_WC = white_WC - dark_WC
    span_WC[~(span_WC > 0)] = np.nan
    dead_C = np.isnan(span_WC).mean(0) > 0.5
    if dead_C.all():
        raise SpecfmError(
            f"white reference {white.where} is nowhere brighter than dark {dark.where}; are they swapped?"
        )
    bands = scene.sensor.bands
    if dead_C.any():
        log.warning("%s: %d bands have no usable white reference and are marked bad", scene.where, int(dead_C.sum()))
        span_WC[:, dead_C] = 1.0  # keeps a bad band from masking whole pixels
        bands = BandGrid(bands.wavelengths_nm, bands.fwhm_nm, bands.valid & ~dead_C)
    limit = saturation if saturation is not None else scene.saturation
    if limit is None and scene.dtype.kind in "iu":
        limit = float(np.iinfo(scene.dtype).max)
    raw = scene.replace(saturation=limit, labels_HW=None, groups_HW=None)
    source = CalibratedSource(raw, dark_WC.astype(np.float32), span_WC.astype(np.float32))
    sensor = scene.sensor.replace(bands=bands, quantity="surface_reflectance", level="L2", scale=SCALE, offset=0.0)
    return scene.replace(source=source, sensor=sensor, nodata=float(MASKED), saturation=None)


def _refuse_other_bands(scene: Scene, reference: Scene, kind: str) -> None:
    """Bands must be as many, and each nearer to its own in the scan than half the usual distance between bands."""
    if reference.shape[2] != scene.shape[2]:
        raise SpecfmError(
            f"{kind} reference {reference.where} has {reference.shape[2]} bands, the scan {scene.shape[2]}; give the "
            "reference that was taken with this scan"
        )
    scan_nm, reference_nm = scene.sensor.bands.wavelengths_nm, reference.sensor.bands.wavelengths_nm
    known = np.isfinite(scan_nm) & np.isfinite(reference_nm)
    step_nm = float(np.median(np.abs(np.diff(scan_nm[known])))) if known.sum() > 1 else 1.0
    apart_nm = np.abs(scan_nm - reference_nm)[known]
    if apart_nm.size and apart_nm.max() > max(step_nm / 2, 0.01):
        raise SpecfmError(
            f"{kind} reference {reference.where} has other wavelengths ({np.nanmin(reference_nm):.0f}-"
            f"{np.nanmax(reference_nm):.0f} nm) than the scan ({np.nanmin(scan_nm):.0f}-{np.nanmax(scan_nm):.0f} nm); "
            "give the reference that was taken with this scan"
        )


def _mean(reference: Scene, per_column: bool) -> NDArray[np.float64]:
    """Mean of the good values over lines [W,C] (or over everything, [1,C]), read in strips; NaN where none is good."""
    height, width, channels = reference.shape
    total, count = np.zeros((width, channels)), np.zeros((width, channels))
    step = max(1, STRIP_BYTES // (width * channels * 8))
    for top in range(0, height, step):
        stored = reference.read(slice(top, min(top + step, height)))
        good = reference.good_of(stored)
        total += np.where(good, stored, 0).sum(0, dtype=np.float64)
        count += good.sum(0)
    if not per_column:
        total, count = total.sum(0, keepdims=True), count.sum(0, keepdims=True)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
