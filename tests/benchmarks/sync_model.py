"""From measured step times to larger clusters: ``python -m tests.benchmarks.sync_model [--json runs/bench/sync.json]``.

A model of latency, bandwidth and stragglers, its three constants fitted to the runs of ``bench_sync`` *without* a
straggler, asked about all of them (its error at every point is printed, those with stragglers it has not seen), then
for 4 to 1,024 workers on links of several kinds: one table, one plot.

Ring reductions, as gloo makes them (with trees, as NCCL has them, hops grow with log2 n: dashed): n workers, M bytes::

    t(n, M) = 2 (n - 1) (a + k d) + 2 (n - 1) / n * M * (8 / r + c)

d and r are the link's latency and rate; a (what a hop costs beside), k (messages that a hop waits for: gloo's sender
asks first), c (what a byte costs beside) and b (what a step costs beside its computation) are fitted. All-reduce:
gradients, then 24 bytes of agreement, by all. DS-Sync: weights in the group of the step, flags beside them; a worker
goes on when its own group is done. Local SGD: all, every H steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.counter import mix64
from specfm.engine.sync.choose import make_layout
from specfm.engine.sync.config import SyncConfig
from specfm.engine.sync.layouts import Hypercube, Layout, Periodic, RowsColumns
from tests.benchmarks.bench_sync import WAYS
from tests.benchmarks.timing import parser

WORKERS = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
NUMBER_BYTES, AGREEMENT_BYTES = 4, 24
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """A cluster to ask about: its links and the training on it.

    Attributes:
        rate_mbit, delay_ms: of a link. parameters: of the model. compute_s: a worker's step. spread: deviation of the
            logarithm of that time, over workers and steps. fast: constants of a GPU cluster (20 us a hop, nothing a
            byte, 1 ms a step: assumed, not measured) in place of the fitted ones of gloo over TCP.
    """

    rate_mbit: float
    delay_ms: float
    parameters: float
    compute_s: float
    spread: float
    fast: bool = False


SETTINGS = {
    "slow and far: 20 Mbit/s, 20 ms, 0.2 M": Setting(20, 20, 2e5, 0.05, 0.1),
    "campus: 1 Gbit/s, 1 ms, 25 M": Setting(1e3, 1, 25e6, 0.3, 0.1),
    "cluster: 25 Gbit/s, 20 us, 86 M": Setting(25e3, 0.02, 86e6, 0.3, 0.1, fast=True),
    "one node: 2.4 Tbit/s, 5 us, 86 M": Setting(2.4e6, 0.005, 86e6, 0.3, 0.02, fast=True),
}


@dataclass(frozen=True)
class Model:
    """Constants: seconds and latencies a hop, seconds a byte, seconds a step. ``tree``: hops grow with log2 n."""

    hop_s: float
    latencies: float
    byte_s: float
    step_s: float
    tree: bool = False

    def reduction_s(self, n: int, nbytes: float, rate_mbit: float, delay_ms: float) -> float:
        """Seconds that n workers take to sum so many bytes."""
        if n == 1:
            return 0.0
        hops = 2 * math.ceil(math.log2(n)) if self.tree else 2 * (n - 1)
        return hops * (self.hop_s + self.latencies * delay_ms / 1e3) + 2 * (n - 1) / n * nbytes * (
            8 / (rate_mbit * 1e6) + self.byte_s
        )

    def step_time_s(
        self, layout: Layout | None, workers: int, parameters: float, rate_mbit: float, delay_ms: float,
        compute_s: Callable[[int], Floats], steps: int,
    ) -> float:  # fmt: skip
        """Mean seconds a step; ``compute_s(step)`` gives every worker's time for its computation."""
        nbytes = NUMBER_BYTES * parameters
        ready_W = np.zeros(workers)
        for number in range(1, steps + 1):
            ready_W = ready_W + compute_s(number) + self.step_s
            if layout is None:
                both = (nbytes, AGREEMENT_BYTES)
                ready_W[:] = ready_W.max() + sum(self.reduction_s(workers, each, rate_mbit, delay_ms) for each in both)
                continue
            for group in map(list, layout.groups(number)):
                if len(group) > 1:
                    ready_W[group] = ready_W[group].max() + self.reduction_s(len(group), nbytes, rate_mbit, delay_ms)
        return float(ready_W.max()) / steps


def predicted_s(model: Model, row: dict[str, Any], workers: int = 4) -> float:
    """The model's answer for a measured case."""
    layout = make_layout(SyncConfig(**row["sync"]), workers, 0)

    def compute_s(number: int) -> Floats:
        slow = {"none": -1, "persistent": 0, "wandering": int(mix64(7, number)) % workers}[row["straggler"]]
        return np.array([row["compute_s"] * (row["slow"] if worker == slow else 1.0) for worker in range(workers)])

    link = row["rate_mbit"], row["delay_ms"]
    return model.step_time_s(layout, workers, row["parameters"], *link, compute_s, row["steps"])


