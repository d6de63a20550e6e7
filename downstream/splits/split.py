"""Train / validation / test splits whose windows never share a pixel, as files that two people can run.

Shape suffixes: N samples, U units (what moves together: group, block, scene), K classes, I a list of sample ids.
Rules: ``group`` (plot, scan, crown), ``block`` (spatial blocks), ``scene`` (leave one scene out), ``sensor`` (leave one
sensor out), ``random_pixels`` (leaky; only when asked for by name). Whatever the rule, a training window that overlaps
a validation or test window is removed: two windows of side w overlap exactly where both row and column distances are
below w, so the guard band is w - 1 pixels. ``random_pixels`` is the one rule that keeps them, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from downstream.splits.draw import carve_pixels, carve_units, kept_classes
from downstream.splits.ground import by_groups, default_block, ground_is_shared, overlapping, units_of
from downstream.splits.options import AUTO, FEWEST_GROUPS, RULES, SplitOptions
from downstream.splits.samples import Samples
from specfm.digests import digest_json
from specfm.documents import read_json
from specfm.errors import SpecfmError, UsageError

FORMAT = "specfm-split-1"


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
        return digest_json(body)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {
            "format": FORMAT, "rule": self.rule, "seed": self.seed, "window": self.window,
            "data_digest": self.data_digest, "classes": list(self.classes), "options": self.options,
            "train": self.train_I.tolist(), "val": self.val_I.tolist(), "test": self.test_I.tolist(),
            "unit": self.unit_N.tolist(), "notices": list(self.notices),
        }  # fmt: skip


def save_split(split: Split, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a split file (JSON with its digest). Existing files are refused unless ``overwrite``."""
    from specfm.files import atomic_write_json, refuse_existing

    path = Path(path)
    refuse_existing(path, overwrite, "name")
    atomic_write_json(path, {**split.to_dict(), "digest": split.digest})


