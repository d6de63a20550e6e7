"""What the loader holds in memory while it reads from a set far larger than memory.

``python -m tests.benchmarks.bench_memory --json runs/bench/memory.json``: a few minutes on two cores. The set is as
large as ``--times`` the memory of the machine and takes none of the disk but its indexes: samples are zeros that were
never written (holes), which the file system gives as if they were there. All else is what ``ShardWriter`` writes, with
the CRC of zeros; one shard is checked in full, the others are taken as checked, as reading them all for it would take
longer than the measurement. Three sensors of different numbers of bands, so buffers of the loader change their sizes.

The resident memory of the process is noted every hundredth of the batches. Flat means: after the first tenth, when
every shard has been opened, it grows no more. Pages that the kernel caches are not the process's, and are given back as
it needs them.
"""

from __future__ import annotations

import os
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.loader import Loader
from pretrain.sampler import MixtureSampler
from specfm.bands import BandGrid
from specfm.sensors import Sensor
from specfm.shards import ShardReader, ShardSet, ShardWriter
from tests.benchmarks.bench_shards import resident_mb
from tests.benchmarks.timing import machine, parser, write

BANDS = (60, 202, 425)
SHARDS = 4  # of each sensor


def build(folder: Path, nbytes: int, side: int) -> list[Path]:
    """Shards of holes, equally large, of so many bytes together."""
    paths = []
    for bands in BANDS:
        sensor = Sensor(BandGrid(np.linspace(400, 2500, bands), np.full(bands, 10.0)), "surface_reflectance", 1e-4)
        count = nbytes // (len(BANDS) * SHARDS * side * side * bands * 2)
        for number in range(SHARDS):
            paths.append(folder / f"{bands}-{number}.h5")
            hollow(paths[-1], sensor, number * count + np.arange(count), side)
    return paths


def hollow(path: Path, sensor: Sensor, instance_N: NDArray[np.int64], side: int) -> None:
    """A shard of which one sample is written, which gives all others their place in the file."""
    count, sample = len(instance_N), np.zeros((1, side, side, len(sensor.bands)), np.int16)
    with ShardWriter(path, (side, side), sensor, "int16", f"of {len(sensor.bands)} bands", count=count) as shard:
        shard.add(sample)
        index = shard._index
        index["crc"][:] = zlib.crc32(bytes([1]) * side * side, zlib.crc32(sample))
        index["valid"][:] = side * side
        index["instance_id"][:], index["group"][:] = instance_N, instance_N // 64
        shard._written = count


def measure(paths: list[Path], batch: int, batches: int, threads: int) -> dict[str, Any]:
    """Megabytes resident while so many batches are read, and how fast that went."""
    began = time.perf_counter()
    if bad := ShardReader(paths[0], verify="off").check_crcs(threads):
        raise AssertionError(f"{len(bad)} samples fail their CRC")
    checked = time.perf_counter() - began
    shards = ShardSet(paths, verify="off")
    sampler = MixtureSampler(shards.sizes, shards.domains, batch, seed=0)
    noted, every, nbytes = [resident_mb()], max(1, batches // 100), 0
    began = time.perf_counter()
    for step, parts in Loader(shards, sampler, threads=threads).iterate(0, batches):
        nbytes += sum(part.x_BHWC.nbytes for part in parts)
        if (step + 1) % every == 0:
            noted.append(resident_mb())
    seconds = time.perf_counter() - began
    settled = noted[len(noted) // 10 :]
    return {
        "batches": batches, "read_gb": nbytes / 1e9, "seconds": seconds, "gb_per_s": nbytes / 1e9 / seconds,
        "one_shard_checked_s": checked, "opened_mb": noted[0], "settled_mb": settled[0], "end_mb": noted[-1],
        "maximum_mb": max(noted), "growth_mb": max(settled) - settled[0], "resident_mb": [round(x, 1) for x in noted],
    }  # fmt: skip


def disk_gb(paths: list[Path]) -> tuple[float, float]:
    """What files say they are, and what of the disk they take."""
    status = [path.stat() for path in paths]
    return sum(each.st_size for each in status) / 1e9, sum(each.st_blocks * 512 for each in status) / 1e9


def main() -> None:
    """Command line."""
    arguments = parser("memory.json", __doc__)
    arguments.add_argument("--times", type=float, default=10.0, help="the memory of this machine")
    arguments.add_argument("--side", type=int, default=16, help="window side, pixels")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--batches", type=int, default=10_000)
    arguments.add_argument("--threads", type=int, default=2)
    asked = arguments.parse_args()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with tempfile.TemporaryDirectory(prefix="specfm-bench-") as name:
        os.environ["SPECFM_CACHE"] = str(Path(name) / "cache")
        paths = build(Path(name), int(asked.times * memory), asked.side)
        size, taken = disk_gb(paths)
        figures = {"memory_gb": memory / 1e9, "set_gb": size, "on_disk_gb": taken}
        print(f"{len(paths)} shards of {size:.0f} GB, on disk {taken:.2f} GB; memory {memory / 1e9:.0f} GB", flush=True)
        figures |= measure(paths, asked.batch, asked.batches, asked.threads)
    settings = {key: value for key, value in vars(asked).items() if key not in ("json", "repeats")}
    write(asked.json, {"machine": machine(), "settings": settings, **figures})
    for key, value in figures.items():
        if isinstance(value, float | int):
            print(f"{key:20s} {value:12.2f}")


if __name__ == "__main__":
    main()
