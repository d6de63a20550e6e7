"""Patch embeddings side by side: ``python -m tests.benchmarks.bench_embedding [--json FILE]``.

Time: forward + backward of hyper, its reference, the controls, a Conv2d stem and (extra ``peers``) torchgeo's DOFA
embedding, by band count; SpecAware's own form against ours. Memory: peak growth of a fresh process at 425 bands,
224 x 224 pixels, against the size of one token per band [B, N, C, D].

Shapes: B samples, H W pixels, C bands, N tokens, P pixels of a patch, D width.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from specfm import BandGrid, create_encoder
from specfm.batch import BandTensors
from tests.benchmarks.timing import CLOCKS, interleaved, machine, parser, write

BATCH, SIDE, PATCH, DIM = 16, 32, 8, 384
BAND_COUNTS = (4, 60, 200, 425)
MEMORY = {"batch": 1, "side": 224, "bands": 425}
IN_MEMORY = ("hyper", "hyper.reference", "basis", "dofa", "specaware")


def grid_of(bands: int) -> BandGrid:
    """Evenly spaced bands, 10 nm wide."""
    return BandGrid(np.linspace(400, 2500, bands), np.full(bands, 10.0))


def options_of(name: str, grid: BandGrid, side: int) -> dict[str, Any]:
    """What an embedding must be told."""
    return {"fixed": {"channels": len(grid)}, "specaware": {"image_size": side}}.get(name, {})


def step(module: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward with fresh gradients."""

    def run() -> None:
        module.zero_grad(set_to_none=True)
        forward().square().mean().backward()

    return run


def whole(name: str, x_BHWC: Tensor, grid: BandGrid, **options: Any) -> Callable[[], None]:
    """One of our embeddings from the cube as stored: masks, scaling and patches included."""
    options = {**options_of(name, grid, x_BHWC.shape[1]), **options}
    encoder = create_encoder("small", name, PATCH, depth=0, **options).train()
    bands = BandTensors.from_sensors(grid)
    return step(encoder.embedding, lambda: encoder.embedding(encoder.prepare(x_BHWC, bands)))


def on_patches(
    name: str, x_BHWC: Tensor, grid: BandGrid, form: str = "forward", compiled: bool = False, **options: Any
) -> Callable[[], None]:
    """The embedding alone, its patches cut beforehand: what the peers' own embeddings are timed on."""
    options = {**options_of(name, grid, x_BHWC.shape[1]), **options}
    encoder = create_encoder("small", name, PATCH, depth=0, **options).train()
    patches = encoder.prepare(x_BHWC, grid)
    if compiled:
        encoder.embedding.compile(dynamic=True)
        return step(encoder.embedding, lambda: encoder.embedding(patches))
    return step(encoder.embedding, lambda: getattr(encoder.embedding, form)(patches))


def conv2d(x_BHWC: Tensor) -> Callable[[], None]:
    """A ViT stem for a fixed band count, on the band-first cube it likes."""
    conv = nn.Conv2d(x_BHWC.shape[-1], DIM, PATCH, PATCH)
    x_BCHW = x_BHWC.permute(0, 3, 1, 2).contiguous()
    return step(conv, lambda: conv(x_BCHW).flatten(2).transpose(1, 2))


def torchgeo_dofa(x_BHWC: Tensor, grid: BandGrid) -> Callable[[], None] | None:
    """torchgeo's own DOFA embedding, or None where it is not installed."""
    try:
        from torchgeo.models.dofa import DOFAEmbedding
    except ImportError:
        return None
    embedding = DOFAEmbedding(128, PATCH, DIM)
    x_BCHW, lam_um_C = x_BHWC.permute(0, 3, 1, 2).contiguous(), torch.tensor(grid.wavelengths_nm / 1000).float()
    return step(embedding, lambda: embedding(x_BCHW, lam_um_C)[0])


def by_band_count(bands: int, repeats: int, clock: str) -> dict[str, Any]:
    """Median milliseconds of every candidate, and ratios to the default hyper on patches.

    Ours start from the cube as stored (masks, units, scaling and cutting included) unless the name says "patches".
    """
    grid = grid_of(bands)
    x_BHWC = torch.rand(BATCH, SIDE, SIDE, bands, generator=torch.Generator().manual_seed(0))
    candidates = {
        "hyper": whole("hyper", x_BHWC, grid),
        "hyper, patches": on_patches("hyper", x_BHWC, grid),
        "hyper joint content, patches": on_patches("hyper", x_BHWC, grid, content=True),
        "hyper metadata only, patches": on_patches("hyper", x_BHWC, grid, content=False),
        "hyper rank 1, patches": on_patches("hyper", x_BHWC, grid, rank=1),
        "hyper rank 4, patches": on_patches("hyper", x_BHWC, grid, rank=4),
        "hyper.reference, patches": on_patches("hyper", x_BHWC, grid, "reference"),
        "conv2d": conv2d(x_BHWC),
        "dofa (our control)": whole("dofa", x_BHWC, grid),
        "basis": whole("basis", x_BHWC, grid),
        "fixed": whole("fixed", x_BHWC, grid),
    }
    if shutil.which("g++"):
        candidates["hyper compiled, patches"] = on_patches("hyper", x_BHWC, grid, compiled=True)
    peer = torchgeo_dofa(x_BHWC, grid)
    if peer is not None:
        candidates["dofa (torchgeo)"] = peer
    seconds = interleaved(candidates, repeats, clock=clock)
    return {
        "bands": bands,
        "ms": {name: round(1e3 * s, 2) for name, s in seconds.items()},
        "times_hyper": {name: round(s / seconds["hyper, patches"], 2) for name, s in seconds.items()},
    }


