"""What a report shows of scenes: false colours, labels, and the mean spectrum of every class with its deviation.

Shapes: H W scene pixels, C bands, K classes, n pixels of one class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.report.figures import colour_of, data_uri, new_figure, png_uri

if TYPE_CHECKING:
    from specfm.scene import Scene

ROWS_PER_CLASS = 24  # rows of a scene read for the spectra of one class, spread evenly over those that hold it
SIDE = 600  # largest side of a picture of labels


def scene_view(scene: Scene) -> dict[str, Any]:
    """Pictures, caption and legend of one scene."""
    grid = scene.sensor.bands
    centres = grid.wavelengths_nm[grid.valid]
    height, width, bands = scene.shape
    present = np.unique(scene.labels_HW[scene.labels_HW >= 0]).tolist() if scene.labels_HW is not None else []
    return {
        "name": scene.name,
        "colour": false_colour(scene),
        "labels": label_map(scene),
        "caption": f"{scene.name}: {height} x {width}, {bands} bands, {centres.min():.0f}-{centres.max():.0f} nm",
        "legend": [{"name": scene.label_names[k], "colour": colour_of(k)} for k in present],
    }


def label_map(scene: Scene) -> str | None:
    """Labels of a scene in the colours of its classes (unlabelled transparent), or None."""
    if scene.labels_HW is None:
        return None
    from specfm.rasters.class_map import palette
    from specfm.rasters.quicklook import png_bytes

    labels_HW = np.asarray(scene.labels_HW)
    step = max(1, -(-max(labels_HW.shape) // SIDE))
    labels_HW = labels_HW[::step, ::step]
    colours_K3 = palette(max(len(scene.label_names), int(labels_HW.max()) + 1, 1))
    picture = np.zeros((*labels_HW.shape, 4), np.uint8)
    known = labels_HW >= 0
    picture[known, :3], picture[known, 3] = colours_K3[labels_HW[known]], 255
    enlarge = max(1, 240 // max(picture.shape[:2]))
    return png_uri(png_bytes(picture.repeat(enlarge, 0).repeat(enlarge, 1)))


def false_colour(scene: Scene) -> str:
    """False colours of a scene."""
    from specfm.rasters.quicklook import png_bytes, quicklook

    return png_uri(png_bytes(quicklook(scene)[0]))


class _Moments:
    """Count, sum and sum of squares per band of one class."""

    def __init__(self, bands: int, label: int) -> None:
        self.label = label
        self.count_C, self.sum_C, self.square_C = np.zeros((3, bands))
        self.pixels = 0

    def add(self, spectra_nC: np.ndarray) -> None:
        finite = np.isfinite(spectra_nC)
        values = np.where(finite, spectra_nC, 0).astype(np.float64)
        self.count_C += finite.sum(0)
        self.sum_C += values.sum(0)
        self.square_C += (values**2).sum(0)
        self.pixels += int(finite.any(1).sum())

    def mean_and_deviation(self) -> tuple[np.ndarray, np.ndarray]:
        """``[C]`` each; NaN in bands where nothing was measured."""
        count_C = np.where(self.count_C > 0, self.count_C, np.nan)
        mean_C = self.sum_C / count_C
        return mean_C, np.sqrt(np.maximum(self.square_C / count_C - mean_C**2, 0))


def class_spectra(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """One figure per sensor: mean spectrum and +-1 standard deviation over pixels of every class.

    Reads at most ``ROWS_PER_CLASS`` rows of a scene per class, so scenes of any size take bounded memory.
    """
    by_sensor: dict[str, list[Scene]] = {}
    for scene in scenes:
        if scene.labels_HW is not None:
            by_sensor.setdefault(scene.sensor.digest, []).append(scene)
    found = []
    for mine in by_sensor.values():
        sensor = mine[0].sensor
        moments: dict[str, _Moments] = {}
        for scene in mine:
            _accumulate(scene, moments)
        if any(m.pixels for m in moments.values()):
            name = sensor.name or "unnamed sensor"
            quantity = (sensor.quantity or "stored value").replace("_", " ")
            uri = _spectra_figure(moments, sensor.bands.wavelengths_nm, quantity)
            found.append({"name": f"{name}: {len(mine)} scene{'s' * (len(mine) > 1)}", "uri": uri})
    return found


def _accumulate(scene: Scene, moments: dict[str, _Moments]) -> None:
    labels_HW = scene.labels_HW
    assert labels_HW is not None
    wanted: dict[int, list[int]] = {}
    for label in np.unique(labels_HW[labels_HW >= 0]).tolist():
        rows = np.flatnonzero((labels_HW == label).any(1))
        for row in rows[np.unique(np.linspace(0, len(rows) - 1, ROWS_PER_CLASS).astype(int))]:
            wanted.setdefault(int(row), []).append(label)
    bad_C = ~scene.sensor.bands.valid
    for row, labels in sorted(wanted.items()):
        values_WC = scene.values(slice(row, row + 1))[0]
        values_WC[:, bad_C] = np.nan
        valid_W = scene.mask(slice(row, row + 1))[0]
        values_WC, kept_W = values_WC[valid_W], labels_HW[row][valid_W]
        for label in labels:
            own = moments.setdefault(scene.label_names[label], _Moments(scene.shape[2], label))
            own.add(values_WC[kept_W == label])


def _spectra_figure(moments: dict[str, _Moments], wavelengths_nm: np.ndarray, quantity: str) -> str:
    """A panel per class on shared axes, the mean over classes in grey for comparison."""
    moments = dict(sorted(moments.items(), key=lambda item: item[1].label))
    curves = {name: m.mean_and_deviation() for name, m in moments.items()}
    order = np.argsort(wavelengths_nm, kind="stable")
    x_nm = np.asarray(wavelengths_nm)[order]
    step_nm = np.diff(x_nm)
    typical_nm = float(np.median(step_nm)) if len(step_nm) else 0.0
    # a line over a gap (bands of water vapour left out) would show spectra that nobody measured
    gaps = np.flatnonzero(step_nm > max(8 * typical_nm, 60)) + 1 if len(x_nm) > 20 else np.empty(0, int)
    every_C = np.nanmean([mean_C for mean_C, _ in curves.values()], axis=0)
    columns = min(3, math.ceil(math.sqrt(len(curves))))
    height = -(-len(curves) // columns)
    figure = new_figure(8 if columns > 1 else 5, 1.9 * height + 0.3)
    axes = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)

    def draw(curve_C: np.ndarray) -> np.ndarray:
        return np.insert(curve_C[order], gaps, np.nan)

    x_drawn = np.insert(x_nm, gaps, x_nm[gaps] if len(gaps) else 0)
    for place, axis in enumerate(axes.flat):
        if place >= len(curves):
            axis.set_axis_off()
            continue
        name, (mean_C, deviation_C) = list(curves.items())[place]
        colour = colour_of(moments[name].label)
        marker = "." if len(x_nm) <= 20 else None
        axis.plot(x_drawn, draw(every_C), color="#999999", lw=0.8)
        low, high = draw(mean_C - deviation_C), draw(mean_C + deviation_C)
        axis.fill_between(x_drawn, low, high, color=colour, alpha=0.25, lw=0)
        axis.plot(x_drawn, draw(mean_C), color=colour, lw=1.2, marker=marker)
        axis.set_title(f"{name} ({moments[name].pixels} pixels)", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.supxlabel("wavelength [nm]", fontsize=8)
    figure.supylabel(quantity, fontsize=8)
    return data_uri(figure)
