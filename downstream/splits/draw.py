"""How a split is drawn: which classes can be kept, and which units are held out so that no class is lost.

Shape suffixes: N samples, U units (what moves together: group, block, scene), K classes, I a list of sample ids.
"""

from __future__ import annotations

import numpy as np

from downstream.splits.ground import overlapping
from downstream.splits.samples import Samples
from specfm.errors import SpecfmError

DRAWS = 200  # draws that are looked at before the best of them is taken
PATIENCE = 500  # draws while a class is still missing on one side


def kept_classes(
    samples: Samples, unit_N: np.ndarray, min_groups: int, min_samples: int, rule: str
) -> tuple[list[int], list[str]]:
    kept, notices, few = [], [], 0
    for label in np.unique(samples.y_N).tolist():
        mine_N = samples.y_N == label
        count, units = int(mine_N.sum()), len(np.unique(unit_N[mine_N]))
        if count < min_samples or units < min_groups:
            few += count < min_samples
            what = {"group": "groups", "scene": "scenes", "sensor": "groups or blocks"}.get(rule, "blocks")
            notices.append(f"class {samples.label_names[label]!r} left out: {count} samples in {units} {what}")
        else:
            kept.append(label)
    if not notices and len(kept) < 2:
        raise SpecfmError(
            f"the labelled pixels are all of one class ({samples.label_names[kept[0]]}), and a probe needs two; look "
            "at the labels entry of the card"
        )
    if len(kept) < 2:
        remedy = "lower --min-groups, use smaller blocks or another split"
        if few >= len(notices):  # whatever holds them together, there are not more of them
            remedy = f"a class needs {min_samples} samples under any split, so label or scan more"
        raise SpecfmError(
            f"only {len(kept)} class(es) have {min_samples} samples in {min_groups} units under split {rule!r}; "
            f"{remedy} ({'; '.join(notices)})"
        )
    return kept, notices


def carve_units(
    samples: Samples,
    pool_I: np.ndarray,
    unit_N: np.ndarray,
    share: float,
    rng: np.random.Generator,
    classes: list[int],
    clustered: bool,
) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """Divide ``pool_I`` by whole units: (rest, held out, classes that the rest lost, classes that were not held out).

    Units are held out in a drawn order until they hold ``share`` of the samples. The first draw that is good enough is
    taken (every class on both sides, shares of classes within 0.15, at most 0.4 of the rest lost to the guard band), so
    that seeds differ; where none of 200 is, the best of them, after more draws if it misses a class. ``clustered``
    draws (blocks) grow from a few random centres, because scattered blocks would lose most of the rest to the guard
    band.
    """
    unit_i = np.unique(unit_N[pool_I], return_inverse=True)[1].reshape(-1)
    class_i = np.searchsorted(classes, samples.y_N[pool_I])
    units = int(unit_i.max()) + 1 if len(unit_i) else 0
    counts_UK = np.zeros((units, len(classes)))
    np.add.at(counts_UK, (unit_i, class_i), 1)
    centre_U2 = np.stack([np.bincount(unit_i, samples.frame_rc_N2[pool_I, j], units) for j in range(2)], 1)
    centre_U2 = centre_U2 / counts_UK.sum(1, keepdims=True)
    frame_U = np.zeros(units)
    frame_U[unit_i] = samples.frame_N[pool_I]
    total_K = counts_UK.sum(0)
    best: tuple[tuple[int, int, float], np.ndarray, np.ndarray, list[int], list[int]] | None = None
    for turn in range(PATIENCE):
        if turn >= DRAWS and best is not None and best[0][:2] == (0, 0):
            break
        order_U = rng.permutation(units)
        if clustered:
            seeds = order_U[: rng.integers(2, 6)]
            apart_US = np.abs(centre_U2[:, None] - centre_U2[None, seeds]).max(2)
            apart_US[frame_U[:, None] != frame_U[None, seeds]] = np.inf
            order_U = order_U[np.argsort(apart_US.min(1)[order_U], kind="stable")]
        cumulative_U = counts_UK[order_U].sum(1).cumsum()
        take = int(np.searchsorted(cumulative_U, share * cumulative_U[-1], side="left")) + 1
        held_U = np.zeros(units, bool)
        held_U[order_U[: min(take, units - 1)]] = True
        held_K = counts_UK[held_U].sum(0)
        lost = int(((total_K - held_K == 0) & (total_K > 0)).sum())
        absent_K = (held_K == 0) & (total_K > 0)
        absent = int(absent_K.sum())
        if best is not None and ((lost, absent) > best[0][:2] or (turn >= DRAWS and (lost, absent) == best[0][:2])):
            continue  # the guard band could only make it worse
        held_i = held_U[unit_i]
        rest_I, held_I = pool_I[~held_i], pool_I[held_i]
        free_I = rest_I[~overlapping(samples, rest_I, held_I)]
        have = set(samples.y_N[free_I].tolist())
        lost_classes = [c for c, n in zip(classes, total_K, strict=True) if n and c not in have]
        off_K = np.abs(held_K / np.maximum(total_K, 1) - share)[total_K > 0]
        purged = 1 - len(free_I) / max(len(rest_I), 1)
        score = (len(lost_classes), absent, float(off_K.mean()) + purged)
        found = (score, free_I, held_I, lost_classes, [classes[k] for k in np.flatnonzero(absent_K)])
        if best is None or score < best[0]:
            best = found
        if score[:2] == (0, 0) and off_K.mean() <= 0.15 and purged <= 0.4:
            best = found
            break
    assert best is not None
    return best[1:]


def carve_pixels(
    samples: Samples, pool_I: np.ndarray, share: float, rng: np.random.Generator, classes: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Stratified random pixels (leaky): (rest, held out)."""
    held = []
    for label in classes:
        mine_I = rng.permutation(pool_I[samples.y_N[pool_I] == label])
        held.append(mine_I[: max(1, round(share * len(mine_I)))] if len(mine_I) > 1 else mine_I[:0])
    held_I = np.sort(np.concatenate(held))
    return np.setdiff1d(pool_I, held_I), held_I
