"""Probe an encoder against its controls: one set of samples, one set of splits, every method on all of them.

Shape suffixes: N samples, D features, S runs (splits x initialisations), U resampling units, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream import metrics
from downstream.baselines import majority_predict, pca_features, random_twin
from downstream.features import POOLINGS, FeatureSet, extract, progress_bar, spectra
from downstream.knn import knn_predict
from downstream.leakage import leakage_score
from downstream.linear_probe import C_GRID, linear_probe
from downstream.samples import GroupBy, Samples, collect_samples
from downstream.splits import RULES, Split, load_split, make_splits
from downstream.summary import Runs, add_alarms, pretraining_record, result_rows
from specfm.errors import UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

PROTOCOLS: tuple[str, ...] = ("knn", "linear")


@dataclass(frozen=True)
class ProbeOptions:
    """Everything that decides a probe's numbers; its digest goes into each row."""

    protocols: tuple[str, ...] = ("knn", "linear")
    split: str = "group"
    seeds: int = 10
    shots: int | None = None
    window: int | None = None
    pooling: str = "concat"
    init_seeds: int = 3
    ks: tuple[int, ...] = (1, 5, 20)
    grid: tuple[float, ...] = C_GRID
    max_per_class: int | None = None
    min_groups: int = 3
    min_samples: int = 5
    block: int | None = None
    group_by: GroupBy = "auto"
    baselines: bool = True
    pca: int = 30
    draws: int = 1000
    split_files: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse options that make no sense, by name."""
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise UsageError(f"unknown protocol {protocol!r}; one or both of {', '.join(PROTOCOLS)}")
        if not self.split_files and self.split not in RULES:
            raise UsageError(f"unknown split {self.split!r}; one of {', '.join(RULES)}")
        if self.pooling not in POOLINGS:
            raise UsageError(f"unknown pooling {self.pooling!r}; one of {', '.join(POOLINGS)}")
        if self.init_seeds < 0 or self.seeds < 1:
            raise UsageError("--seeds must be at least 1 and --init-seeds at least 0")
        if not self.ks or min(self.ks) < 1:
            raise UsageError("k of kNN must be at least 1")


def default_window(encoder: Any) -> int:
    """The window pretraining used (from the model card), else the smallest multiple of the patch from 9 pixels."""
    window = pretraining_record(getattr(encoder, "card", None)).get("window")
    if isinstance(window, (list, tuple)):
        window = window[0] if window else None
    patch = int(encoder.patch_size)
    if window and int(window) % patch == 0:
        return int(window)
    return -(-9 // patch) * patch


def is_constant(X_ND: np.ndarray) -> bool:
    """True if the features hardly differ between samples (collapse): deviation below 1e-4 of their size."""
    spread = float(np.sqrt(X_ND.astype(np.float64).var(0).sum()))
    return spread < 1e-4 * float(np.sqrt((X_ND.astype(np.float64) ** 2).sum(1).mean()) + 1e-12)


def evaluate(
    features: FeatureSet, splits: Sequence[Split], options: ProbeOptions, method: str, *, pca: int | None = None
) -> list[Runs]:
    """Run the protocols of ``options`` on one set of features.

    Args:
        features: features of all samples.
        splits: the splits, shared by all methods.
        options: protocols, ks, grid.
        method: name in the table.
        pca: with a number, kNN runs on so many principal components fitted per split (and there is no linear probe).
    """
    classes = len(features.samples.label_names)
    found: dict[str, Runs] = {}
    constant = is_constant(features.X_ND)

    def record(protocol: str, split: Split, predicted: np.ndarray, seconds: float) -> Runs:
        runs = found.setdefault(protocol, Runs(method, protocol, constant=constant))
        units = int(split.unit_N.max()) + 1
        true = features.y_N[split.test_I]
        runs.conf_SUKK.append(metrics.unit_confusions(true, predicted, split.unit_N[split.test_I], classes, units))
        runs.wall_s += seconds
        return runs

    X, y = features.X_ND, features.y_N

    def one_split(split: Split) -> None:
        fit_I, test_I = split.fit_I, split.test_I
        if "knn" in options.protocols:
            start = time.perf_counter()
            if pca is None:
                bank, query, metric = X[fit_I], X[test_I], "cosine"
            else:
                bank, query = pca_features(X[fit_I], X[test_I], pca, split.seed)
                metric = "euclidean"
            predicted = knn_predict(bank, y[fit_I], query, options.ks, classes=classes, metric=metric)  # type: ignore[arg-type]
            seconds = (time.perf_counter() - start) / len(options.ks)
            for k, predicted_N in predicted.items():
                record(f"knn{k}", split, predicted_N, seconds)
        if "linear" in options.protocols and pca is None:
            start = time.perf_counter()
            result = linear_probe(
                X[split.train_I], y[split.train_I], X[split.val_I], y[split.val_I], X[test_I],
                grid=options.grid, train_group_M=split.unit_N[split.train_I], seed=split.seed,
            )  # fmt: skip
            runs = record("linear", split, result.predicted_N, time.perf_counter() - start)
            runs.strengths.append(result.C)
            runs.unconverged += not result.converged

    progress, task = progress_bar(f"probe {method}", len(splits))
    with progress:
        for split in splits:
            one_split(split)
            progress.advance(task)
    return list(found.values())


def majority(samples: Samples, splits: Sequence[Split]) -> Runs:
    """The trivial baseline."""
    runs = Runs("majority class", "-")
    for split in splits:
        predicted = majority_predict(samples.y_N[split.fit_I], len(split.test_I))
        runs.conf_SUKK.append(
            metrics.unit_confusions(
                samples.y_N[split.test_I], predicted, split.unit_N[split.test_I], len(samples.label_names),
                int(split.unit_N.max()) + 1,
            )
        )  # fmt: skip
    return runs


def probe(
    encoder: Any,
    scenes: Sequence[Scene],
    options: ProbeOptions | None = None,
    *,
    data: str = "scenes",
    name: str = "encoder",
    pretrained: bool = True,
    make_random: Callable[[int], Any] | None = None,
    extra: Mapping[str, FeatureSet] | None = None,
    bank: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Probe ``encoder`` on labelled scenes beside every control.

    Args:
        encoder: frozen encoder.
        scenes: labelled scenes of one data card.
        options: see ``ProbeOptions``.
        data: name of the data in the rows.
        name: name of the encoder in the rows.
        pretrained: False for an untrained control (no seen / unseen mark).
        make_random: makes the untrained twin for a seed (default: the encoder's own architecture).
        extra: further feature sets by name, on the same samples, to put into the same table.
        bank: if given, filled with "samples", "splits", "features" and "spectra" for a report.

    Returns:
        One JSON-safe row per method and protocol, in table order.
    """
    options = options or ProbeOptions()
    options.check()
    window = options.window or default_window(encoder)
    samples = collect_samples(scenes, window, group_by=options.group_by, max_per_class=options.max_per_class)
    if options.split_files:
        splits = [load_split(path, samples) for path in options.split_files]
        if any(not np.array_equal(s.unit_N, splits[0].unit_N) for s in splits):
            raise UsageError("the split files have different groups or blocks; probe them one by one")
    else:
        splits = make_splits(
            samples, options.split, options.seeds, min_groups=options.min_groups, min_samples=options.min_samples,
            block=options.block, shots=options.shots,
        )  # fmt: skip
    raw = spectra(scenes, window, samples)
    leaks = [leakage_score(split, samples, raw[0].X_ND if raw else None) for split in splits]
    features = extract(encoder, scenes, window, samples, pooling=options.pooling, name=name)
    all_runs = evaluate(features, splits, options, name)
    for label, other in (extra or {}).items():
        all_runs += evaluate(other, splits, options, label)
    twins: dict[str, Runs] = {}
    for init in range(options.init_seeds):
        twin = make_random(init) if make_random is not None else random_twin(encoder, 1000 + init)
        fresh = extract(twin, scenes, window, samples, pooling=options.pooling, name=f"random init {init}")
        for runs in evaluate(fresh, splits, options, "random-init"):
            if runs.protocol in twins:
                twins[runs.protocol].conf_SUKK += runs.conf_SUKK
                twins[runs.protocol].strengths += runs.strengths
                twins[runs.protocol].unconverged += runs.unconverged
                twins[runs.protocol].wall_s += runs.wall_s
            else:
                twins[runs.protocol] = runs
    all_runs += twins.values()
    if options.baselines:
        if raw is not None:
            pixel, mean = raw
            linear_only = ProbeOptions(**{**asdict(options), "protocols": ("linear",)})
            knn_only = ProbeOptions(**{**asdict(options), "protocols": ("knn",)})
            if "linear" in options.protocols:
                all_runs += evaluate(pixel, splits, linear_only, "pixel spectrum")
                all_runs += evaluate(mean, splits, linear_only, "mean spectrum")
            if "knn" in options.protocols:
                all_runs += evaluate(pixel, splits, knn_only, f"PCA-{options.pca} pixel", pca=options.pca)
                all_runs += evaluate(mean, splits, knn_only, f"PCA-{options.pca} mean", pca=options.pca)
        all_runs.append(majority(samples, splits))
    if bank is not None:
        bank.update(samples=samples, splits=splits, features=features, spectra=raw)
    rows = result_rows(all_runs, encoder, scenes, samples, splits, leaks, options, window, raw, data, name, pretrained)
    add_alarms(rows, all_runs, samples, splits)
    return rows
