"""Train / validation / test splits whose windows never share a pixel, as files that two people can run.

Shape suffixes: N samples, U units (what moves together: group, block, scene), K classes, I a list of sample ids.
Rules: ``group`` (plot, scan, crown), ``block`` (spatial blocks), ``scene`` (leave one scene out), ``random_pixels``
(leaky; only when asked for by name). Whatever the rule, a training window that overlaps a validation or test window is
removed: two windows of side w overlap exactly where both row and column distances are below w, so the guard band is
w - 1 pixels. ``random_pixels`` is the one rule that keeps them, and says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from downstream.samples import Samples
from downstream.units import default_block, overlapping, units_of
from specfm.errors import SpecfmError, UsageError

Rule = Literal["group", "block", "scene", "random_pixels"]
RULES: tuple[str, ...] = ("group", "block", "scene", "random_pixels")


@dataclass(frozen=True)
class Split:
    """One split. ``*_I`` are sorted ids into the samples; ``unit_N`` the resampling unit of every sample."""

    rule: str
    seed: int
    window: int
    data_digest: str
    classes: tuple[int, ...]
    train_I: np.ndarray
    val_I: np.ndarray
    test_I: np.ndarray
    unit_N: np.ndarray = field(repr=False)
    options: dict[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def leaky(self) -> bool:
        """True for random pixels: neighbouring windows lie on both sides."""
        return self.rule == "random_pixels"

    @property
    def fit_I(self) -> np.ndarray:
        """Training and validation ids together, for the refit."""
        return np.sort(np.concatenate([self.train_I, self.val_I]))

    @property
    def digest(self) -> str:
        """16 hex digits over everything that decides who is where."""
        body = {k: v for k, v in self.to_dict().items() if k not in ("digest", "notices")}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {
            "format": "specfm-split-1", "rule": self.rule, "seed": self.seed, "window": self.window,
            "data_digest": self.data_digest, "classes": list(self.classes), "options": self.options,
            "train": self.train_I.tolist(), "val": self.val_I.tolist(), "test": self.test_I.tolist(),
            "unit": self.unit_N.tolist(), "notices": list(self.notices),
        }  # fmt: skip


def save_split(split: Split, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a split file (JSON with its digest). Existing files are refused unless ``overwrite``."""
    from specfm.files import atomic_write_json

    path = Path(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; choose another name or pass --overwrite")
    atomic_write_json(path, {**split.to_dict(), "digest": split.digest})


def load_split(path: str | Path, samples: Samples) -> Split:
    """Read a split file made for exactly these samples.

    Raises:
        SpecfmError: unreadable, changed since it was written, or made for other data or another window.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text())
        train_I, val_I, test_I, unit_N = (np.asarray(raw[k], np.int64) for k in ("train", "val", "test", "unit"))
        split = Split(
            raw["rule"], int(raw["seed"]), int(raw["window"]), raw["data_digest"], tuple(raw["classes"]),
            train_I, val_I, test_I, unit_N, raw["options"], tuple(raw["notices"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SpecfmError(f"{path} is not a split file ({exc}); make one with --save-split") from exc
    if raw.get("digest") != split.digest:
        raise SpecfmError(f"{path} was changed after it was written (its digest disagrees); make it again")
    if split.data_digest != samples.digest:
        raise SpecfmError(f"{path} was made for other data ({split.data_digest}, here {samples.digest})")
    if split.window < samples.window and not split.leaky:
        raise SpecfmError(f"{path} guards windows of {split.window} pixels; the window here is {samples.window}")
    return split


def _kept_classes(
    samples: Samples, unit_N: np.ndarray, min_groups: int, min_samples: int, rule: str
) -> tuple[list[int], list[str]]:
    kept, notices = [], []
    for label in np.unique(samples.y_N).tolist():
        mine_N = samples.y_N == label
        count, units = int(mine_N.sum()), len(np.unique(unit_N[mine_N]))
        if count < min_samples or units < min_groups:
            what = "blocks" if rule in ("block", "random_pixels") else f"{rule}s"
            notices.append(f"class {samples.label_names[label]!r} left out: {count} samples in {units} {what}")
        else:
            kept.append(label)
    if len(kept) < 2:
        raise SpecfmError(
            f"only {len(kept)} class(es) have {min_samples} samples in {min_groups} units under split {rule!r}; "
            "lower --min-groups, use smaller blocks or another split (" + "; ".join(notices) + ")"
        )
    return kept, notices


def _carve(
    samples: Samples,
    pool_I: np.ndarray,
    unit_N: np.ndarray,
    share: float,
    rng: np.random.Generator,
    classes: list[int],
    clustered: bool,
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Divide ``pool_I`` by whole units: (rest, held out, classes that the rest lost).

    Units are held out in a drawn order until they hold ``share`` of the samples. The first draw that is good enough is
    taken (every class on both sides, shares of classes within 0.15, at most 0.4 of the rest lost to the guard band), so
    that seeds differ; where none of 200 is, the best of them. ``clustered`` draws (blocks) grow from a few random
    centres, because scattered blocks would lose most of the rest to the guard band.
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
    best: tuple[tuple[int, int, float], np.ndarray, np.ndarray, list[int]] | None = None
    for _ in range(200):
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
        absent = int(((held_K == 0) & (total_K > 0)).sum())
        if best is not None and (lost, absent) > best[0][:2]:
            continue  # the guard band could only make it worse
        held_i = held_U[unit_i]
        rest_I, held_I = pool_I[~held_i], pool_I[held_i]
        free_I = rest_I[~overlapping(samples, rest_I, held_I)]
        have = set(samples.y_N[free_I].tolist())
        lost_classes = [c for c, n in zip(classes, total_K, strict=True) if n and c not in have]
        off_K = np.abs(held_K / np.maximum(total_K, 1) - share)[total_K > 0]
        purged = 1 - len(free_I) / max(len(rest_I), 1)
        score = (len(lost_classes), absent, float(off_K.mean()) + purged)
        if best is None or score < best[0]:
            best = (score, free_I, held_I, lost_classes)
        if score[:2] == (0, 0) and off_K.mean() <= 0.15 and purged <= 0.4:
            best = (score, free_I, held_I, lost_classes)
            break
    assert best is not None
    return best[1], best[2], best[3]


def _carve_pixels(
    samples: Samples, pool_I: np.ndarray, share: float, rng: np.random.Generator, classes: list[int]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Stratified random pixels (leaky)."""
    held = []
    for label in classes:
        mine_I = rng.permutation(pool_I[samples.y_N[pool_I] == label])
        held.append(mine_I[: max(1, round(share * len(mine_I)))] if len(mine_I) > 1 else mine_I[:0])
    held_I = np.sort(np.concatenate(held))
    return np.setdiff1d(pool_I, held_I), held_I, []


def make_split(
    samples: Samples,
    rule: str = "group",
    seed: int = 0,
    *,
    test_share: float = 0.3,
    val_share: float = 0.2,
    block: int | None = None,
    min_groups: int = 3,
    min_samples: int = 5,
    shots: int | None = None,
    held_scene: int | None = None,
) -> Split:
    """Make one split; the same arguments give the same split on any machine.

    Args:
        samples: the labelled windows; ``samples.window`` decides the guard band.
        rule: one of ``RULES``.
        seed: seed of the draw of units (and of shots).
        test_share: share of samples held out for the test.
        val_share: share of the remaining samples held out for validation.
        block: side of a spatial block in pixels (default ``default_block``).
        min_groups: classes found in fewer units are left out, with a notice.
        min_samples: classes with fewer samples are left out, with a notice.
        shots: keep so many training samples per class, drawn from train and validation; validation is then empty and
            the strength of a probe is chosen by cross-validation inside the shots, so that k-shot means k labels.
        held_scene: with rule "scene", the index of the test scene.

    Raises:
        UsageError: unknown rule, impossible option.
        SpecfmError: a class cannot be in the training side, or there are too few units.
    """
    if rule not in RULES:
        raise UsageError(f"unknown split {rule!r}; one of {', '.join(RULES)}")
    block = default_block(samples) if block is None else block
    if block < 1:
        raise UsageError(f"block side must be at least 1 pixel, not {block}")
    unit_N = units_of(samples, rule, block)
    if rule != "random_pixels" and len(np.unique(unit_N)) < 3:
        remedy = f"pass a --block below {block}" if rule == "block" else "use --split block"
        raise SpecfmError(f"split {rule!r} finds {len(np.unique(unit_N))} unit(s), needs 3; {remedy}")
    least = 2 if rule == "scene" else min_groups
    kept, notices = _kept_classes(samples, unit_N, 1 if rule == "random_pixels" else least, min_samples, rule)
    joined = len(np.unique(samples.group_N)) - len(np.unique(unit_N)) if rule == "group" else 0
    if joined:
        notices.append(
            f"groups that touch on the ground move together: {joined + len(np.unique(unit_N))} groups, "
            f"{len(np.unique(unit_N))} units"
        )
    pool_I = np.flatnonzero(np.isin(samples.y_N, kept))
    rng = np.random.default_rng([seed, 3])
    if rule == "random_pixels":
        rest_I, test_I, lost = _carve_pixels(samples, pool_I, test_share, rng, kept)
        train_I, val_I, lost_val = _carve_pixels(samples, rest_I, val_share, rng, kept)
    else:
        if rule == "scene":
            scenes = np.unique(samples.scene_N[pool_I])
            target = int(scenes[seed % len(scenes)]) if held_scene is None else held_scene
            test_I = pool_I[samples.scene_N[pool_I] == target]
            rest_I = pool_I[samples.scene_N[pool_I] != target]
            rest_I = rest_I[~overlapping(samples, rest_I, test_I)]
            known = np.unique(samples.y_N[rest_I])
            strange_I = ~np.isin(samples.y_N[test_I], known)
            if strange_I.any():
                notices.append(f"{int(strange_I.sum())} test samples of classes that no other scene has are left out")
            test_I, lost = test_I[~strange_I], []
            kept = known.tolist()
            if not len(test_I):
                raise SpecfmError(f"scene {samples.scene_names[target]!r} shares no class with the other scenes")
        else:
            rest_I, test_I, lost = _carve(samples, pool_I, unit_N, test_share, rng, kept, rule == "block")
        if lost:
            names = ", ".join(samples.label_names[c] for c in lost)
            raise SpecfmError(
                f"split {rule!r} (seed {seed}) leaves no training sample of {names} once windows of {samples.window} "
                "pixels are kept apart; use a smaller --window or --block, or raise --min-groups to drop the class"
            )
        train_I, val_I, lost_val = rest_I, rest_I[:0], []
        if len(np.unique(unit_N[rest_I])) > 1:
            train_I, val_I, lost_val = _carve(samples, rest_I, unit_N, val_share, rng, kept, rule == "block")
    if lost_val or not len(val_I):
        train_I, val_I = rest_I, rest_I[:0]
        notices.append("no validation set without losing a class: strength chosen by cross-validation in train")
    options: dict[str, Any] = {
        "test_share": test_share, "val_share": val_share, "min_groups": min_groups, "min_samples": min_samples,
        "shots": shots, "block": block if rule in ("block", "random_pixels") else None,
        "held_scene": samples.scene_names[target] if rule == "scene" else None,
        "purged": int(len(pool_I) - len(train_I) - len(val_I) - len(test_I)),
    }  # fmt: skip
    split = Split(
        rule, seed, samples.window, samples.digest, tuple(kept), np.sort(train_I), np.sort(val_I), np.sort(test_I),
        unit_N, options, tuple(notices),
    )  # fmt: skip
    return split if shots is None else _subsample(split, samples, shots)


def _subsample(split: Split, samples: Samples, shots: int) -> Split:
    """Keep ``shots`` training samples per class, drawn over train and validation."""
    if shots < 1:
        raise UsageError(f"--shots must be at least 1, not {shots}")
    rng = np.random.default_rng([split.seed, 5, shots])
    pool_I, notices, chosen = split.fit_I, list(split.notices), []
    for label in split.classes:
        mine_I = rng.permutation(pool_I[samples.y_N[pool_I] == label])
        if len(mine_I) < shots:
            notices.append(f"class {samples.label_names[label]!r} has only {len(mine_I)} of {shots} shots")
        chosen.append(mine_I[:shots])
    return replace(split, train_I=np.sort(np.concatenate(chosen)), val_I=pool_I[:0], notices=tuple(notices))


def make_splits(samples: Samples, rule: str = "group", seeds: int | Sequence[int] = 10, **options: Any) -> list[Split]:
    """One split per seed; with rule "scene" one split per labelled scene (times one seed per k-shot draw)."""
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seed_list:
        raise UsageError("--seeds must be at least 1")
    if rule != "scene":
        return [make_split(samples, rule, seed, **options) for seed in seed_list]
    draws = seed_list if options.get("shots") else seed_list[:1]
    scenes = np.unique(samples.scene_N).tolist()
    return [make_split(samples, rule, seed, held_scene=scene, **options) for scene in scenes for seed in draws]
