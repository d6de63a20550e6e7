"""Probe an encoder against its controls: one set of samples, one set of splits, every method on all of them.

Shape suffixes: N samples, D features, S runs (splits x initialisations), U resampling units, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.baselines.classics import majority
from downstream.baselines.run import baseline_rows
from downstream.features.bank import Bank, windows_digest
from downstream.features.encoders import encoder_device, random_twin
from downstream.features.extract import FeatureSet, extract
from downstream.features.pooling import pooling_parts
from downstream.features.spectra import spectra
from downstream.protocols.linear import C_GRID
from downstream.protocols.run import evaluate, several, trained
from downstream.protocols.trained import TRAINED, TrainOptions
from downstream.results.alarms import add_alarms
from downstream.results.leakage import leakage_score
from downstream.results.rows import result_rows
from downstream.results.runs import Runs
from downstream.results.seen import pretraining_record
from downstream.splits.samples import GroupBy, Samples, asked_window, collect_samples
from downstream.splits.split import RULES, Split, load_splits, make_splits
from specfm.dense.align import aligned, wants_alignment
from specfm.errors import UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

PROTOCOLS: tuple[str, ...] = ("knn", "linear", "ridge", *TRAINED)
PARTS: tuple[str, ...] = ("encoder", *TRAINED, "peers", "random-init", "baselines")
ALIGNED = "features of cameras aligned by {} spectra{}, those of untrained twins too"


@dataclass(frozen=True)
class ProbeOptions:
    """Everything that decides a probe's numbers; its digest goes into each row.

    Attributes:
        protocols: of ``PROTOCOLS``; "finetune" and "scratch" train the encoder and take minutes to hours.
        split: of ``RULES``.
        seeds: number of splits (per held-out sensor, where several sensors see one ground).
        shots: labels a class to train on, None for all; several give one table each.
        window: side of the window, pixels; default as pretrained, and 1 for lists of spectra.
        pooling, layers: what is taken of the encoder (``downstream.features.pooling``).
        init_seeds: untrained twins.
        ks: neighbours.
        grid: strengths C of the linear probe.
        max_per_class: at most so many samples a class and group.
        min_groups, min_samples: classes with less are left out.
        block: side of a spatial block, pixels.
        group_by: what a group is (``collect_samples``).
        baselines: also the raw-spectrum, PCA, MNF and SVM baselines and the majority class.
        pca: components of the PCA and MNF rows.
        draws: bootstrap draws.
        split_files: use these splits.
        peers: published encoders (``downstream.features.peers``).
        align: put features of all cameras as the poorest of them would tell it, those of one camera as an ideal one
            would (:meth:`specfm.models.Encoder.align`); None does so where the scenes were seen through different bands
            and the encoder comes with a library.
        trained_seeds: seeds of the rows that train the encoder.
        train: how those are trained.
    """

    protocols: tuple[str, ...] = ("knn", "linear")
    split: str = "group"
    seeds: int = 10
    shots: int | tuple[int | None, ...] | None = None
    window: int | None = None
    pooling: str = "concat"
    layers: tuple[int, ...] = ()
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
    peers: tuple[str, ...] = ()
    align: bool | None = None
    trained_seeds: int = 3
    train: TrainOptions = field(default_factory=TrainOptions)

    @property
    def shot_list(self) -> tuple[int | None, ...]:
        """One entry per table; split files say themselves how many shots they hold."""
        if self.split_files:
            return (None,)
        return self.shots if isinstance(self.shots, tuple) else (self.shots,)

    def check(self) -> None:
        """Refuse options that make no sense, by name."""
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise UsageError(f"unknown protocol {protocol!r}; one or several of {', '.join(PROTOCOLS)}")
        if not self.protocols:
            raise UsageError(f"no protocol is asked for; one or several of {', '.join(PROTOCOLS)}")
        if not self.split_files and self.split not in RULES:
            raise UsageError(f"unknown split {self.split!r}; one of {', '.join(RULES)}")
        pooling_parts(self.pooling)
        if self.init_seeds < 0 or self.seeds < 1:
            raise UsageError("--seeds must be at least 1 and --init-seeds at least 0")
        if not self.ks or min(self.ks) < 1:
            raise UsageError("k of kNN must be at least 1")
        if not self.shot_list or any(n is not None and n < 1 for n in self.shot_list):
            raise UsageError("--shots must be at least 1 label a class")
        if self.window is not None and self.window < 1:
            raise UsageError(f"--window must be at least 1 pixel, not {self.window}")
        if self.peers:
            from downstream.features.peers import PeerName

            for peer in self.peers:
                PeerName.parse(peer)


def default_window(encoder: Any) -> int:
    """The window pretraining used (from the model card), else the smallest multiple of the patch from 9 pixels."""
    window = pretraining_record(getattr(encoder, "card", None)).get("window")
    if isinstance(window, (list, tuple)):
        window = window[0] if window else None
    patch = int(encoder.patch_size)
    if window and int(window) % patch == 0:
        return int(window)
    return -(-9 // patch) * patch


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
    cache: Bank | None = None,
    parts: Sequence[str] = PARTS,
    device: str = "cpu",
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
        bank: if given, filled with "samples", "splits", "features", "spectra" and the "runs" of every row.
        cache: where features are kept from one call to the next.
        parts: which rows to work out, of ``PARTS``: "encoder" (frozen, with ``extra``), the encoder trained on the
            labels, peers, its untrained twins, the baselines; the majority class is always there. The rows are the
            same in one call or in several, but for the notice of a baseline that could not be worked out.
        device: of peers and baselines where there is no encoder; else that of the encoder.

    Returns:
        One JSON-safe row per method and protocol, in table order; one table after the other for several ``shots``.
    """
    options = options or ProbeOptions()
    options.check()
    window = asked_window(scenes, options.window) or default_window(encoder)
    samples = collect_samples(scenes, window, group_by=options.group_by, max_per_class=options.max_per_class)
    tables = [draw_splits(samples, options, shots) for shots in options.shot_list]
    raw = spectra(scenes, window, samples)
    data_digest = windows_digest(scenes, samples)
    frozen = any(p not in TRAINED for p in options.protocols)

    def features_of(model: Any, title: str, pooling: str, layers: tuple[int, ...]) -> FeatureSet:
        return extract(
            model, scenes, window, samples, pooling=pooling, layers=layers, name=title, bank=cache,
            data_digest=data_digest,
        )  # fmt: skip

    own = "encoder" in parts and frozen
    with aligned(encoder, scenes, options.align) as on:
        features = features_of(encoder, name, options.pooling, options.layers) if own else None
    device = device if encoder is None else str(encoder_device(encoder))
    others = dict(extra or {}) if own else {}
    if "peers" in parts and frozen:
        others |= _peer_features(options, device, features_of)
    twins: list[FeatureSet] = []
    for init in range(options.init_seeds if frozen and "random-init" in parts else 0):
        twin = make_random(init) if make_random is not None else random_twin(encoder, 1000 + init)
        with aligned(twin, scenes, options.align):
            twins.append(features_of(twin, f"random init {init}", options.pooling, options.layers))
    rows: list[dict[str, Any]] = []
    kept_runs: list[Runs] = []
    for splits in tables:
        leaks = [leakage_score(split, samples, raw[0].X_ND if raw else None) for split in splits]
        all_runs = evaluate(features, splits, options, name, device=device) if features is not None else []
        for protocol in (p for p in TRAINED if p in parts and p in options.protocols):
            title = name if protocol == "finetune" else "from-scratch"
            all_runs.append(trained(encoder, {"": scenes}, samples, splits, options, protocol, title, window)[""])
        for label, other in others.items():
            found = evaluate(other, splits, options, label, device=device)
            for runs in found:
                runs.pooling = other.info.get("pooling_name")
            all_runs += found
        all_runs += several(twins, splits, options, "random-init", device)
        notices = ["spectra of different sensors are resampled to one grid"] if raw and raw[0].info["resampled"] else []
        if options.baselines:
            if raw is not None and "baselines" in parts:
                by_condition, missing = baseline_rows({"": raw[0]}, {"": raw[1]}, scenes, splits, options, device)
                all_runs += by_condition[""]
                notices += missing
            all_runs.append(majority(samples, splits))
            if raw is None:
                notices.append(
                    "no raw-spectrum, PCA and MNF baselines: the scenes have no common quantity and band range"
                )
        table = result_rows(
            all_runs, encoder, scenes, samples, splits, leaks, options, window, data, data_digest, name, pretrained,
            notices,
        )  # fmt: skip
        add_alarms(table, all_runs, samples, splits)
        if on:
            say_aligned(table, name, len(encoder.library), wants_alignment(scenes, None))
        rows += table
        kept_runs += all_runs
    if bank is not None:
        splits = [s for t in tables for s in t]
        bank.update(samples=samples, splits=splits, features=features, spectra=raw, runs=kept_runs)
    return rows