def specaware_forms(repeats: int, clock: str) -> dict[str, Any]:
    """SpecAware's embedding as published (U and a token per band formed) against the same weights contracted."""
    grid = grid_of(200)
    x_BHWC = torch.rand(BATCH, SIDE, SIDE, 200, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    encoder = create_encoder("small", "specaware", PATCH, depth=0, image_size=SIDE).eval()  # dropout off, to compare
    patches, module = encoder.prepare(x_BHWC, grid), encoder.embedding
    with torch.inference_mode():
        own, ours = module.reference(patches), module(patches)
    seconds = interleaved(
        {
            "own form": step(module, lambda: module.reference(patches)),
            "factored": step(module, lambda: module(patches)),
        },
        max(repeats // 2, 3),
        warmup=1,
        clock=clock,
    )
    return {
        "bands": 200,
        "rank": module.rank,
        "ms": {name: round(1e3 * s, 1) for name, s in seconds.items()},
        "times_factored": round(seconds["own form"] / seconds["factored"], 2),
        "relative_difference": float((ours - own).norm() / own.norm()),
    }


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes by which the resident memory of this process peaks above where it stands now."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024

    def read(key: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key)) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = read("VmRSS")
    run()
    return read("VmHWM") - before


def memory_child(name: str) -> None:
    """Measure one embedding in this (fresh) process and print bytes as JSON."""
    name, _, form = name.partition(".")
    torch.manual_seed(0)
    grid = grid_of(MEMORY["bands"])
    x_BHWC = torch.rand(MEMORY["batch"], MEMORY["side"], MEMORY["side"], MEMORY["bands"])
    encoder = create_encoder("small", name, PATCH, depth=0, **options_of(name, grid, MEMORY["side"])).eval()
    small = encoder.prepare(x_BHWC[:, :PATCH, :PATCH, :8], grid_of(8))
    torch.einsum("bcnp,cp->bn", small.x_BCNP, small.x_BCNP[0, :, 0]).sum()  # libraries are loaded before we count
    forward = getattr(encoder.embedding, form or "forward")
    found = {}
    with torch.inference_mode():
        found["forward"] = peak_growth(lambda: forward(encoder.prepare(x_BHWC, grid)))
    found["forward_backward"] = peak_growth(step(encoder.embedding, lambda: forward(encoder.prepare(x_BHWC, grid))))
    print(json.dumps(found))


def memory() -> dict[str, Any]:
    """Peak growth in MB of each embedding, with the size of a token per band beside it."""
    tokens = (MEMORY["side"] // PATCH) ** 2
    rows: dict[str, Any] = {}
    for name in IN_MEMORY:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_embedding", "--memory-of", name],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            rows[name] = {"failed": done.stderr.strip().splitlines()[-1:]}
            continue
        rows[name] = {key: round(size / 1e6) for key, size in json.loads(done.stdout.splitlines()[-1]).items()}
    token_per_band = 4 * MEMORY["batch"] * tokens * MEMORY["bands"] * DIM
    cube = 4 * MEMORY["batch"] * MEMORY["side"] ** 2 * MEMORY["bands"]
    return {"cube_mb": round(cube / 1e6), "token_per_band_mb": round(token_per_band / 1e6), "peak_mb": rows}


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parser("embedding.json", __doc__)
    arguments.add_argument("--bands", type=int, nargs="*", default=BAND_COUNTS, help="band counts to time")
    arguments.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: on a machine in use")
    arguments.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    arguments.add_argument("--memory-of", help="measure the memory of one embedding in this process, and stop")
    chosen = arguments.parse_args()
    if chosen.memory_of:
        memory_child(chosen.memory_of)
        return
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    figures: dict[str, Any] = {
        "clock": chosen.clock,
        "sizes": {"batch": BATCH, "side": SIDE, "patch": PATCH, "dim": DIM},
        "machine": machine(),
        "by_band_count": [],
    }
    for bands in chosen.bands:
        row = by_band_count(bands, chosen.repeats, chosen.clock)
        figures["by_band_count"].append(row)
        print(f"{bands} bands, forward + backward")
        for name, ms in sorted(row["ms"].items(), key=lambda item: item[1]):
            print(f"  {name:32s} {ms:9.2f} ms  {row['times_hyper'][name]:6.2f} x hyper, patches")
    figures["specaware"] = specaware_forms(chosen.repeats, chosen.clock)
    print("specaware:", json.dumps(figures["specaware"]))
    figures["memory"] = memory()
    print("memory:", json.dumps(figures["memory"]))
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
