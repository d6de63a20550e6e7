"""From the confusion matrices of many runs to result rows: means, intervals, seen / unseen marks, alarms, digests.

Shape suffixes: N samples, S runs (splits x initialisations), U resampling units, K classes, I confidence bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.extract import encoder_device
from downstream.results import metrics
from downstream.results.files import FORMAT, digest_json, hardware, state_digest, versions
from downstream.results.leakage import Leakage
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from downstream.probe.run import ProbeOptions
    from specfm.scene import Scene


@dataclass
class Runs:
    """What one method did under one protocol over all runs.

    Attributes:
        method, protocol: names in the table.
        conf_SUKK: confusion matrices by resampling unit, one entry a run.
        calibration_SUI3: calibration sums by resampling unit, for protocols that give probabilities.
        strengths: strength chosen in each run (C, or the ridge penalty).
        gammas: kernel width chosen in each run (SVM).
        splits: the split of each run.
        unconverged: probes that stopped before convergence.
        constant: features that hardly differ.
        pooling, layers: where they are not those of the options.
        wall_s: seconds spent.
    """

    method: str
    protocol: str
    conf_SUKK: list[np.ndarray] = field(default_factory=list)
    calibration_SUI3: list[np.ndarray] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    gammas: list[float] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    unconverged: int = 0
    constant: bool = False
    pooling: str | None = None
    layers: tuple[int, ...] | None = None
    wall_s: float = 0.0

    def record(
        self, samples: Samples, split: Split, predicted_N: np.ndarray, seconds: float = 0.0,
        confidence_N: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Add one run: what was predicted for the test side of ``split``."""
        units, unit_N = int(split.unit_N.max()) + 1, split.unit_N[split.test_I]
        true_N, classes = samples.y_N[split.test_I], len(samples.label_names)
        self.conf_SUKK.append(metrics.unit_confusions(true_N, predicted_N, unit_N, classes, units))
        if confidence_N is not None:
            right_N = true_N == predicted_N
            self.calibration_SUI3.append(metrics.calibration_sums(right_N, confidence_N, unit_N, units))
        self.splits.append(split)
        self.wall_s += seconds

    def add_fit(self, strength: float | None = None, gamma: float | None = None, converged: bool = True) -> None:
        """What the fit of the run that was recorded last chose."""
        if strength is not None:
            self.strengths.append(strength)
        if gamma is not None:
            self.gammas.append(gamma)
        self.unconverged += not converged

    def extend(self, other: Runs) -> None:
        """Add the runs of another initialisation."""
        for name in ("conf_SUKK", "calibration_SUI3", "strengths", "gammas", "splits"):
            getattr(self, name).extend(getattr(other, name))
        self.unconverged += other.unconverged
        self.wall_s += other.wall_s


def seen_mark(card: Mapping[str, Any] | None, scenes: Sequence[Scene]) -> str:
    """Whether pretraining saw the probed scenes: "scene seen", "sensor seen", "domain seen", "unseen".

    The record is the model card's ``pretraining`` entry, or the card itself, with ``scenes``, ``contents`` (digests of
    their files: a scene by another name is still seen), ``sensors`` (names or digests) and ``domains``; without one the
    answer is "unknown".
    """
    record = pretraining_record(card)
    if not any(key in record for key in ("scenes", "sensors", "domains")):
        return "unknown"
    names, sensors, domains = (set(record.get(key) or ()) for key in ("scenes", "sensors", "domains"))
    if any(s.name in names for s in scenes) or _file_seen(set(record.get("contents") or ()), scenes):
        return "scene seen"
    if any(s.sensor.name in sensors or s.sensor.digest in sensors for s in scenes):
        return "sensor seen"
    return "domain seen" if any(s.domain in domains for s in scenes) else "unseen"


def _file_seen(contents: set[str], scenes: Sequence[Scene]) -> bool:
    from specfm.shards.identity import scene_content

    for scene in scenes if contents else ():
        try:
            if scene_content(scene) in contents:
                return True
        except SpecfmError:
            continue  # made on the way from another one, as simulated sensors are
    return False


