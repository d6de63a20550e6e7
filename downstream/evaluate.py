"""Run protocols on features over the splits of a comparison; one entry of ``Runs`` per method and protocol.

Shape suffixes: N samples, D features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.baselines import majority_predict, svm_predict
from downstream.features import FeatureSet, progress_bar
from downstream.knn import Metric, knn_predict
from downstream.linear_probe import linear_probe
from downstream.ridge import ridge_probe
from downstream.samples import Samples
from downstream.splits import Split
from downstream.summary import Runs

if TYPE_CHECKING:
    from downstream.probe import ProbeOptions
    from specfm.scene import Scene


def is_constant(X_ND: np.ndarray) -> bool:
    """True if the features hardly differ between samples (collapse): deviation below 1e-4 of their size."""
    spread = float(np.sqrt(X_ND.astype(np.float64).var(0).sum()))
    return spread < 1e-4 * float(np.sqrt((X_ND.astype(np.float64) ** 2).sum(1).mean()) + 1e-12)


def evaluate(
    features: FeatureSet,
    splits: Sequence[Split],
    options: ProbeOptions,
    method: str,
    *,
    protocols: Sequence[str] | None = None,
    scores: Callable[[Split], np.ndarray] | None = None,
    metric: Metric = "cosine",
    device: str = "cpu",
) -> list[Runs]:
    """Run the protocols of ``options`` on one set of features.

    Args:
        features: features of all samples.
        splits: the splits, shared by all methods.
        options: protocols, ks, grid.
        method: name in the table.
        protocols: other protocols than those of the options: "knn", "linear", "ridge", "svm".
        scores: gives what to use in place of the features ``[N, D]`` under a split, fitted on its training side.
        metric: of the neighbours.
        device: where neighbours are searched and probes fitted.
    """
    wanted = options.protocols if protocols is None else protocols
    classes = len(features.samples.label_names)
    found: dict[str, Runs] = {}
    constant = is_constant(features.X_ND)
    y = features.y_N

    def runs_of(protocol: str) -> Runs:
        return found.setdefault(protocol, Runs(method, protocol, constant=constant))

    def knn(split: Split, X: np.ndarray, start: float) -> None:
        bank, query = X[split.fit_I], X[split.test_I]
        predicted = knn_predict(bank, y[split.fit_I], query, options.ks, classes=classes, metric=metric, device=device)
        seconds = (time.perf_counter() - start) / len(options.ks)
        for k, predicted_N in predicted.items():
            runs_of(f"knn{k}").record(features.samples, split, predicted_N, seconds)

    def probe(split: Split, X: np.ndarray, protocol: str) -> None:
        start = time.perf_counter()
        sides = X[split.train_I], y[split.train_I], X[split.val_I], y[split.val_I], X[split.test_I]
        runs, confidence_N = runs_of(protocol), None
        if protocol == "svm":
            predicted_N, strength, gamma = svm_predict(*sides, seed=split.seed)
            runs.gammas.append(gamma)
        elif protocol == "ridge":
            result = ridge_probe(*sides)
            predicted_N, strength = result.predicted_N, result.C
        else:
            result = linear_probe(
                *sides, grid=options.grid, train_group_M=split.unit_N[split.train_I], seed=split.seed, device=device
            )
            predicted_N, strength, confidence_N = result.predicted_N, result.C, result.confidence_N
            runs.unconverged += not result.converged
        runs.strengths.append(strength)
        runs.record(features.samples, split, predicted_N, time.perf_counter() - start, confidence_N)

    progress, task = progress_bar(f"probe {method}", len(splits))
    with progress:
        for split in splits:
            start = time.perf_counter()
            X = features.X_ND if scores is None else scores(split)
            if "knn" in wanted:
                knn(split, X, start)
            for protocol in ("linear", "ridge", "svm"):
                if protocol in wanted:
                    probe(split, X, protocol)
            progress.advance(task)
    return list(found.values())


def several(
    made: Sequence[FeatureSet], splits: Sequence[Split], options: ProbeOptions, method: str, device: str = "cpu"
) -> list[Runs]:
    """One method with several initialisations, all their runs together."""
    found: dict[str, Runs] = {}
    for features in made:
        for runs in evaluate(features, splits, options, method, device=device):
            if runs.protocol in found:
                found[runs.protocol].extend(runs)
            else:
                found[runs.protocol] = runs
    return list(found.values())


def majority(samples: Samples, splits: Sequence[Split]) -> Runs:
    """The trivial baseline."""
    runs = Runs("majority class", "-")
    for split in splits:
        runs.record(samples, split, majority_predict(samples.y_N[split.fit_I], len(split.test_I)))
    return runs


def trained(
    encoder: Any, scenes: Sequence[Scene], samples: Samples, splits: Sequence[Split], options: ProbeOptions,
    protocol: str, method: str, window: int,
) -> Runs:  # fmt: skip
    """The encoder trained on the labels, from its weights ("finetune") or from scratch, on the splits of few seeds."""
    from downstream.trained_rows import train_and_predict

    runs = Runs(method, protocol, layers=())  # the head sits on the encoder's output
    seeds = sorted({split.seed for split in splits})[: options.trained_seeds]
    for split in splits:
        if split.seed not in seeds:
            continue
        start = time.perf_counter()
        result = train_and_predict(
            encoder, scenes, samples, split, pretrained=protocol == "finetune", window=window,
            pooling=options.pooling, options=options.train,
        )  # fmt: skip
        runs.record(samples, split, result.predicted_N, time.perf_counter() - start, result.confidence_N)
    return runs
