"""Maps without any label: k-means or spectral clustering of embeddings, fitted on a sample, assigned while streaming.

Shapes: n sampled cells, m landmarks, h w cells of a piece, D width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.features.standardise import Standardiser
from downstream.maps.paint import fitting_sample, paint
from specfm.dense.tile_encoder import TileEncoder, cell_side, copies, encoder_plan
from specfm.dense.tile_reader import fitting_batch
from specfm.errors import UsageError
from specfm.models.backbone import AnyEncoder
from specfm.progress import progress
from specfm.rasters.class_map import ClassMapWriter, Legend
from specfm.scene import Scene
from specfm.tiles import blended_rows

METHODS = ("kmeans", "spectral")
SPECTRAL_CELLS = 2000  # landmarks: the eigenvectors of an m x m graph take m^3 time
NEIGHBOURS = 15
ASSIGNED_AT_ONCE = 4096  # cells whose distances to all landmarks are held


@dataclass(frozen=True)
class Clusters:
    """Landmarks and their classes; a cell belongs to the class of its nearest landmark.

    Attributes:
        scaling: applied to features first.
        landmarks_mD: standardised: the centres (k-means), or a sample (spectral clustering).
        codes_m: 1..K, most frequent first.
    """

    scaling: Standardiser
    landmarks_mD: NDArray[np.float32]
    codes_m: NDArray[np.uint8]

    def __call__(self, features_hwD: NDArray[Any]) -> NDArray[np.uint8]:
        """Code per cell ``[h, w]``; 0 where a feature is missing."""
        flat_nD = features_hwD.reshape(-1, features_hwD.shape[-1])
        present = np.flatnonzero(np.isfinite(flat_nD).all(1))
        codes = np.zeros(len(flat_nD), np.uint8)
        half_square_m = 0.5 * (self.landmarks_mD.astype(np.float64) ** 2).sum(1)
        for start in range(0, len(present), ASSIGNED_AT_ONCE):
            chosen = present[start : start + ASSIGNED_AT_ONCE]
            near_nm = self.scaling(flat_nD[chosen], np.float32) @ self.landmarks_mD.T - half_square_m
            codes[chosen] = self.codes_m[near_nm.argmax(1)]
        return codes.reshape(features_hwD.shape[:2])


def fit_clusters(cells_nD: NDArray[Any], classes: int, method: str = "kmeans", seed: int = 0) -> Clusters:
    """Cluster a sample of cells; the same sample and seed give the same clusters.

    Raises:
        UsageError: an unknown method, or fewer than two classes.
    """
    from sklearn.cluster import KMeans, SpectralClustering

    if method not in METHODS:
        raise UsageError(f"unknown clustering {method!r}; choose one of {', '.join(METHODS)}")
    if not 2 <= classes <= 255:
        raise UsageError(f"--classes {classes}: choose 2 to 255 classes")
    scaling = Standardiser(cells_nD)
    scaled_nD = scaling(cells_nD, np.float32)
    if method == "kmeans":
        fitted = KMeans(classes, n_init=4, random_state=seed).fit(scaled_nD)
        landmarks, labels, members = fitted.cluster_centers_, np.arange(classes), fitted.labels_
    else:
        keep = np.sort(np.random.default_rng(seed).permutation(len(scaled_nD))[:SPECTRAL_CELLS])
        landmarks = scaled_nD[keep]
        labels = members = SpectralClustering(
            classes, affinity="rbf", gamma=_gamma(landmarks), assign_labels="cluster_qr", random_state=seed
        ).fit_predict(landmarks)
    frequency = np.bincount(members, minlength=classes)
    code_K = np.empty(classes, np.uint8)
    code_K[np.argsort(-frequency, kind="stable")] = np.arange(1, classes + 1)
    return Clusters(scaling, np.asarray(landmarks, np.float32), code_K[labels])


def _gamma(x_mD: NDArray[np.float32]) -> float:
    """RBF width from the data: one over the mean squared distance to the ``NEIGHBOURS``-th neighbour."""
    square_m = (x_mD**2).sum(1)
    distance_mm = np.maximum(square_m[:, None] + square_m - 2 * (x_mD @ x_mD.T), 0)
    rank = min(NEIGHBOURS, len(x_mD) - 1)
    return float(1.0 / max(np.partition(distance_mm, rank, axis=1)[:, rank].mean(), 1e-12))


def cluster_to_file(
    encoder: AnyEncoder,
    scene: Scene,
    out: str | Path,
    *,
    classes: int = 8,
    method: str = "kmeans",
    seed: int = 0,
    window: int = 0,
    stride: int = 0,
    level: str = "scene",
    batch_size: int = 32,
    pixels: bool = False,
    preview: bool = True,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Write a map of clusters on the scene's own pixels.

    Args:
        encoder: in any mode; it is not changed.
        scene: what is mapped.
        out: ``.tif``, ``.hdr`` (ENVI Classification) or ``.npy``; 0 = no data, 1 = the most frequent cluster.
        classes: K.
        method: ``kmeans`` or ``spectral`` (on a sample; every cell then joins its nearest sampled cell).
        seed: of the sample and of the clustering.
        window: as in :func:`specfm.dense.stream.embed_to_file`.
        stride: likewise.
        level: likewise.
        batch_size: likewise.
        pixels: likewise.
        preview: also write a PNG of the same name with a legend.
        overwrite: replace files that exist.
        facts: JSON-safe facts to keep beside the map.

    Returns:
        Share of every cluster among the pixels with data.

    Raises:
        UsageError: a bad option, or a file that exists.
        SpecfmError: fewer patches with data than classes.
    """
    p = cell_side(encoder, pixels)
    plan = encoder_plan(encoder, scene, window, stride, pixels)
    batch_size = fitting_batch(batch_size, plan.side * p, scene.shape[2] * copies(encoder, pixels))
    legend = Legend.of([f"cluster {i + 1}" for i in range(classes)])
    told = {
        **(facts or {}),
        "scenes": [scene.name], "method": method, "seed": seed, "window": plan.side * p, "stride": plan.stride * p,
        "level": level,
    }  # fmt: skip
    writer = ClassMapWriter(
        out, scene.shape[:2], legend, geo=scene.geo, facts=told, preview=preview, overwrite=overwrite
    )
    with writer, progress(f"cluster {scene.name}", plan.count) as advance:
        encode = TileEncoder(encoder, scene, level, even=True, pixels=pixels)
        sample = fitting_sample(plan, encode, seed, batch_size, classes, [scene], f"a map of {classes} clusters")
        clusters = fit_clusters(sample, classes, method, seed)
        for first, features_hwD in blended_rows(plan, encode, batch_size, advance):
            writer.write(paint(clusters(features_hwD), first, p, [scene], 0))
    return writer.shares()
