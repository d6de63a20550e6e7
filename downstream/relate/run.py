"""Which specimens are alike: nearest others, groups and a plane, of an encoder's vectors beside mean spectra.

Vectors are made of length 1, their common part is taken off and they are made of length 1 again, so that likeness is
the cosine of what tells specimens apart. Shapes: N specimens, D features, C bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.brief import brief
from specfm.errors import UsageError
from specfm.library import same_bands
from specfm.rows import Rows
from specfm.specimens import Specimen
from specfm.tiles import STRIP_BYTES

SPECTRUM = "mean spectrum"
Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Relations(Rows):
    """How specimens lie to each other.

    Attributes:
        rows: of each specimen what it is, its ``group_found``, its nearest other (``nearest``, ``nearest_label``,
            ``similarity``) and its place in the plane of the first two components (``pc1``, ``pc2``).
        agreement: of each kind of features: ``nearest_right`` of ``labelled`` specimens have the nearest labelled other
            of their own label, ``by_chance`` as many would; ``adjusted_rand`` of groups and labels (1 the same, 0 by
            chance). Empty without labels.
        facts: how they were made.
    """

    rows: list[dict[str, Any]]
    agreement: list[dict[str, Any]]
    facts: dict[str, Any]

    __repr__ = brief


def relate(
    specimens: Sequence[dict[str, Any]],
    features: dict[str, Vectors],
    groups: int | None = None,
    seed: int = 0,
    facts: dict[str, Any] | None = None,
) -> Relations:
    """Compare specimens by the first kind of features; of the others only the agreement with labels is told.

    Args:
        specimens: what each is, with ``specimen`` (its name) and ``label`` ("" = none).
        features: by name, (N, D) each.
        groups: number of groups; default as many as there are labels, else 4.
        seed: of the grouping.
        facts: further facts to keep.

    Raises:
        UsageError: fewer specimens than 3, or than groups.
    """
    labels = np.array([each["label"] for each in specimens])
    known = sorted(set(labels.tolist()) - {""})
    groups = groups or (len(known) if len(known) > 1 else 4)
    if len(labels) < max(3, groups):
        raise UsageError(
            f"{len(labels)} specimens are too few for {groups} groups; name more scans, or ask for fewer groups "
            "(--groups), of 3 specimens or more"
        )
    placed = {name: _centred(x_ND) for name, x_ND in features.items()}
    found = {name: _groups(z_ND, groups, seed) for name, z_ND in placed.items()}
    first = next(iter(placed))
    z_ND = placed[first]
    similar_NN = _similarity(z_ND)
    nearest_N = similar_NN.argmax(1)
    plane_N2 = _plane(z_ND)
    rows = [
        {
            **each,
            "group_found": int(found[first][i]),
            "nearest": specimens[nearest_N[i]]["specimen"],
            "nearest_label": specimens[nearest_N[i]]["label"],
            "similarity": float(similar_NN[i, nearest_N[i]]),
            "pc1": float(plane_N2[i, 0]),
            "pc2": float(plane_N2[i, 1]),
        }
        for i, each in enumerate(specimens)
    ]
    told = [_agreement(name, placed[name], found[name], labels) for name in placed] if len(known) > 1 else []
    return Relations(rows, told, {**(facts or {}), "features": list(features), "groups": groups, "seed": seed})


def mean_spectra(specimens: Sequence[Specimen]) -> NDArray[np.float64] | None:
    """(N, C) physical means over the pixels of each specimen; None where scans have different usable bands."""
    first = specimens[0].scene.sensor.bands
    if not all(same_bands(first, each.scene.sensor.bands) for each in specimens):
        return None
    return np.stack([_mean_spectrum(each) for each in specimens])


def _mean_spectrum(specimen: Specimen) -> NDArray[np.float64]:
    scene, (height, width) = specimen.scene, specimen.mask_hw.shape
    usable = np.flatnonzero(scene.sensor.bands.valid)
    cols = slice(specimen.col, specimen.col + width)
    total_C, count = np.zeros(len(usable)), 0
    step = max(1, STRIP_BYTES // (width * len(usable) * scene.dtype.itemsize))
    for top in range(0, height, step):  # specimens may be larger than memory
        rows = slice(specimen.row + top, specimen.row + min(top + step, height))
        stored_hwC = scene.read(rows, cols, usable)
        on_nC = stored_hwC[specimen.mask_hw[top : top + step]]
        on_nC = on_nC[np.isfinite(on_nC).all(-1)]
        total_C += on_nC.sum(0, dtype=np.float64)
        count += len(on_nC)
    return scene.sensor.scale * total_C / max(count, 1) + scene.sensor.offset


def _centred(x_ND: Vectors) -> NDArray[np.float64]:
    unit_ND = _unit(np.asarray(x_ND, np.float64))
    return _unit(unit_ND - unit_ND.mean(0))


def _unit(x_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12))


def _similarity(z_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines (N, N); nobody is like itself."""
    similar_NN = z_ND @ z_ND.T
    np.fill_diagonal(similar_NN, -np.inf)
    return similar_NN


def _groups(z_ND: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    """Groups by k-means, from 1, the largest first."""
    from sklearn.cluster import KMeans

    members_N = KMeans(count, n_init=10, random_state=seed).fit(z_ND).labels_
    rank_K = np.empty(count, np.int64)
    rank_K[np.argsort(-np.bincount(members_N, minlength=count), kind="stable")] = np.arange(1, count + 1)
    return rank_K[members_N]


def _plane(z_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    u_NK, s_K, _ = np.linalg.svd(z_ND - z_ND.mean(0), full_matrices=False)
    return np.asarray((u_NK * s_K)[:, :2] if len(s_K) > 1 else np.c_[u_NK * s_K, np.zeros(len(z_ND))])


def _agreement(
    name: str, z_ND: NDArray[np.float64], groups_N: NDArray[np.int64], labels_N: NDArray[np.str_]
) -> dict[str, Any]:
    from sklearn.metrics import adjusted_rand_score

    on = np.flatnonzero(labels_N != "")
    own_n = labels_N[on]
    nearest_n = _similarity(z_ND[on]).argmax(1)
    _, counts = np.unique(own_n, return_counts=True)
    return {
        "features": name,
        "labelled": len(on),
        "nearest_right": int((own_n[nearest_n] == own_n).sum()),
        "by_chance": float((counts * (counts - 1)).sum() / (len(on) - 1)),
        "adjusted_rand": float(adjusted_rand_score(own_n, groups_N[on])),
    }
