"""What decides who trains and who tests: the rule of the split, its seeds and sizes, and where each default stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from specfm.errors import UsageError

GroupBy = Literal["auto", "group", "object"]
Rule = Literal["group", "block", "scene", "sensor", "random_pixels"]
AUTO: Final = "auto"
RULES: tuple[str, ...] = get_args(Rule)
FEWEST_GROUPS = 3  # of a split by groups: one to train on, one to validate, one to test


def at_least(least: int, numbers: Mapping[str, int | None]) -> None:
    """Refuse a number below ``least``, by the name of its option; None is one that is worked out.

    Raises:
        UsageError: one sentence on the first of them.
    """
    for name, number in numbers.items():
        if number is not None and number < least:
            raise UsageError(f"{name} must be at least {least}, not {number}")


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How labelled samples are kept apart.

    Attributes:
        split: of ``RULES``, or ``auto``: by groups where there are ``FEWEST_GROUPS`` and more, else by blocks.
        seeds: number of splits (per held-out sensor, where several sensors see one ground).
        shots: labels a class to train on, None for all; several give one table each.
        max_per_class: at most so many samples a class and group.
        min_groups: classes found in fewer groups or blocks are left out.
        min_samples: classes of fewer samples are left out.
        block: side of a spatial block, pixels; None works it out (``ground.default_block``).
        group_by: what a group is (``samples.collect_samples``).
        test_share: of all samples, for the test.
        val_share: of the remaining ones, for validation.
        split_files: use these splits, whatever else is said.
    """

    split: str = AUTO
    seeds: int = 10
    shots: int | tuple[int | None, ...] | None = None
    max_per_class: int | None = None
    min_groups: int = 3
    min_samples: int = 5
    block: int | None = None
    group_by: GroupBy = "auto"
    test_share: float = 0.3
    val_share: float = 0.2
    split_files: tuple[str, ...] = ()

    @property
    def shot_list(self) -> tuple[int | None, ...]:
        """One entry per table; split files say themselves how many shots they hold."""
        if self.split_files:
            return (None,)
        return self.shots if isinstance(self.shots, tuple) else (self.shots,)

    def check(self) -> None:
        """Refuse what makes no sense, by name.

        Raises:
            UsageError: an unknown rule, a number that is too small, a share that leaves a side empty.
        """
        if not self.split_files and self.split not in (AUTO, *RULES):
            raise UsageError(f"unknown split {self.split!r}; one of auto, {', '.join(RULES)}")
        if self.group_by not in get_args(GroupBy):
            raise UsageError(f"unknown --group-by {self.group_by!r}; one of {', '.join(get_args(GroupBy))}")
        if self.split_files:
            for name in ("split", "seeds", "block", "min_groups"):
                same = (getattr(SplitOptions, name), *([len(self.split_files)] if name == "seeds" else []))
                if getattr(self, name) not in same:
                    raise UsageError(f"--split-file holds whole splits; leave --{name.replace('_', '-')} out")
        at_least(
            1,
            {"--seeds": self.seeds, "--min-groups": self.min_groups, "min_samples": self.min_samples,
             "--block": self.block, "--max-per-class": self.max_per_class},
        )  # fmt: skip
        for name, share in {"test_share": self.test_share, "val_share": self.val_share}.items():
            if not 0 < share < 1:
                raise UsageError(f"{name} must lie between 0 and 1, not be {share}")
        if not self.shot_list or any(n is not None and n < 1 for n in self.shot_list):
            raise UsageError("--shots must be at least 1 label a class")
