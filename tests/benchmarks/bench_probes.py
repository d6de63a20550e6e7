"""Probes beside scikit-learn's plain use: ``python -m tests.benchmarks.bench_probes [--samples N] [--json FILE]``.

kNN for three k, the linear probe over its ten strengths with refit, the ridge path over its 45, each as specfm runs it
and as one would write it with scikit-learn; feature extraction of windows, and the same features from the bank. All
candidates of one comparison run in turn in one process; medians. ``--samples 100000`` is the size of a large probe and
takes half an hour on one core; the default is a fifth of it.

Shapes: N samples (70 % train, 10 % validation, 20 % test), D features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from downstream.features.bank import Bank
from downstream.features.encoders import random_encoder
from downstream.features.extract import extract
from downstream.protocols.knn import knn_predict
from downstream.protocols.linear import C_GRID, linear_probe
from downstream.protocols.ridge import STRENGTHS, ridge_probe
from downstream.splits.samples import collect_samples
from specfm.bands import BandGrid
from specfm.scene import Scene
from specfm.sensors import Sensor
from tests.benchmarks.timing import interleaved, machine, parser, write

KS = (1, 5, 20)
Sides = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def sides(samples: int, features: int, classes: int = 10) -> Sides:
    """Overlapping classes whose features are correlated, as those of encoders are."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, samples)
    latent = rng.normal(size=(samples, 48)) + 0.6 * rng.normal(size=(classes, 48))[y]
    x = (latent @ rng.normal(size=(48, features)) / 7 + 0.3 * rng.normal(size=(samples, features))).astype(np.float32)
    a, b = int(0.7 * samples), int(0.8 * samples)
    return x[:a], y[:a], x[a:b], y[a:b], x[b:], y[b:]


def sklearn_knn(data: Sides) -> list[np.ndarray]:
    """One classifier per k."""
    from sklearn.neighbors import KNeighborsClassifier

    x, y, test = np.concatenate([data[0], data[2]]), np.concatenate([data[1], data[3]]), data[4]
    return [KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x, y).predict(test) for k in KS]


def _search(data: Sides, models: list[Any]) -> np.ndarray:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, val_x, val_y, test, _ = data
    pipes = [make_pipeline(StandardScaler(), model) for model in models]
    best = max(pipes, key=lambda pipe: pipe.fit(x, y).score(val_x, val_y))
    return best.fit(np.concatenate([x, val_x]), np.concatenate([y, val_y])).predict(test)


def sklearn_linear(data: Sides) -> np.ndarray:
    """A pipeline per strength, the best one fitted again."""
    from sklearn.linear_model import LogisticRegression

    return _search(data, [LogisticRegression(C=c, max_iter=3000) for c in C_GRID])


def sklearn_ridge(data: Sides) -> np.ndarray:
    """A pipeline per strength, the best one fitted again."""
    from sklearn.linear_model import RidgeClassifier

    return _search(data, [RidgeClassifier(alpha=s * len(data[0])) for s in STRENGTHS])


def probes(samples: int, features: int, repeats: int, clock: str) -> dict[str, Any]:
    """Seconds and accuracy of both sides."""
    data = sides(samples, features)
    train, test, test_y = data[:4], data[4], data[5]
    fit = np.concatenate([data[0], data[2]]), np.concatenate([data[1], data[3]])
    runs = {
        "ridge path, 45 strengths": (lambda: ridge_probe(*train, test).predicted_N, lambda: sklearn_ridge(data)),
        "linear probe, 10 strengths": (lambda: linear_probe(*train, test).predicted_N, lambda: sklearn_linear(data)),
        "kNN, k = 1, 5, 20": (lambda: knn_predict(*fit, test, KS)[20], lambda: sklearn_knn(data)[-1]),
    }
    found = {}
    for name, both in runs.items():
        accuracy = [0.0, 0.0]

        def timed(side: int, run: Callable[[], np.ndarray], accuracy: list[float] = accuracy) -> Callable[[], None]:
            def once() -> None:
                accuracy[side] = round(float((run() == test_y).mean()), 4)

            return once

        seconds = interleaved({"specfm": timed(0, both[0]), "sklearn": timed(1, both[1])}, repeats, 0, clock)
        found[name] = {
            "specfm_s": round(seconds["specfm"], 3),
            "sklearn_s": round(seconds["sklearn"], 3),
            "sklearn_over_specfm": round(seconds["sklearn"] / seconds["specfm"], 2),
            "accuracy": accuracy,
        }
        print(
            f"  {name:28s} specfm {seconds['specfm']:8.3f} s ({accuracy[0]:.4f})   "
            f"scikit-learn {seconds['sklearn']:8.3f} s ({accuracy[1]:.4f})", flush=True,
        )  # fmt: skip
    return found


def extraction(windows: int, repeats: int, clock: str) -> dict[str, Any]:
    """Seconds for windows of 9 x 9 pixels and 200 bands through a nano encoder, into the bank, and out of it."""
    side = int(np.ceil(np.sqrt(windows)))
    rng = np.random.default_rng(1)
    sensor = Sensor(BandGrid(np.linspace(400, 2400, 200)), quantity="surface_reflectance")
    cube = rng.uniform(0.1, 0.5, (side, side, 200)).astype(np.float32)
    scene = Scene.from_array(cube, sensor, labels_HW=rng.integers(0, 2, (side, side)), label_names=("a", "b"))
    encoder, samples = random_encoder("nano", 0, patch_size=3), collect_samples([scene], 9)
    with tempfile.TemporaryDirectory() as folder:
        count = iter(range(10**6))
        full = Bank(Path(folder) / "full")
        extract(encoder, [scene], 9, samples, bank=full)
        seconds = interleaved(
            {
                "computed": lambda: extract(encoder, [scene], 9, samples),
                "computed and kept": lambda: extract(
                    encoder, [scene], 9, samples, bank=Bank(Path(folder) / str(next(count)))
                ),
                "from the bank": lambda: extract(encoder, [scene], 9, samples, bank=full),
            },
            repeats,
            0,
            clock,
        )
    for name, value in seconds.items():
        print(f"  features {name:19s} {value:8.3f} s for {len(samples)} windows", flush=True)
    return {"windows": len(samples), "s": {name: round(value, 4) for name, value in seconds.items()}}


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parser("probes.json", __doc__)
    arguments.add_argument("--samples", type=int, default=20000, help="rows of features")
    arguments.add_argument("--features", type=int, default=384, help="columns")
    arguments.add_argument("--windows", type=int, default=1024, help="windows to extract")
    arguments.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="cpu: where others work too")
    arguments.set_defaults(repeats=3)
    chosen = arguments.parse_args()
    figures: dict[str, Any] = {
        "machine": machine(),
        "samples": chosen.samples,
        "features": chosen.features,
        "clock": chosen.clock,
    }
    print(f"{chosen.samples} x {chosen.features} features")
    figures["extraction"] = extraction(chosen.windows, chosen.repeats, chosen.clock)
    figures["probes"] = probes(chosen.samples, chosen.features, chosen.repeats, chosen.clock)
    write(chosen.json, figures)


if __name__ == "__main__":
    main()
