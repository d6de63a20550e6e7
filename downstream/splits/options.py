"""What decides who trains and who tests: the rule of the split, its seeds and sizes, and where each default stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from specfm.errors import UsageError

GroupBy = Literal["auto", "group", "object"]
AUTO: Final = "auto"
RULES: tuple[str, ...] = ("group", "block", "scene", "sensor", "random_pixels")
FEWEST_GROUPS = 3  # of a split by groups: one to train on, one to validate, one to test


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How labelled samples are kept apart.

    Attributes:
        split: of ``RULES``, or ``auto``: by groups where there are ``FEWEST_GROUPS`` and more, else by blocks.
        seeds: number of splits (per held-out sensor, where several sensors see one ground).
        shots: labels a class to train on, None for all; several give one table each.
        max_per_class: at most so many samples a class and group.
        min_groups, min_samples: classes found in fewer groups or blocks, or samples, are left out.
        block: side of a spatial block, pixels; None works it out (``ground.default_block``).
        group_by: what a group is (``samples.collect_samples``).
        test_share, val_share: of all samples for the test; of the remaining ones for validation.
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
            UsageError: an unknown rule, a number that is too small.
        """
        if not self.split_files and self.split not in (AUTO, *RULES):
            raise UsageError(f"unknown split {self.split!r}; one of auto, {', '.join(RULES)}")
        if self.group_by not in ("auto", "group", "object"):
            raise UsageError(f"unknown --group-by {self.group_by!r}; one of auto, group, object")
        if self.split_files:
            for name in ("split", "seeds", "block", "min_groups"):
                same = (getattr(SplitOptions, name), *([len(self.split_files)] if name == "seeds" else []))
                if getattr(self, name) not in same:
                    raise UsageError(f"--split-file holds whole splits; leave --{name.replace('_', '-')} out")
        if self.seeds < 1:
            raise UsageError("--seeds must be at least 1")
        if not self.shot_list or any(n is not None and n < 1 for n in self.shot_list):
            raise UsageError("--shots must be at least 1 label a class")
