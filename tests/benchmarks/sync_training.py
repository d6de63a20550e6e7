"""A real pretraining on a slow network, by every way: ``python -m tests.benchmarks.sync_training``.

Four hosts in network namespaces (:mod:`tests.benchmarks.network`), each a process of ``python -m pretrain`` on real
scenes (``SPECFM_DATA``): at equal samples, the seconds of a step, the whole time, and the loss against samples and
against time (plot). The four share this machine's processor, so computation takes longer than on four machines, the
same for all ways.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.network import Network, NoNetworkError, network
from tests.benchmarks.sync_accuracy import SCENES
from tests.benchmarks.timing import machine, parser, write
from tests.conftest import find_data
from tests.pretrain.runs import metrics

WAYS = {
    "all-reduce": "allreduce",
    "DS-Sync": "ds_sync",
    "DS-Sync, negatives of all": "{kind: ds_sync, negatives: world}",
    "local SGD, 8 steps": "local_sgd",
}
HOSTS, FIRST = 4, 4  # the first steps, which fill caches, are left out of the time of a step
SAMPLES = 32  # of a step
MET = {"DS-Sync": 2, "local SGD, 8 steps": 4}  # a sample meets this part of them: a pair's, its own process's


def trained(hosts: Network, home: Path, way: str, steps: int, limit_s: float) -> dict[str, Any]:
    """One run: losses and seconds of its steps, its last scores, seconds from start to end.

    Raises:
        RuntimeError: a host failed or took longer.
    """
    out = home / "".join(filter(str.isalnum, way))
    keys = [
        f"out={out}", f"data.shards={home / 'shards'}", f"sync={WAYS[way]}", f"steps={steps}",
        f"data.global_batch={SAMPLES}", "data.divisor=4", f"monitor.every={steps}",
        f"checkpoint.every={steps}", "optim.warmup_steps=5",
        "monitor.features_every=1000", "views.crop=9",
    ]  # fmt: skip
    processes, began = [], time.perf_counter()
    for rank in range(HOSTS):
        environment = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(HOSTS), "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": hosts.addresses[0], "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "eth0",
        }  # fmt: skip
        command = ["timeout", f"{limit_s:.0f}", sys.executable, "-m", "pretrain", "pretrain/debug.yaml", *keys]
        with open(home / f"log-{rank}", "w") as log:
            processes.append(hosts.start(rank, command, env=environment, stdout=log, stderr=log))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError((home / "log-0").read_text()[-3000:])
    rows = metrics(out)
    found = {key: [row[key] for row in rows] for key in ("loss", "seconds")}
    found["wall_s"] = time.perf_counter() - began
    return found | {key: rows[-1][key] for key in ("knn", "linear")}


def plot(runs: dict[str, dict[str, Any]], title: str, path: Path) -> None:
    """Loss, a mean over five steps, against samples and against time.

    A sample that meets fewer others has the lower loss, so that of guessing among all views that it meets is taken off.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for way, run in runs.items():
        guessed = np.log(2 * SAMPLES // MET.get(way, 1) - 1)
        loss = np.convolve(run["loss"], np.full(5, 0.2), "valid") - guessed
        axes[0].plot(SAMPLES * np.arange(5, 5 + len(loss)), loss, label=way)
        axes[1].plot(np.cumsum(run["seconds"])[4:], loss, label=way)
    axes[0].set(xlabel="samples", ylabel="NT-Xent, less that of guessing")
    axes[1].set(xlabel="seconds")
    axes[0].legend(fontsize=7)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    arguments = parser("sync_training.json", __doc__)
    arguments.add_argument("--rate", type=float, default=20, help="Mbit/s that a host sends")
    arguments.add_argument("--delay", type=float, default=50, help="milliseconds of a message")
    arguments.add_argument("--steps", type=int, default=48)
    arguments.add_argument("--limit", type=float, default=600, help="seconds for a run")
    options = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # hosts are taken down then too
    if find_data() is None:
        print("skipped: set SPECFM_DATA to the folder of real scenes")
        return
    runs: dict[str, dict[str, Any]] = {}
    link = f"{options.rate:g} Mbit/s, {options.delay:g} ms"
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        cut = [sys.executable, "-m", "specfm", "shard", *SCENES, "--out", str(home / "shards"), "--window", "12"]
        subprocess.run([*cut, "--stride", "4"], check=True, capture_output=True)
        try:
            with network(HOSTS, options.rate, options.delay) as hosts:
                for way in WAYS:
                    run = runs[way] = trained(hosts, home, way, options.steps, options.limit)
                    step = statistics.median(run["seconds"][FIRST:])
                    print(
                        f"{link}  {way:26s} {1e3 * step:6.0f} ms a step (median), steps {sum(run['seconds']):6.1f} s, "
                        f"with start and end {run['wall_s']:6.1f} s, kNN {run['knn']:.3f}, linear {run['linear']:.3f}",
                        flush=True,
                    )
        except NoNetworkError as error:
            print(f"skipped: {error}")
            return
    write(options.json, {"machine": machine(), "link": link, "runs": runs})
    plot(runs, f"four hosts, {link}", options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
