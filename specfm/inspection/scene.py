"""Look at a scene before trusting it: what it says about itself, and what looks wrong in its numbers.

Everything is measured on a sample of rows whose size is bounded, so a scene of any size can be inspected.
Shapes: r sampled rows, W columns, C bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.inspection.bands import BandStatistics, band_statistics, sample_rows, undeclared_fills
from specfm.objects import ObjectSource, pieces
from specfm.pretreatment import untreated
from specfm.scene import Scene

MOST_UNLABELLED = 0.1  # of the labels of a class that an object mask may take without a word
SAMPLE_BYTES = 64 << 20
CLIPPED_SHARE = 0.01
CLIPPED_PILE = 3.0  # ... and so many times as frequent as the next lower value: data of few levels do not pile up
NEGATIVE_SHARE = 0.01
BRIGHT_REFLECTANCE = 2.0
GAP_SPACINGS = 4.0
SHOWN = (0.05, 0.35, 0.65, 0.95)  # which of the usable bands are shown before and after calibration


@dataclass(frozen=True)
class Finding:
    """Something worth a look: ``kind`` for programs, ``text`` for people, ``bands`` (0-based) where it holds."""

    kind: str
    text: str
    bands: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_scene` found; ``to_dict`` is JSON-safe."""

    scene: dict[str, Any]
    sensor: dict[str, Any]
    coverage: dict[str, Any]
    masks: dict[str, Any]
    values: dict[str, Any]
    findings: tuple[Finding, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        return _json_safe(asdict(self))


def inspect_scene(scene: Scene, sample_bytes: int = SAMPLE_BYTES, given: Scene | None = None) -> Inspection:
    """Describe a scene and look for trouble.

    Args:
        scene: any scene.
        sample_bytes: how much of it is read at most (at least one row is).
        given: what a card makes of it. Stripes are looked for after its calibration, which takes those of a detector
            off, and where it tells objects from background in the background: edges of objects are no stripes.
    """
    height, width, count = scene.shape
    rows = sample_rows(scene.shape, scene.dtype.itemsize, sample_bytes)
    stored = scene.read(rows=rows)
    good = scene.good_of(stored)
    # the stored number that stands for zero: what lies below is physically negative
    zero = -scene.sensor.offset / scene.sensor.scale
    usable = scene.sensor.bands.valid
    fills = undeclared_fills(stored, good, usable)
    measured = good & ~np.logical_or.reduce([*fills.values(), np.zeros(good.shape[:2], bool)])[..., None]
    statistics = band_statistics(stored, measured, zero, every_row=rows.step == 1)
    if given is not None and given is not scene:
        seen = _beneath_objects(given, rows, rows.step == 1)
        statistics = replace(statistics, column_stripes_C=seen.column_stripes_C, row_stripes_C=seen.row_stripes_C)
    pixel_mask = scene.mask_of(stored[:, :, usable])
    findings = [
        *_grid_findings(scene),
        *_dead_findings(scene, good, pixel_mask, filled=bool(stored[:, :, usable].any())),
        *_fill_findings(fills),
        *_value_findings(scene, statistics),
        *_saturated_findings(scene, stored),
        *_unlabelled_findings(scene, given),
    ]
    return Inspection(
        scene={
            "name": scene.name,
            "path": None if scene.path is None else str(scene.path),
            "shape": [height, width, count],
            "dtype": scene.dtype.name,
            "bytes": height * width * count * scene.dtype.itemsize,
            "crs": None if scene.geo is None else scene.geo.crs_wkt,
            "transform": None if scene.geo is None else scene.geo.transform,
            "labels": _labels(scene),
            "group": scene.group,
            "domain": scene.domain,
        },
        sensor={key: getattr(scene.sensor, key) for key in ("name", "quantity", "level", "gsd_m", "scale", "offset")},
        coverage=_coverage(scene),
        masks={
            "nodata": scene.nodata,
            "saturation": scene.saturation,
            "bad_bands": runs(np.flatnonzero(~usable)),
            "valid_pixels": float(pixel_mask.mean()) if pixel_mask.size else 0.0,
            "sampled_rows": len(rows),
        },
        values={
            "low": _reduce(np.nanmin, statistics.low_C[usable]),
            "high": _reduce(np.nanmax, statistics.high_C[usable]),
            "mean": _reduce(np.nanmean, statistics.mean_C[usable]),
        },
        findings=tuple(findings),
    )


def _beneath_objects(given: Scene, rows: range, every_row: bool) -> BandStatistics:
    """Statistics of a scene before its pretreatment, of its background where objects are told from it."""
    scene = untreated(given)
    objects = scene.source
    if isinstance(objects, ObjectSource):
        scene = scene.replace(source=objects.under)
    stored = scene.read(rows=rows)
    good = scene.good_of(stored)
    if isinstance(objects, ObjectSource):
        good = good & ~objects.mask_HW[rows][..., None]
    return band_statistics(stored, good, every_row=every_row)


def inspect_given(measured: Scene, given: Scene, sample_bytes: int = SAMPLE_BYTES) -> dict[str, Any]:
    """What references or a card make of a scan: its physical values, those at a few bands beside the stored ones, and
    where objects are told from background, their share."""
    rows = sample_rows(given.shape, given.dtype.itemsize, sample_bytes)
    usable_c = np.flatnonzero(given.sensor.bands.valid)
    physical = given.values(rows=rows, bands=usable_c)
    found: dict[str, Any] = {
        "quantity": given.sensor.quantity,
        "pretreatment": list(given.sensor.pretreatment),
        **_values(physical),
        "bands": [],
        "objects": None,
    }
    if given.shape == measured.shape and len(usable_c):
        shown_s = np.unique(np.rint(np.array(SHOWN) * (len(usable_c) - 1)).astype(int))
        stored_hWs = measured.read(rows=rows, bands=usable_c[shown_s])
        good_hWs = measured.good_of(stored_hWs)
        for number, place in enumerate(shown_s):
            counts = _values(stored_hWs[..., number][good_hWs[..., number]])
            band, nm = int(usable_c[place]), float(given.sensor.bands.wavelengths_nm[usable_c[place]])
            found["bands"].append(
                {"number": band + 1, "nm": nm, "stored": counts, "given": _values(physical[..., place])}
            )
    source = untreated(given).source
    if isinstance(source, ObjectSource):
        found["objects"] = {"share": float(source.mask_HW.mean()), "pieces": pieces(source.mask_HW)}
    return _json_safe(found)


def _values(values: NDArray[Any]) -> dict[str, float | None]:
    return {"low": _reduce(np.min, values), "high": _reduce(np.max, values), "mean": _reduce(np.mean, values)}


def _coverage(scene: Scene) -> dict[str, Any]:
    grid = scene.sensor.bands
    centres = grid.wavelengths_nm[grid.valid]
    widths = grid.fwhm_nm[grid.valid]
    known = widths[np.isfinite(widths)]
    spacing = np.diff(np.unique(centres))
    return {
        "units": "nm",
        "bands": len(grid),
        "usable": int(grid.valid.sum()),
        "low_nm": _reduce(np.min, centres),
        "high_nm": _reduce(np.max, centres),
        "spacing_nm": _reduce(np.median, spacing),
        "fwhm_nm": None if not len(known) else [float(known.min()), float(np.median(known)), float(known.max())],
        "gaps_nm": [[float(low), float(high)] for low, high in _gaps(np.unique(centres), spacing)],
    }


def _gaps(centres: NDArray[np.float64], spacing: NDArray[np.float64]) -> list[tuple[float, float]]:
    if not len(spacing):
        return []
    wide = np.flatnonzero(spacing > GAP_SPACINGS * np.median(spacing))
    return [(centres[index], centres[index + 1]) for index in wide]


def _grid_findings(scene: Scene) -> list[Finding]:
    grid = scene.sensor.bands
    usable = np.flatnonzero(grid.valid)
    centres = grid.wavelengths_nm[usable]
    step = np.diff(centres)
    findings = []
    main = 1.0 if (step > 0).sum() >= (step < 0).sum() else -1.0
    back = np.flatnonzero(step * main < 0)
    if len(back):
        joins = ", ".join(f"{centres[i]:.1f} -> {centres[i + 1]:.1f} nm" for i in back[:4])
        more = f" and {len(back) - 4} more" if len(back) > 4 else ""
        text = f"wavelengths run backwards at {joins}{more}: detectors overlap there, or the list is not sorted"
        findings.append(Finding("non_monotonic", text, tuple(int(usable[i + 1]) for i in back)))
    if main < 0:
        findings.append(Finding("descending", "wavelengths descend; the order is kept"))
    same = np.flatnonzero(step == 0)
    if len(same):
        text = f"neighbouring bands share their centre: {runs(usable[same + 1])}"
        findings.append(Finding("equal_centres", text, tuple(usable[same + 1].tolist())))
    if not len(usable):
        findings.append(Finding("no_usable_band", "every band is marked bad"))
    if scene.sensor.quantity is None:
        findings.append(Finding("quantity_unknown", "the file does not say what was measured; say it with --quantity"))
    return findings


def _dead_findings(scene: Scene, good: NDArray[np.bool_], pixel_mask: NDArray[np.bool_], filled: bool) -> list[Finding]:
    usable = scene.sensor.bands.valid
    some_C = good.any(axis=(0, 1))
    findings = []
    dead = np.flatnonzero(~some_C & usable)
    if len(dead):
        text = f"no valid value (nodata, NaN or saturated everywhere) in {_bands(dead)}, not marked bad"
        findings.append(Finding("all_nodata", text, tuple(dead.tolist())))
    if good.any() and not filled:
        findings.append(Finding("all_zero", "every sampled value of the usable bands is zero: fill, no measurement"))
    elif good.any() and not pixel_mask.any():
        findings.append(Finding("no_valid_pixel", "no sampled pixel is valid in all usable bands; mark its bad bands"))
    elif not good.any():
        findings.append(Finding("empty", "no sampled value is valid at all"))
    elif pixel_mask.mean() < 0.5:
        findings.append(Finding("mostly_invalid", f"only {pixel_mask.mean():.0%} of the sampled pixels are valid"))
    return findings


def _fill_findings(fills: dict[float, NDArray[np.bool_]]) -> list[Finding]:
    return [
        Finding(
            "fill",
            f"{value:.8g} in every band of {where.mean():.2%} of the sampled pixels looks like fill, no measurement; "
            f"say --nodata {value:.8g}",
        )
        for value, where in fills.items()
    ]


def _value_findings(scene: Scene, statistics: BandStatistics) -> list[Finding]:
    sensor = scene.sensor
    usable = sensor.bands.valid & (statistics.count_C > 0)
    constant = usable & (statistics.low_C == statistics.high_C) & (statistics.count_C > 1)
    clipped = (
        usable & ~constant & (statistics.at_high_C > CLIPPED_SHARE) & (statistics.at_high_C * statistics.count_C > 9)
    )
    clipped &= (statistics.at_high_C > CLIPPED_PILE * statistics.at_next_C) & (statistics.next_C > statistics.low_C)
    negative = usable & (statistics.negative_C > NEGATIVE_SHARE)
    findings = []
    for kind, bands, text in (
        ("constant", constant, "the same value everywhere in {}"),
        (
            "clipped",
            clipped,
            "more than 1 % of the pixels at the highest value (saturated or clipped) in {}",
        ),
        ("negative", negative, "more than 1 % negative values in {}"),
        ("column_stripes", usable & statistics.column_stripes_C, "column stripes in {}"),
        ("row_stripes", usable & statistics.row_stripes_C, "row stripes in {}"),
    ):
        index = np.flatnonzero(bands)
        if len(index):
            findings.append(Finding(kind, text.format(_bands(index)), tuple(index.tolist())))
    if sensor.quantity in ("surface_reflectance", "toa_reflectance") and usable.any():
        level = float(np.nanmedian(statistics.mean_C[usable])) * sensor.scale + sensor.offset
        if level > BRIGHT_REFLECTANCE:
            text = f"mean reflectance is {level:.4g}, which is no reflectance; the scale is missing (--scale 0.0001?)"
            findings.append(Finding("scale_missing", text))
    return findings


def _saturated_findings(scene: Scene, stored: NDArray[Any]) -> list[Finding]:
    if scene.saturation is None or stored.dtype.kind == "c":
        return []
    share_C = np.array([(stored[:, :, band] >= scene.saturation).mean() for band in range(stored.shape[2])])
    index = np.flatnonzero((share_C > 0) & scene.sensor.bands.valid)
    if not len(index):
        return []
    most = f"at most {share_C[index].max():.1%} of pixels"
    text = f"saturation level {scene.saturation:g} reached in {_bands(index)} ({most})"
    return [Finding("saturated", text, tuple(index.tolist()))]


def _unlabelled_findings(scene: Scene, given: Scene | None) -> list[Finding]:
    """Classes that lose a good part of their labels because an object mask takes their pixels for background."""
    before = _labels(scene) or {}
    after = (_labels(given) if given is not None else None) or {}
    lost = {name: (number - after.get(name, 0), number) for name, number in before.items() if name != "unlabelled"}
    if [number for _, number in lost.values()] == [scene.shape[0] * scene.shape[1]]:
        return []  # one label for all of the scan: the mask says where
    told = [f"{gone} of {all_} of {name}" for name, (gone, all_) in lost.items() if gone > MOST_UNLABELLED * all_]
    if not after or not told:
        return []
    listed = ", ".join(told[:6]) + (f" and of {len(told) - 6} more classes" if len(told) > 6 else "")
    text = f"labelled pixels that are no object, and so carry no label: {listed}; look at object in the card"
    return [Finding("labels_off_objects", text)]


def _labels(scene: Scene) -> dict[str, Any] | None:
    if scene.labels_HW is None:
        return None
    found, counts = np.unique(scene.labels_HW, return_counts=True)
    named: dict[str, int] = {}
    for label, number in zip(found.tolist(), counts.tolist(), strict=True):
        name = "unlabelled" if label < 0 else str(label)
        if 0 <= label < len(scene.label_names):
            name = scene.label_names[label]
        named[name] = named.get(name, 0) + number
    return named


def runs(bands: Sequence[int] | NDArray[Any]) -> str:
    """Band indices as numbers from 1, as in cards, in ranges: ``3-7, 12``; at most six are written out."""
    index = np.asarray(bands, np.int64) + 1
    if not len(index):
        return ""
    pieces = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
    shown = [f"{piece[0]}" if len(piece) == 1 else f"{piece[0]}-{piece[-1]}" for piece in pieces[:6]]
    return ", ".join(shown) + (f" and {len(pieces) - 6} more ranges" if len(pieces) > 6 else "")


def _bands(index: NDArray[Any]) -> str:
    return f"band{'s' * (len(index) > 1)} {runs(index)}"


def _reduce(how: Any, values: NDArray[Any]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(how(finite)) if len(finite) else None


def _json_safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
