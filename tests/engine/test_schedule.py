"""Schedules are functions of the step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from specfm.engine.schedule import ramp, warmup_cosine


def test_warmup_cosine_matches_timm():
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = CosineLRScheduler(
        optimizer, t_initial=90, warmup_t=10, warmup_lr_init=0.1, lr_min=0.05, warmup_prefix=True, t_in_epochs=False
    )
    for step in range(100):
        reference.step_update(step)
        ours = warmup_cosine(step, 100, 10, 1.0, 0.05)
        if step >= 10:  # timm's warm-up starts at its own value; ours reaches the peak in the last warm-up step
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        else:
            assert ours == pytest.approx((step + 1) / 10)


def test_ramp():
    assert [ramp(s, 0.2, 1.0, 4) for s in (0, 2, 4, 9)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert ramp(0, 0.2, 1.0, 0) == 1.0
