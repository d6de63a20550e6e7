"""White and dark reference calibration of lab scans, counts to reflectance:

    reflectance = panel * (raw - dark) / t_scan / ((white - dark) / t_white)

Shapes: H W pixels of the scan, C bands; references are [lines, W, C] or any [lines, columns, C].

References are averaged over lines, so a push-broom sensor keeps one value per column and band (its detector elements
differ); where a reference is not as wide as the scan, over columns too. The result is int16 with scale 1e-4, so that
noise about zero stays what it is; beyond -3.2767 and 3.2767 it is cut. What is not good in the raw scan (nodata, not
finite, saturated, all bands zero), or whose white reference is not usable, gets the value :data:`MASKED`, which is the
scene's nodata. A band without a usable white reference in most columns is marked bad instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.calibration.panel import panel_reflectance
from specfm.calibration.references import Reference, read_reference
from specfm.calibration.times import compare_times
from specfm.errors import SpecfmError
from specfm.scene import Scene

log = logging.getLogger(__name__)
SCALE = 1e-4
MASKED = -32768
LARGEST = 32767
# Means of references that are still in use, by how they were read: many scans share one
_MEANS: WeakKeyDictionary[Scene, dict[tuple[float | None, bool, bool], Reference]] = WeakKeyDictionary()
CLEAR = 3.0  # standard errors by which a white reference must exceed the dark one


@dataclass(frozen=True)
class CalibratedSource:
    """A raw cube seen as reflectance, computed for the part that is read."""

    raw: Scene  # says itself which of its values are good
    dark_WC: NDArray[np.float32]  # one row where the references have no columns of their own
    span_WC: NDArray[np.float32]  # counts of a surface that reflects all light; NaN where not usable

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


def calibrate(
    scene: Scene,
    white: Scene,
    dark: Scene | Sequence[Scene],
    saturation: float | None = None,
    reflectance: float | Path = 1.0,
) -> Scene:
    """A scan as reflectance; nothing is read of it before the result is.

    Integration times that the scan and the white reference state (``scene.integration``) are divided out.

    Args:
        scene: raw counts.
        white: reference scan with the same bands, raw counts.
        dark: reference scan with the same bands, raw counts. Of several, each of scan and white gets the one of its own
            integration time.
        saturation: raw value from which a count is saturated, in the references too; default what each states itself
            (a reference: else the scan), never more than the largest of its integer type.
        reflectance: of the white reference panel, 0..1: a number, or a CSV file with the columns ``wavelength_nm`` and
            ``reflectance``.

    Returns:
        The scene with quantity ``surface_reflectance``, level L2, scale 1e-4, int16, nodata -32768. Bands without a
        usable reference are marked bad, and told.

    Raises:
        SpecfmError: references with other bands or of other wavelengths, white nowhere usable, a panel that is not
            known in all bands, dark references that cannot be told apart.
    """
    darks = [dark] if isinstance(dark, Scene) else list(dark)
    for reference, kind in ((white, "white"), *((each, "dark") for each in darks)):
        _refuse_other_bands(scene, reference, kind)
    times = compare_times(scene, white, darks)
    limit = _limit(scene, saturation)
    panel_C = panel_reflectance(reflectance, scene.sensor.bands)
    chosen = (white, darks[times.dark_of_scan], darks[times.dark_of_white])
    if times.note:
        log.log(times.level, "%s: %s", scene.where, times.note)
    light, dark_of_scan, dark_of_white = _read(scene, chosen, saturation)
    span_WC = light.mean_WC - dark_of_white.mean_WC
    usable_WC, why = _judge(span_WC, light, dark_of_scan, dark_of_white)
    bad_C = ~(usable_WC.mean(0) >= 0.5)
    valid_C = scene.sensor.bands.valid
    if (bad_C | ~valid_C).all():
        raise _nothing_usable(scene, white, chosen[2], why["saturated"][:, valid_C])
    told = _told(usable_WC, bad_C, valid_C, why)
    if light.saturated_share > 0:
        told.append(f"{_percent(light.saturated_share)} of its values are saturated and left out")
    if told:
        log.warning("%s: white reference %s: %s", scene.where, white.where, "; ".join(told))
    full_WC = np.where(bad_C, 1.0, np.where(usable_WC, span_WC, np.nan) * times.ratio / panel_C)  # 1: a bad band
    dark_WC = np.where(bad_C, np.nan_to_num(dark_of_scan.mean_WC), dark_of_scan.mean_WC)  # must not mask whole pixels
    rows = (max(len(dark_WC), len(full_WC)), len(bad_C))
    source = CalibratedSource(
        raw=scene.replace(saturation=limit, labels_HW=None, groups_HW=None),
        dark_WC=np.broadcast_to(dark_WC, rows).astype(np.float32),
        span_WC=np.broadcast_to(full_WC, rows).astype(np.float32),
    )
    bands = scene.sensor.bands
    if (bad_C & valid_C).any():
        bands = BandGrid(bands.wavelengths_nm, bands.fwhm_nm, valid_C & ~bad_C)
    sensor = scene.sensor.replace(bands=bands, quantity="surface_reflectance", level="L2", scale=SCALE, offset=0.0)
    return scene.replace(source=source, sensor=sensor, nodata=float(MASKED), saturation=None, integration=None)


def _read(scene: Scene, chosen: tuple[Scene, Scene, Scene], saturation: float | None) -> list[Reference]:
    """White, dark of the scan and dark of the white, each read once; one row for all where columns are not the scan's.

    A limit that only the scan states is that of its sensor, which took the references too.
    """
    width = scene.shape[1]
    read: dict[int, Reference] = {}
    for each in chosen:
        if id(each) in read:
            continue
        own = saturation if saturation is not None else each.saturation
        limit = _limit(each, _limit(scene, None) if own is None else own)
        how = (limit, each.shape[1] == width, each is chosen[0])
        means = _MEANS.setdefault(each, {})
        if how not in means:
            means[how] = read_reference(each, limit, per_column=how[1], light=how[2])
        read[id(each)] = means[how]
    narrow = {f"{each.where} has {each.shape[1]}": None for each in chosen if each.shape[1] not in (1, width)}
    if narrow:
        log.warning(
            "%s: references are not as wide as the scan (%s columns, the scan %d); one value per band is used",
            scene.where, ", ".join(narrow), width,
        )  # fmt: skip
    return [read[id(each)] for each in chosen]


def _judge(
    span_WC: NDArray[np.float64], light: Reference, dark_of_scan: Reference, dark_of_white: Reference
) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.bool_]]]:
    """Which elements have usable references, and which have not for which reason."""
    clear_WC = np.asarray(span_WC > CLEAR * np.sqrt(light.error_WC + dark_of_white.error_WC))
    usable_WC = clear_WC & ~light.dead_WC & np.isfinite(dark_of_scan.mean_WC)
    return usable_WC, {
        "saturated": light.saturated_WC | dark_of_white.saturated_WC | dark_of_scan.saturated_WC,
        "always the same count": light.dead_WC,
        "without data": np.isnan(span_WC) | np.isnan(dark_of_scan.mean_WC),
        "no brighter than the dark": ~clear_WC,
    }


def _limit(scene: Scene, stated: float | None) -> float | None:
    """The raw value from which a scene's counts are saturated: what is stated, and what its type can hold."""
    stated = scene.saturation if stated is None else stated
    largest = float(np.iinfo(scene.dtype).max) if scene.dtype.kind in "iu" else None
    known = [each for each in (stated, largest) if each is not None]
    return min(known) if known else None


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


