"""Maps of classes: codes with names and colours, written row by row, and a picture with its legend beside.

Code 0 is "no data" in every format, classes are 1..K: classic ground truth and ENVI count that way.
Shapes: H rows, W columns of the map; h rows of one piece; K classes.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.errors import SpecfmError, UsageError
from specfm.files import atomic_write_bytes
from specfm.rasters.figure import plain_figure
from specfm.rasters.quicklook import Thinned, enlarged
from specfm.rasters.writers import open_raster

if TYPE_CHECKING:
    from specfm.scene import Geo


NO_DATA = "no data"
MOST_CLASSES = 255  # codes are bytes
CHANGE_COLOURS = ((200, 200, 200), (213, 94, 0))  # unchanged, changed
# Okabe & Ito 2008 (told apart by the colour-blind), then further hues at the golden angle.
_FIRST = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66))


def palette(count: int) -> NDArray[np.uint8]:
    """``count`` colours ``[K, 3]``, none black or white, the first ones easiest to tell apart."""
    colours = list(_FIRST[:count])
    for index in range(len(colours), count):
        hue, value = (index * 0.618034) % 1.0, (0.85, 0.6, 0.95)[index % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, (0.75, 0.45)[index // 3 % 2], value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return np.array(colours, np.uint8).reshape(-1, 3)


@dataclass(frozen=True)
class Legend:
    """Names and colours of classes 1..K; code 0 is added by the writers as "no data", black.

    Raises:
        UsageError: no class, or more than a byte can tell apart.
    """

    names: tuple[str, ...]
    colours_K3: NDArray[np.uint8]

    @classmethod
    def of(cls, names: Sequence[str], colours_K3: ArrayLike | None = None) -> Legend:
        """A legend with the default colours, or with those given."""
        if not 1 <= len(names) <= MOST_CLASSES:
            raise UsageError(f"a map of {len(names)} classes cannot be written; 1 to {MOST_CLASSES} are possible")
        colours = palette(len(names)) if colours_K3 is None else np.asarray(colours_K3, np.uint8)
        return cls(tuple(str(name) for name in names), colours)

    def with_no_data(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Name and colour of every code, from 0."""
        colours = [(int(r), int(g), int(b)) for r, g, b in self.colours_K3]
        return [(NO_DATA, (0, 0, 0)), *zip(self.names, colours, strict=True)]


class ClassMapWriter:
    """Writes codes to a raster and, thinned, to a picture with a legend; both or neither appear.

    Args:
        path: ``.tif`` (palette, names in tags and in ``.aux.xml``), ``.hdr`` (ENVI Classification) or ``.npy``.
        shape_HW: of the map.
        legend: names and colours.
        geo: ground reference, or None.
        facts: JSON-safe facts kept with the raster.
        preview: also write a PNG of the same name.
        overwrite: replace existing files.

    Raises:
        UsageError: unknown suffix, or a file exists.
    """

    def __init__(
        self,
        path: str | Path,
        shape_HW: tuple[int, int],
        legend: Legend,
        *,
        geo: Geo | None = None,
        facts: dict[str, Any] | None = None,
        preview: bool = True,
        overwrite: bool = False,
    ) -> None:
        self.legend = legend
        self.preview = Path(path).with_suffix(".png") if preview else None
        if self.preview is not None:
            require_matplotlib(self.preview)
        self._counts = np.zeros(MOST_CLASSES + 1, np.int64)
        self._picture = Thinned(shape_HW, 1)
        self._next = 0
        facts = {**(facts or {}), "classes": dict(enumerate(name for name, _ in legend.with_no_data()))}
        self._raster = open_raster(
            path, (*shape_HW, 1), "uint8", geo=geo, band_names=["class"], nodata=0, facts=facts,
            overwrite=overwrite, classes=legend.with_no_data(),
        )  # fmt: skip
        if self.preview is not None and self.preview.exists() and not overwrite:
            error = UsageError(f"{self.preview} exists; choose another --out, or pass --overwrite or --no-preview")
            self.__exit__(UsageError, error, None)
            raise error

    def write(self, codes_hW: ArrayLike) -> None:
        """Append rows of codes 0..K."""
        codes = np.asarray(codes_hW, np.uint8)
        self._raster.write(codes[..., None])
        self._picture.add(self._next, codes[..., None])
        self._counts += np.bincount(codes.ravel(), minlength=len(self._counts))
        self._next += len(codes)

    def tell(self, **facts: Any) -> None:
        """Further facts to keep with the raster, found while it is made."""
        self._raster.facts |= facts

    def shares(self) -> dict[str, float]:
        """Share of every class among the pixels with data, most frequent first."""
        counts = self._counts[1 : len(self.legend.names) + 1]
        order = np.argsort(-counts, kind="stable")
        return {self.legend.names[i]: float(counts[i] / max(counts.sum(), 1)) for i in order}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        picture = None
        if kind is None and self.preview is not None:
            try:
                picture = legend_png(self._picture.image[..., 0], self.legend)
            except BaseException as failed:
                self._raster.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._raster.__exit__(kind, error, trace)
        if picture is not None and self.preview is not None:
            atomic_write_bytes(self.preview, picture)


def require_matplotlib(path: Path) -> None:
    """Say at the start, not at the end, that a picture cannot be drawn.

    Raises:
        SpecfmError: matplotlib is not installed.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise SpecfmError(f"{path} needs matplotlib; install specfm[viz] or pass --no-preview")


def legend_png(codes_hw: NDArray[np.uint8], legend: Legend) -> bytes:
    """A map of codes with the legend of those that occur at its right, as PNG; small maps are enlarged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import Patch

    entries = legend.with_no_data()
    colours = np.array([colour for _, colour in entries], np.uint8)
    image = enlarged(colours[codes_hw])
    present = np.flatnonzero(np.bincount(codes_hw.ravel(), minlength=len(entries)))
    dpi = 100
    height, width = image.shape[0] / dpi, image.shape[1] / dpi
    rows = max(1, int(max(height, 2.0) / 0.22))  # lines of the legend beside one another
    columns = -(-len(present) // rows)
    longest = max((len(entries[i][0]) for i in present), default=0)
    beside = columns * (0.55 + 0.085 * longest) + 0.2
    figure = plain_figure(figsize=(width + beside, max(height, 2.0)), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    figure.figimage(image, 0, figure.bbox.height - image.shape[0])
    handles = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*entries[i][1]), edgecolor="0.5", label=entries[i][0])
        for i in present
    ]
    if handles:
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(width / (width + beside), 1.0), frameon=False,
            fontsize=9, ncols=columns, borderaxespad=0.3,
        )  # fmt: skip
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()
