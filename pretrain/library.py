"""The library of spectra that a pretrained encoder is released with: a few of every shard of its widest sensors.

Shapes: L spectra, H W window, C bands.
"""

from __future__ import annotations

import logging

import numpy as np

from specfm.library import Library
from specfm.sensors import Sensor
from specfm.shards import ShardReader, ShardSet

log = logging.getLogger(__name__)
PER_SHARD = 40
AT_MOST = 1000  # spectra in all: a megabyte or two beside the weights
FEWEST_BANDS = 50  # of a sensor that can stand for others
WIDEST = 0.9  # such a sensor sees at least this share of the widest range of wavelengths among them


def collect_library(shards: ShardSet) -> Library | None:
    """Spectra of window centres, as many of every shard, spread over its scenes; the same for the same store.

    Only sensors of 50 bands and more that see nearly the widest range take part: what is to be told for others must
    have been measured. None if there is no such sensor.
    """
    spans = {n: _span_nm(reader.sensor) for n, reader in enumerate(shards.readers)}
    spans = {n: span for n, span in spans.items() if span > 0}
    chosen = [shards.readers[n] for n, span in spans.items() if span >= WIDEST * max(spans.values())]
    chosen = chosen[:: -(-len(chosen) // AT_MOST) or 1]
    each = min(PER_SHARD, AT_MOST // max(1, len(chosen)))
    found: dict[str, tuple[Sensor, list[np.ndarray]]] = {}
    for reader in chosen:
        spectra_LC = _spectra(reader, each)
        if len(spectra_LC):
            sensor = reader.sensor.replace(scale=1.0, offset=0.0)
            found.setdefault(sensor.digest, (sensor, []))[1].append(spectra_LC)
    if not found:
        return None
    return Library(
        tuple(sensor for sensor, _ in found.values()),
        tuple(np.concatenate(spectra) for _, spectra in found.values()),
    )


def _span_nm(sensor: Sensor) -> float:
    """Usable range of a sensor that can stand for others, else 0."""
    usable = sensor.bands.wavelengths_nm[sensor.bands.valid]
    return float(usable.max() - usable.min()) if len(usable) >= FEWEST_BANDS else 0.0


def _spectra(reader: ShardReader, count: int) -> np.ndarray:
    """spectra_LC (float32, physical): means over the 3 x 3 centre pixels of ``count`` windows, scene by scene."""
    rng = np.random.default_rng(0)
    drawn_N = rng.permutation(len(reader))
    scene_N = reader.scene_id_N[drawn_N]
    turn_N = np.zeros(len(drawn_N), int)  # how many of its scene came before it
    for scene in np.unique(scene_N):
        turn_N[scene_N == scene] = np.arange((scene_N == scene).sum())
    ids = np.sort(drawn_N[np.argsort(turn_N, kind="stable")[:count]])
    x_LHWC, mask_LHW = reader.read(ids)
    rows, cols = (slice(max(0, side // 2 - 1), side // 2 + 2) for side in reader.window)
    valid_C, sensor = reader.sensor.bands.valid, reader.sensor
    x_LPC = x_LHWC[:, rows, cols].astype(np.float32).reshape(len(ids), -1, x_LHWC.shape[3])
    spectra_LC = np.where(valid_C, x_LPC.mean(1) * sensor.scale + sensor.offset, 0.0).astype(np.float32)
    good_L = mask_LHW[:, rows, cols].all((1, 2)) & np.isfinite(spectra_LC).all(1) & (np.abs(spectra_LC).sum(1) > 0)
    return spectra_LC[good_L]