def fitted(rows: list[dict[str, Any]]) -> Model:
    """Constants by least squares of relative errors (never below 0), from the cases without a straggler."""
    from scipy.optimize import least_squares

    plain = [row for row in rows if row["straggler"] == "none"]

    def errors(log_constants: Floats) -> Floats:
        model = Model(*np.exp(log_constants))
        return np.array([predicted_s(model, row) / row["step_s"] - 1 for row in plain])

    # of the order of gloo on a slow processor: 1 ms and 1.5 latencies a hop, 1 GB/s, 5 ms a step
    found = least_squares(errors, np.log([1e-3, 1.5, 1e-9, 5e-3]), loss="soft_l1", f_scale=0.1)
    return Model(*np.exp(found.x))


def ways(workers: int) -> dict[str, Layout | None]:
    """What is compared, for a number of workers that is a power of two."""
    side = 1 << (workers.bit_length() - 1) // 2
    return {
        "all-reduce": None, "DS-Sync, rows and columns": RowsColumns(workers, side),
        "DS-Sync, pairs": Hypercube(workers), "local SGD, 8 steps": Periodic(workers, 8),
    }  # fmt: skip


def scaled(model: Model, tree: bool) -> dict[str, dict[str, list[float]]]:
    """Milliseconds a step by setting, way and number of workers."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, setting in SETTINGS.items():
        here = replace(model if not setting.fast else Model(20e-6, 1.0, 0.0, 1e-3), tree=tree)
        link = setting.rate_mbit, setting.delay_ms
        table: dict[str, list[float]] = {}
        for workers in WORKERS:

            def compute_s(number: int, n: int = workers, each: Setting = setting) -> Floats:
                return each.compute_s * np.exp(np.random.default_rng([n, number]).normal(0, each.spread, n))

            for way, layout in ways(workers).items():
                seconds = here.step_time_s(layout, workers, setting.parameters, *link, compute_s, 64)
                table.setdefault(way, []).append(1e3 * seconds)
        found[name] = table
    return found


def plot(tables: dict[str, dict[str, dict[str, list[float]]]], path: Path) -> None:
    """Step time against workers; one panel a setting, ring and tree in one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(SETTINGS), figsize=(4.2 * len(SETTINGS), 3.8), layout="constrained")
    for axis, name in zip(axes, SETTINGS, strict=True):
        for number, way in enumerate(WAYS):
            axis.loglog(WORKERS, tables["ring"][name][way], "-o", ms=3, color=f"C{number}", label=way)
            axis.loglog(WORKERS, tables["tree"][name][way], "--", lw=1, color=f"C{number}")
        axis.set(title=name, xlabel="workers", ylabel="ms a step", xscale="log")
        axis.set_xscale("log", base=2)
        axis.set_xticks(WORKERS, [str(n) for n in WORKERS], fontsize=7)
        axis.title.set_fontsize(9)
    axes[0].legend(fontsize=7, title="full: ring, dashed: tree", title_fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    options = parser("sync.json", __doc__)
    options.add_argument("--plot", type=Path, default=Path("runs/bench/sync_model.png"))
    arguments = options.parse_args()
    rows = json.loads(arguments.json.read_text())["rows"]
    model = fitted(rows)
    print(f"a hop {1e3 * model.hop_s:.2f} ms and {model.latencies:.2f} latencies, a byte {1e9 * model.byte_s:.2f} ns, "
          f"a step {1e3 * model.step_s:.1f} ms")  # fmt: skip
    errors: dict[bool, list[float]] = {False: [], True: []}
    for row in rows:
        seconds = predicted_s(model, row)
        errors[row["straggler"] != "none"].append(abs(seconds / row["step_s"] - 1))
        print(
            f"{row['rate_mbit']:4d} Mbit/s {row['delay_ms']:2d} ms {row['parameters'] / 1e6:.2f} M "
            f"{row['straggler']:10s} {row['way']:26s} measured {1e3 * row['step_s']:7.1f} ms, model "
            f"{1e3 * seconds:7.1f} ms, {100 * (seconds / row['step_s'] - 1):+5.1f} %"
        )
    for unseen, values in errors.items():
        if values:
            which = "with stragglers, not fitted" if unseen else "without, fitted"
            print(f"{which}: {len(values)} points, median error {100 * np.median(values):.1f} %, worst "
                  f"{100 * max(values):.1f} %")  # fmt: skip
    tables = {"ring": scaled(model, False), "tree": scaled(model, True)}
    for kind, table in tables.items():
        for name, each in table.items():
            print(f"\n{name} ({kind}), time a step against all-reduce, and all-reduce in ms")
            print(" " * 28 + "".join(f"{n:>9d}" for n in WORKERS))
            for way, values in each.items():
                cells = [
                    f"{v:9.0f}" if way == "all-reduce" else f"{100 * (v / r - 1):+8.0f}%"
                    for v, r in zip(values, each["all-reduce"], strict=True)
                ]
                print(f"  {way:26s}{''.join(cells)}")
    plot(tables, arguments.plot)
    print(f"plot: {arguments.plot}")


if __name__ == "__main__":
    main()
