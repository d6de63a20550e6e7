"""Probe an encoder against its controls: one set of samples, one set of splits, every method on all of them.

Shape suffixes: N samples, D features, S runs (splits x initialisations), U resampling units, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from downstream.baselines.classics import majority
from downstream.baselines.run import WHOLE, baseline_rows
from downstream.features.bank import Bank, windows_digest
from downstream.features.encoders import encoder_device, random_twin
from downstream.features.extract import FeatureSet, extract
from downstream.features.fit import (
    BEGINS_FITTED,
    FITTED,
    NOT_FITTED,
    Fit,
    SceneStems,
    begins_fitted,
    fit_facts,
    fitted,
)
from downstream.features.options import FeatureOptions
from downstream.features.spectra import Spectra, spectra
from downstream.probe.expected import Counts, refuse_early, say_expected
from downstream.probe.options import ProbeOptions
from downstream.protocols.options import TRAINED
from downstream.protocols.run import evaluate, trained
from downstream.results.leakage import leakage_score
from downstream.results.rows import Comparison, EncoderFacts, result_rows
from downstream.results.runs import Runs
from downstream.results.seen import pretraining_record
from downstream.splits.samples import Samples, asked_window, collect_samples
from downstream.splits.split import Split, draw_splits, rule_of
from specfm.band_selection import BandSelection
from specfm.brief import brief
from specfm.dense.align import aligned, wants_alignment
from specfm.digests import digest_json
from specfm.errors import UsageError
from specfm.models.backbone import side_multiple
from specfm.models.one_size import fixed_side
from specfm.pretreatment import otherwise_taught, pretreat
from specfm.rows import Rows
from specfm.selected_scene import select_scenes
from specfm.specimens import whole_views

if TYPE_CHECKING:
    from specfm.scene import Scene

PATCH = 3  # side of the patch that baselines look at where no encoder says it, pixels
PARTS: tuple[str, ...] = ("encoder", *TRAINED, "peers", "random-init", "baselines")


@dataclass(frozen=True)
class ProbeResult(Rows):
    """What a probe found.

    Attributes:
        rows: one JSON-safe row per method and protocol in table order; table after table for several ``shots``.
        runs: of every row: the confusions that it sums up, for paired comparisons.
        samples: what was compared on.
        splits: of all tables.
        features: of the encoder, None where it was not asked for.
        spectra: of the labelled pixels, the patches about them and the windows, None where scenes have no common grid.
    """

    rows: list[dict[str, Any]]
    runs: list[Runs]
    samples: Samples
    splits: list[Split]
    features: FeatureSet | None
    spectra: Spectra | None

    __repr__ = brief


def default_window(encoder: Any) -> int:
    """The only window that the encoder reads, else that of its pretraining (from the model card), else the smallest
    multiple of the patch from 9 pixels."""
    if (only := fixed_side(encoder)) is not None:
        return only
    window = pretraining_record(getattr(encoder, "card", None)).get("window")
    if isinstance(window, (list, tuple)):
        window = window[0] if window else None
    patch = side_multiple(encoder)
    if window and int(window) % patch == 0:
        return int(window)
    return -(-9 // patch) * patch


def prepared_scenes(scenes: Sequence[Scene], options: FeatureOptions) -> tuple[list[Scene], list[str]]:
    """The scenes as ``options`` want them seen (some bands, specimens whole, pretreated), and notices that say so.

    That is the order in which it is done, as of shards and vectors of specimens, also where a card says the last: no
    band that is left out has a part in which pixels are valid or in what they hold.
    """
    scenes, notices = list(scenes), []
    if options.bands is not None:
        wanted, before = BandSelection.parse(options.bands), scenes
        scenes = select_scenes(scenes, wanted)
        counts = sorted({f"{new.shape[2]} of {old.shape[2]}" for new, old in zip(scenes, before, strict=True)})
        how = ", chosen on pixels of all scenes without labels" if wanted.is_fitted else ""
        notices.append(f"bands {wanted}: {', '.join(counts)} are used{how}")
    if options.whole is not None:
        scenes = whole_views(scenes, options.whole)
        notices.append(f"one sample a specimen, seen whole on {options.whole} x {options.whole} pixels")
    scenes = [pretreat(scene, options.pretreatment) for scene in scenes]
    treated = sorted({", ".join(scene.sensor.pretreatment) for scene in scenes if scene.sensor.pretreatment})
    return scenes, notices + [f"all rows are of spectra pretreated by {steps}" for steps in treated]


def take_samples(encoder: Any, scenes: Sequence[Scene], options: ProbeOptions) -> tuple[Samples, ProbeOptions]:
    """The labelled windows that ``options`` ask for, and the options with the rule of their splits decided."""
    window = asked_window(scenes, options.whole or options.window) or default_window(encoder)
    samples = collect_samples(scenes, window, group_by=options.group_by, max_per_class=options.max_per_class)
    return samples, replace(options, split=rule_of(options.split, samples))


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
    bank: Bank | None = None,
    parts: Sequence[str] = PARTS,
    device: str = "cpu",
) -> ProbeResult:
    """Probe ``encoder`` on labelled scenes beside every control.

    Args:
        encoder: frozen encoder.
        scenes: labelled scenes of one data card.
        options: see ``ProbeOptions``.
        data: name of the data in the rows.
        name: name of the encoder in the rows.
        pretrained: False for an untrained control (no seen / unseen mark).
        make_random: makes the untrained twin for a seed (default: the encoder's own architecture).
        extra: further features by name, of the same samples: baselines that a study brings along.
        bank: where features are kept from one call to the next.
        parts: which rows to work out, of ``PARTS``: "encoder" (frozen), the encoder trained on the labels, peers, its
            untrained twins, the baselines; the majority class is always there. The rows are the same in one call or in
            several, but for the notice of a baseline that could not be worked out.
        device: of peers and baselines where there is no encoder; else that of the encoder.

    Raises:
        UsageError: options that make no sense, peers of pretreated spectra, an encoder that must be aligned on them.
        SpecfmError: scenes without labels, splits that cannot be drawn.
    """
    options = options or ProbeOptions()
    options.check()
    measured = scenes
    scenes, prepared = prepared_scenes(scenes, options)
    if options.peers and any(scene.sensor.pretreatment for scene in scenes):
        raise UsageError("published encoders take spectra as measured, and these are pretreated; leave --peers out")
    samples, options = take_samples(encoder, scenes, options)
    window = samples.window
    tables = [draw_splits(samples, options, shots) for shots in options.shot_list]
    raw = spectra(scenes, window, samples, patch=int(getattr(encoder, "patch_size", PATCH)))
    data_digest = windows_digest(scenes, samples)
    own = "encoder" in parts and options.frozen
    twin_count = options.init_seeds if options.frozen and "random-init" in parts else 0
    to_train = [protocol for protocol in options.trained if protocol in parts]
    if encoder is not None:
        refuse_early(encoder, window, options, bank)
        counts = Counts(own + twin_count, len(to_train) * options.trained_seeds * len(tables))
        say_expected(encoder, scenes, samples, window, options, counts)

    def features_of(
        model: Any, title: str, pooling: str, layers: tuple[int, ...], stems: SceneStems | None = None
    ) -> FeatureSet:
        return extract(
            model, scenes, window, samples, pooling=pooling, layers=layers, name=title, bank=bank,
            data_digest=data_digest, stems=stems,
        )  # fmt: skip

    align = False if options.fit == "scene" else options.align
    with fitted(encoder, scenes, own and options.fit) as stems, aligned(encoder, scenes, align) as on:
        features = features_of(encoder, name, options.pooling, options.layers, stems) if own else None
        aligned_how = how_aligned(encoder, on, wants_alignment(scenes, None))
    device = device if encoder is None else str(encoder_device(encoder))
    peers = _peer_features(options, device, features_of) if "peers" in parts and options.frozen else {}
    twins: list[FeatureSet] = []
    for init in range(twin_count):
        twin = make_random(init) if make_random is not None else random_twin(encoder, 1000 + init)
        with fitted(twin, scenes, options.fit, fit_facts(encoder)) as stems, aligned(twin, scenes, align):
            twins.append(features_of(twin, f"random init {init}", options.pooling, options.layers, stems))
    facts, config_digest = EncoderFacts.of(encoder, pretrained, measured), digest_json(asdict(options))
    rows: list[dict[str, Any]] = []
    kept_runs: list[Runs] = []
    begun, learnt = begins_fitted(options.fit, scenes), list[list[Runs]]([] for _ in tables)
    for protocol in to_train:
        with fitted(encoder, scenes, begun and protocol == "finetune"):  # once for all tables
            for of_labels, splits in zip(learnt, tables, strict=True):
                of_labels += trained(
                    encoder, {"": scenes}, samples, splits, options, protocol, name, window, options.pooling, bank,
                    {"": data_digest},
                ).values()  # fmt: skip
    for splits, of_labels in zip(tables, learnt, strict=True):
        leaks = [leakage_score(split, samples, raw.pixel.X_ND if raw else None) for split in splits]
        frozen = [] if features is None else [features]
        all_runs = evaluate(frozen, splits, options, "encoder", name, device)
        all_runs += of_labels
        for label, other in (extra or {}).items():
            all_runs += evaluate([other], splits, options, "baseline", label, device)
        for label, peer in peers.items():
            found = evaluate([peer], splits, options, "peer", label, device)
            for runs in found:
                runs.pooling = "the peer's own"
            all_runs += found
        all_runs += evaluate(twins, splits, options, "twin", "random-init", device)
        notices = [*prepared, *options.notices]
        if raw and raw.pixel.info["resampled"]:
            notices.append("spectra of different sensors are resampled to one grid")
        if options.baselines:
            if raw is not None and "baselines" in parts:
                by_condition, missing = baseline_rows(
                    {"": raw}, scenes, splits, options, options, device, fit=options.fit
                )
                all_runs += by_condition[""]
                notices += missing
            all_runs.append(majority(samples, splits))
            if raw is None:
                notices.append(
                    "no raw-spectrum, PCA and MNF baselines: the scenes have no common quantity and band range"
                )
        about = Comparison(
            samples, splits, leaks, window, options.pooling, options.layers, data, data_digest, config_digest, facts,
            options.draws, notices,
        )  # fmt: skip
        table = result_rows(all_runs, about)
        say_aligned(table, aligned_how)
        say_taught(table, encoder, scenes)
        say_fitted(table, options.fit, begun)
        rows += table
        kept_runs += all_runs
    return ProbeResult(rows, kept_runs, samples, [s for t in tables for s in t], features, raw)


def how_aligned(encoder: Any, on: bool, together: bool) -> str | None:
    """A notice on how features are aligned while an encoder is so; None where it is not."""
    library = encoder.library if on else None
    if library is None:
        return None
    if library.home is not None:
        return f"features of other sensors put as that of the scenes fitted to would tell it, by {len(library)} spectra"
    to = " to what the poorest can tell" if together else ""
    return f"features of sensors aligned by {len(library)} spectra{to}, those of untrained twins too"


def say_aligned(rows: Sequence[dict[str, Any]], said: str | None) -> None:
    """A notice on the rows of frozen features of the encoder and of its untrained twins."""
    for row in rows:
        if said and row["kind"] in ("encoder", "twin") and row["protocol"] not in TRAINED:
            row["notices"] = sorted({*row["notices"], said})


def say_taught(rows: Sequence[dict[str, Any]], encoder: Any, scenes: Sequence[Scene]) -> None:
    """A notice on the rows of an encoder that learnt from spectra pretreated otherwise than the scenes."""
    said = otherwise_taught(getattr(encoder, "card", None), scenes)
    for row in rows if said else ():
        if row["kind"] == "encoder":
            row["notices"] = sorted({*row["notices"], said})


def say_fitted(rows: Sequence[dict[str, Any]], fit: Fit, begun: bool = False) -> None:
    """What the stem behind each row was fitted to without labels: ``scenes``, ``each scene`` or nothing.

    Args:
        rows: changed in place.
        fit: of frozen features.
        begun: what was fine-tuned began fitted as well.
    """
    to = {True: "scenes", "scene": "each scene"}.get(fit)
    for row in rows:
        looked = row["kind"] in ("encoder", "twin") or str(row["method"]).endswith(WHOLE)
        ours, said = to if looked else None, FITTED.format(to)
        if row["protocol"] in TRAINED:
            ours = to if begun and row["protocol"] == "finetune" else None
            said = BEGINS_FITTED if ours else NOT_FITTED
        row["fitted"] = ours
        if ours or (to and row["protocol"] == "finetune"):
            row["notices"] = sorted({*row["notices"], said})


def _peer_features(
    options: FeatureOptions, device: str, features_of: Callable[..., FeatureSet]
) -> dict[str, FeatureSet]:
    """Features of the peers by their name in the table; each model is dropped before the next is built."""
    found = {}
    if options.peers:
        from downstream.features.peers import load_peer

        for text in options.peers:
            peer, label = load_peer(text, device=device)
            found[label] = features_of(peer, label, "mean", ())
    return found
