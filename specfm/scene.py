"""Scene: one cube of one sensor with everything known about it; no pixel is read before it is asked for.

Shapes: H rows, W columns, C bands of the scene; h, w, c of the part that is read. Cubes are ``[h, w, c]`` everywhere.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.bands import BandGrid, band_index
from specfm.errors import SpecfmError, UsageError
from specfm.sensor_table import as_sensor
from specfm.sensors import IntegrationTime, Sensor

if TYPE_CHECKING:
    import xarray

Index = slice | int | range
MASK_BYTES = 64 << 20  # about how much of a scene is held while its mask is made


class CubeSource(Protocol):
    """Where the numbers of a scene come from. ``read`` gets resolved ranges and returns native-endian ``[h, w, c]``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers, native byte order."""

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        """The asked-for part, as stored; ``bands`` None means all."""


@dataclass(frozen=True)
class Geo:
    """Where a scene lies: ``crs_wkt`` (WKT or an ``EPSG:n`` name) and the affine ``transform`` in GDAL's order
    (x of the corner, pixel width, row shear, y of the corner, column shear, minus pixel height)."""

    crs_wkt: str | None
    transform: tuple[float, float, float, float, float, float] | None


@dataclass(frozen=True)
class ArraySource:
    """A cube already in memory."""

    cube_HWC: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.cube_HWC.shape  # type: ignore[return-value]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.cube_HWC.dtype.newbyteorder("=")

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        part = self.cube_HWC[_as_slice(rows), _as_slice(cols)]
        part = part if bands is None else part[:, :, bands]
        return np.array(part, dtype=self.dtype, order="C")  # a copy: the caller may write into it


@dataclass(frozen=True, eq=False)
class Scene:
    """A windowed cube ``[H, W, C]`` of one sensor with its masks, labels and place on the ground.

    Attributes:
        source: where the numbers come from.
        sensor: bands (``sensor.bands.valid`` carries the bad-band list), quantity, scale, offset.
        name: a name for messages and reports.
        path: the file read, or None.
        geo: ground reference, or None.
        nodata: stored value that means "not measured", or None.
        saturation: stored value from which a measurement is saturated, or None.
        labels_HW: int32 class per pixel, -1 = unlabelled, or None.
        label_names: name of each class.
        group: what splits must keep together (a plot, a specimen, a flight line).
        groups_HW: int64 group per pixel (a crown id, say), or None.
        domain: name of the domain this scene belongs to in a mixture.
        dataset: name of the dataset card it comes from, which its own name then begins with.
        neighbours: pixels side by side lie side by side on the ground; False for a list of spectra, of which a window
            never shows more than one.
        whole: it shows one specimen and is one sample, whose label its middle pixel carries, valid or not
            (:mod:`specfm.specimens`).
        objects_alone: background was taken out of it (:mod:`specfm.objects`).
        integration: how long light was collected for one frame of counts, or None.

    A pixel is **valid** if, in every usable band, its value is finite, is not ``nodata`` and lies below
    ``saturation``, and if not all its usable bands are exactly zero (fill; asked only of two bands and more). Bands
    that are bad everywhere belong in ``sensor.bands.valid``, where they do not count here.
    """

    source: CubeSource
    sensor: Sensor
    name: str = "scene"
    path: Path | None = None
    geo: Geo | None = None
    nodata: float | None = None
    saturation: float | None = None
    labels_HW: NDArray[np.int32] | None = None
    label_names: tuple[str, ...] = ()
    group: str = ""
    groups_HW: NDArray[np.int64] | None = None
    domain: str = ""
    dataset: str = ""
    neighbours: bool = True
    whole: bool = False
    objects_alone: bool = False
    integration: IntegrationTime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sensor", as_sensor(self.sensor))
        height, width, count = self.shape
        if count != len(self.sensor.bands):
            raise SpecfmError(
                f"{self.where}: the cube has {count} bands but {len(self.sensor.bands)} wavelengths were given; "
                "supply a list with one row per band (--wavelengths file.csv) or a sensor that fits (--sensor NAME)"
            )
        for field, dtype in (("labels_HW", np.int32), ("groups_HW", np.int64)):
            array = getattr(self, field)
            if array is None:
                continue
            if np.shape(array) != (height, width):
                raise SpecfmError(
                    f"{self.where}: {field} has shape {np.shape(array)} but the cube is {height} x {width}"
                )
            given = np.asarray(array)
            numbers = given.astype(dtype, copy=False)
            if given.dtype != dtype and not np.array_equal(numbers, given):
                raise SpecfmError(f"{self.where}: {field} must hold whole numbers (-1 = none), not these {given.dtype}")
            object.__setattr__(self, field, numbers)
        object.__setattr__(self, "label_names", tuple(self.label_names))
        highest = -1 if self.labels_HW is None else int(self.labels_HW.max(initial=-1))
        if self.label_names and highest >= len(self.label_names):
            raise SpecfmError(
                f"{self.where}: labels_HW goes up to {highest} but label_names has {len(self.label_names)} names; name "
                "every class, and mark pixels without one as -1"
            )

    @classmethod
    def from_array(
        cls, cube_HWC: ArrayLike, sensor: Sensor | BandGrid | str, name: str = "array", **fields: Any
    ) -> Scene:
        """A scene over an array ``[H, W, C]`` in memory (not copied); ``sensor`` may be its bands or a known name."""
        cube = np.asarray(cube_HWC)
        if cube.ndim != 3:
            raise SpecfmError(f"{name}: a cube has three axes (rows, columns, bands); got shape {cube.shape}")
        return cls(source=ArraySource(cube), sensor=as_sensor(sensor), name=name, **fields)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers, native byte order."""
        return self.source.dtype

    @property
    def where(self) -> str:
        """How messages call this scene: its file, else its name."""
        return str(self.path) if self.path is not None else self.name

    def refuse_tiles(self, height: int, width: int) -> None:
        """Refuse tiles of so many pixels where pixels side by side are no neighbours on the ground.

        Raises:
            UsageError: a list of spectra, and tiles of more than one pixel.
        """
        if not self.neighbours and (height, width) != (1, 1):
            raise UsageError(
                f"{self.where}: is a list of spectra, which tiles of {height} x {width} pixels would mix; specfm probe "
                "takes them one by one (in Python: downstream.features.extract.extract)"
            )

    def __repr__(self) -> str:
        return f"Scene({self.name!r}, {'x'.join(map(str, self.shape))} {self.dtype}, {self.sensor.bands!r})"

    def replace(self, **changes: Any) -> Scene:
        """A copy with some attributes changed; the numbers stay where they are."""
        return replace(self, **changes)

    def read(self, rows: Index = slice(None), cols: Index = slice(None), bands: ArrayLike | None = None) -> NDArray:
        """Read a window, stored type kept.

        Args:
            rows: a slice with positive step, a range, or a single index (which keeps its axis).
            cols: likewise.
            bands: 0-based indices in the order wanted, a boolean mask of length C, a slice, or None for all.

        Returns:
            ``[h, w, c]``, native byte order; only what was asked for is read where the format allows it.
        """
        height, width, count = self.shape
        row_range = _as_range(rows, height, f"{self.where}: rows")
        col_range = _as_range(cols, width, f"{self.where}: cols")
        chosen = None if bands is None else band_index(bands, count, f"{self.where}: ")
        empty = not row_range or not col_range or (chosen is not None and len(chosen) == 0)
        if empty:
            return np.empty((len(row_range), len(col_range), count if chosen is None else len(chosen)), self.dtype)
        return self.source.read(row_range, col_range, chosen)

    def values(self, rows: Index = slice(None), cols: Index = slice(None), bands: ArrayLike | None = None) -> NDArray:
        """Read a window as physical float32: ``stored * scale + offset``; nodata and saturated values become NaN."""
        stored = self.read(rows, cols, bands)
        if stored.dtype.kind == "c":
            raise SpecfmError(f"{self.where}: complex numbers have no radiometric value; read() gives them as stored")
        bad = ~self.good_of(stored)
        sensor = self.sensor
        physical: NDArray[Any] = stored.astype(np.float32 if stored.dtype.itemsize <= 4 else np.float64)
        if sensor.scale != 1.0 or sensor.offset != 0.0:
            physical = physical * sensor.scale + sensor.offset
        physical = physical.astype(np.float32, copy=False)
        physical[bad] = np.nan
        return physical

    def mask(self, rows: Index = slice(None), cols: Index = slice(None)) -> NDArray[np.bool_]:
        """``[h, w]`` True where the pixel is valid (rule: see the class).

        Reads the usable bands of the window, a block of rows at a time, so memory stays bounded on scenes of any size.
        """
        height, width, count = self.shape
        row_range = _as_range(rows, height, f"{self.where}: rows")
        col_range = _as_range(cols, width, f"{self.where}: cols")
        valid_C = self.sensor.bands.valid
        bands = None if valid_C.all() else np.flatnonzero(valid_C)
        step = max(1, MASK_BYTES // max(1, len(col_range) * count * self.dtype.itemsize))
        mask = np.zeros((len(row_range), len(col_range)), bool)
        for start in range(0, len(row_range), step):
            block = row_range[start : start + step]
            mask[start : start + step] = self.mask_of(self.read(block, col_range, bands))
        return mask

    def mask_of(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """The rule of :meth:`mask` on stored numbers ``[..., c]`` of usable bands already in memory."""
        good: NDArray[np.bool_] = np.asarray(self.good_of(stored).all(axis=-1))
        if not stored.shape[-1]:
            good[...] = False  # without a usable band nothing was measured
        elif stored.shape[-1] >= 2:
            good &= (stored != 0).any(axis=-1)
        return good

    def good_of(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """True where a stored value is finite, not nodata and not saturated; any shape."""
        good: NDArray[np.bool_] = np.ones(stored.shape, bool)
        if stored.dtype.kind in "fc":
            good = np.isfinite(stored)
        if self.nodata is not None:
            good &= ~is_nodata(stored, self.nodata)
        if self.saturation is not None and stored.dtype.kind != "c":
            good &= stored < self.saturation
        return good

    def to_xarray(self) -> xarray.DataArray:
        """Physical values as an xarray DataArray ``(y, x, wavelength)``; reads the whole cube.

        Coordinates: ``wavelength`` (nm), ``fwhm`` and ``good_band`` along it, ``x`` and ``y`` of pixel centres (pixel
        numbers without a ground reference, or where the grid is rotated), ``spatial_ref`` for rioxarray. Attributes:
        ``units`` (of the wavelengths, nm), ``fwhm`` (list, nm), ``crs``, ``quantity``, ``name``.
        """
        import xarray

        height, width, _ = self.shape
        bands = self.sensor.bands
        x_W, y_H = np.arange(width) + 0.5, np.arange(height) + 0.5
        transform = self.geo.transform if self.geo else None
        if transform is not None and transform[2] == transform[4] == 0:
            x_W, y_H = transform[0] + x_W * transform[1], transform[3] + y_H * transform[5]
        coords: dict[str, Any] = {
            "y": y_H,
            "x": x_W,
            "wavelength": ("wavelength", bands.wavelengths_nm, {"units": "nm"}),
            "fwhm": ("wavelength", bands.fwhm_nm, {"units": "nm"}),
            "good_band": ("wavelength", bands.valid),
        }
        attrs: dict[str, Any] = {
            "units": "nm",
            "fwhm": bands.fwhm_nm.tolist(),
            "quantity": self.sensor.quantity or "unknown",
            "crs": (self.geo.crs_wkt if self.geo else None) or "",
        }
        if self.geo is not None:
            reference: dict[str, Any] = {"crs_wkt": self.geo.crs_wkt or "", "spatial_ref": self.geo.crs_wkt or ""}
            if transform is not None:
                reference["GeoTransform"] = " ".join(repr(float(v)) for v in transform)
            coords["spatial_ref"] = ((), 0, reference)
        return xarray.DataArray(
            self.values(), dims=("y", "x", "wavelength"), coords=coords, attrs=attrs, name=self.name
        )


def is_nodata(stored: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """True where a stored number equals ``nodata``, compared in its own type; any shape."""
    value = np.asarray(nodata)
    # -3.4e38 written as text must match its float32; a number that an integer type lacks matches nothing
    if stored.dtype.kind in "fc" or (np.isfinite(value) and np.array_equal(value.astype(stored.dtype), value)):
        return np.asarray(stored == value.astype(stored.dtype))
    return np.zeros(stored.shape, bool)


def _as_slice(index: range) -> slice:
    return slice(index.start, index.stop, index.step)


def _as_range(index: Index, size: int, what: str) -> range:
    """Resolve an index against an axis, refusing what would silently read something else."""
    if isinstance(index, slice):
        resolved = range(*index.indices(size))
    elif isinstance(index, range):
        resolved = index
    else:
        number = operator.index(index)
        number = number + size if number < 0 else number
        resolved = range(number, number + 1)
    if resolved.step < 1:
        raise SpecfmError(f"{what}: step must be positive, got {resolved.step}")
    if resolved and not (resolved[0] >= 0 and resolved[-1] < size):
        raise SpecfmError(f"{what}: {resolved[0]}..{resolved[-1]} lies outside 0..{size - 1}")
    return resolved
