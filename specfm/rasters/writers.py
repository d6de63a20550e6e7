"""Rasters written row by row: .npy, ENVI (.hdr + .img) and GeoTIFF; nothing appears under its name until it is whole.

Shapes: H rows, W columns, D values per cell; h rows of one piece. A writer is a context manager: leaving it normally
publishes the file, leaving it by an error removes what was written.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.crs import parse_crs
from specfm.errors import SpecfmError, UsageError
from specfm.files import atomic_write_json, atomic_write_text, publish_file, refuse_existing, temporary_sibling
from specfm.rasters.map_info import format_map_info

if TYPE_CHECKING:
    from specfm.scene import Geo

log = logging.getLogger(__name__)

ENVI_TYPES = {"uint8": 1, "int16": 2, "int32": 3, "float32": 4, "float64": 5, "uint16": 12, "uint32": 13, "int64": 14}
SUFFIXES = (".npy", ".hdr", ".tif", ".tiff")
ClassEntry = tuple[str, tuple[int, int, int]]  # name, (red, green, blue)


def scaled_geo(geo: Geo | None, step: int) -> Geo | None:
    """Geo reference of a grid whose cells are ``step`` x ``step`` pixels of the scene (same upper left corner)."""
    if geo is None or geo.transform is None:
        return geo
    from specfm.scene import Geo

    x0, dx, rx, y0, ry, dy = geo.transform
    return Geo(geo.crs_wkt, (x0, dx * step, rx * step, y0, ry * step, dy * step))


class RasterWriter(ABC):
    """Common part: refuse what exists, write to temporary names, publish on success.

    Args:
        path: final name; its suffix chooses the format in ``open_raster``.
        shape: (H, W, D) of the whole.
        dtype: of the values.
        geo: ground reference, or None.
        band_names: D names, or None.
        nodata: value that marks missing cells (NaN for float), or None.
        facts: JSON-safe facts kept with the raster (checkpoint digest, patch, stride); more may be added to ``facts``
            until the writer is left.
        overwrite: replace an existing file.
        classes: of a map of classes, name and colour of every code from 0; None for measurements.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: Any,
        geo: Geo | None,
        band_names: Sequence[str] | None,
        nodata: float | None,
        facts: dict[str, Any],
        overwrite: bool,
        classes: Sequence[ClassEntry] | None = None,
    ) -> None:
        self.path, self.shape, self.dtype, self.classes = path, shape, np.dtype(dtype), classes
        self.geo, self.nodata, self.facts, self.overwrite = geo, nodata, facts, overwrite
        self.band_names = list(band_names) if band_names is not None else None
        for final in self.targets():
            refuse_existing(final, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = temporary_sibling(path)
        self._next = 0

    def targets(self) -> list[Path]:
        """Every file this writer publishes."""
        return [self.path]

    def write(self, rows_hWD: ArrayLike) -> None:
        """Append rows ``[h, W, D]``, top to bottom."""
        rows = np.ascontiguousarray(rows_hWD, dtype=self.dtype)
        if rows.shape[1:] != self.shape[1:] or self._next + len(rows) > self.shape[0]:
            raise ValueError(f"rows of shape {rows.shape} do not fit {self.shape} at row {self._next}")
        self._write(self._next, rows)
        self._next += len(rows)

    @abstractmethod
    def _write(self, first: int, rows_hWD: NDArray[Any]) -> None:
        """Append checked rows; ``first`` is the number of the first."""

    @abstractmethod
    def _finish(self) -> None:
        """Close and publish."""

    def _abort(self) -> None:
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._next != self.shape[0]:
            self._abort()
            raise SpecfmError(f"{self.path} got {self._next} of {self.shape[0]} rows and was not written")
        if kind is None:
            try:
                self._finish()
            except BaseException:
                self._abort()
                raise
        else:
            self._abort()


class NpyWriter(RasterWriter):
    """``FILE.npy`` [H, W, D] and ``FILE.json`` with the coordinates."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._handle = open(self.temporary, "wb")  # noqa: SIM115  closed by _finish or _abort
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._handle, header)

    def targets(self) -> list[Path]:
        return [self.path, self.path.with_suffix(".json")]

    def _write(self, first: int, rows_hWD: NDArray[Any]) -> None:
        self._handle.write(rows_hWD.tobytes())

    def _finish(self) -> None:
        self._handle.close()
        side = {**self.facts, "shape": list(self.shape), "dtype": str(self.dtype), "band_names": self.band_names}
        if self.geo is not None:
            side["geo"] = {"crs_wkt": self.geo.crs_wkt, "transform": self.geo.transform}
        atomic_write_json(self.path.with_suffix(".json"), side)
        publish_file(self.temporary, self.path, self.overwrite)

    def _abort(self) -> None:
        self._handle.close()
        super()._abort()


class EnviWriter(RasterWriter):
    """``FILE.hdr`` + ``FILE.img``, band-interleaved by pixel; the header is published last."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if self.dtype.name not in ENVI_TYPES:
            raise UsageError(f"ENVI has no data type for {self.dtype}; one of {', '.join(ENVI_TYPES)}")
        self._handle = open(self.temporary, "wb")  # noqa: SIM115  closed by _finish or _abort

    def targets(self) -> list[Path]:
        return [self.path.with_suffix(".hdr"), self.path.with_suffix(".img")]

    def _write(self, first: int, rows_hWD: NDArray[Any]) -> None:
        self._handle.write(rows_hWD.astype(self.dtype.newbyteorder("<"), copy=False).tobytes())

    def _finish(self) -> None:
        self._handle.close()
        header = self.path.with_suffix(".hdr")
        header.unlink(missing_ok=True)  # refused above unless overwriting: no header may stand beside another's data
        publish_file(self.temporary, self.path.with_suffix(".img"), self.overwrite)
        atomic_write_text(header, self._header())

    def _header(self) -> str:
        height, width, depth = self.shape
        kind = "Standard" if self.classes is None else "Classification"
        lines = [
            "ENVI",
            f"description = {{{_braced(json.dumps(self.facts, sort_keys=True))}}}",
            f"samples = {width}", f"lines = {height}", f"bands = {depth}", "header offset = 0",
            f"file type = ENVI {kind}", f"data type = {ENVI_TYPES[self.dtype.name]}", "interleave = bip",
            "byte order = 0",
        ]  # fmt: skip
        if self.classes is not None:
            lookup = ", ".join(str(value) for _, colour in self.classes for value in colour)
            names = ", ".join(_listed(name) for name, _ in self.classes)
            lines += [f"classes = {len(self.classes)}", f"class lookup = {{{lookup}}}", f"class names = {{{names}}}"]
        if self.nodata is not None:
            lines.append(f"data ignore value = {'nan' if math.isnan(self.nodata) else repr(self.nodata)}")
        if self.band_names:
            lines.append("band names = {" + ", ".join(map(_listed, self.band_names)) + "}")
        lines += _place_lines(self.geo, self.path)
        return "\n".join(lines) + "\n"

    def _abort(self) -> None:
        self._handle.close()
        super()._abort()


class TiffWriter(RasterWriter):
    """GeoTIFF through rasterio (extra ``geo``), tiled, deflate."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        try:
            import rasterio
            from rasterio.errors import NotGeoreferencedWarning
            from rasterio.transform import Affine
        except ImportError as exc:
            raise SpecfmError("GeoTIFF needs rasterio; install specfm[geo], or write .npy or .hdr") from exc
        height, width, depth = self.shape
        options: dict[str, Any] = {}
        if self.geo is not None and self.geo.transform is not None:
            options["transform"] = Affine.from_gdal(*self.geo.transform)
        if self.geo is not None and self.geo.crs_wkt:
            options["crs"] = parse_crs(self.geo.crs_wkt)
            if options["crs"] is None:
                log.warning("%s: the coordinate system of the scene is not known, so it is left out", self.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a scene without a place is no mistake
            self._file = rasterio.open(
                self.temporary, "w", driver="GTiff", height=height, width=width, count=depth, dtype=self.dtype.name,
                nodata=self.nodata, interleave="pixel", compress="deflate", BIGTIFF="IF_SAFER", **options,
            )  # fmt: skip
        for band, name in enumerate(self.band_names or (), 1):
            self._file.set_band_description(band, name)
        if self.classes is not None:
            self._file.write_colormap(1, {code: (*colour, 255) for code, (_, colour) in enumerate(self.classes)})

    def targets(self) -> list[Path]:
        return [self.path] if self.classes is None else [self.path, self._names_path]

    @property
    def _names_path(self) -> Path:
        return self.path.with_name(self.path.name + ".aux.xml")

    def _write(self, first: int, rows_hWD: NDArray[Any]) -> None:
        from rasterio.windows import Window

        window = Window(0, first, self.shape[1], len(rows_hWD))  # type: ignore[call-arg]
        self._file.write(rows_hWD.transpose(2, 0, 1), window=window)

    def _finish(self) -> None:
        self._file.update_tags(**{k: json.dumps(v) if not isinstance(v, str) else v for k, v in self.facts.items()})
        self._file.close()
        publish_file(self.temporary, self.path, self.overwrite)
        if self.classes is not None:
            atomic_write_text(self._names_path, _category_names([name for name, _ in self.classes]))

    def _abort(self) -> None:
        self._file.close()
        super()._abort()
        Path(f"{self.temporary}.aux.xml").unlink(missing_ok=True)


def open_raster(
    path: str | Path,
    shape: tuple[int, int, int],
    dtype: Any = "float32",
    *,
    geo: Geo | None = None,
    band_names: Sequence[str] | None = None,
    nodata: float | None = None,
    facts: dict[str, Any] | None = None,
    overwrite: bool = False,
    classes: Sequence[ClassEntry] | None = None,
) -> RasterWriter:
    """A row-by-row writer for ``path``, by its suffix: .npy, .hdr (ENVI), .tif.

    With ``classes`` the raster is a map of codes: a palette and class names in GeoTIFF, ENVI Classification in ENVI.

    Raises:
        UsageError: unknown suffix, or the file exists and ``overwrite`` is false.
    """
    path = Path(path)
    kinds: dict[str, Callable[..., RasterWriter]] = {
        ".npy": NpyWriter,
        ".hdr": EnviWriter,
        ".tif": TiffWriter,
        ".tiff": TiffWriter,
    }
    if path.suffix.lower() not in kinds:
        raise UsageError(f"{path} has no known raster suffix; one of {', '.join(SUFFIXES)}")
    if band_names is not None and len(band_names) != shape[2]:
        raise ValueError(f"{len(band_names)} band names for {shape[2]} bands")
    return kinds[path.suffix.lower()](
        path, shape, dtype, geo, band_names, nodata, dict(facts or {}), overwrite, classes
    )


def refuse_shared_name(path: str | Path, out: str | Path, option: str) -> None:
    """Before any work: two rasters of one result whose files would have the same names.

    Raises:
        UsageError: they differ by their suffix at most; names the ``option`` that chose ``path``.
    """
    if Path(path).with_suffix("") == Path(out).with_suffix(""):
        raise UsageError(f"{path} and {out} would share side files; choose another {option}")


def write_png(path: str | Path, image_HW3: ArrayLike, *, overwrite: bool = False) -> None:
    """Write an RGB or RGBA image (float 0..1 or uint8) as PNG."""
    import io

    from specfm.files import atomic_write_bytes

    try:
        import matplotlib.image
    except ImportError as exc:
        raise SpecfmError(f"{path} needs matplotlib; install specfm[viz]") from exc
    path = Path(path)
    refuse_existing(path, overwrite)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, np.asarray(image_HW3), format="png")
    atomic_write_bytes(path, buffer.getvalue())


def stretch(image_HWK: ArrayLike, low: float = 2.0, high: float = 98.0) -> NDArray[np.float32]:
    """Scale each channel to 0..1 between two percentiles of its finite values; missing values become mid grey."""
    image = np.asarray(image_HWK, np.float32)
    out = np.full(image.shape, 0.5, np.float32)
    for k in range(image.shape[-1]):
        finite = np.isfinite(image[..., k])
        if finite.any():
            a, b = np.percentile(image[..., k][finite], [low, high])
            scaled = (image[..., k] - a) / (b - a) if b > a else np.full(image.shape[:-1], 0.5)
            out[..., k] = np.where(finite, np.clip(scaled, 0, 1), 0.5)
    return out


def _braced(text: str) -> str:
    """Text that may stand inside ENVI braces."""
    return text.replace("{", "(").replace("}", ")").replace("\n", " ")


def _listed(text: str) -> str:
    """Text that may stand in an ENVI list."""
    return _braced(text).replace(",", " ")


def _category_names(names: Sequence[str]) -> str:
    """Class names as GDAL's side file (``.aux.xml``), which QGIS and gdalinfo show; GeoTIFF itself has no place."""
    from xml.sax.saxutils import escape

    rows = "".join(f"      <Category>{escape(name)}</Category>\n" for name in names)
    return (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{rows}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )


def _place_lines(geo: Geo | None, where: Path) -> list[str]:
    """``map info`` and ``coordinate system string`` of a grid; a warning where ENVI has no words for its transform."""
    if geo is None:
        return []
    info = format_map_info(geo)
    if info is None and geo.transform is not None:
        log.warning("%s: its grid is sheared, which an ENVI header cannot say; write .tif to keep its place", where)
    lines = [] if info is None else [f"map info = {{{info}}}"]
    if geo.crs_wkt:
        lines.append(f"coordinate system string = {{{_braced(_as_wkt(geo.crs_wkt))}}}")
    return lines


def _as_wkt(crs: str) -> str:
    """WKT of a coordinate system that may be given by name (``EPSG:32617``), where rasterio is there to say it."""
    if "[" in crs:
        return crs
    system = parse_crs(crs)
    return crs if system is None else str(system.to_wkt())