def _nothing_usable(scene: Scene, white: Scene, dark: Scene, saturated_WC: NDArray[np.bool_]) -> SpecfmError:
    if saturated_WC.any(0).all():
        return SpecfmError(
            f"{scene.where}: white reference {white.where} or dark {dark.where} is saturated in every band; take it "
            "again with a shorter integration time"
        )
    return SpecfmError(f"white reference {white.where} is nowhere brighter than dark {dark.where}; are they swapped?")


def _told(
    usable_WC: NDArray[np.bool_],
    bad_C: NDArray[np.bool_],
    valid_C: NDArray[np.bool_],
    why: dict[str, NDArray[np.bool_]],
) -> list[str]:
    """What to say of bands, and of single elements in other bands, that have no usable reference; numbers from 1."""
    told = []
    left_C = bad_C & valid_C
    reasons = []
    for reason, found_WC in why.items():  # the first that holds in most columns
        mine_C = left_C & (found_WC.mean(0) > 0.5)
        left_C = left_C & ~mine_C
        reasons += [f"{_numbers(mine_C)} ({reason})"] if mine_C.any() else []
    reasons += [f"{_numbers(left_C)} (in most columns)"] if left_C.any() else []
    if reasons:
        told.append(f"bands {', '.join(reasons)} have no usable reference and are marked bad")
    single_WC = ~usable_WC & valid_C & ~bad_C
    if single_WC.any():
        columns, bands = np.asarray(single_WC.any(1)), np.asarray(single_WC.any(0))
        told.append(
            f"single elements are not usable, so their columns are masked (columns {_numbers(columns)}; bands "
            f"{_numbers(bands)})"
        )
    return told


def _numbers(flags: NDArray[np.bool_]) -> str:
    """Where flags are set, as ranges of numbers from 1: ``3-7, 12``; at most six are written out."""
    index = np.flatnonzero(flags) + 1
    runs = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
    shown = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:6]]
    return ", ".join(shown) + (f" and {len(runs) - 6} more ranges" if len(runs) > 6 else "")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
