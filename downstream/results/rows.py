"""From the confusion matrices of many runs to result rows: means, intervals, seen / unseen marks, alarms, digests.

Shape suffixes: N samples, S runs (splits x initialisations), U resampling units, K classes, I confidence bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.encoders import encoder_device
from downstream.results import metrics
from downstream.results.alarms import add_alarms
from downstream.results.files import FORMAT, hardware, versions
from downstream.results.leakage import Leakage
from downstream.results.runs import Runs
from downstream.results.seen import seen_mark
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from specfm.digests import digest_json, state_digest

if TYPE_CHECKING:
    from specfm.scene import Scene


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


@dataclass(frozen=True)
class EncoderFacts:
    """What every row says of the encoder it stands beside: worked out once, as weights and files of scenes are hashed.

    Attributes:
        checkpoint: digest.
        hardware: it was computed on.
        seen: what of the scenes pretraining saw; "-" if untrained.
    """

    checkpoint: str
    hardware: str
    seen: str

    @classmethod
    def of(cls, encoder: Any, pretrained: bool, scenes: Sequence[Scene]) -> EncoderFacts:
        """Of an encoder (None without one) and the scenes as measured."""
        seen = seen_mark(getattr(encoder, "card", None), scenes) if pretrained else "-"
        return cls(state_digest(encoder), hardware(encoder_device(encoder)), seen)


@dataclass(frozen=True)
class Comparison:
    """What all rows of one table share.

    Attributes:
        samples: what was compared on.
        splits: how they were split.
        leaks: of every split.
        window: side of the windows, pixels.
        pooling: what was taken of the encoder.
        layers: of which blocks.
        data: name of the data.
        data_digest: digest of the data.
        config_digest: over the options.
        encoder: what rows say of it.
        draws: of the bootstrap.
        notices: beside those of samples and splits.
    """

    samples: Samples
    splits: Sequence[Split]
    leaks: Sequence[Leakage]
    window: int
    pooling: str
    layers: Sequence[int]
    data: str
    data_digest: str
    config_digest: str
    encoder: EncoderFacts
    draws: int
    notices: Sequence[str] = ()


def result_rows(all_runs: Sequence[Runs], of: Comparison) -> list[dict[str, Any]]:
    """One row per method and protocol, with its alarms; everything but the scores is shared."""
    splits, samples, leaks = of.splits, of.samples, of.leaks
    distances = [leak.min_distance_px for leak in leaks if leak.min_distance_px is not None]
    duplicates = [leak.near_duplicate_share for leak in leaks if leak.near_duplicate_share is not None]
    shared: dict[str, Any] = {
        "format": FORMAT,
        "data": of.data,
        "split": splits[0].rule,
        "leaky": any(s.leaky for s in splits),
        "shots": splits[0].options.get("shots"),
        "window": of.window,
        "pooling": of.pooling,
        "layers": list(of.layers),
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
        "notices": sorted({*samples.notices, *of.notices, *(n for s in splits for n in s.notices)}),
        "digests": {
            "data": of.data_digest,
            "splits": digest_json([s.digest for s in splits]),
            "config": of.config_digest,
            "checkpoint": of.encoder.checkpoint,
        },
        "versions": versions(),
        "hardware": of.encoder.hardware,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    keep = sorted({c for s in splits for c in s.classes})
    rows = []
    for runs in all_runs:
        total_KK = np.stack(runs.conf_SUKK).sum((0, 1))
        recall_K = metrics.per_class(total_KK)
        used = {id(s): s for s in runs.splits or splits}
        rows.append(
            {
                **shared,
                "kind": runs.kind,
                "method": runs.method,
                "protocol": runs.protocol,
                "support": runs.support,
                "seen": of.encoder.seen if runs.kind == "encoder" else "-",
                "pooling": runs.pooling or of.pooling,
                "layers": list(of.layers if runs.layers is None else runs.layers),
                **_cells(runs, of.draws),
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
    add_alarms(rows, all_runs, samples, splits)
    return rows
