"""What a trained head must beat: classics on pixel spectra; for change, distances between the dates.

Shapes: H W scene pixels, C bands, D features, N samples, I sample ids.
The distances need no label but for their threshold, which is chosen on validation like a model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from downstream.baselines.classics import pca_features
from downstream.features.extract import FeatureSet
from downstream.features.spectra import spectra
from downstream.features.standardise import Standardiser
from downstream.protocols.knn import knn_predict
from downstream.protocols.linear import linear_probe
from downstream.protocols.svm import svm_predict
from downstream.protocols.weights import ClassWeights
from downstream.splits.samples import Samples
from downstream.splits.split import Split
from downstream.tasks.data import Place
from downstream.tasks.evaluate import best_threshold

PCA = 30
CLASSICS = ("linear", "svm", "knn5")  # logistic regression, RBF machine, neighbours among principal components


def spectral_angle(before_NC: np.ndarray, after_NC: np.ndarray) -> np.ndarray:
    """Angle between two spectra, radians (Kruse et al. 1993): blind to brightness. NaN where a spectrum is zero."""
    before, after = before_NC.astype(np.float64), after_NC.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (before * after).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
    return np.arccos(np.clip(cosine, -1, 1))


def change_vector(before_NC: np.ndarray, after_NC: np.ndarray) -> np.ndarray:
    """Length of the difference of features (change vector analysis, Malila 1980); NaN where one is missing.

    Each date is standardised by itself: what changed everywhere (season, light) is no change of a place.
    """
    before, after = (Standardiser(x[np.isfinite(x).all(-1)])(x) for x in (before_NC, after_NC))
    return np.linalg.norm(after - before, axis=-1)


def pair_spectra(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Physical spectra of both dates on the usable bands of the first, ``[H * W, C]`` each; NaN where invalid.

    A second date from another sensor is resampled to the first's bands; bands that it does not cover are left out.
    """
    from specfm.simulate import resample_scene

    before, after = place.dates
    one, two = before.sensor.bands, after.sensor.bands
    if len(one) != len(two) or not np.allclose(one.wavelengths_nm, two.wavelengths_nm, atol=0.5, equal_nan=True):
        after = resample_scene(after, before.sensor)
    keep = np.flatnonzero(before.sensor.bands.valid & after.sensor.bands.valid)
    cubes = []
    for scene in (before, after):
        values = scene.values(bands=keep).reshape(-1, len(keep))
        values[~scene.mask().reshape(-1)] = np.nan
        cubes.append(values)
    return cubes[0], cubes[1]


def feature_pair(place: Place, encoder: Any, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Frozen features of both dates, each token's on its pixels: ``[H * W, D]``; NaN where nothing is valid."""
    from specfm.dense.memory import embed_scene

    (height, width), p = place.shape, encoder.patch_size
    found = []
    for scene in place.dates:
        dense = embed_scene(encoder, scene, tile=tile, stride=tile).features_hwD
        found.append(dense.repeat(p, 0).repeat(p, 1)[:height, :width].reshape(height * width, -1))
    return found[0], found[1]


SPECTRAL: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "spectral angle": spectral_angle,
    "spectral difference": change_vector,
}


def spectral_maps(places: Sequence[Place]) -> dict[str, list[np.ndarray]]:
    """Of each distance of :data:`SPECTRAL` a raster ``[H, W]`` of every place."""
    maps: dict[str, list[np.ndarray]] = {name: [] for name in SPECTRAL}
    for place in places:
        pair = pair_spectra(place)
        for name, distance in SPECTRAL.items():
            maps[name].append(distance(*pair).reshape(place.shape))
    return maps


def feature_maps(places: Sequence[Place], encoder: Any, tile: int) -> list[np.ndarray]:
    """Distance of an encoder's frozen features: a raster ``[H, W]`` of every place."""
    return [change_vector(*feature_pair(place, encoder, tile)).reshape(place.shape) for place in places]


def distance_predictions(maps: Sequence[np.ndarray], samples: Samples, split: Split) -> np.ndarray:
    """0 / 1 of the test samples, at the threshold with the best F1 on validation (on train where there is none)."""
    score_N = np.zeros(len(samples))
    for index, distance_HW in enumerate(maps):
        mine = samples.scene_N == index
        score_N[mine] = np.nan_to_num(distance_HW[samples.rc_N2[mine, 0], samples.rc_N2[mine, 1]])
    chosen = split.val_I if len(split.val_I) else split.train_I
    threshold, _ = best_threshold(score_N[chosen], samples.y_N[chosen] == 1)
    return (score_N[split.test_I] > threshold).astype(np.int64)


def pixel_features(places: Sequence[Place], samples: Samples) -> FeatureSet | None:
    """Physical spectra of the labelled pixels, both dates side by side; None where scenes share no band grid."""
    if len(places[0].dates) == 1:
        raw = spectra([place.scene for place in places], 1, samples)
        return None if raw is None else raw[0]
    rows: list[np.ndarray] = []
    order = np.argsort(samples.scene_N, kind="stable")
    for index, place in enumerate(places):
        rc_n2 = samples.rc_N2[order][samples.scene_N[order] == index]
        at = rc_n2[:, 0] * place.shape[1] + rc_n2[:, 1]
        rows.append(np.concatenate([cube[at] for cube in pair_spectra(place)], 1))
    if len({x.shape[1] for x in rows}) > 1:
        return None
    found = np.concatenate(rows)
    X = np.empty_like(found)
    X[order] = np.nan_to_num(found)
    return FeatureSet(X, samples, "pixel spectra of both dates", {"window": 1})


def pixel_predictions(features: FeatureSet, split: Split, protocol: str, class_weights: ClassWeights) -> np.ndarray:
    """Classes of the test samples by a classic of pixel spectra, of :data:`CLASSICS`, weighted as the head's loss."""
    X, y = features.X_ND, features.y_N
    sides = X[split.train_I], y[split.train_I], X[split.val_I], y[split.val_I], X[split.test_I]
    if protocol == "linear":
        return linear_probe(
            *sides, train_group_M=split.unit_N[split.train_I], seed=split.seed, class_weights=class_weights
        ).predicted_N
    if protocol == "svm":
        return svm_predict(*sides, seed=split.seed, class_weights=class_weights)[0]
    fit, test = pca_features(X[split.fit_I], X[split.test_I], PCA, split.seed)
    classes = len(features.samples.label_names)
    return knn_predict(fit, y[split.fit_I], test, (5,), classes=classes, metric="euclidean")[5]
