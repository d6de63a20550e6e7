"""Gradients of several processes beside those of one: strategies x ranks x shares x objectives, with cached gradients.

    python -m tests.benchmarks.parity --ranks 2,3,4

Shares are even (each rank has as many samples of a sensor) or uneven (as many in all, and most ranks lack a sensor).
Prints, for each, how far the loss is from that of one process without micro-batches (relative) and the largest distance
of a parameter's gradient, relative to the largest element of that gradient, or to 1e-3 where that is smaller.
"""

from __future__ import annotations

import argparse

import numpy as np

from specfm.engine.distributed import World
from tests.distributed.ranks import on_ranks
from tests.distributed.test_objectives import CPU, even, step_of, uneven
from tests.pretrain.samples import random_batch

OBJECTIVES = ("nt_xent", "masked", "vicreg", "latent", "all")
STRATEGIES = ("ddp", "fsdp2")
SHARES = {"even": even, "uneven": uneven}
COUNT = 12  # samples of each of two sensors
MICRO = 1  # samples of each rank held at once: fewer than any rank has, so gradients are cached
Found = dict[str, np.ndarray]


def found_by(world: World) -> dict[str, Found]:
    """What a rank finds, by strategy, share and objective."""
    raw = random_batch(COUNT)
    return {
        f"{strategy} {share} {name}": step_of(name, world, MICRO, raw, sharded=strategy == "fsdp2", share=SHARES[share])
        for strategy in STRATEGIES
        for share in SHARES
        for name in OBJECTIVES
    }


def apart(found: Found, wanted: Found) -> tuple[float, float]:
    """Relative distance of losses, and the largest of gradients."""
    loss = float(abs(found["loss"] - wanted["loss"]) / abs(wanted["loss"]))
    names = [name for name in wanted if name.startswith("grad/")]
    assert names and found.keys() == wanted.keys()
    return loss, max(float(abs(found[n] - wanted[n]).max() / max(abs(wanted[n]).max(), 1e-3)) for n in names)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="2,3,4", help="numbers of processes that divide 12, default 2,3,4")
    ranks = [int(each) for each in parser.parse_args().ranks.split(",")]
    alone, raw = World(0, 1, CPU), random_batch(COUNT)
    wanted = {name: step_of(name, alone, None, raw) for name in OBJECTIVES}
    print("| ranks | strategy | share | objective | loss | gradient |\n|---|---|---|---|---|---|", flush=True)
    for name in OBJECTIVES:
        loss, gradient = apart(step_of(name, alone, MICRO, raw), wanted[name])
        print(f"| 1 | - | all | {name} | {loss:.1e} | {gradient:.1e} |", flush=True)
    for size in ranks:
        everywhere = on_ranks(size, found_by, seconds=600)
        for case in everywhere[0]:
            strategy, share, name = case.split()
            pairs = [apart(each[case], wanted[name]) for each in everywhere]
            loss, gradient = (max(values) for values in zip(*pairs, strict=True))
            print(f"| {size} | {strategy} | {share} | {name} | {loss:.1e} | {gradient:.1e} |", flush=True)


if __name__ == "__main__":
    main()
