"""Masked pretraining, forward + backward: ``python -m tests.benchmarks.bench_masked [--json FILE] [--clock cpu]``.

Candidates have the same weights and hide the same patches: ours (visible patches gathered before the embedding,
factored readout of masked tokens only), ours reading some of the bands, embed-then-mask, and the textbook: every patch
embedded through formed kernels, every token read through formed matrices. Time: in turn in one process, medians.
Memory: peak growth of a fresh process each (on CUDA: of the allocator).

Shapes: B samples, N tokens, C bands.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from pretrain.objectives import masked
from pretrain.objectives.base import MicroBatch, Surroundings
from pretrain.objectives.config import DecoderConfig, MaskedConfig
from pretrain.objectives.masked import Masked
from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import Pairs
from pretrain.views.config import ViewConfig
from specfm import create_encoder
from specfm.batch import Batch
from tests.benchmarks.bench_embedding import grid_of, peak_growth
from tests.benchmarks.timing import CLOCKS, interleaved, machine, parser, write
from tests.pretrain.samples import part

SOME = 64  # bands read
# name -> samples, side and bands of windows, patch, size and options of the encoder, decoder
CASES: dict[str, dict[str, Any]] = {
    "nano, 24 x 24 x 200": {
        "batch": 16, "side": 24, "bands": 200, "patch": 3, "size": "nano", "options": {"rank": 4},
        "decoder": DecoderConfig(),
    },
    "small, 64 x 64 x 200": {
        "batch": 4, "side": 64, "bands": 200, "patch": 8, "size": "small", "options": {"rank": 8},
        "decoder": DecoderConfig(width=256, depth=2, heads=8, rank=32),
    },
}  # fmt: skip
CANDIDATES = ("ours", f"ours, {SOME} bands read", "embed, then mask", "textbook")


class Step:
    """Forward and backward of one objective on one batch."""

    def __init__(self, case: str, candidate: str, device: str, **changes: Any) -> None:
        sizes = CASES[case] | changes
        torch.manual_seed(0)
        self.encoder = create_encoder(sizes["size"], "hyper", sizes["patch"], **sizes["options"]).train().to(device)
        views = ViewConfig(band_draw="part", attribute_dropout=0.0)
        around = Surroundings(self.encoder.num_features, sizes["patch"], views, 0, PairsConfig(), self.encoder)
        some = SOME if candidate == CANDIDATES[1] else None
        self.objective = Masked(MaskedConfig(bands=some, decoder=sizes["decoder"]), around)
        self.objective.decoder.to(device)
        shape = (sizes["batch"], sizes["side"], sizes["side"], sizes["bands"])
        x_BHWC = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        batch = Batch((part(x_BHWC, grid_of_sensor(sizes["bands"])),)).to(device)
        self.micro = MicroBatch(Pairs.of(batch), self.encoder, around, 0, 1.0)
        self.candidate = candidate
        if candidate == "textbook":
            self.encoder.embedding.forward = self.encoder.embedding.reference  # type: ignore[method-assign,assignment]
            readout = self.objective.decoder.readout
            readout.forward = readout.reference  # type: ignore[method-assign]

    def loss(self) -> torch.Tensor:
        """Of the batch."""
        embed_all = self.candidate in CANDIDATES[2:]
        chosen: Callable[..., Any] = masked.encode_visible
        with mock.patch.object(masked, "encode_visible", lambda e, h, **_: chosen(e, h, embed_all=embed_all)):
            return self.objective.separate(self.micro)[0]

    def __call__(self) -> None:
        """Fresh gradients."""
        self.encoder.zero_grad(set_to_none=True)
        self.objective.decoder.zero_grad(set_to_none=True)
        self.loss().backward()
        if self.encoder.device.type == "cuda":
            torch.cuda.synchronize()


def grid_of_sensor(bands: int) -> Any:
    """A sensor of evenly spaced bands."""
    from specfm import Sensor

    return Sensor(grid_of(bands))


def megabytes(case: str, candidate: str, device: str) -> int:
    """Peak growth over one step, in this process."""
    step = Step(case, candidate, device)
    if device == "cpu":
        Step(case, "ours", device, batch=1, side=3 * CASES[case]["patch"], bands=6)()  # loads libraries, leaves little
        return round(peak_growth(step) / 1e6)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6)


def memory(case: str, candidate: str, device: str) -> int | str:
    """The same of a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_masked", "--device", device]
    done = subprocess.run([*command, "--memory-of", case, candidate], capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1]) if not done.returncode else done.stderr.strip().splitlines()[-1]


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parser("masked.json", __doc__)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    arguments.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: on a machine in use")
    arguments.add_argument("--memory-of", nargs=2, metavar=("CASE", "CANDIDATE"), help="measure it here, and stop")
    chosen = arguments.parse_args()
    if chosen.memory_of:
        print(megabytes(*chosen.memory_of, chosen.device))
        return
    figures: dict[str, Any] = {"machine": machine(), "device": chosen.device, "clock": chosen.clock, "cases": {}}
    for case in chosen.cases:
        steps = {candidate: Step(case, candidate, chosen.device) for candidate in CANDIDATES}
        seconds = interleaved(steps, chosen.repeats, warmup=1, clock=chosen.clock)
        figures["cases"][case] = {
            name: {
                "ms": round(1e3 * s, 1),
                "times_ours": round(s / seconds["ours"], 2),
                "peak_mb": memory(case, name, chosen.device),
            }
            for name, s in seconds.items()
        }
        print(case)
        for name, row in figures["cases"][case].items():
            print(f"  {name:24s} {row['ms']:9.1f} ms  {row['times_ours']:6.2f} x ours  {row['peak_mb']:>6} MB")
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
