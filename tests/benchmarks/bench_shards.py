"""A folder of very many shards: how long it takes to open, to begin reading, and what it holds of the machine.

``python -m tests.benchmarks.bench_shards --shards 10000 --json runs/bench/shards.json``: three minutes on two cores,
most of it for making the folder (``--folder`` keeps it for another run). Shards are tiny, so that what is measured is
the price of a shard and not that of its bytes. Figures:

* ``open_s``: ``ShardSet(folder)``;
* ``first_batch_s``: the first batch of 256 samples drawn over all domains, CRCs of its shards remembered;
* ``all_s``: one sample of every shard, as an epoch comes to read them;
* ``descriptors``: open files of this process after that;
* ``memory_mb``: what the process has taken since before opening.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from specfm.bands import BandGrid
from specfm.sensors import Sensor
from specfm.shards import ShardSet, ShardWriter
from specfm.shards.manifest import write_manifest
from tests.benchmarks.timing import machine, parser, write

SENSORS, DOMAINS = 4, 8


def build(folder: Path, shards: int, samples: int) -> None:
    """As many shards as asked for, of a few sensors and domains, with a manifest."""
    rng = np.random.default_rng(0)
    grids = [BandGrid(np.linspace(400, 2400, 60 + 20 * n), np.full(60 + 20 * n, 10.0)) for n in range(SENSORS)]
    sensors = [Sensor(grid, "surface_reflectance", 1e-4) for grid in grids]
    for n in range(shards):
        sensor = sensors[n % SENSORS]
        with ShardWriter(
            folder / f"s{n:06d}.h5", (4, 4), sensor, "int16", f"domain {n % DOMAINS}", count=samples,
            scene_names=[f"scene {n}"],
        ) as shard:  # fmt: skip
            shard.add(rng.integers(1, 9999, (samples, 4, 4, len(sensor.bands))).astype(np.int16), None, group=n)
    write_manifest(folder, sorted(path.name for path in folder.glob("*.h5")))


def resident_mb() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(folder: Path) -> dict[str, Any]:
    """The figures of the heading; twice for those of which the second time is the usual one."""
    before = resident_mb()
    began = time.perf_counter()
    store = ShardSet(folder)
    figures: dict[str, Any] = {"shards": len(store.readers), "open_s": time.perf_counter() - began}
    ids = np.random.default_rng(1).integers(0, len(store), 256)
    for name in ("first_batch_cold_s", "first_batch_s"):  # CRCs are checked once on a machine
        store = ShardSet(folder)
        began = time.perf_counter()
        for shard, local in zip(*store.locate(ids), strict=True):
            store.readers[shard].read([local])
            store.describe(int(shard), np.array([local]))
        figures[name] = time.perf_counter() - began
    began = time.perf_counter()
    for reader in store.readers:
        reader.read([0])
    figures["all_s"] = time.perf_counter() - began
    figures["descriptors"] = len(os.listdir("/proc/self/fd"))
    figures["memory_mb"] = resident_mb() - before
    return figures


def main() -> None:
    """Command line."""
    arguments = parser("shards.json", __doc__)
    arguments.add_argument("--shards", type=int, default=10_000)
    arguments.add_argument("--samples", type=int, default=8, help="in each")
    arguments.add_argument("--folder", type=Path, help="keep the shards here, or use those that are here")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="specfm-bench-") as name:
        os.environ["SPECFM_CACHE"] = str(Path(name) / "cache")
        folder = asked.folder or Path(name) / "shards"
        if not folder.exists():
            folder.mkdir(parents=True)
            began = time.perf_counter()
            build(folder, asked.shards, asked.samples)
            print(f"made in {time.perf_counter() - began:.0f} s")
        figures = measure(folder)
    settings = {key: value for key, value in vars(asked).items() if key not in ("json", "folder")}
    write(asked.json, {"machine": machine(), "settings": settings, **figures})
    for key, value in figures.items():
        print(f"{key:20s} {value:10.2f}")


if __name__ == "__main__":
    main()
