"""Whether an encoder uses the spectrum, and what change it tolerates: probes of scenes as measured, on altered ones.

The probe is fitted per split on true spectra and predicts the same test pixels under every condition of
:mod:`downstream.robustness.conditions`. Beside the encoder, on the same splits: untrained twins, the encoder trained
from scratch, and every baseline on raw spectra.

One probe serves all conditions; spectra of other bands are resampled to those that the baselines were fitted on. Where
features are aligned, it is known beforehand which sensors will be compared. Then every other sensor has a probe of its
own, fitted on true spectra as that sensor tells them: features as the poorer of the two
(:class:`specfm.models.alignment.Alignment`), raw spectra seen through its bands. Encoders trained on the labels are
trained once, on scenes as measured, and where the encoder is fitted without labels, it is fitted to these; other
sensors are then put as theirs would tell it, and features of the scenes as measured stay as they are. What is
fine-tuned meets all sensors as they are, so it begins as the checkpoint is.

Shape suffixes: N samples, D features, S runs, K bands of the grid of the spectra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from downstream.baselines.classics import majority
from downstream.baselines.run import baseline_rows
from downstream.features.bank import Bank, windows_digest
from downstream.features.encoders import encoder_device, random_twin
from downstream.features.extract import FeatureSet, extract
from downstream.features.fit import fit_facts, fitted
from downstream.features.spectra import CommonGrid, Spectra, common_grid, seen_through, spectra
from downstream.probe.expected import Counts, refuse_early, say_expected
from downstream.probe.run import how_aligned, prepared_scenes, say_aligned, say_fitted, say_taught, take_samples
from downstream.protocols.options import TRAINED
from downstream.protocols.run import evaluate_conditions, put_together, trained
from downstream.results.leakage import leakage_score
from downstream.results.rows import Comparison, EncoderFacts, result_rows
from downstream.results.runs import Kind, Runs, identity
from downstream.robustness.conditions import CLEAN, SHUFFLED, Condition, conditions
from downstream.robustness.options import RobustnessOptions
from downstream.splits.samples import Samples
from downstream.splits.split import draw_splits
from specfm.brief import brief
from specfm.dense.align import aligned
from specfm.digests import digest_json
from specfm.errors import SpecfmError, UsageError
from specfm.rows import Rows

if TYPE_CHECKING:
    from specfm.scene import Scene

OTHER_BANDS = ("bands", "sensor")  # families of conditions under which scenes are seen through other bands
FALL = 0.02  # of AA, that shuffled wavelengths must cost at least


@dataclass(frozen=True)
class Robustness(Rows):
    """Result rows, each with a ``condition``, and the conditions that were skipped with the reason."""

    rows: list[dict[str, Any]]
    skipped: dict[str, str]

    __repr__ = brief


def robustness(
    encoder: Any,
    scenes: Sequence[Scene],
    options: RobustnessOptions | None = None,
    *,
    data: str = "scenes",
    name: str = "encoder",
    pretrained: bool = True,
    bank: Bank | None = None,
) -> Robustness:
    """Test probes of scenes as measured under every condition; arguments as those of ``downstream.probe.run.probe``.

    Raises:
        UsageError: options that make no sense, scenes that are pretreated.
        SpecfmError: scenes without labels, splits that cannot be drawn.
    """
    options = options or RobustnessOptions()
    options.check()
    if treated := next((scene for scene in scenes if scene.sensor.pretreatment), None):
        raise UsageError(
            f"{treated.where}: is pretreated, and light and noise alter spectra as measured; take pretreatment out of "
            "its card"
        )
    measured = scenes
    scenes, prepared = prepared_scenes(scenes, options.probe)
    samples, probe = take_samples(encoder, scenes, options.probe)
    window = samples.window
    options = replace(options, probe=probe)
    splits = draw_splits(samples, probe, probe.shot_list[0])
    views, skipped = _views(encoder, scenes, samples, options)
    digests = {label: windows_digest(view, samples) for label, (_, view) in views.items()}

    refuse_early(encoder, window, probe, bank)
    seen = (1 + probe.init_seeds) * len(views) if probe.frozen else 0
    say_expected(encoder, scenes, samples, window, probe, Counts(seen, len(probe.trained) * probe.trained_seeds))
    device = str(encoder_device(encoder))
    altered = {label: view for label, (_, view) in views.items()}
    every = [scene for view in altered.values() for scene in view]
    found: dict[str, list[Runs]] = {label: [] for label in views}

    def add(by_condition: Mapping[str, list[Runs]]) -> None:
        for label, runs in by_condition.items():
            found[label] += runs

    def features_of(model: Any, title: str, label: str) -> FeatureSet:
        return extract(
            model, altered[label], window, samples, pooling=probe.pooling, layers=probe.layers,
            name=f"{title}, {label}", bank=bank, data_digest=digests[label],
        )  # fmt: skip

    def tested(model: Any, title: str, kind: Kind, method: str) -> tuple[dict[str, list[Runs]], dict[str, str | None]]:
        """Runs by condition, and how the features were aligned: nothing where they were not.

        Where they were, another sensor is compared by itself with the scenes as measured: its probe is fitted on these
        as the poorer of the two would tell them. All other conditions share one probe.
        """
        with fitted(model, scenes, probe.fit, fit_facts(encoder)):
            with aligned(model, every, probe.align, together=False) as on:
                how = {label: how_aligned(model, on, False) for label in altered} if on else {}
                shared = {label: features_of(model, title, label) for label in altered if not (on and label in others)}
            runs = evaluate_conditions(shared, splits, probe, kind, method, device=device)
            for label in others if on else ():
                with aligned(model, [*altered[CLEAN], *altered[label]], probe.align):
                    pair = {part: features_of(model, title, part) for part in (CLEAN, label)}
                    how[label] = how_aligned(model, on, True)
                runs[label] = evaluate_conditions(pair, splits, probe, kind, method, device=device)[label]
        return runs, how

    others = [label for label, (condition, _) in views.items() if condition.family in OTHER_BANDS and label != CLEAN]
    how: dict[str, str | None] = {}
    if probe.frozen:
        runs, how = tested(encoder, name, "encoder", name)
        add(runs)
    for protocol in probe.trained:
        by_condition = trained(
            encoder, altered, samples, splits, probe, protocol, name, window, probe.pooling, bank, digests
        )
        add({label: [runs] for label, runs in by_condition.items()})
    if probe.frozen:
        add(
            put_together(
                tested(random_twin(encoder, 1000 + init), f"random init {init}", "twin", "random-init")[0]
                for init in range(probe.init_seeds)
            )
        )
    notices = [*prepared, *options.probe.notices]
    needed = altered if probe.baselines else {CLEAN: altered[CLEAN]}  # leakage is measured on spectra too
    raw = condition_spectra(needed, window, samples, others if how and probe.baselines else ())
    if probe.baselines:
        if not raw:
            notices.append("no raw-spectrum rows: the scenes have no common quantity and band range")
        for labels, by_label, grid in raw:  # a column a row: the baselines of every table are enough
            runs, missing = baseline_rows(by_label, altered[CLEAN], splits, probe, probe, device, grid, every=False)
            add({label: runs[label] for label in labels})
            notices += [text for text in missing if text not in notices]
    own_probe = {label for part in raw[1:] for label in part.labels}
    leaks = [leakage_score(split, samples, raw[0].spectra[CLEAN].pixel.X_ND if raw else None) for split in splits]
    trivial = [majority(samples, splits)] if probe.baselines else []
    about = Comparison(
        samples, splits, leaks, window, probe.pooling, probe.layers, data, digests[CLEAN],
        digest_json(asdict(options)), EncoderFacts.of(encoder, pretrained, measured), probe.draws, notices,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for label, (condition, view) in views.items():
        table = result_rows([*found[label], *trivial], replace(about, data_digest=digests[label]))
        say_aligned(table, how.get(label))
        say_taught(table, encoder, scenes)
        say_fitted(table, probe.fit)
        if label in others:
            _say_how(table, own_probe=label in own_probe)
        for row in table:
            row |= {"condition": label, "family": condition.family, "bands": sorted({s.shape[2] for s in view})}
        rows += table
    _alarm_shuffled(rows)
    return Robustness(rows, skipped)


def _views(
    encoder: Any, scenes: Sequence[Scene], samples: Samples, options: RobustnessOptions
) -> tuple[dict[str, tuple[Condition, list[Scene]]], dict[str, str]]:
    """The scenes under each condition, and why a condition was skipped.

    An encoder that is built for one list of bands is not asked about others.
    """
    own = getattr(encoder, "bands", None)
    views: dict[str, tuple[Condition, list[Scene]]] = {}
    skipped: dict[str, str] = {}
    used = set(samples.scene_N.tolist())
    for condition in conditions(options.sensors, options.steps, options.snrs, options.seed):
        try:
            view = [condition.alter(s) if i in used else s for i, s in enumerate(scenes)]
        except UsageError:
            raise  # an unknown sensor, say
        except SpecfmError as reason:
            skipped[condition.name] = str(reason)
            continue
        if own is not None and condition.family in OTHER_BANDS and condition.name != CLEAN:
            skipped[condition.name] = f"the encoder reads nothing but the {int(own.valid.sum())} bands it was built for"
        else:
            views[condition.name] = (condition, view)
    return views, skipped


class ConditionSpectra(NamedTuple):
    """Spectra by condition, ``CLEAN`` first, on one grid; ``labels`` are those to test."""

    labels: list[str]
    spectra: dict[str, Spectra]
    grid: CommonGrid


def condition_spectra(
    views: Mapping[str, Sequence[Scene]], window: int, samples: Samples, alone: Sequence[str] = ()
) -> list[ConditionSpectra]:
    """Spectra under every condition on the grid of the scenes as measured; empty without a grid.

    A condition on the very bands of that grid keeps its values; any other is resampled to it. For those in ``alone``
    the scenes as measured are instead seen through the condition's own bands, where its scenes have one band list.
    """
    clean, grid = views[CLEAN], common_grid(views[CLEAN])
    if grid is None:
        return []

    def on_grid(labels: list[str], own: CommonGrid) -> ConditionSpectra:
        by_label = {}
        for label in dict.fromkeys([CLEAN, *labels]):
            there = own
            if label != CLEAN:
                matrices = [seen_through(scene.sensor.bands, own.bands) for scene in views[label]]
                there = CommonGrid(own.bands, matrices, True)
            found = spectra(views[label], window, samples, there)
            assert found is not None
            by_label[label] = found
        return ConditionSpectra(labels, by_label, own)

    grids = {label: common_grid(views[label]) for label in alone}
    own = {label: one.bands for label, one in grids.items() if one is not None and not one.resampled}
    parts = [on_grid([label for label in views if label not in own], grid)]
    for label, bands in own.items():
        matrices = [seen_through(scene.sensor.bands, bands) for scene in clean]
        parts.append(on_grid([label], CommonGrid(bands, matrices, True)))
    return parts


def _say_how(rows: Sequence[dict[str, Any]], own_probe: bool) -> None:
    """A notice on the rows of another sensor that are not of frozen features: what they were fitted on."""
    said = "fitted on true spectra seen through its bands" if own_probe else "resampled to the bands as measured"
    for row in rows:
        if row["protocol"] in TRAINED:
            row["notices"] = sorted({*row["notices"], "another sensor: trained encoders saw scenes as measured alone"})
        elif row["kind"] == "baseline":
            row["notices"] = sorted({*row["notices"], f"another sensor: raw spectra {said}"})


def _alarm_shuffled(rows: list[dict[str, Any]]) -> None:
    """An accuracy that shuffled wavelengths do not lower was not reached by looking at wavelengths."""
    clean = {identity(r): r["aa"]["mean"] for r in rows if r["condition"] == CLEAN}
    for row in rows:
        if row["condition"] != SHUFFLED or row["kind"] == "majority":
            continue
        if row["aa"]["mean"] > clean[identity(row)] - FALL:
            row["alarms"].append("shuffled wavelengths do not lower the accuracy")
