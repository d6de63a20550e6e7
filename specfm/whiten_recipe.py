"""How the tokens of an acquisition are whitened: settings alone, so that a configuration is read without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from specfm.errors import UsageError

POWER, DAMPING, SHIFT = 0.25, 1e-5, 3


@dataclass(frozen=True)
class WhitenRecipe:
    """How the tokens of an acquisition are whitened (:mod:`specfm.models.whitening`); it travels in an encoder's card.

    Attributes:
        shift: distance of the patches whose differences count as noise, pixels; at least a patch, as they are disjoint.
        power: as in :func:`specfm.models.whitening.whitening`.
        components: likewise.
        damping: likewise.
        brightness: keep the direction of the tokens that says how bright a patch is beside its sample. Without it
            shadow and slope part less of what is alike (1-NN of Indian Pines .46 with it, .56 without).
    """

    shift: int = SHIFT
    power: float = POWER
    components: int | None = None
    damping: float = DAMPING
    brightness: bool = False

    def __post_init__(self) -> None:
        for name, holds, words in (
            ("shift", self.shift >= 1, "at least 1 pixel"),
            ("power", math.isfinite(self.power), "a finite number"),
            ("components", self.components is None or self.components >= 1, "at least 1, or none for all"),
            ("damping", 0 < self.damping < math.inf, "above 0"),
        ):
            if not holds:
                raise UsageError(f"{name} of the whitening must be {words}, got {getattr(self, name)!r}")

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> WhitenRecipe:
        """The recipe that an encoder was pretrained with, from its card; the default where that has none."""
        told = card.get("whiten") or {}
        return cls(**{name: told[name] for name in cls.__dataclass_fields__ if name in told})

    def with_(self, **changes: Any) -> WhitenRecipe:
        """A copy with what is not None replaced; ``components`` 0 stands for all."""
        changes = {name: value for name, value in changes.items() if value is not None}
        if changes.get("components") == 0:
            changes["components"] = None
        return replace(self, **changes)

    def step(self, patch: int) -> int:
        """Cells of the lattice of patches that make the shift."""
        return -(-self.shift // patch)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)
