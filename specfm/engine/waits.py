"""How long processes wait for each other, in the record of a run.

``peer_wait_s`` of a row is the time that a process stood in collectives, from those that told the figures of the step
before to those that tell of this one: an evaluation or a save between the two is in it. It is the mean over processes,
so its share of ``seconds`` is the share of all their time. Part of it is waiting until the slowest has come, part the
way of what is sent, and, where processes compute on CPUs, adding it up. ``slowest_rank`` stood least: the others waited
for it.

Where processes make their own updates (``sync: ds_sync | local_sgd``), each knows of its own wait alone, and the record
holds that of rank 0. What ``parallel: fsdp2`` gathers inside a block is not seen. On CUDA the device waits and not the
process, so there are no such columns.

Shapes: R processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specfm.engine.distributed import World
from specfm.engine.groups import waited_s


def own_wait_R(world: World) -> list[float]:
    """What this process waited since this was last asked, so that the means over processes are the waits by rank."""
    wait_R = [0.0] * world.size
    wait_R[world.rank] = waited_s() * world.size
    return wait_R


def wait_columns(waits_R: Sequence[float], world: World, equal: bool) -> dict[str, Any]:
    """Columns of a step's row. ``equal``: all were told the waits of all."""
    if world.size == 1 or world.device.type == "cuda":
        return {}
    mean = {"peer_wait_s": sum(waits_R) / world.size}
    return {**mean, "slowest_rank": list(waits_R).index(min(waits_R))} if equal else mean
