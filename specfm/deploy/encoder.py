"""An encoder alone as a graph: tokens, their mean, and which of them have a valid pixel.

Shapes: B tiles, H W pixels, C bands, N tokens, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from specfm.deploy.bake import KnownBands, bake
from specfm.deploy.facts import ENCODER, Facts
from specfm.models.backbone import AnyEncoder
from specfm.sensor_table import known_sensors
from specfm.sensors import Sensor

OUTPUTS = ("tokens_BND", "pooled_BD", "valid_BN")


class EncoderGraph(nn.Module):
    """A baked encoder with plain tensors in and out."""

    def __init__(self, encoder: AnyEncoder, known: KnownBands) -> None:
        super().__init__()
        self.encoder, self.known = encoder, known

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Features as :data:`OUTPUTS` names them, from x_BHWC, mask_BHW and, where the scene has one, level_B."""
        x_BHWC, mask_BHW, *level = given
        found = self.encoder(x_BHWC, self.known.tensors(), mask_BHW, level_B=level[0] if level else None)
        return found.tokens_BND, found.pooled_BD, found.token_mask_BN


def encoder_graph(
    encoder: AnyEncoder, sensor: Sensor, tile: int, scene_level: bool
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module to export, and an example of its inputs.

    Args:
        tile: side of a tile, pixels. scene_level: tiles are divided by a level that is an input.
    """
    graph = EncoderGraph(*bake(encoder, sensor))
    example = example_of(sensor, tile, scene_level)
    with torch.no_grad():
        graph.eval()(*example.values())
    graph.known.recording = False
    return graph, example


def example_of(sensor: Sensor, tile: int, scene_level: bool, turn: str = "") -> dict[str, Tensor]:
    """Two tiles of smooth spectra with noise, as this sensor stores them, by the names of a graph's inputs."""
    rng = np.random.default_rng(0)
    shape = (2, tile, tile, len(sensor.bands))
    physical = 0.3 + 0.1 * np.sin(np.arange(shape[3]) / 9.0) + 0.02 * rng.standard_normal(shape)
    found = {
        f"x{turn}_BHWC": torch.from_numpy(((physical - sensor.offset) / sensor.scale).astype(np.float32)),
        f"mask{turn}_BHW": torch.from_numpy(rng.random(shape[:3]) > 0.05),
    }
    return found | ({f"level{turn}_B": torch.full((2,), 0.3)} if scene_level else {})


def encoder_facts(encoder: AnyEncoder, sensor: Sensor, tile: int, level: str, weights: str, version: str) -> Facts:
    """What is written beside the graph of an encoder."""
    return Facts(
        ENCODER,
        (sensor,),
        tile,
        encoder.patch_size,
        level,
        weights,
        version,
        trained_nm=trained_range(encoder, encoder.card),
    )


def trained_range(encoder: AnyEncoder, card: dict[str, Any]) -> tuple[float, float] | None:
    """Lowest and highest wavelength (nm) of training, by an encoder's library of spectra and a card; None: unknown."""
    table = known_sensors()
    spans = [] if encoder.library is None else [(encoder.library.low_nm, encoder.library.high_nm)]
    for name in card.get("sensors") or ():
        if name in table:
            nm = table[name].bands.wavelengths_nm
            spans.append((float(np.nanmin(nm)), float(np.nanmax(nm))))
    return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
