"""Bad steps and stop signals, told on with meetings of groups."""

from __future__ import annotations

import pytest
import torch

from specfm.engine.sync.flags import Flags
from specfm.engine.sync.layouts import Hypercube, Layout, Periodic, RowsColumns

CPU = torch.device("cpu")
BAD, STOP = {3: [2], 4: [0, 5], 9: [1]}, {8: [4]}  # step -> workers


@pytest.mark.parametrize("layout", [RowsColumns(6, 2), RowsColumns(6, 2, 1), Periodic(6, 4), RowsColumns(6, 6)])
def test_all_settle_the_same_at_the_same_step(layout: Layout):
    everyone = [Flags(layout.spread) for _ in range(6)]
    told: list[list[dict[int, bool]]] = [[] for _ in everyone]
    stopped: list[list[bool]] = [[] for _ in everyone]
    for number in range(1, 14):
        for worker, flags in enumerate(everyone):
            flags.note(number, worker in BAD.get(number, []), worker in STOP.get(number, []))
        for group in layout.groups(number):
            if len(group) > 1:
                news = torch.stack([everyone[worker].told(number, CPU) for worker in group]).amax(0)
                for worker in group:
                    everyone[worker].hear(number, news)
        for worker, flags in enumerate(everyone):
            told[worker].append(flags.settle(layout.known(number)))
            stopped[worker].append(flags.stopping)
    assert all(each == told[0] for each in told) and all(each == stopped[0] for each in stopped)
    settled = {step: bad for each in told[0] for step, bad in each.items()}
    assert list(settled) == list(range(1, layout.known(13) + 1))
    assert [step for step, bad in settled.items() if bad] == [3, 4, 9]
    first = stopped[0].index(True) + 1
    assert layout.known(first) >= 8 > layout.known(first - 1)


def test_nothing_is_told_twice_or_before_it_is_known():
    flags = Flags(Hypercube(4).spread)
    assert flags.settle(5) == {}
    flags.note(7, True, False)
    assert flags.settle(6) == {} and flags.settle(7) == {7: True} and flags.settle(7) == {}
    flags.note(8, False, False)
    assert flags.settle(8) == {8: False}
