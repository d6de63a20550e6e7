"""An encoder alone as a graph: tokens, their mean, and which of them have a valid pixel.

Shapes: B tiles, H W pixels, C bands, N tokens, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from specfm.bands import BandGrid
from specfm.deploy.bake import KnownBands, bake
from specfm.deploy.facts import ENCODER, Facts
from specfm.deploy.free import FreeBands, band_example
from specfm.models.backbone import AnyEncoder
from specfm.sensor_table import known_sensors
from specfm.sensors import Sensor

OUTPUTS = ("tokens_BND", "pooled_BD", "valid_BN")


class EncoderGraph(nn.Module):
    """An encoder with plain tensors in and out.

    Args:
        encoder: baked, or one for any bands.
        known: its bands.
        scene_level: whether the level of the scene is an input.
    """

    def __init__(self, encoder: AnyEncoder, known: KnownBands | FreeBands, scene_level: bool) -> None:
        super().__init__()
        self.encoder, self.known, self.scene_level = encoder, known, scene_level

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Features as :data:`OUTPUTS` names them, from x_BHWC, mask_BHW, level_B of the scene, and free bands."""
        x_BHWC, mask_BHW, *more = given
        level_B = more.pop(0) if self.scene_level else None
        found = self.encoder(x_BHWC, self.known.tensors(*more), mask_BHW, level_B=level_B)
        return found.tokens_BND, found.pooled_BD, found.token_mask_BN


def encoder_graph(
    encoder: AnyEncoder, sensor: Sensor | None, tile: int, scene_level: bool
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module to export, and an example of its inputs.

    Args:
        encoder: is not changed.
        sensor: None: bands are inputs.
        tile: side of a tile, pixels.
        scene_level: tiles are divided by a level that is an input.
    """
    baked, known = (encoder.eval(), FreeBands()) if sensor is None else bake(encoder, sensor)
    graph = EncoderGraph(baked, known, scene_level)
    example = example_of(sensor, tile, scene_level)
    with torch.no_grad():
        graph.eval()(*example.values())
    if isinstance(known, KnownBands):
        known.recording = False
    return graph, example


def example_of(sensor: Sensor | None, tile: int, scene_level: bool, turn: str = "") -> dict[str, Tensor]:
    """Two tiles of smooth spectra with noise by the names of a graph's inputs.

    Args:
        sensor: as it stores them; None: of a sensor of 24 bands in physical units, which is among the inputs.
        tile: side of a tile, pixels.
        scene_level: whether the level of the scene is an input.
        turn: ``2`` for the second date.
    """
    rng = np.random.default_rng(0)
    seen = sensor or Sensor(BandGrid(np.linspace(450, 1100, 24), np.full(24, 12.0)))
    shape = (2, tile, tile, len(seen.bands))
    physical = 0.3 + 0.1 * np.sin(np.arange(shape[3]) / 9.0) + 0.02 * rng.standard_normal(shape)
    found = {
        f"x{turn}_BHWC": torch.from_numpy(((physical - seen.offset) / seen.scale).astype(np.float32)),
        f"mask{turn}_BHW": torch.from_numpy(rng.random(shape[:3]) > 0.05),
    }
    found |= {f"level{turn}_B": torch.full((2,), 0.3)} if scene_level else {}
    return found | (band_example(seen, turn) if sensor is None else {})


def encoder_facts(
    encoder: AnyEncoder, sensor: Sensor | None, tile: int, level: str, weights: str, version: str
) -> Facts:
    """What is written beside the graph of an encoder."""
    return Facts(
        ENCODER,
        () if sensor is None else (sensor,),
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
