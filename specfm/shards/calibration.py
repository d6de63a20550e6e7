"""White and dark reference calibration of lab scans: reflectance = (raw - dark) / (white - dark).

Shapes: H W pixels of the scan, C bands; references are [lines, W, C] or any [lines, columns, C].

References are averaged over lines, so a push-broom camera keeps one value per column and band (its detector elements
differ); where the reference is not as wide as the scan, over columns too. The result is uint16 with scale 1e-4. Pixels
whose raw value is saturated, or whose white reference is not above the dark one, get the value :data:`MASKED`, which is
the scene's nodata. A band without a usable white reference in most columns is marked bad instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.errors import SpecfmError
from specfm.scene import CubeSource, Scene
from specfm.shards.windows import STRIP_BYTES

log = logging.getLogger(__name__)
SCALE = 1e-4
MASKED = 65535


@dataclass(frozen=True)
class CalibratedSource:
    """A raw cube seen as reflectance, computed for the part that is read."""

    raw: CubeSource
    dark_WC: NDArray[np.float32]  # one row where the reference has no columns of its own
    span_WC: NDArray[np.float32]  # white - dark; NaN where not usable
    saturation: float | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.raw.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint16)

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        stored = self.raw.read(rows, cols, bands)
        columns = np.asarray(cols) if len(self.span_WC) > 1 else np.zeros(1, np.int64)
        dark, span = self.dark_WC[columns], self.span_WC[columns]
        if bands is not None:
            dark, span = dark[:, bands], span[:, bands]
        ratio = (stored.astype(np.float32) - dark) / span
        good = np.isfinite(ratio)
        if self.saturation is not None:
            good &= stored < self.saturation
        scaled = np.clip(np.rint(np.where(good, ratio, 0) / SCALE), 0, MASKED - 1)
        return np.where(good, scaled, MASKED).astype(np.uint16)


def calibrate(scene: Scene, white: Scene, dark: Scene, saturation: float | None = None) -> Scene:
    """A scan as reflectance; nothing is read of it before the result is.

    Args:
        scene: raw counts.
        white, dark: reference scans with the same bands, raw counts.
        saturation: raw value from which a count is saturated; default the scene's own, else its integer type's largest.

    Returns:
        The scene with quantity ``surface_reflectance``, scale 1e-4, uint16, nodata 65535.

    Raises:
        SpecfmError: references with other bands, or white nowhere brighter than dark.
    """
    channels = scene.shape[2]
    for reference, kind in ((white, "white"), (dark, "dark")):
        if reference.shape[2] != channels:
            raise SpecfmError(f"{kind} reference {reference.where} has {reference.shape[2]} bands, the scan {channels}")
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
    source = CalibratedSource(scene.source, dark_WC.astype(np.float32), span_WC.astype(np.float32), limit)
    sensor = scene.sensor.replace(bands=bands, quantity="surface_reflectance", scale=SCALE, offset=0.0)
    return scene.replace(source=source, sensor=sensor, nodata=float(MASKED), saturation=None)


def _mean(reference: Scene, per_column: bool) -> NDArray[np.float64]:
    """Mean over lines [W,C] (or over everything, [1,C]), read in strips."""
    height, width, channels = reference.shape
    total = np.zeros((width, channels))
    step = max(1, STRIP_BYTES // (width * channels * 8))
    for top in range(0, height, step):
        total += reference.read(slice(top, min(top + step, height))).sum(0, dtype=np.float64)
    total /= height
    return total if per_column else total.mean(0, keepdims=True)
