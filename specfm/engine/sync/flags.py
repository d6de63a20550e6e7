"""Bad steps and stop signals where no step brings all processes together: told on with every meeting, until all know.

A process decides by what *all* know, and by nothing else, so that all decide alike: a run gives up, or stops, at the
same step everywhere, a few steps after the cause.

Shapes: 2 kinds of flag, L steps that may still be news.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Flags:
    """What this process has heard.

    Args:
        spread: L, steps after which a flag is known to all (:class:`specfm.engine.sync.layouts.Layout`).

    Attributes:
        stopping: all know of a stop signal.
    """

    def __init__(self, spread: int) -> None:
        self.spread, self.stopping = spread, False
        self._heard: tuple[set[int], set[int]] = (set(), set())  # steps that were bad, steps with a stop signal
        self._settled: int | None = None

    def note(self, number: int, bad: bool, stop: bool) -> None:
        """What happened here in step ``number``."""
        if self._settled is None:
            self._settled = number - 1
        for steps, raised in zip(self._heard, (bad, stop), strict=True):
            if raised:
                steps.add(number)

    def told(self, number: int, device: torch.device) -> Tensor:
        """(2, L) of 0 and 1, to be maximised over those who meet after step ``number``; step ``number - i`` at i."""
        recent = range(number, number - self.spread, -1)
        rows = [[float(step in steps) for step in recent] for steps in self._heard]
        return torch.tensor(rows, device=device)

    def hear(self, number: int, told_2L: Tensor) -> None:
        """Take in what a meeting after step ``number`` came to."""
        for steps, row in zip(self._heard, told_2L.tolist(), strict=True):
            steps.update(number - place for place, raised in enumerate(row) if raised)

    def settle(self, known: int) -> dict[int, bool]:
        """All know all of the steps up to ``known``: whether each was bad anywhere, if that was not told before."""
        if self._settled is None or known <= self._settled:
            return {}
        bad, stop = self._heard
        found = {step: step in bad for step in range(self._settled + 1, known + 1)}
        self._settled = known
        self.stopping = self.stopping or any(step <= known for step in stop)
        for steps in self._heard:
            steps.difference_update([step for step in steps if step <= known])
        return found
