"""A whole pretraining step and where its time goes: ``python -m tests.benchmarks.bench_pretrain [--json FILE]``.

The step of ``configs/pretrain/default.yaml`` on shards of three sensors (60, 200 and 425 bands), from reading to the
update, beside the same step with one setting changed, in turn in one process: median seconds and samples a second.
Then its parts, the stall that a checkpoint costs, and the time of ``import specfm`` in a fresh process. ``--device
cuda`` waits for the device around every part; ``--set model.size=base optim.precision=bf16`` changes every candidate.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import pretrain.objectives.base
from pretrain import setup
from pretrain.config import PretrainConfig
from pretrain.loader import Loader
from pretrain.objectives import contrastive
from pretrain.pairs.pairing import Pairs
from pretrain.release.card import model_release
from pretrain.state import training_tensors
from pretrain.step import PretrainStep
from specfm.bands import BandGrid
from specfm.config import load_config
from specfm.engine.checkpointing import Checkpointer
from specfm.engine.distributed import World
from specfm.engine.optimizer import clip_gradients
from specfm.engine.staging import Beside, copied
from specfm.models.encoder import Encoder
from specfm.sensors import Sensor
from specfm.shards import ShardWriter
from tests.benchmarks.timing import interleaved, machine, parser, write

BANDS = (60, 200, 425)
CHANGES = {  # one setting each
    "default.yaml": [],
    "its embedding trained too": ["whiten.batches=0"],
    "bf16": ["optim.precision=bf16"],
    "micro-batches of a quarter": ["optim.micro_batch=48"],
    "gradient checkpointing": ["model.grad_checkpointing=true"],
    "with band prediction": ["objective.band_prediction.weight=0.5"],
}


def build(folder: Path, count: int, window: int) -> None:
    """A shard for each sensor: smooth spectra with noise."""
    rng = np.random.default_rng(0)
    for bands in BANDS:
        sensor = Sensor(BandGrid(np.linspace(400, 2500, bands), np.full(bands, 10.0)), "surface_reflectance", 1e-4)
        shape = (window, window)
        with ShardWriter(folder / f"{bands}.h5", shape, sensor, "int16", f"of {bands} bands", count=count) as shard:
            spectrum = 2000 + 1500 * np.sin(np.linspace(0, 9, bands))
            level_N111 = rng.uniform(0.5, 1.5, (count, 1, 1, 1))
            shard.add((spectrum * level_N111 + rng.normal(0, 60, (count, *shape, bands))).astype(np.int16))


class Run:
    """A pretraining whose steps can be taken one by one."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, device = config, torch.device(config.device)
        self.world = World(0, 1, device)
        shards = setup.open_shards(config)
        sampler = setup.make_sampler(config, shards)
        self.modules, objectives = setup.make_modules(config)
        self.modules.to(device)
        self.optimizer = setup.make_optimizer(config, self.modules, device)
        setup.whiten(config, shards, sampler, self.modules)
        self.step = PretrainStep(self.modules["encoder"], objectives, config, self.world)
        loader = Loader(shards, sampler, threads=config.data.threads, prefetch=config.data.prefetch, device=device)
        self.batches = loader.iterate(0, config.steps)

    def __call__(self) -> None:
        """Read, view, encode, contrast, update."""
        number, batch = next(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        self.step(number, Pairs.of(batch))
        self.update()
        wait(self.world.device)

    def update(self) -> None:
        """Clip and step, as the loop does."""
        clip_gradients(self.modules.parameters(), self.config.optim.clip)
        self.optimizer.step()


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parts(run: Run, repeats: int) -> dict[str, float]:
    """Median milliseconds of each part of a step; "the rest" is what no part covers."""
    spent: dict[str, list[float]] = defaultdict(list)
    device = run.world.device

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            wait(device)
            began = time.perf_counter()
            found = function(*args, **kwargs)
            wait(device)
            spent[name][-1] += time.perf_counter() - began
            return found

        return call

    encoder = run.modules["encoder"]
    assert isinstance(encoder, Encoder)
    names = ("reading (waited for)", "negatives: raw spectra", "views", "patches: cut, clean, scale", "embedding")
    names += ("encoder's trunk and the rest of its forward", "NT-Xent", "backward", "update", "the whole step")
    iterate = run.batches
    run.batches = iter(lambda: timed(names[0], lambda: next(iterate))(), None)  # type: ignore[assignment]
    with contextlib.ExitStack() as stack:
        for where, what, name in (
            (contrastive, "build_rule", names[1]),
            (pretrain.objectives.base, "make_view", names[2]),
            (encoder, "prepare", names[3]),
            (encoder.embedding, "forward", names[4]),
            (encoder, "forward", names[5]),
            (contrastive, "nt_xent", names[6]),
            (torch.Tensor, "backward", names[7]),
            (run, "update", names[8]),
        ):
            stack.enter_context(mock.patch.object(where, what, timed(name, getattr(where, what))))
        for _ in range(repeats + 2):
            for name in names:
                spent[name].append(0.0)
            timed(names[9], run)()
    inside = [sum(spent[name][i] for name in names[3:5]) for i in range(repeats + 2)]
    spent[names[5]] = [all_of_it - early for all_of_it, early in zip(spent[names[5]], inside, strict=True)]
    found = {name: 1e3 * statistics.median(values[2:]) for name, values in spent.items()}
    found["the rest"] = found[names[9]] - sum(found[name] for name in names[:9])
    return {name: round(ms, 2) for name, ms in found.items()}


def checkpoint_stall(run: Run, folder: Path, repeats: int) -> dict[str, float]:
    """Seconds for which training waits while a checkpoint is copied, seconds until it is on the disk and verified (for
    which it waits too, with ``checkpoint.beside=false``), and what it takes there."""
    checkpointer, beside, waited, taken = Checkpointer(folder, keep=1), Beside(), [], []
    for number in range(1, repeats + 1):
        began = time.perf_counter()
        write = model_release(run.modules, {}).publish
        tensors = copied(training_tensors(run.modules, run.optimizer))
        beside.begin(number, partial(checkpointer.save, number, write, tensors, {}))
        waited.append(time.perf_counter() - began)
        beside.wait()
        taken.append(time.perf_counter() - began)
    beside.close()
    size = sum(file.stat().st_size for file in next(folder.glob("step-*")).rglob("*") if file.is_file())
    return {
        "stall_s": round(statistics.median(waited), 4),
        "whole_s": round(statistics.median(taken), 4),
        "megabytes": round(size / 1e6, 1),
    }


def import_seconds(repeats: int) -> Iterator[tuple[str, float]]:
    """Median seconds of imports in fresh processes."""
    for name in ("specfm", "torch", "timm"):
        code = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
        taken = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(repeats)]
        yield name, round(statistics.median(taken), 3)


