"""The library of spectra that a pretrained encoder is released with: what its widest sensors saw, drawn anew.

No measured spectrum goes into a release, which may travel further than the data: of every shard the mean and the main
directions of its spectra are worked out, and spectra drawn from them.

Shapes: M measured spectra, L drawn ones, K directions, H W window, C bands.
"""

from __future__ import annotations

import logging

import numpy as np

from specfm.library import Library
from specfm.sensors import Sensor
from specfm.shards import ShardReader, ShardSet

log = logging.getLogger(__name__)
MEASURED = 400  # windows of a shard whose centres are looked at
DIRECTIONS = 8
PER_SHARD = 40  # spectra drawn
AT_MOST = 1000  # spectra in all: a megabyte or two beside the weights
FEWEST_BANDS = 50  # of a sensor that can stand for others
WIDEST = 0.9  # such a sensor sees at least this share of the widest range of wavelengths among them


def collect_library(shards: ShardSet) -> Library | None:
    """Spectra with the statistics of those in the store, as many of every shard; the same for the same store.

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
        measured_MC = _measured(reader, MEASURED)
        if len(measured_MC) > 1:
            spectra_LC = redrawn(measured_MC, reader.sensor.bands.weights, each)
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


def redrawn(measured_MC: np.ndarray, weights_C: np.ndarray, count: int) -> np.ndarray:
    """spectra_LC (float32): normal draws with the mean and the main directions of measured spectra of mean level 1.

    Brightness is left out, since an encoder divides it out too. Draws lie within two deviations in each direction and
    are not negative where nothing measured was.
    """
    level_M1 = (np.abs(measured_MC) @ weights_C)[:, None]
    shape_MC = measured_MC / level_M1
    mean_C = shape_MC.mean(0)
    _, values_K, vectors_KC = np.linalg.svd(shape_MC - mean_C, full_matrices=False)
    keep = min(DIRECTIONS, len(values_K))
    drawn_LK = np.clip(np.random.default_rng(0).standard_normal((count, keep)), -2, 2)
    spectra_LC = mean_C + (drawn_LK * values_K[:keep] / len(shape_MC) ** 0.5) @ vectors_KC[:keep]
    spectra_LC = np.where(shape_MC.min(0) >= 0, np.maximum(spectra_LC, 0), spectra_LC)
    return (spectra_LC * level_M1.mean()).astype(np.float32)


def _measured(reader: ShardReader, count: int) -> np.ndarray:
    """spectra_MC (float64, physical): means over the 3 x 3 centre pixels of ``count`` windows, scene by scene."""
    rng = np.random.default_rng(0)
    drawn_N = rng.permutation(len(reader))
    scene_N = reader.scene_id_N[drawn_N]
    turn_N = np.zeros(len(drawn_N), int)  # how many of its scene came before it
    for scene in np.unique(scene_N):
        turn_N[scene_N == scene] = np.arange((scene_N == scene).sum())
    ids = np.sort(drawn_N[np.argsort(turn_N, kind="stable")[:count]])
    x_MHWC, mask_MHW = reader.read(ids)
    rows, cols = (slice(max(0, side // 2 - 1), side // 2 + 2) for side in reader.window)
    valid_C, sensor = reader.sensor.bands.valid, reader.sensor
    x_MPC = x_MHWC[:, rows, cols].astype(np.float64).reshape(len(ids), -1, x_MHWC.shape[3])
    spectra_MC = np.where(valid_C, x_MPC.mean(1) * sensor.scale + sensor.offset, 0.0)
    good_M = mask_MHW[:, rows, cols].all((1, 2)) & np.isfinite(spectra_MC).all(1) & (np.abs(spectra_MC).sum(1) > 0)
    return spectra_MC[good_M]
