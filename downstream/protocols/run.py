"""Run protocols on features over the splits of a comparison; one entry of ``Runs`` per method and protocol.

Shape suffixes: N samples, D features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.extract import FeatureSet
from downstream.features.neighbours import Metric
from downstream.protocols.knn import knn_predict
from downstream.protocols.linear import linear_probe
from downstream.protocols.options import ProtocolOptions
from downstream.protocols.ridge import ridge_probe
from downstream.protocols.svm import svm_predict
from downstream.results.runs import Kind, Runs
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from specfm.progress import progress

if TYPE_CHECKING:
    from downstream.features.bank import Bank
    from specfm.scene import Scene


def is_constant(X_ND: np.ndarray) -> bool:
    """True if the features hardly differ between samples (collapse): deviation below 1e-4 of their size."""
    spread = float(np.sqrt(X_ND.astype(np.float64).var(0).sum()))
    return spread < 1e-4 * float(np.sqrt((X_ND.astype(np.float64) ** 2).sum(1).mean()) + 1e-12)


# What stands for the features under a split, fitted on its training side: (split, test features) -> (features of all
# samples, those of the test side)
Scores = Callable[[Split, np.ndarray], tuple[np.ndarray, np.ndarray]]


def evaluate(
    made: Iterable[FeatureSet],
    splits: Sequence[Split],
    options: ProtocolOptions,
    kind: Kind,
    method: str,
    device: str = "cpu",
) -> list[Runs]:
    """Run the protocols of ``options`` on the features of every initialisation of one method, their runs together."""
    parts = (evaluate_conditions({"": one}, splits, options, kind, method, device=device) for one in made)
    return put_together(parts).get("", [])


def evaluate_conditions(
    features: Mapping[str, FeatureSet],
    splits: Sequence[Split],
    options: ProtocolOptions,
    kind: Kind,
    method: str,
    *,
    protocols: Sequence[str] | None = None,
    scores: Scores | None = None,
    metric: Metric = "cosine",
    support: str = "",
    device: str = "cpu",
) -> dict[str, list[Runs]]:
    """Fit on one set of features under every split and predict the same test samples from that set and from others.

    Args:
        features: by condition, of the same samples; the first one is fitted on.
        splits: the splits, shared by all methods.
        options: protocols, ks, grid.
        kind: what is probed.
        method: its name in the table.
        protocols: other protocols than those of the options: "knn", "linear", "ridge", "svm".
        scores: what to use in place of the features.
        metric: of the neighbours.
        support: what a baseline looks at (:class:`downstream.results.runs.Runs`).
        device: where neighbours are searched and probes fitted.

    Returns:
        Runs of every protocol, by condition.
    """
    wanted = options.protocols if protocols is None else protocols
    fitted = next(iter(features.values()))
    samples, y = fitted.samples, fitted.y_N
    found: dict[str, dict[str, Runs]] = {condition: {} for condition in features}
    constant = is_constant(fitted.X_ND)

    def record(
        protocol: str, split: Split, predicted_N: np.ndarray, seconds: float, confidence_N: np.ndarray | None = None,
        **fit: Any,
    ) -> None:  # fmt: skip
        count = len(split.test_I)
        for i, by_protocol in enumerate(found.values()):
            part = slice(i * count, (i + 1) * count)
            runs = by_protocol.setdefault(protocol, Runs(kind, method, protocol, constant=constant, support=support))
            runs.record(
                samples, split, predicted_N[part], seconds / len(found),
                None if confidence_N is None else confidence_N[part],
            )  # fmt: skip
            runs.add_fit(**fit)

    def knn(split: Split, X: np.ndarray, test_XD: np.ndarray, start: float) -> None:
        predicted = knn_predict(
            X[split.fit_I], y[split.fit_I], test_XD, options.ks, classes=len(samples.label_names), metric=metric,
            device=device,
        )  # fmt: skip
        seconds = (time.perf_counter() - start) / len(options.ks)
        for k, predicted_N in predicted.items():
            record(f"knn{k}", split, predicted_N, seconds)

    def strengthened(split: Split, X: np.ndarray, test_XD: np.ndarray, protocol: str) -> None:
        start = time.perf_counter()
        sides = X[split.train_I], y[split.train_I], X[split.val_I], y[split.val_I], test_XD
        if protocol == "svm":
            predicted_N, strength, gamma = svm_predict(*sides, seed=split.seed, class_weights=options.class_weights)
            record(protocol, split, predicted_N, time.perf_counter() - start, strength=strength, gamma=gamma)
        elif protocol == "ridge":
            ridge = ridge_probe(*sides, class_weights=options.class_weights)
            record(protocol, split, ridge.predicted_N, time.perf_counter() - start, strength=ridge.C)
        else:
            result = linear_probe(
                *sides,
                grid=options.grid,
                train_group_M=split.unit_N[split.train_I],
                seed=split.seed,
                device=device,
                class_weights=options.class_weights,
            )
            record(
                protocol, split, result.predicted_N, time.perf_counter() - start, result.confidence_N,
                strength=result.C, converged=result.converged,
            )  # fmt: skip

    with progress(f"probe {method}", len(splits)) as advance:
        for split in splits:
            start = time.perf_counter()
            X = fitted.X_ND
            test_XD = np.concatenate([part.X_ND[split.test_I] for part in features.values()])
            if scores is not None:
                X, test_XD = scores(split, test_XD)
            if "knn" in wanted:
                knn(split, X, test_XD, start)
            for protocol in ("linear", "ridge", "svm"):
                if protocol in wanted:
                    strengthened(split, X, test_XD, protocol)
            advance()
    return {condition: list(by_protocol.values()) for condition, by_protocol in found.items()}


def put_together(parts: Iterable[Mapping[str, Sequence[Runs]]]) -> dict[str, list[Runs]]:
    """Runs of several initialisations of one method, by condition and protocol."""
    found: dict[str, dict[str, Runs]] = {}
    for part in parts:
        for condition, all_runs in part.items():
            known = found.setdefault(condition, {})
            for runs in all_runs:
                if runs.protocol in known:
                    known[runs.protocol].extend(runs)
                else:
                    known[runs.protocol] = runs
    return {condition: list(known.values()) for condition, known in found.items()}


def trained(
    encoder: Any, views: Mapping[str, Sequence[Scene]], samples: Samples, splits: Sequence[Split],
    options: ProtocolOptions, protocol: str, name: str, window: int, pooling: str, bank: Bank | None,
    digests: Mapping[str, str],
) -> dict[str, Runs]:  # fmt: skip
    """The encoder trained on the labels, from its weights ("finetune") or from scratch, on the splits of few seeds.

    ``name`` is the encoder's; what is trained from scratch shares its architecture alone, and is called so. ``views``
    are the scenes by condition; the first ones train, all are tested. What a split came to is kept in ``bank``, by the
    ``digests`` of the windows of every condition.
    """
    from downstream.protocols.kept import KeptPredictions, Said
    from downstream.protocols.trained import train_on

    # the head sits on the encoder's output
    kind: Kind = "encoder" if protocol == "finetune" else "scratch"
    method = name if protocol == "finetune" else "from-scratch"
    found = {condition: Runs(kind, method, protocol, layers=()) for condition in views}
    seeds = sorted({split.seed for split in splits})[: options.trained_seeds]
    scenes = next(iter(views.values()))
    kept = KeptPredictions(
        bank, encoder, digests, options.train, protocol=protocol, window=window, pooling=pooling,
        class_weights=options.class_weights,
    )  # fmt: skip

    def train(split: Split) -> Said:
        start, said = time.perf_counter(), {}
        done = train_on(
            encoder, scenes, samples, split, pretrained=protocol == "finetune", window=window,
            pooling=pooling, options=options.train, class_weights=options.class_weights,
        )  # fmt: skip
        for condition, view in views.items():
            predicted_N, confidence_N = done.predict(view, samples, split.test_I)
            said[condition] = predicted_N, confidence_N, time.perf_counter() - start
            start = time.perf_counter()
        return said

    for split in splits:
        if split.seed in seeds:
            for condition, said in kept.get(split, partial(train, split)).items():
                found[condition].record(samples, split, said[0], said[2], said[1])
    return found
