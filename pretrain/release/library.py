"""The library of spectra that a pretrained encoder is released with: what its widest sensors saw, drawn anew.

No measured spectrum goes into a release, which may travel further than the data: of every shard the mean and the main
directions of its spectra are worked out, and spectra drawn from them.

Shapes: N samples of a shard, M measured spectra, L drawn ones, K directions, S steps of 5 nm, H W window, C bands.
"""

from __future__ import annotations

import numpy as np

from specfm.library import (
    FEWEST_BANDS,
    FEWEST_STEPS,
    MOST_SPECTRA,
    MOST_STEPS,
    STEP_NM,
    Library,
    on_steps,
    redrawn,
)
from specfm.sensors import QUANTITIES
from specfm.shards import ShardReader, ShardSet

WIDEST = 0.95  # share of the widest range that such a sensor sees
MEASURED, MEASURED_IN_ALL = 200, 5000  # windows whose centres are looked at, of a shard and of the store
MOST_SHARDS = 100  # that spectra are drawn from, spread over the store
PER_SHARD = 25  # spectra drawn


def collect_library(shards: ShardSet) -> Library | None:
    """Spectra with the statistics of those in the store, as many of every shard; the same for the same store.

    Only sensors of 50 bands and more that see nearly the widest range take part: what is to be told for others must
    have been measured. None if no shard can.
    """
    ranges = {
        n: (float(usable.min()), float(usable.max()))
        for n, reader in enumerate(shards.readers)
        if len(usable := reader.sensor.bands.wavelengths_nm[reader.sensor.bands.valid]) >= FEWEST_BANDS
        and not reader.sensor.pretreatment  # other sensors' bands average light, not what was made of it
    }
    for n in sorted(ranges, key=lambda n: ranges[n][0] - ranges[n][1]):  # the widest whose spectra can be drawn anew
        if _redrawn(shards.readers[n], MEASURED, 1) is not None:
            low, high = ranges[n]
            break
    else:
        return None
    chosen = [n for n, (left, right) in ranges.items() if min(right, high) - max(left, low) >= WIDEST * (high - low)]
    low, high = max(ranges[n][0] for n in chosen), min(ranges[n][1] for n in chosen)
    steps = int((high - low) // STEP_NM) + 1
    if not FEWEST_STEPS <= steps <= MOST_STEPS:
        return None
    chosen = chosen[:: -(-len(chosen) // MOST_SHARDS)]
    looked_at = min(MEASURED, MEASURED_IN_ALL // len(chosen))
    each = min(PER_SHARD, MOST_SPECTRA // len(chosen))
    spectra, quantities = [], []
    for n in chosen:
        sensor, found_LC = shards.readers[n].sensor, _redrawn(shards.readers[n], looked_at, each)
        if found_LC is not None:
            valid_C = sensor.bands.valid
            spectra.append(on_steps(sensor.bands.wavelengths_nm[valid_C], found_LC[:, valid_C], low, steps))
            quantity = -1 if sensor.quantity is None else QUANTITIES.index(sensor.quantity)
            quantities.append(np.full(len(found_LC), quantity, np.int64))
    if sum(map(len, spectra)) < 2:
        return None
    return Library(low, np.concatenate(spectra), np.concatenate(quantities))


def _redrawn(reader: ShardReader, looked_at: int, count: int) -> np.ndarray | None:
    return redrawn(_measured(reader, looked_at), reader.sensor.bands.weights, count)


def _measured(reader: ShardReader, count: int) -> np.ndarray:
    """spectra_MC (float64, physical): means over the 3 x 3 centre pixels of ``count`` windows, scene by scene."""
    drawn_N = np.random.default_rng(0).permutation(len(reader))
    scene_N = reader.scene_id_N[drawn_N]
    order_N = np.argsort(scene_N, kind="stable")
    turn_N = np.empty(len(drawn_N), np.int64)  # how many of its scene came before it
    turn_N[order_N] = np.arange(len(drawn_N)) - np.searchsorted(scene_N[order_N], scene_N[order_N])
    ids = np.sort(drawn_N[np.argsort(turn_N, kind="stable")[:count]])
    x_MHWC, mask_MHW = reader.read(ids)
    rows, cols = (slice(max(0, side // 2 - 1), side // 2 + 2) for side in reader.window)
    valid_C, sensor = reader.sensor.bands.valid, reader.sensor
    x_MPC = x_MHWC[:, rows, cols].astype(np.float64).reshape(len(ids), -1, x_MHWC.shape[3])
    with np.errstate(invalid="ignore", over="ignore"):
        spectra_MC = np.where(valid_C, x_MPC.mean(1) * sensor.scale + sensor.offset, 0.0)
    good_M = mask_MHW[:, rows, cols].all((1, 2)) & (np.abs(spectra_MC) < 1e12).all(1)
    return spectra_MC[good_M]
