"""The baselines of every table, all on raw spectra: what an encoder must beat.

On three supports: the labelled pixel, a square about it as large as a patch of the encoder, the window. Where the
window is odd the square is what the token of the labelled pixel sees; where it is even that token may lie up to half a
patch aside.

* nearest neighbours, by cosine and by Euclid, of spectra and of minimum noise fraction scores; by cosine of spectra
  pretreated as in a laboratory;
* logistic regression (and ridge) on all of these; an RBF machine and PCA scores by kNN whatever the protocols.

The spectra may be given under several conditions: fitted under the first, tested under all.

Shape suffixes: N samples, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from downstream.baselines.classics import pca_features
from downstream.baselines.mnf import NoiseFraction, NoNeighbours, fit_scenes, fit_splits
from downstream.baselines.options import BaselineOptions
from downstream.features.extract import FeatureSet
from downstream.features.fit import Fit
from downstream.features.neighbours import Metric
from downstream.features.spectra import CommonGrid, Spectra, common_grid
from downstream.protocols.options import FROZEN, ProtocolOptions
from downstream.protocols.run import Scores, evaluate_conditions
from downstream.results.runs import Runs
from downstream.splits.split import Split
from specfm.errors import SpecfmError
from specfm.pretreatment import pretreat_spectra

if TYPE_CHECKING:
    from specfm.scene import Scene

PRETREATED: dict[str, tuple[str, ...]] = {"SNV": ("snv",), "SG1": ("sg1",), "continuum removed": ("continuum",)}
WHOLE = ", whole scenes"  # end of the names of rows that looked at all pixels of the scenes without labels
SHOWN_KS = 2  # of Euclid's neighbours and of those of patches: the fewest neighbours, or tables would double


def baseline_rows(
    spectra: Mapping[str, Spectra],
    scenes: Sequence[Scene],
    splits: Sequence[Split],
    options: BaselineOptions,
    protocols: ProtocolOptions,
    device: str = "cpu",
    grid: CommonGrid | None = None,
    every: bool = True,
    fit: Fit = False,
) -> tuple[dict[str, list[Runs]], list[str]]:
    """Runs of every baseline by condition, and notices about those that could not be worked out.

    Args:
        spectra: by condition.
        scenes: under the first condition; minimum noise fraction looks at the pixels of their windows.
        splits: of the comparison.
        options: components of PCA and MNF.
        protocols: those of the encoder, with their neighbours and strengths.
        device: where neighbours are searched and probes fitted.
        grid: of the spectra, if not the scenes' own common one.
        every: False leaves out Euclid's neighbours of spectra and MNF scores, the rows of the patch, and pretreated
            spectra.
        fit: as the encoder is fitted to the scenes; MNF of the same pixels then stands beside it, fitted to all scenes
            together (of all sensors, where the encoder is fitted to one of them) or to each.
    """
    found: dict[str, list[Runs]] = {condition: [] for condition in spectra}
    frozen = [protocol for protocol in FROZEN if protocol in protocols.protocols]
    regressions = [protocol for protocol in frozen if protocol != "knn"]
    few = replace(protocols, ks=tuple(sorted(protocols.ks)[:SHOWN_KS]))
    first = next(iter(spectra.values()))
    patch = first.patch.name if every and first.patch is not None else ""

    def add(
        features: Mapping[str, FeatureSet], method: str, support: str, *named: str, scores: Scores | None = None,
        metric: Metric = "cosine", of: ProtocolOptions = protocols,
    ) -> None:  # fmt: skip
        by_condition = evaluate_conditions(
            features, splits, of, "baseline", method, protocols=named, scores=scores, metric=metric, device=device,
            support=support,
        )  # fmt: skip
        for condition, runs in by_condition.items():
            found[condition] += runs

    def over(support: str) -> dict[str, FeatureSet]:
        name = "mean" if support == "window" else support
        return {condition: getattr(each, name) for condition, each in spectra.items()}

    def neighbours(method: str, support: str, scores: Scores | None = None) -> None:
        if "knn" in frozen:
            add(over(support), method, support, "knn", scores=scores, of=few if support == "patch" else protocols)
            if every:
                add(over(support), f"{method}, Euclid", support, "knn", scores=scores, metric="euclidean", of=few)

    neighbours("pixel spectrum", "pixel")
    if patch:
        neighbours(patch, "patch")
    for protocol in ("linear", "ridge"):
        if protocol in frozen:
            add(over("pixel"), "pixel spectrum", "pixel", protocol)
            if patch:
                add(over("patch"), patch, "patch", protocol)
        if protocol in frozen or protocol == "linear":
            add(over("window"), "mean spectrum", "window", protocol)
    notices = []
    if every and frozen and not any(scene.sensor.pretreatment for scene in scenes):
        for name, steps in PRETREATED.items():
            try:
                add(_pretreated(over("pixel"), steps), f"{name} pixel", "pixel", *frozen, of=few)
            except SpecfmError as error:
                notices.append(f"no {name} baseline: {error}")
    add(over("pixel"), "pixel spectrum", "pixel", "svm")
    for support, label in (("pixel", "pixel"), ("window", "mean")):
        scores = pca_scores(next(iter(over(support).values())).X_ND, options.pca)
        add(over(support), f"PCA-{options.pca} {label}", support, "knn", scores=scores, metric="euclidean")
    if not frozen:
        return found, notices
    if fit:
        try:
            own = fit_whole(scenes, options.pca, grid, fit)
        except NoNeighbours as error:
            notices.append(f"no baseline of MNF of whole scenes: {error}")
        else:
            for support, label in (("pixel", "pixel"), *((("patch", patch),) if patch else ())):
                scored = {name: _scored(each, own) for name, each in over(support).items()}
                few_or_all = few if support == "patch" else protocols
                add(scored, f"MNF-{options.pca} {label}{WHOLE}", support, *frozen, of=few_or_all)
    try:
        fits = fit_splits(scenes, first.pixel.info["window"], first.pixel.samples, splits, options.pca, grid)
    except NoNeighbours as error:
        return found, [*notices, f"no MNF baseline: {error}"]
    fit_of = {id(split): fit for split, fit in zip(splits, fits, strict=True)}

    for support, label in (("pixel", "pixel"), *((("patch", patch),) if patch else ())):
        X_ND = next(iter(over(support).values())).X_ND

        # scores are linear in the spectrum: those of a mean are the mean of the pixels' scores
        def noise_fraction(split: Split, test_ND: np.ndarray, X_ND: np.ndarray = X_ND) -> tuple[np.ndarray, np.ndarray]:
            return fit_of[id(split)].scores(X_ND), fit_of[id(split)].scores(test_ND)

        neighbours(f"MNF-{options.pca} {label}", support, noise_fraction)
        add(over(support), f"MNF-{options.pca} {label}", support, *regressions, scores=noise_fraction)
    return found, notices


def fit_whole(scenes: Sequence[Scene], components: int, grid: CommonGrid | None, fit: Fit) -> list[NoiseFraction]:
    """Of every scene the components that its spectra are scored by: fitted to all together, or to each (``scene``).

    Components of one scene have signs and an order of their own. To be compared with those of another they are turned
    back to the axes of the bands: scores of the symmetric root of ``basis basis^T`` keep all distances within a scene.

    Raises:
        NoNeighbours: too few pairs of neighbours in the scenes, or in one.
    """
    if fit != "scene":
        return [fit_scenes(scenes, components, grid)] * len(scenes)
    common = common_grid(scenes) if grid is None else grid
    assert common is not None  # spectra were taken to it
    apart = [common._replace(matrices=[matrix]) for matrix in common.matrices]
    return [turned_back(fit_scenes([scene], components, one)) for scene, one in zip(scenes, apart, strict=True)]


def turned_back(fitted: NoiseFraction) -> NoiseFraction:
    """The same distances between spectra, on the axes of the bands."""
    left_KD, size_D, _ = np.linalg.svd(fitted.basis_KD, full_matrices=False)
    return replace(fitted, basis_KD=(left_KD * size_D) @ left_KD.T)


def _scored(features: FeatureSet, of_scene: Sequence[NoiseFraction]) -> FeatureSet:
    """Spectra scored by the components of their scenes."""
    scene_N = features.samples.scene_N
    found_ND = np.zeros((len(scene_N), of_scene[0].basis_KD.shape[1]), np.float32)
    for index in np.unique(scene_N).tolist():
        found_ND[scene_N == index] = of_scene[index].scores(features.X_ND[scene_N == index])
    return replace(features, X_ND=found_ND)


def _pretreated(features: Mapping[str, FeatureSet], steps: Sequence[str]) -> dict[str, FeatureSet]:
    """Spectra under each condition after some steps; those without a shape (snv of a flat one) are zero."""
    found = {}
    for condition, each in features.items():
        X_ND, bands = pretreat_spectra(each.X_ND, each.info["bands"], steps)
        found[condition] = replace(each, X_ND=np.nan_to_num(X_ND[:, bands.valid], nan=0.0))
    return found


def pca_scores(X_ND: np.ndarray, components: int) -> Scores:
    """Scores of both sides of a split, 0 for samples of neither."""

    def scores(split: Split, test_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fit, test = pca_features(X_ND[split.fit_I], test_ND, components, split.seed)
        found_ND = np.zeros((len(X_ND), fit.shape[1]), np.float32)
        found_ND[split.fit_I] = fit
        return found_ND, test

    return scores
