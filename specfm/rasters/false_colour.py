"""False colours of features: their first three principal components as red, green and blue.

Shapes: h rows of one piece, w patches of a row, D width, n sampled patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from specfm.files import atomic_write_bytes, refuse_existing
from specfm.rasters.quicklook import Thinned, enlarged, png_bytes
from specfm.rasters.writers import RasterWriter, open_raster
from specfm.tiles import Compute, TilePlan, sample_cells

if TYPE_CHECKING:
    from specfm.scene import Geo

SAMPLE_CELLS = 10_000  # patches that the axes and the stretch are fitted on
PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True)
class FalseColour:
    """A fixed map from features to colours, fitted on a sample, so that rows can be coloured as they come."""

    mean_D: NDArray[np.float64]
    axes_D3: NDArray[np.float64]
    low_3: NDArray[np.float64]
    high_3: NDArray[np.float64]

    @classmethod
    def fit(cls, plan: TilePlan, compute: Compute, batch_size: int, seed: int = 0) -> FalseColour:
        """Principal axes of a random sample of cells; signs are fixed, so that reruns look the same."""
        cells_nD = sample_cells(plan, compute, SAMPLE_CELLS, seed, batch_size).astype(np.float64)
        if not len(cells_nD):  # nothing valid anywhere: nothing will be coloured either
            depth = cells_nD.shape[1]
            return cls(np.zeros(depth), np.zeros((depth, 3)), np.zeros(3), np.ones(3))
        mean_D = cells_nD.mean(0)
        _, axes = np.linalg.eigh((cells_nD - mean_D).T @ (cells_nD - mean_D))
        axes = axes[:, ::-1][:, :3]
        axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
        low_3, high_3 = np.percentile((cells_nD - mean_D) @ axes, PERCENTILES, axis=0)
        return cls(mean_D, axes, low_3, high_3)

    def __call__(self, features_hwD: NDArray[Any]) -> NDArray[np.uint8]:
        """Colours ``[h, w, 3]``, 1..255; 0 where a feature is missing."""
        span_3 = np.where(self.high_3 > self.low_3, self.high_3 - self.low_3, 1.0)
        missing_hw = ~np.isfinite(features_hwD).all(-1)
        scores = (np.where(missing_hw[..., None], 0, features_hwD) - self.mean_D) @ self.axes_D3
        colours = np.rint(1 + 254 * np.clip((scores - self.low_3) / span_3, 0, 1)).astype(np.uint8)
        colours[missing_hw] = 0
        return colours


class FalseColourFiles:
    """Writes coloured rows to a picture, a raster, both or neither; nothing appears before all is written."""

    def __init__(
        self,
        shape_hw: tuple[int, int],
        png: str | Path | None,
        raster: str | Path | None,
        geo: Geo | None,
        facts: dict[str, Any],
        overwrite: bool,
    ) -> None:
        self.wanted = png is not None or raster is not None
        self._png = None if png is None else Path(png)
        if self._png is not None:
            refuse_existing(self._png, overwrite, "--pca-png")
        self._picture = Thinned(shape_hw, 3)
        self._raster: RasterWriter | None = None
        if raster is not None:
            names = [f"principal component {i + 1}" for i in range(3)]
            self._raster = open_raster(
                raster, (*shape_hw, 3), "uint8", geo=geo, band_names=names, nodata=0, facts=facts, overwrite=overwrite
            )

    def write(self, first: int, colours_hw3: NDArray[np.uint8]) -> None:
        """Append rows; ``first`` is the number of the first."""
        self._picture.add(first, colours_hw3)
        if self._raster is not None:
            self._raster.write(colours_hw3)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._raster is not None:
            self._raster.__exit__(kind, error, trace)
        if kind is None and self._png is not None:
            image = enlarged(self._picture.image)
            shown = (image != 0).any(-1, keepdims=True)
            atomic_write_bytes(self._png, png_bytes(np.concatenate([image, shown * np.uint8(255)], -1)))
