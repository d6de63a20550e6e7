"""Windows a second that `data.simulated` makes on one core, beside those that a training step consumes.

``OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_simulate``: half a minute. Processor time of one thread, windows of
9 x 9 pixels with 224 bands (both sides AVIRIS, all errors on, stripes too), each quantity in turn; ``table`` draws
sensors as a run does, 16 steps of the whole table and of random ones. ``step`` is what a training step of the nano
encoder takes for as many windows: forward and backward of both sides.

Target: 2,000 windows a second on one core, and more than the step consumes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from specfm.batch import BandTensors, Batch, BatchPart
from specfm.models.registry import create_encoder
from specfm.simulate.pairs import SurfacePairs, SurfacePairsConfig
from tests.benchmarks.timing import interleaved, machine, parser, write

WINDOWS = 128  # two sides of 64 samples


def source(**options: object) -> Callable[[], object]:
    """Makes the next slot of 64 samples."""
    pairs = SurfacePairs(SurfacePairsConfig.model_validate({"errors": {"stripes": 0.005}, **options}), seed=0)
    steps = itertools.count()

    def one() -> object:
        step = next(steps)
        return pairs.windows(step, pairs.slot(step, 0), range(WINDOWS // 2))

    return one


def training_step() -> Callable[[], object]:
    """Forward and backward of both sides of a slot."""
    pairs = SurfacePairs(SurfacePairsConfig(sensors=("aviris_classic_2010s",), drawn=0), seed=0)
    slot = pairs.slot(0, 0)
    encoder = create_encoder("nano", "hyper", 3)
    ids_B = torch.arange(WINDOWS // 2)
    parts = tuple(
        BatchPart(
            torch.from_numpy(x), BandTensors.from_sensors(sensor), None, ids_B, ids_B, ids_B, ids_B,
            torch.zeros(len(ids_B), 2, dtype=torch.int64), ids_B, ids_B,
        )
        for x, sensor in zip(pairs.windows(0, slot, range(WINDOWS // 2)), slot.sensors, strict=True)
    )  # fmt: skip

    def one() -> object:
        encoder.zero_grad()
        encoder(Batch(parts)).pooled_BD.square().mean().backward()
        return None

    return one


def main() -> None:
    """Print and write the table."""
    arguments = parser("simulate.json", __doc__).parse_args()
    same = {"sensors": ("aviris_classic_2010s",), "drawn": 0}
    candidates = {
        name: source(quantities=(name,), **same) for name in ("radiance", "toa_reflectance", "surface_reflectance")
    }
    candidates |= {"table": source(), "step": training_step()}
    for _ in range(16):  # responses of the sensors of the first steps are made once
        candidates["table"]()
    seconds = interleaved(candidates, arguments.repeats, clock="cpu")
    rates = {name: round(WINDOWS / value) for name, value in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:20} {rate:7,d} windows/s of processor time")
    write(arguments.json, {"machine": machine(), "windows_per_s": rates, "target": 2000})


if __name__ == "__main__":
    main()