def say_aligned(rows: Sequence[dict[str, Any]], name: str, spectra: int, together: bool) -> None:
    """A notice on the rows of frozen features of the encoder and of its untrained twins."""
    said = ALIGNED.format(spectra, " to what the poorest can tell" if together else "")
    for row in rows:
        if row["method"] in (name, "random-init") and row["protocol"] not in TRAINED:
            row["notices"] = sorted({*row["notices"], said})


def draw_splits(samples: Samples, options: ProbeOptions, shots: int | None) -> list[Split]:
    """The splits of one table: drawn by rule, or read from the split files of the options."""
    if not options.split_files:
        return make_splits(
            samples, options.split, options.seeds, min_groups=options.min_groups, min_samples=options.min_samples,
            block=options.block, shots=shots,
        )  # fmt: skip
    splits = load_splits(options.split_files, samples)
    if any(not np.array_equal(s.unit_N, splits[0].unit_N) for s in splits):
        raise UsageError("the split files have different groups or blocks; probe them one by one")
    if len({s.options.get("shots") for s in splits}) > 1:
        raise UsageError("the split files have different numbers of shots; probe them one by one")
    held = splits[0].options.get("shots")
    if options.shots is not None and options.shots not in (held, (held,)):
        raise UsageError(f"the split files hold {held or 'all'} labels a class, not as --shots says; leave --shots out")
    return splits


def _peer_features(options: ProbeOptions, device: str, features_of: Callable[..., FeatureSet]) -> dict[str, FeatureSet]:
    """Features of the peers by their name in the table; each model is dropped before the next is built."""
    found = {}
    if options.peers:
        from downstream.features.peers import load_peer

        for text in options.peers:
            peer, label = load_peer(text, device=device)
            found[label] = features_of(peer, label, "mean", ())
            found[label].info["pooling_name"] = "the peer's own"
    return found