def load_split(path: str | Path, samples: Samples) -> Split:
    """Read a split file made for exactly these samples.

    Raises:
        SpecfmError: unreadable, changed since it was written, or made for other data or another window.
    """
    path = Path(path)
    try:
        raw = read_json(path)
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']!r}, not {FORMAT}")
        train_I, val_I, test_I, unit_N = (np.asarray(raw[k], np.int64) for k in ("train", "val", "test", "unit"))
        split = Split(
            raw["rule"], int(raw["seed"]), int(raw["window"]), raw["data_digest"], tuple(raw["classes"]),
            train_I, val_I, test_I, unit_N, raw["options"], tuple(raw["notices"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SpecfmError(f"{path} is not a split file ({exc}); make one with --save-splits") from exc
    if raw.get("digest") != split.digest:
        raise SpecfmError(f"{path} was changed after it was written (its digest disagrees); make it again")
    if split.data_digest != samples.digest:
        raise SpecfmError(
            f"{path} was made for other data or sampling options ({split.data_digest}, here {samples.digest}); "
            "make new ones with --save-splits"
        )
    if split.window < samples.window and not split.leaky:
        raise SpecfmError(f"{path} guards windows of {split.window} pixels; the window here is {samples.window}")
    return split


def load_splits(paths: Sequence[str | Path], samples: Samples) -> list[Split]:
    """Read split files made for exactly these samples (see ``load_split``).

    Raises:
        UsageError: one split given twice, which would pass for two runs.
    """
    splits = [load_split(path, samples) for path in paths]
    first: dict[str, str | Path] = {}
    for path, split in zip(paths, splits, strict=True):
        if split.digest in first:
            raise UsageError(f"{first[split.digest]} and {path} are the same split; give each once")
        first[split.digest] = path
    return splits


def make_split(
    samples: Samples,
    rule: str = SplitOptions.split,
    seed: int = 0,
    *,
    test_share: float = SplitOptions.test_share,
    val_share: float = SplitOptions.val_share,
    block: int | None = None,
    min_groups: int = SplitOptions.min_groups,
    min_samples: int = SplitOptions.min_samples,
    shots: int | None = None,
    held_scene: int | None = None,
    held_sensor: int | None = None,
) -> Split:
    """Make one split; the same arguments give the same split on any machine.

    Args:
        samples: the labelled windows; ``samples.window`` decides the guard band.
        rule: one of ``RULES``, or ``auto`` (:func:`rule_of`).
        seed: seed of the draw of units (and of shots).
        test_share: share of samples held out for the test.
        val_share: share of the remaining samples held out for validation.
        block: side of a spatial block in pixels (default ``default_block``).
        min_groups: classes found in fewer units are left out, with a notice.
        min_samples: classes with fewer samples are left out, with a notice.
        shots: keep so many training samples per class, drawn from train and validation; validation is then empty and
            the strength of a probe is chosen by cross-validation inside the shots, so that k-shot means k labels.
        held_scene: with rule "scene", the index of the test scene.
        held_sensor: with rule "sensor", the index of the test sensor in ``samples.sensor_N``.

    Raises:
        UsageError: unknown rule, impossible option.
        SpecfmError: a class cannot be on both sides, or there are too few units.
    """
    rule = rule_of(rule, samples)
    if rule not in RULES:
        raise UsageError(f"unknown split {rule!r}; one of auto, {', '.join(RULES)}")
    block = default_block(samples) if block is None else block
    if block < 1:
        raise UsageError(f"block side must be at least 1 pixel, not {block}")
    unit_N = units_of(samples, rule, block)
    blocks = rule in ("block", "random_pixels") or (rule == "sensor" and not by_groups(samples))
    _check_units(samples, unit_N, rule, block, blocks)
    least = {"scene": 2, "random_pixels": 1}.get(rule, min_groups)
    kept, notices = kept_classes(samples, unit_N, least, min_samples, rule)
    joined = len(np.unique(samples.group_N)) - len(np.unique(unit_N)) if rule == "group" else 0
    if joined:
        notices.append(
            f"groups that touch on the ground move together: {joined + len(np.unique(unit_N))} groups, "
            f"{len(np.unique(unit_N))} units"
        )
    pool_I = np.flatnonzero(np.isin(samples.y_N, kept))
    rng = np.random.default_rng([seed, 3])
    held_name = None
    if rule == "random_pixels":
        rest_I, test_I = carve_pixels(samples, pool_I, test_share, rng, kept)
        train_I, val_I = carve_pixels(samples, rest_I, val_share, rng, kept)
        lost_val: list[int] = []
    else:
        if rule in ("scene", "sensor"):
            rest_I, test_I, held_name = _leave_one_out(
                samples, pool_I, unit_N, rule, held_scene if rule == "scene" else held_sensor, seed, test_share, rng,
                kept, blocks,
            )  # fmt: skip
            rest_I, test_I, kept, more = _known_classes(samples, rest_I, test_I, held_name)
            notices += more
        else:
            rest_I, test_I, lost, absent = carve_units(samples, pool_I, unit_N, test_share, rng, kept, blocks)
            _refuse_missing(samples, rule, seed, lost, absent)
        train_I, val_I, lost_val = rest_I, rest_I[:0], []
        if len(np.unique(unit_N[rest_I])) > 1:
            train_I, val_I, lost_val, _ = carve_units(samples, rest_I, unit_N, val_share, rng, kept, blocks)
    if lost_val or not len(val_I):
        train_I, val_I = rest_I, rest_I[:0]
        notices.append("no validation set without losing a class: strength chosen by cross-validation in train")
    options: dict[str, Any] = {
        "test_share": test_share, "val_share": val_share, "min_groups": min_groups, "min_samples": min_samples,
        "shots": shots, "block": block if blocks else None,
        "held_scene": held_name if rule == "scene" else None,
        "purged": int(len(pool_I) - len(train_I) - len(val_I) - len(test_I)),
    }  # fmt: skip
    if rule == "sensor":
        options["held_sensor"] = held_name
    if rule != "random_pixels":
        notices += _divided_groups(samples, np.concatenate([train_I, val_I]), test_I)
    split = Split(
        rule, seed, samples.window, samples.digest, tuple(kept), np.sort(train_I), np.sort(val_I), np.sort(test_I),
        unit_N, options, tuple(notices),
    )  # fmt: skip
    return split if shots is None else _subsample(split, samples, shots)


def _check_units(samples: Samples, unit_N: np.ndarray, rule: str, block: int, blocks: bool) -> None:
    if rule == "sensor" and len(set(samples.sensor_names)) < 2:
        raise SpecfmError(
            f"split 'sensor' finds one sensor ({samples.sensor_names[0]}); give scenes of two, or see them through "
            "others (--through)"
        )
    units = len(np.unique(unit_N))
    if rule != "random_pixels" and units < 3:
        rows, cols = np.ptp(samples.frame_rc_N2, axis=0) + 1
        if blocks and len(np.unique(samples.frame_N)) == 1:
            found = f"{units} block(s) of {block} pixels on labelled ground of {rows} x {cols}"
        else:
            found = f"{units} {'block' if blocks else rule}(s)"
        remedy = f"pass a --block below {block} or a smaller --window" if blocks else "use --split block"
        raise SpecfmError(f"split {rule!r} finds {found}, needs 3; {remedy}")


def _refuse_missing(samples: Samples, rule: str, seed: int, lost: list[int], absent: list[int]) -> None:
    if not lost and not absent:
        return
    side, classes = ("training", lost) if lost else ("test", absent)
    names = ", ".join(samples.label_names[c] for c in classes)
    raise SpecfmError(
        f"split {rule!r} (seed {seed}) leaves no {side} sample of {names} once windows of {samples.window} "
        "pixels are kept apart; use a smaller --window or --block, or raise --min-groups to drop the class"
    )


def _leave_one_out(
    samples: Samples, pool_I: np.ndarray, unit_N: np.ndarray, rule: str, held: int | None, seed: int,
    test_share: float, rng: np.random.Generator, kept: list[int], blocks: bool,
) -> tuple[np.ndarray, np.ndarray, str]:  # fmt: skip
    """(rest, test, name of what is held out) with one scene or one sensor held out.

    Where other sensors see the ground of the held-out one, units of ground are held out as well: the test is the
    held-out sensor on held-out ground, and training the other sensors on the rest of the ground.
    """
    side_N = samples.scene_N if rule == "scene" else samples.sensor_N
    names = samples.scene_names if rule == "scene" else tuple(sorted(set(samples.sensor_names)))
    present = np.unique(side_N[pool_I])
    target = int(present[seed % len(present)]) if held is None else held
    if rule == "sensor" and ground_is_shared(samples, unit_N):
        rest_I, test_I, lost, absent = carve_units(samples, pool_I, unit_N, test_share, rng, kept, blocks)
        _refuse_missing(samples, rule, seed, lost, absent)
        return rest_I[side_N[rest_I] != target], test_I[side_N[test_I] == target], names[target]
    test_I = pool_I[side_N[pool_I] == target]
    rest_I = pool_I[side_N[pool_I] != target]
    return rest_I[~overlapping(samples, rest_I, test_I)], test_I, names[target]


def _known_classes(
    samples: Samples, rest_I: np.ndarray, test_I: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, list[int], list[str]]:
    """(rest, test, classes, notices) with the test samples left out whose class the training side does not have."""
    known = np.unique(samples.y_N[rest_I])
    strange_I = ~np.isin(samples.y_N[test_I], known)
    notices = []
    if strange_I.any():
        notices.append(f"{int(strange_I.sum())} test samples of classes that only {name!r} has are left out")
    if strange_I.all():
        raise SpecfmError(f"{name!r} shares no class with the others, so leaving it out leaves nothing to test")
    absent = np.setdiff1d(known, samples.y_N[test_I])
    if len(absent):
        listed = ", ".join(samples.label_names[c] for c in absent.tolist())
        notices.append(f"{name!r} has no test sample of {listed}: its AA is over the other classes")
    return rest_I, test_I[~strange_I], known.tolist(), notices


def _divided_groups(samples: Samples, fit_I: np.ndarray, test_I: np.ndarray) -> list[str]:
    """A notice on test samples whose group (a specimen scanned twice) is trained on in another scene."""
    sides = [np.unique(np.stack([samples.group_N[i], samples.frame_N[i]], 1), axis=0) for i in (fit_I, test_I)]
    frames = np.unique(np.concatenate(sides), axis=0)[:, 0]
    in_both = np.intersect1d(sides[0][:, 0], sides[1][:, 0])
    divided = [group for group in in_both.tolist() if (frames == group).sum() > 1]
    if not divided:
        return []
    share = np.isin(samples.group_N[test_I], divided).mean()
    return [
        f"{share:.0%} of the test samples are of groups that other scenes of the training side show too "
        f"({samples.group_names[divided[0]]}{', ...' if len(divided) > 1 else ''}); --split group keeps them apart"
    ]


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


def rule_of(rule: str, samples: Samples) -> str:
    """``rule``; for ``auto`` by groups where there are ``FEWEST_GROUPS`` and more, else by blocks."""
    if rule != AUTO:
        return rule
    return "group" if len(np.unique(samples.group_N)) >= FEWEST_GROUPS else "block"


def make_splits(
    samples: Samples, rule: str = SplitOptions.split, seeds: int | Sequence[int] = SplitOptions.seeds, **options: Any
) -> list[Split]:
    """One split per seed; with rules "scene" and "sensor" one per labelled scene or sensor.

    Those are drawn once per seed where something is drawn: the shots, or the ground that several sensors see.
    """
    rule = rule_of(rule, samples)
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seed_list:
        raise UsageError("--seeds must be at least 1")
    if rule not in ("scene", "sensor"):
        return [make_split(samples, rule, seed, **options) for seed in seed_list]
    held_N, key = (samples.scene_N, "held_scene") if rule == "scene" else (samples.sensor_N, "held_sensor")
    block = options.get("block") or default_block(samples)
    drawn = rule == "sensor" and ground_is_shared(samples, units_of(samples, rule, block))
    draws = seed_list if options.get("shots") or drawn else seed_list[:1]
    return [
        make_split(samples, rule, seed, **options, **{key: held})
        for held in np.unique(held_N).tolist()
        for seed in draws
    ]


def draw_splits(samples: Samples, options: SplitOptions, shots: int | None) -> list[Split]:
    """The splits of one table: drawn by rule, or read from the split files of the options."""
    if not options.split_files:
        return make_splits(
            samples, options.split, options.seeds, min_groups=options.min_groups, min_samples=options.min_samples,
            test_share=options.test_share, val_share=options.val_share, block=options.block, shots=shots,
        )  # fmt: skip
    splits = load_splits(options.split_files, samples)
    if any(not np.array_equal(s.unit_N, splits[0].unit_N) for s in splits):
        raise UsageError("the split files have different groups or blocks; probe them one by one")
    if len({s.options.get("shots") for s in splits}) > 1:
        raise UsageError("the split files have different numbers of shots; probe them one by one")
    held = splits[0].options.get("shots")
    if options.shots is not None and options.shots not in (held, (held,)):
        raise UsageError(f"the split files hold {held or 'all'} labels a class, not as --shots says; leave --shots out")
    return splits
