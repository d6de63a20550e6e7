"""Contiguous ranges of bands, what stands in their place, and features of windows changed so.

What is occluded is not set to zero, which no spectrum is: it becomes the mean spectrum of the samples, scaled so that
it fits the pixel's other bands best (least squares). The pixel keeps its brightness and loses what it alone says there.

Shapes: N samples, B of a batch, H W pixels of a window, C bands, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.features.encoders import encoder_device
from downstream.features.extract import iterate_windows
from downstream.features.pooling import encode
from downstream.splits.samples import Samples
from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from specfm.progress import progress

if TYPE_CHECKING:
    from specfm.scene import Scene

SAME_NM = 0.5  # apart, bands of two scans are still those of one sensor, as in specfm.library.same_bands
Change = Callable[[Tensor], Tensor]  # physical values [B, H, W, C] -> others


@dataclass(frozen=True)
class BandRange:
    """Usable bands between two wavelengths: ``index_K`` into the grid (0-based)."""

    width_nm: float
    low_nm: float
    high_nm: float
    index_K: NDArray[np.int64]


def band_ranges(bands: BandGrid, widths_nm: Sequence[float]) -> list[BandRange]:
    """Ranges of each width over the sensor, every half width; a range without a band is left out.

    Raises:
        UsageError: a width that leaves no band outside.
    """
    usable = np.flatnonzero(bands.valid)
    centres = bands.wavelengths_nm[usable]
    found = []
    for width in widths_nm:
        if width >= np.ptp(centres):
            raise UsageError(
                f"a range of {width:g} nm hides all of {centres.min():.0f}-{centres.max():.0f} nm; lower --widths"
            )
        low = float(centres.min())
        while True:
            inside = (centres >= low) & (centres < low + width)
            if inside.any():
                found.append(BandRange(float(width), low, low + width, usable[inside]))
            if low + width > centres.max():
                break
            low += width / 2
    return found


def one_sensor(scenes: Sequence[Scene]) -> BandGrid:
    """The bands of all scenes: those of the first, which the others have too, band by band and nearly.

    Raises:
        UsageError: they differ.
    """
    first = scenes[0].sensor.bands
    for scene in scenes[1:]:
        bands = scene.sensor.bands
        in_order = len(bands) == len(first) and bool((bands.valid == first.valid).all())
        if not in_order or not np.allclose(bands.wavelengths_nm, first.wavelengths_nm, 0, SAME_NM, equal_nan=True):
            raise UsageError(
                f"{scenes[0].name} and {scene.name} have different bands; explain scenes of one sensor (--scenes)"
            )
    return first


def occlude(index_K: NDArray[np.int64], mean_C: NDArray[Any], valid_C: NDArray[np.bool_]) -> Change:
    """Put the mean spectrum, scaled to the rest of each pixel, in the place of some bands."""
    left_C = valid_C.copy()
    left_C[index_K] = False
    mean = torch.as_tensor(mean_C, dtype=torch.float32)
    left, hidden = torch.from_numpy(np.flatnonzero(left_C)), torch.from_numpy(index_K)

    def change(x_BHWC: Tensor) -> Tensor:
        there = mean.to(x_BHWC.device)
        rest = there[left]
        scale_BHW1 = (x_BHWC[..., left] @ rest)[..., None] / rest.square().sum().clamp_min(1e-30)
        out = x_BHWC.clone()
        out[..., hidden] = scale_BHW1 * there[hidden]
        return out

    return change


def changed_features(
    encoder: Any,
    scenes: Sequence[Scene],
    samples: Samples,
    window: int,
    changes: Sequence[Change],
    *,
    pooling: str,
    layers: Sequence[int] = (),
    title: str = "features",
) -> list[NDArray[np.float32]]:
    """Frozen features X_ND of every sample under every change; each window is read once.

    Raises:
        SpecfmError: the encoder gives non-finite features.
    """
    device = encoder_device(encoder)
    found: list[NDArray[np.float32]] = []
    if hasattr(encoder, "eval"):
        encoder.eval()
    with progress(title, len(samples) * len(changes)) as advance:
        for part in iterate_windows(scenes, samples, window):
            sensor = part.scene.sensor
            mask_BHW = torch.from_numpy(np.ascontiguousarray(part.mask_BHW)).to(device)
            physical = torch.from_numpy(part.x_BHWC).to(device) * sensor.scale + sensor.offset
            for number, change in enumerate(changes):
                stored = (change(physical) - sensor.offset) / sensor.scale
                with torch.inference_mode():
                    z_BD = encode(encoder, stored, sensor, mask_BHW, pooling, window, layers).float().cpu().numpy()
                if number == len(found):
                    found.append(np.empty((len(samples), z_BD.shape[1]), np.float32))
                found[number][part.ids_B] = z_BD
                advance(len(part.ids_B))
    if not all(np.isfinite(x_ND).all() for x_ND in found):
        raise SpecfmError(f"{title}: the encoder gives features that are not finite; check the masks of the scenes")
    return found
