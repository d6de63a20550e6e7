"""Bands as inputs of a graph: one file for any sensor, at the cost of working out its kernels in every call.

Shapes: C bands of a call, G = 1 grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from specfm.batch import FILLER_NM, BandTensors
from specfm.deploy.runtime import band_inputs
from specfm.errors import UsageError
from specfm.models.backbone import AnyEncoder
from specfm.sensors import Sensor

FEWEST = 3  # bands that such a graph takes


class FreeBands(nn.Module):
    """Turns inputs of a graph into what a model is told about the bands."""

    def tensors(
        self, wavelengths_nm_C: Tensor, fwhm_nm_C: Tensor, quantity_G: Tensor, processing_G: Tensor, gsd_m_G: Tensor
    ) -> BandTensors:
        """Bands of a call, of values in physical units; a band without a wavelength (NaN) is unusable."""
        valid_GC, one_G = wavelengths_nm_C.isfinite()[None], torch.ones_like(gsd_m_G)
        return BandTensors(
            torch.where(valid_GC, wavelengths_nm_C[None], FILLER_NM), fwhm_nm_C[None], valid_GC, one_G, 0 * one_G,
            quantity_G, processing_G, gsd_m_G, (None,),
        )  # fmt: skip


def require_free(encoder: AnyEncoder, called: str) -> None:
    """Refuse an encoder that only a file for one sensor can hold.

    Raises:
        UsageError: it is; says why.
    """
    why = None
    if getattr(encoder, "alignment", None) is not None:
        why = "maps each sensor onto another one by a fit"
    elif encoder.stems is not None:
        why = "has a stem for every acquisition"
    elif encoder.config.get("embedding") in ("fixed", "specaware"):
        why = f"has the embedding {encoder.config['embedding']}, which is made for known bands"
    elif encoder.config.get("sensor_names"):
        why = "goes by the names of sensors"
    if why is not None:
        raise UsageError(f"{called} {why}, so bands cannot be inputs; name the sensor with --sensor")


def band_example(sensor: Sensor, turn: str) -> dict[str, Tensor]:
    """The bands of a sensor as inputs of a graph."""
    return {name: torch.from_numpy(value) for name, value in band_inputs(sensor, turn).items()}


def free_axes(example: Mapping[str, Tensor], batch: Any) -> dict[str, dict[int, Any]]:
    """Which axes of a graph's inputs may have any size: the batch, and the bands of each date where they are inputs."""
    found: dict[str, dict[int, Any]] = {}
    for turn in ("", "2"):
        for name in (f"x{turn}_BHWC", f"mask{turn}_BHW", f"level{turn}_B"):
            found[name] = {0: batch}
        if f"wavelengths{turn}_nm_C" in example:
            bands = torch.export.Dim(f"bands{turn}", min=FEWEST)
            found[f"x{turn}_BHWC"][3] = bands
            found |= {f"wavelengths{turn}_nm_C": {0: bands}, f"fwhm{turn}_nm_C": {0: bands}}
    return {name: axes for name, axes in found.items() if name in example}
