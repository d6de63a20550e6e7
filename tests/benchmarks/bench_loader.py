"""Random batch reads from one shard: our reader against an h5py loop and against a raw gather of the same bytes.

``python -m tests.benchmarks.bench_loader --json runs/bench/loader.json``: a minute or two on two cores. Warm page
cache, CRCs verified beforehand, every side fills the same reused buffer (aligned as the loader's are) and is timed in
turn, round after round, each time over as many batches in a row as take ``--seconds``: a batch alone takes a
millisecond, in which some machines have not yet given the second thread a core of its own. Sides, per layout:

* ``h5py``: ``out[i] = dataset[id]`` for every sample of the batch, one thread (h5py does not scale with threads);
* ``specfm``: ``ShardReader.read`` of the batch, split over ``--threads`` threads, masks included;
* ``gather``: the same bytes from a flat file by ``np.memmap`` fancy indexing and by a ``preadv`` loop, split over the
  same threads. The faster of the two is the yardstick, ``preadv`` the one that we may use: a map of a file that is cut
  short kills the process. Both ratios are printed.

Also the whole :class:`pretrain.loader.Loader` (sampler, metadata, masks) in samples a second: over and over the same
shard, and one pass each from warm and cold cache and from a server (:mod:`tests.benchmarks.loader_sources`).

Targets (mission): >= 2 x h5py on unfiltered one-sample chunks, >= 10 x on gzip and on automatic chunks, >= 0.8 of the
raw gather.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pretrain.loader import Loader
from pretrain.sampler import MixtureSampler
from specfm.bands import BandGrid
from specfm.sensors import Sensor
from specfm.shards import ShardReader, ShardSet, ShardWriter
from specfm.shards.extents import aligned_empty
from tests.benchmarks.loader_sources import rates
from tests.benchmarks.timing import machine, parser, write

OURS = {"contiguous": "none", "chunks": "chunks"}  # layout -> codec of our writer
OTHERS: dict[str, dict[str, Any]] = {  # as other tools store
    "gzip": {"chunks": "sample", "compression": "gzip", "shuffle": True},
    "automatic": {"chunks": True},
}
LAYOUTS = (*OURS, *OTHERS)


def build(folder: Path, count: int, side: int, channels: int) -> None:
    """One shard per layout with the same smooth content (gzip has something to do), and the bytes as a flat file.

    Each is rewritten in one go: pages cached chunk by chunk, as they were made, are slower to copy from (36 against 30
    us a sample), which is no property of the layout and gone once a shard is copied or read from disk.
    """
    rng = np.random.default_rng(0)
    spectrum = 2000 + 1500 * np.sin(np.linspace(0, 9, channels))
    x = np.empty((count, side, side, channels), np.int16)
    for i in range(count):
        x[i] = spectrum * rng.uniform(0.5, 1.5, (side, side, 1)) + rng.normal(0, 20, (side, side, channels))
    sensor = Sensor(BandGrid(np.linspace(400, 2500, channels)), "surface_reflectance", 1e-4)
    mask = rng.random((count, side, side)) > 0.01
    for name, codec in OURS.items():
        with ShardWriter(
            folder / f"{name}.h5", (side, side), sensor, "int16", "bench", count=count, codec=codec
        ) as shard:
            shard.add(x, mask)
    for name, options in OTHERS.items():
        options = {**options, "chunks": (1, side, side, channels)} if options["chunks"] == "sample" else options
        with h5py.File(folder / "contiguous.h5") as old, h5py.File(folder / f"{name}.h5", "w") as new:
            for key in old:
                if key != "patches":
                    old.copy(key, new)
            new.create_dataset("patches", data=x, **options)
            for key, value in old.attrs.items():
                new.attrs[key] = value
    x.tofile(folder / "flat.raw")
    for path in (*folder.glob("*.h5"), folder / "flat.raw"):
        path.write_bytes(path.read_bytes())


def split(pool: ThreadPoolExecutor, threads: int, batch: int, work: Callable[[slice], object]) -> None:
    """Run ``work`` on equal slices of the batch, one per thread."""
    step = -(-batch // threads)
    list(pool.map(work, [slice(i, min(i + step, batch)) for i in range(0, batch, step)]))


def compare(folder: Path, batch: int, threads: int, repeats: int, seconds: float) -> dict[str, Any]:
    """Wall and processor time of every side, with the ratios of the targets."""
    files = {name: h5py.File(folder / f"{name}.h5", "r") for name in LAYOUTS}
    readers = {name: ShardReader(folder / f"{name}.h5") for name in LAYOUTS}
    shape, dtype, nbytes = readers["contiguous"].shape, readers["contiguous"].dtype, readers["contiguous"].nbytes
    flat = np.memmap(folder / "flat.raw", dtype, "r", shape=shape)
    descriptor = os.open(folder / "flat.raw", os.O_RDONLY)
    out, mask = aligned_empty((batch, *shape[1:]), dtype), np.empty((batch, *shape[1:3]), bool)
    draws = np.random.default_rng(1)
    pool = ThreadPoolExecutor(threads)

    def ids() -> NDArray[np.int64]:
        return draws.integers(0, shape[0], batch)

    def h5py_loop(name: str) -> None:
        dataset = files[name]["patches"]
        for row, i in enumerate(ids()):
            out[row] = dataset[i]

    def ours(name: str) -> None:
        chosen = ids()
        split(pool, threads, batch, lambda rows: readers[name].read(chosen[rows], out[rows], mask[rows]))

    def memmap() -> None:
        chosen = ids()
        split(pool, threads, batch, lambda rows: np.take(flat, chosen[rows], axis=0, out=out[rows], mode="clip"))

    def preadv() -> None:
        chosen = ids()

        def fill(rows: slice) -> None:
            view = memoryview(out[rows].reshape(-1).view(np.uint8))
            for row, i in enumerate(chosen[rows].tolist()):
                os.preadv(descriptor, [view[row * nbytes : (row + 1) * nbytes]], i * nbytes)

        split(pool, threads, batch, fill)

    for name, reader in readers.items():
        reader.verify_once()
        chosen = ids()
        np.testing.assert_array_equal(reader.read(chosen)[0], flat[chosen], err_msg=name)
    sides: dict[str, Callable[[], object]] = {"gather_memmap": memmap, "gather_preadv": preadv}
    for name in LAYOUTS:
        sides[f"h5py_{name}"] = lambda name=name: h5py_loop(name)
        sides[f"specfm_{name}"] = lambda name=name: ours(name)
    wall, cpu = interleaved(sides, repeats, seconds)
    pool.shutdown()
    for file in files.values():
        file.close()
    os.close(descriptor)
    return {
        "wall": summary(wall, batch),
        "cpu": summary(cpu, batch),
        "sample_bytes": nbytes,
    }


def interleaved(
    sides: Mapping[str, Callable[[], object]], repeats: int, seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Median wall and processor seconds (all threads) a batch of each side; every round starts one place later.

    Processor time is what to compare where other jobs share the cores.
    """
    names = list(sides)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    in_a_row: dict[str, int] = {}
    for turn in range(repeats + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            alone = time.perf_counter()
            sides[name]()  # not timed: takes back the processor's caches from the side before
            in_a_row.setdefault(name, max(1, round(seconds / (time.perf_counter() - alone))))
            began, used = time.perf_counter(), time.process_time()
            for _ in range(in_a_row[name]):
                sides[name]()
            if turn:
                wall[name].append((time.perf_counter() - began) / in_a_row[name])
                cpu[name].append((time.process_time() - used) / in_a_row[name])
    medians = [{name: statistics.median(values) for name, values in table.items()} for table in (wall, cpu)]
    return medians[0], medians[1]


def summary(seconds: dict[str, float], batch: int) -> dict[str, Any]:
    """Microseconds a sample, and the ratios of the targets."""
    ratios = {f"h5py / specfm, {name}": seconds[f"h5py_{name}"] / seconds[f"specfm_{name}"] for name in LAYOUTS}
    for gather in ("gather_preadv", "gather_memmap"):
        ratios |= {f"{gather} / specfm, {name}": seconds[gather] / seconds[f"specfm_{name}"] for name in OURS}
    return {"us_per_sample": {name: value / batch * 1e6 for name, value in seconds.items()}, "ratios": ratios}


def loader_rate(folder: Path, batch: int, threads: int, steps: int) -> dict[str, float]:
    """Samples a second through sampler, loader and metadata, and the share of time that was waiting for data."""
    shards = ShardSet([folder / "contiguous.h5"])
    loader = Loader(shards, MixtureSampler(shards.sizes, shards.domains, batch, seed=0), threads=threads)
    began = time.perf_counter()
    for _ in loader.iterate(0, steps):
        pass
    seconds = time.perf_counter() - began
    return {"samples_per_s": steps * batch / seconds, "waiting_share": loader.data_wait_total / seconds}


def main() -> None:
    """Command line."""
    arguments = parser("loader.json", __doc__)
    arguments.add_argument("--count", type=int, default=600, help="samples in the shard")
    arguments.add_argument("--side", type=int, default=32, help="window side, pixels")
    arguments.add_argument("--channels", type=int, default=202)
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--seconds", type=float, default=0.2, help="of batches in a row, each time a side is timed")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="specfm-bench-") as name:
        folder = Path(name)
        os.environ["SPECFM_CACHE"] = str(folder / "cache")
        build(folder, asked.count, asked.side, asked.channels)
        figures = compare(folder, asked.batch, asked.threads, asked.repeats, asked.seconds)
        figures["loader"] = loader_rate(folder, asked.batch, asked.threads, 100)
        figures["sources"] = rates(folder / "contiguous.h5", asked.batch, asked.threads, asked.repeats)
    settings = {key: value for key, value in vars(asked).items() if key != "json"}
    write(asked.json, {"machine": machine(), "settings": settings, **figures})
    print(f"{'':30s} {'wall':>10s} {'processor':>10s}")
    for table, unit in (("us_per_sample", "us/sample"), ("ratios", "")):
        for key, value in figures["wall"][table].items():
            print(f"{key:30s} {value:10.2f} {figures['cpu'][table][key]:10.2f} {unit}")
    print(f"loader: {figures['loader']['samples_per_s']:.0f} samples/s")
    for name, row in figures["sources"].items():
        rate, disk = f"{row['samples_per_s']:8.0f} samples/s {row['mb_per_s']:8.0f} MB/s", row["from_disk_mb"]
        print(f"  {name:20s} {rate} {disk:8.0f} MB from disk")


if __name__ == "__main__":
    main()
