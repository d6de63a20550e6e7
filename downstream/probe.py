"""Probe an encoder against its controls: one set of samples, one set of splits, every method on all of them.

Shape suffixes: N samples, D features, S runs (splits x initialisations), U resampling units, K classes.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream import metrics
from downstream.baselines import majority_predict, pca_features, random_twin
from downstream.features import POOLINGS, FeatureSet, encoder_device, extract, progress_bar, spectra
from downstream.knn import knn_predict
from downstream.leakage import leakage_score
from downstream.linear_probe import C_GRID, linear_probe
from downstream.results import FORMAT, digest_json, hardware, state_digest, versions
from downstream.samples import GroupBy, Samples, collect_samples
from downstream.splits import RULES, Split, load_split, make_splits
from specfm.errors import UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

log = logging.getLogger(__name__)
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


@dataclass
class Runs:
    """What one method did under one protocol over all runs."""

    method: str
    protocol: str
    conf_SUKK: list[np.ndarray] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    unconverged: int = 0
    constant: bool = False
    wall_s: float = 0.0


def default_window(encoder: Any) -> int:
    """The window pretraining used (from the model card), else the smallest multiple of the patch from 9 pixels."""
    window = _record(getattr(encoder, "card", None)).get("window")
    if isinstance(window, (list, tuple)):
        window = window[0] if window else None
    patch = int(encoder.patch_size)
    if window and int(window) % patch == 0:
        return int(window)
    return -(-9 // patch) * patch


def seen_mark(card: Mapping[str, Any] | None, scenes: Sequence[Scene]) -> str:
    """Whether pretraining saw the probed scenes: "scene seen", "sensor seen", "domain seen", "unseen".

    The record is the model card's ``pretraining`` entry, or the card itself, with ``scenes``, ``sensors`` (names or
    digests) and ``domains``; without one the answer is "unknown".
    """
    record = _record(card)
    if not any(key in record for key in ("scenes", "sensors", "domains")):
        return "unknown"
    names, sensors, domains = (set(record.get(key) or ()) for key in ("scenes", "sensors", "domains"))
    if any(s.name in names for s in scenes):
        return "scene seen"
    if any(s.sensor.name in sensors or s.sensor.digest in sensors for s in scenes):
        return "sensor seen"
    return "domain seen" if any(s.domain in domains for s in scenes) else "unseen"


def _record(card: Mapping[str, Any] | None) -> Mapping[str, Any]:
    record = (card or {}).get("pretraining", card)
    return record if isinstance(record, Mapping) else {}


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


def _cell(runs: Runs, metric: str, draws: int) -> dict[str, Any]:
    stack = np.stack(runs.conf_SUKK)
    values = metrics.scores(stack.sum(1))[metric]
    ci = metrics.bootstrap(stack, metric, draws=draws)
    bounds = None if not np.isfinite(ci.low) else [round(ci.low, 6), round(ci.high, 6)]
    return {
        "mean": round(float(np.nanmean(values)), 6),
        "sd": round(float(np.nanstd(values, ddof=1)) if len(values) > 1 else 0.0, 6),
        "ci": bounds,
        "units": ci.units,
        "values": [None if not np.isfinite(v) else round(float(v), 6) for v in values],
    }


def _alarms(rows: list[dict[str, Any]], runs: Sequence[Runs], samples: Samples, splits: Sequence[Split]) -> None:
    """Fill ``row["alarms"]`` (evaluation.md): each is a short sentence."""
    trivial = next((r["oa"]["mean"] for r in rows if r["method"] == "majority class"), None)
    fewest = min(int(np.bincount(samples.y_N[s.test_I])[np.unique(samples.y_N[s.test_I])].min()) for s in splits)
    for row, run in zip(rows, runs, strict=True):
        alarms = row["alarms"]
        if run.method == "majority class":
            continue
        if row["protocol"] == "linear":
            knn = [r["oa"]["mean"] for r in rows if r["method"] == row["method"] and r["protocol"].startswith("knn")]
            if knn and row["oa"]["mean"] < max(knn) - 0.03:
                alarms.append("probe > 3 points under kNN")
        if run.constant:
            alarms.append("features are constant")
        if run.unconverged:
            alarms.append(f"{run.unconverged} probes not converged")
        if trivial is not None and row["oa"]["mean"] <= trivial:
            alarms.append("not above the majority class")
        if (row["leakage"]["near_duplicate_share"] or 0) > 0.01:
            alarms.append("train-test duplicates")
        if row["leakage"]["overlap_share"] > 0:
            alarms.append("train and test windows overlap")
        if fewest < 5:
            alarms.append("a class with < 5 test samples")
        if row["oa"]["units"] < 5:
            alarms.append(f"interval rests on {row['oa']['units']} units")


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
    rows = _rows(all_runs, encoder, scenes, samples, splits, leaks, options, window, raw, data, name, pretrained)
    _alarms(rows, all_runs, samples, splits)
    return rows


def _rows(
    all_runs: Sequence[Runs],
    encoder: Any,
    scenes: Sequence[Scene],
    samples: Samples,
    splits: Sequence[Split],
    leaks: Sequence[Any],
    options: ProbeOptions,
    window: int,
    raw: tuple[FeatureSet, FeatureSet] | None,
    data: str,
    name: str,
    pretrained: bool,
) -> list[dict[str, Any]]:
    """One row per method and protocol; everything but the scores is shared."""
    content = hashlib.sha256(samples.digest.encode())
    for scene in scenes:
        content.update(scene.sensor.digest.encode())
    if raw is not None:
        content.update(np.ascontiguousarray(raw[1].X_ND, "<f4").tobytes())
    distances = [leak.min_distance_px for leak in leaks if leak.min_distance_px is not None]
    duplicates = [leak.near_duplicate_share for leak in leaks if leak.near_duplicate_share is not None]
    shared: dict[str, Any] = {
        "format": FORMAT,
        "data": data,
        "split": splits[0].rule,
        "leaky": any(s.leaky for s in splits),
        "shots": splits[0].options.get("shots"),
        "window": window,
        "pooling": options.pooling,
        "leakage": {
            "overlap_share": round(float(np.mean([leak.overlap_share for leak in leaks])), 6),
            "min_distance_px": min(distances) if distances else None,
            "near_duplicate_share": round(float(np.mean(duplicates)), 6) if duplicates else None,
        },
        "classes": [samples.label_names[c] for c in sorted({c for s in splits for c in s.classes})],
        "samples": {
            "all": len(samples),
            "train": int(np.mean([len(s.train_I) for s in splits])),
            "val": int(np.mean([len(s.val_I) for s in splits])),
            "test": int(np.mean([len(s.test_I) for s in splits])),
        },
        "notices": sorted({*samples.notices, *(n for s in splits for n in s.notices)}),
        "digests": {
            "data": content.hexdigest()[:16],
            "splits": digest_json([s.digest for s in splits]),
            "config": digest_json(asdict(options)),
            "checkpoint": state_digest(encoder),
        },
        "seeds": [s.seed for s in splits],
        "versions": versions(),
        "hardware": hardware(encoder_device(encoder)),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    mark = seen_mark(getattr(encoder, "card", None), scenes) if pretrained else "-"
    keep = sorted({c for s in splits for c in s.classes})
    rows = []
    for runs in all_runs:
        total_KK = np.stack(runs.conf_SUKK).sum((0, 1))
        recall_K = metrics.per_class(total_KK)
        rows.append(
            {
                **shared,
                "method": runs.method,
                "protocol": runs.protocol,
                "seen": mark if runs.method == name else "-",
                **{m: _cell(runs, m, options.draws) for m in metrics.METRICS},
                "per_class": {
                    samples.label_names[c]: round(float(recall_K[c]), 6) if np.isfinite(recall_K[c]) else None
                    for c in keep
                },
                "confusion": total_KK[np.ix_(keep, keep)].astype(int).tolist(),
                "C": runs.strengths,
                "runs": {"splits": len(splits), "initialisations": len(runs.conf_SUKK) // len(splits)},
                "wall_s": round(runs.wall_s, 3),
                "alarms": [],
            }
        )
    return rows
