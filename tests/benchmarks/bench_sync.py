"""Step time of all-reduce, DS-Sync and local SGD on a slow network: ``python -m tests.benchmarks.bench_sync``.

Four hosts in network namespaces of this machine (:mod:`tests.benchmarks.network`), real torch.distributed (gloo) over
them, the engine's own loop: seconds a step for links of several rates and latencies, with and without a straggler, at
equal samples a step. The computation is a sleep (:mod:`tests.benchmarks.sync_host`). ``--full`` takes more of each;
``tests.benchmarks.sync_model`` makes a model of the figures and goes on to 1,024 workers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby, product
from operator import itemgetter
from typing import Any

from tests.benchmarks.network import Network, NoNetworkError, network
from tests.benchmarks.timing import machine, parser, write

HOSTS, COMPUTE_S, SLOW = 4, 0.05, 3.0
WAYS: dict[str, dict[str, Any]] = {
    "all-reduce": {"kind": "allreduce"},
    "DS-Sync, rows and columns": {"kind": "ds_sync"},
    "DS-Sync, pairs": {"kind": "ds_sync", "layout": "hypercube"},
    "local SGD, 8 steps": {"kind": "local_sgd", "period": 8},
}
STRAGGLERS = ("none", "persistent", "wandering")


def measured(hosts: Network, todo: list[dict[str, Any]], limit_s: float) -> Iterator[dict[str, Any]]:
    """The cases, one after the other, each with its figures as soon as they are there.

    Raises:
        RuntimeError: a host failed or took longer; with what it printed.
    """
    processes = []
    for rank, _ in enumerate(hosts.hosts):
        environment = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(len(hosts.hosts)), "LOCAL_RANK": "0",
            "MASTER_ADDR": hosts.addresses[0], "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = ["timeout", f"{limit_s:.0f}", sys.executable, "-m", "tests.benchmarks.sync_host", json.dumps(todo)]
        processes.append(hosts.start(rank, command, env=environment, stdout=None if rank else subprocess.PIPE))
    main = processes[0].stdout
    assert main is not None
    for case in todo:
        line = main.readline()
        if not line:
            codes = [process.wait() for process in processes]
            raise RuntimeError(f"hosts ended with {codes} (124: it took more than {limit_s:.0f} s)")
        yield case | json.loads(line)
    for process in processes:
        process.wait()


def cases(full: bool, steps: int) -> list[dict[str, Any]]:
    """All cases of a network follow each other."""
    links = list(product((20, 100, 400), (0, 5, 20, 50))) if full else [(20, 0), (20, 50), (100, 20), (400, 0)]
    uneven = {(100, 20), (20, 5), (400, 0)} if full else {(100, 20)}
    sizes = (50_000, 200_000, 800_000) if full else (50_000, 200_000)
    return [
        {
            "rate_mbit": rate, "delay_ms": delay, "parameters": size, "straggler": straggler, "slow": SLOW,
            "compute_s": COMPUTE_S, "way": way, "sync": sync, "steps": steps,
        }
        for rate, delay in links
        for size in sizes
        for straggler in (STRAGGLERS if (rate, delay) in uneven and size == sizes[0] else STRAGGLERS[:1])
        for way, sync in WAYS.items()
    ]  # fmt: skip


def main() -> None:
    arguments = parser("sync.json", __doc__)
    arguments.add_argument("--full", action="store_true", help="twelve networks and three sizes")
    arguments.add_argument("--steps", type=int, default=28, help="of a run")
    arguments.add_argument("--limit", type=float, default=600, help="seconds for all cases of a network")
    options = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # hosts are taken down then too
    rows: list[dict[str, Any]] = []
    todo, began = cases(options.full, options.steps), machine()
    link = itemgetter("rate_mbit", "delay_ms")
    try:
        for (rate, delay), here in groupby(todo, link):
            with network(HOSTS, rate, delay) as hosts:
                for row in measured(hosts, list(here), options.limit):
                    rows.append(row)
                    print(
                        f"{rate:4d} Mbit/s  {delay:2d} ms  {row['parameters'] / 1e6:.2f} M  {row['straggler']:10s}  "
                        f"{row['way']:26s} {1e3 * row['step_s']:8.1f} ms a step", flush=True,
                    )  # fmt: skip
    except NoNetworkError as error:
        print(f"skipped: {error}")
        return
    write(options.json, {"machine": began | {"load_after": machine()["load"]}, "rows": rows})


if __name__ == "__main__":
    main()