def main() -> None:
    """Measure, print, write JSON."""
    arguments = parser("pretrain.json", __doc__)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--window", type=int, default=12, help="window side of the shards, pixels")
    arguments.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every candidate")
    chosen = arguments.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "device": chosen.device, "set": chosen.set}
    with tempfile.TemporaryDirectory(prefix="specfm-bench-") as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        build(folder / "shards", 512, chosen.window)
        files = ", ".join(str(file) for file in sorted((folder / "shards").glob("*.h5")))
        common = [f"data.shards=[{files}]", f"out={folder / 'run'}", f"device={chosen.device}", *chosen.set]
        runs = {
            name: Run(load_config("pretrain/default.yaml", PretrainConfig, common + changes))
            for name, changes in CHANGES.items()
        }
        seconds = interleaved(runs, chosen.repeats)
        default = runs["default.yaml"]
        batch = default.config.data.global_batch
        figures["step"] = {
            name: {"seconds": round(s, 4), "samples_per_s": round(batch / s, 1), "times_default": round(s / first, 3)}
            for first in (seconds["default.yaml"],)
            for name, s in seconds.items()
        }
        figures["parts_ms"] = parts(default, chosen.repeats)
        figures["checkpoint_stall"] = checkpoint_stall(default, folder / "checkpoints", chosen.repeats)
    figures["import_s"] = dict(import_seconds(3))
    for name, row in figures["step"].items():
        print(f"{name:32s} {row['seconds']:8.3f} s {row['samples_per_s']:9.0f} samples/s {row['times_default']:6.2f} x")
    for name, ms in figures["parts_ms"].items():
        print(f"  {name:46s} {ms:9.2f} ms {ms / figures['parts_ms']['the whole step']:6.1%}")
    print("checkpoint:", figures["checkpoint_stall"], " import:", figures["import_s"])
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