def pretraining_record(card: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a model card says about pretraining: its ``pretraining`` entry, or the card itself; empty without."""
    record = (card or {}).get("pretraining", card)
    return record if isinstance(record, Mapping) else {}


def metric_cell(values: np.ndarray, ci: metrics.Interval) -> dict[str, Any]:
    """One metric of a row: mean, deviation, interval and the value of every run; None stands for undefined."""
    finite = values[np.isfinite(values)]
    return {
        "mean": round(float(finite.mean()), 6) if len(finite) else None,
        "sd": round(float(finite.std(ddof=1)) if len(finite) > 1 else 0.0, 6),
        "ci": None if not np.isfinite(ci.low) else [round(ci.low, 6), round(ci.high, 6)],
        "units": ci.units,
        "values": [None if not np.isfinite(v) else round(float(v), 6) for v in values],
    }


def _cells(runs: Runs, draws: int) -> dict[str, dict[str, Any]]:
    """Mean, deviation and interval of every metric."""
    stack = np.stack(runs.conf_SUKK)
    values, ci = metrics.scores(stack.sum(1)), metrics.bootstrap_scores(stack, draws=draws)
    cells = {name: metric_cell(values[name], ci[name]) for name in metrics.METRICS}
    if runs.calibration_SUI3:
        sums = np.stack(runs.calibration_SUI3)
        interval = metrics.bootstrap_calibration(sums, draws=draws)
        cells["ece"] = metric_cell(metrics.calibration_error(sums.sum(1)), interval)
    return cells


def _held_out(runs: Runs) -> dict[str, dict[str, float]]:
    """Mean scores by the scene or sensor that was left out; empty under other rules."""
    found: dict[str, list[np.ndarray]] = {}
    for split, conf_UKK in zip(runs.splits, runs.conf_SUKK, strict=False):
        name = split.options.get("held_sensor") or split.options.get("held_scene")
        if name:
            found.setdefault(name, []).append(conf_UKK.sum(0))
    scores = {name: metrics.scores(np.stack(mats)) for name, mats in found.items()}
    return {name: {m: round(float(np.nanmean(by[m])), 6) for m in ("oa", "aa", "kappa")} for name, by in scores.items()}


def add_alarms(rows: list[dict[str, Any]], runs: Sequence[Runs], samples: Samples, splits: Sequence[Split]) -> None:
    """Fill ``row["alarms"]`` (evaluation.md): each is a short sentence."""
    trivial = next((r["oa"]["mean"] for r in rows if r["method"] == "majority class"), None)
    fewest = min(int(np.bincount(samples.y_N[s.test_I])[np.unique(samples.y_N[s.test_I])].min()) for s in splits)
    few_train = not splits[0].options.get("shots") and any(
        np.bincount(samples.y_N[s.fit_I], minlength=max(s.classes) + 1)[list(s.classes)].min() < 5 for s in splits
    )
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
            alarms.append("OA not above the majority class")
        if (row["leakage"]["near_duplicate_share"] or 0) > 0.01:
            alarms.append("train-test duplicates")
        if row["leakage"]["overlap_share"] > 0:
            alarms.append("train and test windows overlap")
        if fewest < 5:
            alarms.append("a class with < 5 test samples")
        if few_train:
            alarms.append("a class with < 5 training samples")
        if row["oa"]["units"] < 5:
            alarms.append(f"interval rests on {row['oa']['units']} units")


def result_rows(
    all_runs: Sequence[Runs],
    encoder: Any,
    scenes: Sequence[Scene],
    samples: Samples,
    splits: Sequence[Split],
    leaks: Sequence[Leakage],
    options: ProbeOptions,
    window: int,
    data: str,
    data_digest: str,
    name: str,
    pretrained: bool,
    notices: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """One row per method and protocol; everything but the scores is shared."""
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
        "layers": list(options.layers),
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
        "notices": sorted({*samples.notices, *notices, *(n for s in splits for n in s.notices)}),
        "digests": {
            "data": data_digest,
            "splits": digest_json([s.digest for s in splits]),
            "config": digest_json(asdict(options)),
            "checkpoint": state_digest(encoder),
        },
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
        used = {id(s): s for s in runs.splits or splits}
        rows.append(
            {
                **shared,
                "method": runs.method,
                "protocol": runs.protocol,
                "seen": mark if runs.method == name else "-",
                "pooling": runs.pooling or options.pooling,
                "layers": list(options.layers if runs.layers is None else runs.layers),
                **_cells(runs, options.draws),
                "per_class": {
                    samples.label_names[c]: round(float(recall_K[c]), 6) if np.isfinite(recall_K[c]) else None
                    for c in keep
                },
                "confusion": total_KK[np.ix_(keep, keep)].astype(int).tolist(),
                "held_out": _held_out(runs),
                "C": runs.strengths,
                "gamma": runs.gammas,
                "seeds": [s.seed for s in used.values()],
                "runs": {"splits": len(used), "initialisations": len(runs.conf_SUKK) // len(used)},
                "wall_s": round(runs.wall_s, 3),
                "alarms": [],
            }
        )
    return rows
