"""Schedules as pure functions of the step, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup_steps: int, peak: float, floor: float = 0.0) -> float:
    """Linear warm-up to ``peak``, then half a cosine down to ``floor`` at the last step.

    Args:
        step: Number of the update, from 0 to ``steps - 1``.
        steps: Updates of the whole run.
        warmup_steps: The first update uses ``peak / warmup_steps``; 0 starts at ``peak``.
        peak: Largest value.
        floor: Value at the end.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def ramp(step: int, start: float, end: float, over_steps: int) -> float:
    """Straight line from ``start`` at step 0 to ``end`` at ``over_steps``, then constant (0: ``end`` at once)."""
    if over_steps <= 0:
        return end
    return start + (end - start) * min(step / over_steps, 1.0)
