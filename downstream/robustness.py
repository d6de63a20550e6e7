"""Whether the spectrum is used and what it stands: a probe trained on scenes as measured, tested on altered ones.

The probe is fitted once per split on true spectra and predicts the same test pixels under every condition of
:mod:`downstream.conditions`. Beside the encoder, on the same splits: untrained twins, and logistic regression on the
pixel's spectrum, which is interpolated by wavelength to the grid that it was trained on (ends held constant).

Shape suffixes: N samples, D features, S runs, C bands of a scene, K bands of the probe's grid.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.bank import Bank, windows_digest
from downstream.baselines import random_twin
from downstream.conditions import CLEAN, SENSORS, SHUFFLED, SNRS, STEPS, Condition, conditions
from downstream.encoders import aligned
from downstream.evaluate import is_constant, majority
from downstream.features import FeatureSet, common_grid, encoder_device, extract, iterate_windows, progress_bar
from downstream.knn import knn_predict
from downstream.leakage import leakage_score
from downstream.linear_probe import linear_probe
from downstream.probe import ProbeOptions, default_window, draw_splits, say_aligned
from downstream.results import digest_json
from downstream.ridge import ridge_probe
from downstream.samples import Samples, collect_samples
from downstream.splits import Split
from downstream.summary import Runs, add_alarms, result_rows
from specfm.errors import SpecfmError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from specfm.scene import Scene

FROZEN = ("knn", "linear", "ridge")
FALL = 0.02  # of AA, that shuffled wavelengths must cost at least


@dataclass(frozen=True)
class RobustnessOptions:
    """What decides the numbers: the probe (frozen protocols, one number of shots) and the conditions."""

    probe: ProbeOptions = field(default_factory=lambda: ProbeOptions(protocols=("linear",), ks=(1,), init_seeds=1))
    sensors: tuple[str, ...] = SENSORS
    steps: tuple[int, ...] = STEPS
    snrs: tuple[float, ...] = SNRS
    seed: int = 0

    def check(self) -> None:
        """Refuse what makes no sense here, by name."""
        self.probe.check()
        if strange := [p for p in self.probe.protocols if p not in FROZEN]:
            raise UsageError(f"robustness takes frozen protocols ({', '.join(FROZEN)}), not {', '.join(strange)}")
        if len(self.probe.shot_list) > 1 or self.probe.peers:
            raise UsageError("robustness takes one number of shots and no peers")
        if any(n < 2 for n in self.steps) or any(not snr > 0 for snr in self.snrs):
            raise UsageError("every n-th band needs n from 2 on, and a signal-to-noise ratio is above 0")


@dataclass(frozen=True)
class Robustness:
    """Result rows, each with a ``condition``, and the conditions that were skipped with the reason."""

    rows: list[dict[str, Any]]
    skipped: dict[str, str]


def robustness(
    encoder: Any,
    scenes: Sequence[Scene],
    options: RobustnessOptions | None = None,
    *,
    data: str = "scenes",
    name: str = "encoder",
    pretrained: bool = True,
    cache: Bank | None = None,
) -> Robustness:
    """Test one probe under every condition; arguments as those of :func:`downstream.probe.probe`.

    Raises:
        UsageError: options that make no sense.
        SpecfmError: scenes without labels, splits that cannot be drawn.
    """
    options = options or RobustnessOptions()
    options.check()
    probe = options.probe
    window = probe.window or default_window(encoder)
    samples = collect_samples(scenes, window, group_by=probe.group_by, max_per_class=probe.max_per_class)
    splits = draw_splits(samples, probe, probe.shot_list[0])
    views, skipped = _views(scenes, samples, options)
    digests = {label: windows_digest(view, samples) for label, (_, view) in views.items()}

    def features_of(model: Any, title: str) -> dict[str, FeatureSet]:
        return {
            label: extract(
                model, view, window, samples, pooling=probe.pooling, layers=probe.layers, name=f"{title}, {label}",
                bank=cache, data_digest=digests[label],
            )
            for label, (_, view) in views.items()
        }  # fmt: skip

    device = str(encoder_device(encoder))
    every = [scene for _, view in views.values() for scene in view]
    with aligned(encoder, every, probe.align) as on:
        own = features_of(encoder, name)
    found = evaluate_conditions(own, splits, probe, name, device)
    for init in range(probe.init_seeds):
        fresh = random_twin(encoder, 1000 + init)
        with aligned(fresh, every, on):
            twin = features_of(fresh, f"random init {init}")
        for label, runs_list in evaluate_conditions(twin, splits, probe, "random-init", device).items():
            known = {(runs.method, runs.protocol): runs for runs in found[label]}
            for runs in runs_list:
                if (runs.method, runs.protocol) in known:
                    known[runs.method, runs.protocol].extend(runs)
                else:
                    found[label].append(runs)
    raw = pixel_spectra({label: view for label, (_, view) in views.items()}, samples)
    notices = []
    if raw is None:
        notices.append("no raw-spectrum row: the scenes have no common quantity and band range")
    else:
        notices.append("altered spectra are interpolated by wavelength to the bands of the probe, ends held constant")
        chosen = tuple(p for p in probe.protocols if p != "knn") or ("linear",)
        for label, runs_list in evaluate_conditions(raw, splits, probe, "pixel spectrum", device, chosen).items():
            found[label] += runs_list
    leaks = [leakage_score(split, samples, raw[CLEAN].X_ND if raw else None) for split in splits]
    rows: list[dict[str, Any]] = []
    for label, (condition, view) in views.items():
        all_runs = [*found[label], majority(samples, splits)]
        table = result_rows(
            all_runs, encoder, scenes, samples, splits, leaks, probe, window, data, digests[label], name, pretrained,
            notices,
        )  # fmt: skip
        add_alarms(table, all_runs, samples, splits)
        if on:
            say_aligned(table, name, len(encoder.library))
        for row in table:
            row |= {"condition": label, "family": condition.family, "bands": sorted({s.shape[2] for s in view})}
            row["digests"] = {**row["digests"], "config": digest_json(asdict(options))}
        rows += table
    _alarm_shuffled(rows)
    return Robustness(rows, skipped)


def _views(
    scenes: Sequence[Scene], samples: Samples, options: RobustnessOptions
) -> tuple[dict[str, tuple[Condition, list[Scene]]], dict[str, str]]:
    """The scenes under each condition, and why a condition was skipped."""
    views: dict[str, tuple[Condition, list[Scene]]] = {}
    skipped: dict[str, str] = {}
    used = set(samples.scene_N.tolist())
    for condition in conditions(options.sensors, options.steps, options.snrs, options.seed):
        try:
            views[condition.name] = (condition, [condition.alter(s) if i in used else s for i, s in enumerate(scenes)])
        except UsageError:
            raise  # an unknown sensor, say
        except SpecfmError as reason:
            skipped[condition.name] = str(reason)
    return views, skipped


def evaluate_conditions(
    features: Mapping[str, FeatureSet],
    splits: Sequence[Split],
    options: ProbeOptions,
    method: str,
    device: str = "cpu",
    protocols: Sequence[str] | None = None,
) -> dict[str, list[Runs]]:
    """Fit on the clean features of every split and predict its test samples under every condition.

    Args:
        features: by condition; ``CLEAN`` is among them, and all hold the same samples.
        splits: shared by all methods.
        options: protocols, ks, grid.
        method: name in the table.
        device: where neighbours are searched and probes fitted.
        protocols: other ones than those of the options.

    Returns:
        Runs of every protocol, by condition.
    """
    clean = features[CLEAN]
    samples, X, y = clean.samples, clean.X_ND, clean.y_N
    found: dict[str, dict[str, Runs]] = {label: {} for label in features}
    constant = is_constant(X)
    progress, task = progress_bar(f"probe {method}", len(splits))
    with progress:
        for split in splits:
            test_XD = np.concatenate([part.X_ND[split.test_I] for part in features.values()])
            sides = X[split.train_I], y[split.train_I], X[split.val_I], y[split.val_I], test_XD
            for protocol in protocols or options.protocols:
                start, strength, confidence, stopped = time.perf_counter(), None, None, False
                if protocol == "knn":
                    by_k = knn_predict(
                        X[split.fit_I], y[split.fit_I], test_XD, options.ks, classes=len(samples.label_names),
                        device=device,
                    )  # fmt: skip
                    predicted = {f"knn{k}": values for k, values in by_k.items()}
                elif protocol == "ridge":
                    ridge = ridge_probe(*sides)
                    predicted, strength = {protocol: ridge.predicted_N}, ridge.C
                else:
                    result = linear_probe(
                        *sides, grid=options.grid, train_group_M=split.unit_N[split.train_I], seed=split.seed,
                        device=device,
                    )  # fmt: skip
                    predicted, strength, confidence = {protocol: result.predicted_N}, result.C, result.confidence_N
                    stopped = not result.converged
                seconds = (time.perf_counter() - start) / len(features) / len(predicted)
                for protocol_k, values in predicted.items():
                    for i, label in enumerate(features):
                        part = slice(i * len(split.test_I), (i + 1) * len(split.test_I))
                        runs = found[label].setdefault(protocol_k, Runs(method, protocol_k, constant=constant))
                        if strength is not None:
                            runs.strengths.append(strength)
                        runs.unconverged += stopped
                        runs.record(
                            samples, split, values[part], seconds, None if confidence is None else confidence[part]
                        )
            progress.advance(task)
    return {label: list(runs.values()) for label, runs in found.items()}


def pixel_spectra(views: Mapping[str, Sequence[Scene]], samples: Samples) -> dict[str, FeatureSet] | None:
    """Spectra of the labelled pixels under every condition, on the grid of the scenes as measured; None without one.

    A condition on the very bands of the clean grid keeps its values; any other is interpolated by wavelength.
    """
    common = common_grid(views[CLEAN])
    if common is None:
        return None
    clean = views[CLEAN]
    matrices, interpolates = common
    if interpolates:  # the grid is made of the centres of one of the scenes
        fewest = min(range(len(clean)), key=lambda i: int(clean[i].sensor.bands.valid.sum()))
        centre_K = matrices[fewest].T @ np.nan_to_num(clean[fewest].sensor.bands.wavelengths_nm)
    else:
        keep_C = matrices[0].any(1)
        centre_K = clean[0].sensor.bands.wavelengths_nm[keep_C]
    found = {}
    for label, view in views.items():
        X_NK = np.zeros((len(samples), len(centre_K)), np.float32)
        for part in iterate_windows(view, samples, 1, batch=4096):
            sensor = part.scene.sensor
            usable = np.flatnonzero(sensor.bands.valid)
            usable = usable[np.argsort(sensor.bands.wavelengths_nm[usable], kind="stable")]
            values_NC = part.x_BHWC[:, 0, 0][:, usable] * np.float32(sensor.scale) + np.float32(sensor.offset)
            nm_C = sensor.bands.wavelengths_nm[usable]
            matrix_CK = np.stack([np.interp(centre_K, nm_C, unit) for unit in np.eye(len(nm_C))]).astype(np.float32)
            X_NK[part.ids_B] = np.nan_to_num(values_NC, nan=0.0, posinf=0.0, neginf=0.0) @ matrix_CK
        found[label] = FeatureSet(X_NK, samples, "pixel spectrum", {"window": 1})
    return found


def _alarm_shuffled(rows: list[dict[str, Any]]) -> None:
    """An accuracy that shuffled wavelengths do not lower was not reached by looking at wavelengths."""
    clean = {(r["method"], r["protocol"]): r["aa"]["mean"] for r in rows if r["condition"] == CLEAN}
    for row in rows:
        if row["condition"] != SHUFFLED or row["method"] == "majority class":
            continue
        if row["aa"]["mean"] > clean[row["method"], row["protocol"]] - FALL:
            row["alarms"].append("shuffled wavelengths do not lower the accuracy")


def robustness_table(rows: Sequence[Mapping[str, Any]], metric: str = "aa", width: int = 80) -> Table:
    """One line per condition, one column per method and protocol; with intervals from 100 columns on."""
    from rich import box
    from rich.table import Table

    from downstream.results import interval, leakage_of, points

    columns = list(dict.fromkeys((r["method"], r["protocol"]) for r in rows if r["method"] != "majority class"))
    title = f"{metric.upper()} of probes trained on spectra as measured, {leakage_of(rows)}"
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    seen = {r["method"]: f" ({r['seen']})" for r in rows if r["seen"] != "-"}
    for heading in ("tested on", "bands", *(f"{method}{seen.get(method, '')} {p}" for method, p in columns)):
        out.add_column(heading, overflow="fold")
    text = points if width < 100 else lambda cell: f"{points(cell)} [{interval(cell)}]"
    lines: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(row["condition"], {})[row["method"], row["protocol"]] = row
    for condition, by_method in lines.items():
        first = next(iter(by_method.values()))
        cells = (text(by_method[c][metric]) if c in by_method else "-" for c in columns)
        out.add_row(condition, "/".join(map(str, first["bands"])), *cells)
    return out


def save_plot(rows: Sequence[Mapping[str, Any]], path: str | Path, metric: str = "aa", overwrite: bool = False) -> None:
    """The picture of :func:`downstream.report.figures.conditions_figure` as one PNG file.

    Raises:
        UsageError: ``path`` exists.
        SpecfmError: matplotlib is missing.
    """
    import io

    from downstream.report.figures import conditions_figure
    from specfm.files import atomic_write_bytes, refuse_existing

    refuse_existing(Path(path), overwrite, "--plot")
    figure = conditions_figure(rows, metric)
    leaky = " (LEAKY)" if rows[0]["leaky"] else ""
    title = f"{rows[0]['data']}: trained on spectra as measured, split by {rows[0]['split']}{leaky}"
    figure.axes[0].set_title(title, loc="left", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())
