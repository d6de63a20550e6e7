"""The baselines of every table, all on raw spectra: what an encoder must beat.

Raw spectra under the encoder's own frozen protocols; logistic regression on the mean spectrum, an RBF machine and PCA
scores by kNN whatever the protocols; minimum noise fraction. The spectra may be given under several conditions: fitted
under the first, tested under all.

Shape suffixes: N samples, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from downstream.baselines.classics import pca_features
from downstream.baselines.mnf import NoNeighbours, fit_splits
from downstream.baselines.options import BaselineOptions
from downstream.features.extract import FeatureSet
from downstream.features.spectra import CommonGrid
from downstream.protocols.options import FROZEN, ProtocolOptions
from downstream.protocols.run import Scores, evaluate_conditions
from downstream.results.runs import Runs
from downstream.splits.split import Split

if TYPE_CHECKING:
    from specfm.scene import Scene


def baseline_rows(
    pixel: Mapping[str, FeatureSet],
    mean: Mapping[str, FeatureSet],
    scenes: Sequence[Scene],
    splits: Sequence[Split],
    options: BaselineOptions,
    protocols: ProtocolOptions,
    device: str = "cpu",
    grid: CommonGrid | None = None,
) -> tuple[dict[str, list[Runs]], list[str]]:
    """Runs of every baseline by condition, and notices about those that could not be worked out.

    Args:
        pixel: spectra of the labelled pixels, by condition.
        mean: mean spectra of the windows.
        scenes: under the first condition; minimum noise fraction looks at the pixels of their windows.
        splits: of the comparison.
        options: components of PCA and MNF.
        protocols: those of the encoder, with their neighbours and strengths.
        device: where neighbours are searched and probes fitted.
        grid: of the spectra, if not the scenes' own common one.
    """
    found: dict[str, list[Runs]] = {condition: [] for condition in pixel}

    def add(
        features: Mapping[str, FeatureSet], method: str, *named: str, scores: Scores | None = None,
        euclidean: bool = False,
    ) -> None:  # fmt: skip
        by_condition = evaluate_conditions(
            features, splits, protocols, "baseline", method, protocols=named, scores=scores,
            metric="euclidean" if euclidean else "cosine", device=device,
            support="pixel" if features is pixel else "window",
        )  # fmt: skip
        for condition, runs in by_condition.items():
            found[condition] += runs

    frozen = [protocol for protocol in FROZEN if protocol in protocols.protocols]
    if "knn" in frozen:
        add(pixel, "pixel spectrum", "knn")
    for protocol in ("linear", "ridge"):
        if protocol in frozen:
            add(pixel, "pixel spectrum", protocol)
        if protocol in frozen or protocol == "linear":
            add(mean, "mean spectrum", protocol)
    add(pixel, "pixel spectrum", "svm")
    for features, label in ((pixel, "pixel"), (mean, "mean")):
        scores = pca_scores(next(iter(features.values())).X_ND, options.pca)
        add(features, f"PCA-{options.pca} {label}", "knn", scores=scores, euclidean=True)
    if not frozen:
        return found, []
    spectra = next(iter(pixel.values()))
    try:
        fits = fit_splits(scenes, spectra.info["window"], spectra.samples, splits, options.pca, grid)
    except NoNeighbours as error:
        return found, [f"no MNF baseline: {error}"]
    fit_of = {id(split): fit for split, fit in zip(splits, fits, strict=True)}

    def noise_fraction(split: Split, test_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return fit_of[id(split)].scores(spectra.X_ND), fit_of[id(split)].scores(test_ND)

    add(pixel, f"MNF-{options.pca} pixel", *frozen, scores=noise_fraction)
    return found, []


def pca_scores(X_ND: np.ndarray, components: int) -> Scores:
    """Scores of both sides of a split, 0 for samples of neither."""

    def scores(split: Split, test_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fit, test = pca_features(X_ND[split.fit_I], test_ND, components, split.seed)
        found_ND = np.zeros((len(X_ND), fit.shape[1]), np.float32)
        found_ND[split.fit_I] = fit
        return found_ND, test

    return scores
