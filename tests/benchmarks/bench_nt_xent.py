"""NT-Xent against lightly's: ``python -m tests.benchmarks.bench_nt_xent [--json FILE]``.

Forward + backward by batch size, both in one process and interleaved, with the difference of loss and gradient; ours
also with a rule about false negatives; and the peak growth of a fresh process at the largest size.

Shapes: N samples, D features; the loss has 2 N rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from lightly.loss import NTXentLoss
from torch import Tensor

from pretrain.objectives.config import NegativesConfig
from pretrain.objectives.negatives import build_rule
from pretrain.objectives.nt_xent import NegativeRule, nt_xent
from pretrain.pairs.pairing import Pairs
from specfm.batch import Batch
from tests.benchmarks.bench_embedding import peak_growth
from tests.benchmarks.timing import interleaved, machine, parser, write
from tests.pretrain.samples import part, sensor

FEATURES, TEMPERATURE = 128, 0.2
ROWS = (512, 2048, 8192)
TILES = (256, 512, 1024, 2048)
FILTERED = "tiled, false negatives out"
FORMS = ("lightly", "tiled", FILTERED)

Loss = Callable[[Tensor, Tensor], Tensor]


def projections(rows: int) -> tuple[Tensor, Tensor]:
    """Two views that agree about as well as those of a half-trained encoder."""
    generator = torch.Generator().manual_seed(0)
    z1, other = torch.randn(2, rows // 2, FEATURES, generator=generator)
    return z1.requires_grad_(), (z1.detach() + other).requires_grad_()


def rule_for(rows: int) -> NegativeRule | None:
    """A rule over samples of two sensors, of which many look alike."""
    half = rows // 4
    generator = torch.Generator().manual_seed(1)
    parts = []
    for first, bands in ((0, 60), (half, 120)):
        slope = torch.linspace(0.2, 1.0, bands)[None] * torch.rand(half, 1, generator=generator) + 0.2
        x_BHWC = slope[:, None, None].expand(half, 2, 2, bands).contiguous()
        parts.append(part(x_BHWC, sensor(400, 1000, bands), first_id=first))
    return build_rule(Pairs.of(Batch(tuple(parts))), NegativesConfig(cosine=0.999))


def both_ways(loss: Loss, z1: Tensor, z2: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward."""

    def run() -> tuple[Tensor, ...]:
        value = loss(z1, z2)
        return (value.detach(), *torch.autograd.grad(value, (z1, z2)))

    return run


def candidate(name: str, rows: int) -> Callable[[], tuple[Tensor, ...]]:
    """One form of the loss at one size."""
    z1, z2 = projections(rows)
    if name == "lightly":
        return both_ways(NTXentLoss(TEMPERATURE), z1, z2)
    rule = rule_for(rows) if name == FILTERED else None
    return both_ways(lambda a, b: nt_xent(a, b, TEMPERATURE, rule)[0], z1, z2)


def by_rows(rows: int, repeats: int) -> dict[str, Any]:
    """Milliseconds per form and how far ours is from lightly's."""
    runs = {name: candidate(name, rows) for name in FORMS}
    theirs, ours = runs["lightly"](), runs["tiled"]()
    grad, wanted = (torch.cat(found[1:]) for found in (ours, theirs))
    seconds = interleaved(runs, repeats, warmup=1)
    return {
        "rows": rows,
        "ms": {name: round(1e3 * s, 2) for name, s in seconds.items()},
        "lightly_over_tiled": round(seconds["lightly"] / seconds["tiled"], 2),
        "loss_difference": float((ours[0] - theirs[0]).abs()),
        "gradient_difference": float((grad - wanted).norm() / wanted.norm()),
    }


def by_tile(rows: int, repeats: int) -> dict[str, float]:
    """Milliseconds by rows of a tile."""
    z1, z2 = projections(rows)
    runs = {
        str(tile): both_ways(lambda a, b, tile=tile: nt_xent(a, b, TEMPERATURE, tile=tile)[0], z1, z2)  # type: ignore[misc]
        for tile in TILES
    }
    return {name: round(1e3 * s, 2) for name, s in interleaved(runs, repeats, warmup=1).items()}


def memory(rows: int) -> dict[str, Any]:
    """Peak growth in MB of a fresh process per form, rule and features included, beside one matrix of logits."""
    found: dict[str, Any] = {"one_matrix_mb": round(4 * rows**2 / 1e6)}
    for name in FORMS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_nt_xent", "--memory-of", name, "--rows", str(rows)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            found[name] = {"failed": done.stderr.strip().splitlines()[-1:]}
            continue
        found[name] = round(json.loads(done.stdout.splitlines()[-1]) / 1e6)
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parser("nt_xent.json", __doc__)
    arguments.add_argument("--rows", type=int, nargs="*", default=ROWS, help="sizes 2 N to time")
    arguments.add_argument("--memory-of", help="measure the memory of one form in this process, and stop")
    chosen = arguments.parse_args()
    if chosen.memory_of:
        candidate(chosen.memory_of, 64)()  # libraries are loaded before the measurement
        print(peak_growth(lambda: candidate(chosen.memory_of, max(chosen.rows))()))
        return
    figures: dict[str, Any] = {
        "sizes": {"features": FEATURES, "temperature": TEMPERATURE},
        "machine": machine(),
        "by_rows": [],
    }
    for rows in chosen.rows:
        row = by_rows(rows, chosen.repeats)
        figures["by_rows"].append(row)
        print(f"2N = {rows}, forward + backward; loss differs by {row['loss_difference']:.1e}, ", end="")
        print(f"gradient by {row['gradient_difference']:.1e}")
        for name, ms in row["ms"].items():
            print(f"  {name:28s} {ms:9.2f} ms")
        print(f"  lightly / tiled = {row['lightly_over_tiled']}")
    largest = max(chosen.rows)
    figures["by_tile_ms"] = by_tile(largest, chosen.repeats)
    print("by tile:", json.dumps(figures["by_tile_ms"]))
    figures["memory_mb"] = memory(largest)
    print("memory:", json.dumps(figures["memory_mb"]))
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
