"""All that decides a probe's numbers, put together from what stands with splits, features, protocols and baselines."""

from __future__ import annotations

from dataclasses import dataclass

from downstream.baselines.options import BaselineOptions
from downstream.features.options import FeatureOptions
from downstream.protocols.options import ProtocolOptions
from downstream.splits.options import SplitOptions, at_least
from specfm.errors import UsageError

ROOMS = (SplitOptions, FeatureOptions, ProtocolOptions, BaselineOptions)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(SplitOptions, FeatureOptions, ProtocolOptions, BaselineOptions):
    """Everything that decides a probe's numbers; its digest goes into each row.

    A function that needs a part of them asks for that part (``SplitOptions``, ...), so each default stands once: with
    its room.

    Attributes:
        draws: of the bootstrap, for the intervals.
    """

    draws: int = 1000

    def check(self) -> None:
        """Refuse options that make no sense, by name.

        Raises:
            UsageError: one sentence on the first of them.
        """
        for room in ROOMS:
            room.check(self)
        at_least(1, {"draws": self.draws})
        if self.whole is not None and self.split == "scene":
            raise UsageError(
                "--split scene would hold out single specimens of a scan; --split group keeps those of a scan together"
            )
