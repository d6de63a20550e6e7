"""`specfm compare-bands`: how many of which bands are enough, for an encoder and for raw spectra on the same splits.

Every choice sees the same samples under the same splits. ``pca:N`` leaves no bands: raw spectra are then the scores of
N components fitted on each training side, and the encoder, which is told wavelengths, is given the windows rebuilt from
the first N components of the samples' spectra (without labels): what N components tell, in bands.

Bands are chosen from spectra as measured, and what is chosen is pretreated by itself (``specfm.band_selection``), for
encoder and raw spectra alike. Components are of pretreated spectra.

Shapes: N samples, C bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.baselines.classics import majority
from downstream.baselines.run import pca_scores
from downstream.explain.options import CompareOptions
from downstream.explain.ranges import Change, changed_features, one_sensor
from downstream.features.bank import windows_digest
from downstream.features.extract import FeatureSet
from downstream.features.fit import fitted
from downstream.features.spectra import Spectra, spectra
from downstream.probe.run import prepared_scenes, say_fitted, say_taught, take_samples
from downstream.protocols.run import evaluate, evaluate_conditions
from downstream.results.leakage import leakage_score
from downstream.results.rows import Comparison, EncoderFacts, result_rows
from downstream.results.runs import Runs
from downstream.splits.samples import Samples
from downstream.splits.split import Split, draw_splits
from specfm.band_selection import BandSelection
from specfm.dense.align import aligned
from specfm.digests import digest_json
from specfm.errors import SpecfmError
from specfm.pretreatment import untreated
from specfm.selected_scene import selected

if TYPE_CHECKING:
    from specfm.scene import Scene

PIXEL, MEAN = "pixel spectrum", "mean spectrum"
REBUILT = "the encoder sees windows rebuilt from the components of the samples' spectra, fitted without labels"
CHOSEN = "bands chosen on the samples' spectra without labels"


@dataclass(frozen=True)
class BandChoice:
    """A choice as it is compared: its text, the bands it takes (None: all), and components or None."""

    text: str
    count: int  # of bands, or components
    index_K: NDArray[np.int64] | None = None
    components: int | None = None

    def of(self, scenes: Sequence[Scene]) -> list[Scene]:
        """The scenes with these bands only."""
        return list(scenes) if self.index_K is None else [selected(scene, self.index_K) for scene in scenes]


def choices(
    options: CompareOptions, scene: Scene, spectra_NC: NDArray[np.float32]
) -> tuple[list[BandChoice], list[str]]:
    """What is compared, all bands first, and a notice for every choice that the sensor cannot give.

    Args:
        options: which are wanted.
        scene: one of the scenes.
        spectra_NC: of the samples as measured, for choices that are fitted on pixels.
    """
    bands, usable = untreated(scene).sensor.bands, int(scene.sensor.bands.valid.sum())
    found, notices = [BandChoice("all", usable)], []
    for text in (*(f"uniform:{count}" for count in options.counts), *options.selections):
        wanted = BandSelection.parse(text)
        if wanted.kind == "pca":
            most = min(usable, len(spectra_NC) - 1)
            if (wanted.count or 0) > most:
                notices.append(f"{text} left out: the samples have {most} components at most")
            else:
                found.append(BandChoice(text, wanted.count or 0, components=wanted.count))
            continue
        if wanted.kind == "uniform" and wanted.count == bands.valid.sum():
            continue  # all bands, which come first
        try:
            index_K = wanted.indices(bands, spectra_NC)
            choice = BandChoice(str(wanted), len(index_K), index_K)
            choice.of([scene])  # refuses a pretreatment that these bands cannot have
            found.append(choice)
        except SpecfmError as error:
            notices.append(f"{text} left out: {error}")
    return found, notices


def compare_bands(
    encoder: Any,
    scenes: Sequence[Scene],
    options: CompareOptions | None = None,
    *,
    data: str = "scenes",
    name: str = "encoder",
    pretrained: bool = True,
) -> list[dict[str, Any]]:
    """Rows as of a probe, of the encoder and of raw spectra; ``condition`` is the choice, ``bands`` [how many].

    Args:
        encoder: frozen encoder.
        scenes: labelled scenes of one sensor.
        options: what is compared, and how it is probed.
        data: as of :func:`downstream.probe.run.probe`.
        name: likewise.
        pretrained: likewise.

    Raises:
        UsageError: options that make no sense, scenes of several sensors.
        SpecfmError: scenes without labels, splits that cannot be drawn.
    """
    options = options or CompareOptions()
    options.check()
    probe = options.probe
    measured = scenes
    scenes, prepared = prepared_scenes(scenes, probe)
    bands = one_sensor(scenes)
    samples, probe = take_samples(encoder, scenes, probe)
    window = samples.window
    splits = draw_splits(samples, probe, probe.shot_list[0])
    raw = _spectra(scenes, window, samples)
    chosen, left_out = choices(options, scenes[0], _as_measured(scenes, window, samples))
    leaks = [leakage_score(split, samples, raw.pixel.X_ND) for split in splits]
    facts = EncoderFacts.of(encoder, pretrained, measured)
    digest, rows = windows_digest(scenes, samples), []
    for choice in chosen:
        narrow = choice.of(scenes)
        told = raw if choice.index_K is None else _spectra(narrow, window, samples)
        change: Change = lambda x: x  # noqa: E731
        if choice.components is not None:
            change = rebuild(raw.mean.X_ND, choice.components, np.flatnonzero(bands.valid))
        with fitted(encoder, narrow, probe.fit), aligned(encoder, narrow, probe.align):
            (x_ND,) = changed_features(
                encoder, narrow, samples, window, [change], pooling=probe.pooling, layers=probe.layers,
                title=f"{name}, {choice.text}",
            )  # fmt: skip
        all_runs = evaluate([FeatureSet(x_ND, samples, name)], splits, probe, "encoder", name)
        for support, features in (("pixel", told.pixel), ("window", told.mean)):
            all_runs += _raw_runs(features, splits, choice, probe, support)
        notices = [*prepared, *left_out]
        if choice.components is not None:
            notices.append(f"{choice.text}: {REBUILT}")
        elif BandSelection.parse("uniform:1" if choice.text == "all" else choice.text).is_fitted:
            notices.append(f"{choice.text}: {CHOSEN}")
        about = Comparison(
            samples, splits, leaks, window, probe.pooling, probe.layers, data, digest, digest_json(asdict(options)),
            facts, probe.draws, notices,
        )  # fmt: skip
        table = result_rows([*all_runs, majority(samples, splits)], about)
        say_taught(table, encoder, narrow)
        say_fitted(table, probe.fit)
        rows += [{**row, "condition": choice.text, "bands": [choice.count]} for row in table]
    return rows


def _raw_runs(
    features: FeatureSet, splits: Sequence[Split], choice: BandChoice, probe: Any, support: str
) -> list[Runs]:
    method, scores = PIXEL if support == "pixel" else MEAN, None
    if choice.components is not None:
        method, scores = f"PCA-{choice.components} {support}", pca_scores(features.X_ND, choice.components)
    found = evaluate_conditions(
        {"": features}, splits, probe, "baseline", method, scores=scores, support=support,
        metric="cosine" if choice.components is None else "euclidean",
    )  # fmt: skip
    return found[""]


def _as_measured(scenes: Sequence[Scene], window: int, samples: Samples) -> NDArray[np.float32]:
    """Mean spectra of the windows before pretreatment, x_NC; 0 in bands that are not usable."""
    bare = [untreated(scene) for scene in scenes]
    valid_C = bare[0].sensor.bands.valid
    x_NC = np.zeros((len(samples), len(valid_C)), np.float32)
    x_NC[:, valid_C] = _spectra(bare, window, samples).mean.X_ND
    return x_NC


def _spectra(scenes: Sequence[Scene], window: int, samples: Samples) -> Spectra:
    found = spectra(scenes, window, samples)
    if found is None:
        raise SpecfmError("the scenes have no common bands to compare")
    return found


def rebuild(spectra_NK: NDArray[np.float32], components: int, index_K: NDArray[np.int64]) -> Change:
    """Project every pixel's usable bands on the first principal components of spectra and back."""
    mean_K = spectra_NK.mean(0, dtype=np.float64)
    _, _, axes_KK = np.linalg.svd(spectra_NK - mean_K, full_matrices=False)
    kept_PK = torch.from_numpy(axes_KK[:components].astype(np.float32))
    middle_K, place_K = torch.from_numpy(mean_K.astype(np.float32)), torch.from_numpy(index_K)

    def change(x_BHWC: Tensor) -> Tensor:
        axes, middle = kept_PK.to(x_BHWC.device), middle_K.to(x_BHWC.device)
        out = x_BHWC.clone()
        out[..., place_K] = (x_BHWC[..., place_K] - middle) @ axes.T @ axes + middle
        return out

    return change
