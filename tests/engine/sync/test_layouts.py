"""Groups of DS-Sync and local SGD: who meets whom, and how soon all know what one knew."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from specfm.engine.sync.choose import make_layout, ranks_per_node
from specfm.engine.sync.config import SyncConfig
from specfm.engine.sync.layouts import Hypercube, Layout, Periodic, RowsColumns, balanced_size

LAYOUTS: dict[str, Layout] = {
    "4 by 2": RowsColumns(4, 2), "6 by 2": RowsColumns(6, 2), "6 by 3": RowsColumns(6, 3), "8 by 4": RowsColumns(8, 4),
    "5 whole": RowsColumns(5, 5), "6 by 2 shuffled": RowsColumns(6, 2, 7), "12 by 3 shuffled": RowsColumns(12, 3, 0),
    "2 pairs": Hypercube(2), "8 pairs": Hypercube(8), "4 every 3": Periodic(4, 3), "4 always": Periodic(4, 1),
}  # fmt: skip


def averaged(values_N: np.ndarray, layout: Layout, number: int) -> np.ndarray:
    """Values of all workers after the meeting of a step."""
    result = values_N.copy()
    for group in layout.groups(number):
        result[list(group)] = values_N[list(group)].mean()
    return result


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_groups_hold_every_worker_once_and_come_again(layout):
    workers = sorted(worker for group in layout.groups(0) for worker in group)
    for number in range(40):
        groups = layout.groups(number)
        assert sorted(worker for group in groups for worker in group) == workers == list(range(len(workers)))
        assert all(list(group) == sorted(group) for group in groups)
        assert layout.groups(number + layout.cycle) == groups


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_one_worker_knows_all_know_when_the_layout_says_so(layout):
    """Told on at every meeting, from any worker and any step; and not sooner for all of them: the bound is tight."""
    workers = sum(len(group) for group in layout.groups(0))
    delays = []
    for start in range(1, 2 * layout.cycle + 1):
        for source in range(workers):
            knows, number = {source}, start
            while True:
                for group in layout.groups(number):
                    if knows & set(group):
                        knows |= set(group)
                if layout.known(number) >= start:
                    assert len(knows) == workers, (start, source)
                    break
                number += 1
            assert number - start < layout.spread
            delays.append(number - start + 1)
    assert max(delays) == layout.spread


@pytest.mark.parametrize(
    ("layout", "rounds"), [(RowsColumns(6, 2), 2), (RowsColumns(6, 2, 3), 2), (RowsColumns(8, 8), 1), (Hypercube(8), 3)]
)
def test_a_round_keeps_the_mean_and_few_rounds_make_all_equal(layout, rounds):
    values_N = np.random.default_rng(0).normal(size=layout.workers)
    mean = values_N.mean()
    for number in range(4, 4 + rounds):
        values_N = averaged(values_N, layout, number)
        assert values_N.mean() == pytest.approx(mean, abs=1e-12)
    assert np.ptp(values_N) < 1e-12


def test_rows_columns_and_pairs_as_in_the_paper():
    assert [RowsColumns(4, 2).groups(t) for t in (0, 1)] == [((0, 1), (2, 3)), ((0, 2), (1, 3))]
    assert [Hypercube(8).groups(t)[0] for t in range(4)] == [(0, 1), (0, 2), (0, 4), (0, 1)]


def test_shuffled_groups_follow_from_the_seed_alone():
    one, same, other = (RowsColumns(12, 3, seed) for seed in (5, 5, 6))
    steps = range(16)
    assert [one.groups(t) for t in steps] == [same.groups(t) for t in steps]
    assert [one.groups(t) for t in steps] != [other.groups(t) for t in steps]
    assert len({one.groups(t) for t in steps}) == 16


def test_divisors():
    assert [balanced_size(n) for n in (4, 6, 8, 9, 12, 64, 1024)] == [2, 2, 2, 3, 3, 8, 32]
    assert [balanced_size(12, wanted) for wanted in (2, 5, 6, 12, 40)] == [2, 4, 6, 12, 12]
    assert [balanced_size(n) for n in (2, 3, 5, 7)] == [2, 3, 5, 7]  # primes: no groups


@pytest.mark.parametrize(
    ("settings", "workers", "found", "said"),
    [
        ({"kind": "allreduce"}, 4, "None", ""),
        ({"kind": "ds_sync"}, 1, "None", ""),
        ({"kind": "ds_sync"}, 6, "RowsColumns", ""),
        ({"kind": "ds_sync"}, 7, "None", "7 workers cannot be divided into equal groups"),
        ({"kind": "ds_sync", "group_size": 4}, 6, "RowsColumns", "does not divide 6 workers; groups of 3"),
        ({"kind": "ds_sync", "group_size": 7}, 7, "RowsColumns", ""),
        ({"kind": "ds_sync", "layout": "hypercube"}, 8, "Hypercube", ""),
        ({"kind": "ds_sync", "layout": "hypercube"}, 6, "RowsColumns", "needs a power of two, not 6 workers"),
        ({"kind": "local_sgd", "period": 3}, 5, "Periodic", ""),
    ],
)
def test_what_a_number_of_workers_allows(settings, workers, found, said, caplog):
    with caplog.at_level(logging.WARNING):
        layout = make_layout(SyncConfig(**settings), workers, 0)
    assert (type(layout).__name__ if layout else "None") == found
    assert said in caplog.text and bool(said) == bool(caplog.text)


@pytest.mark.parametrize(
    ("asked", "torchrun", "found", "said"),
    [
        (None, None, 1, ""), (None, "2", 2, ""), (1, "2", 1, ""), (4, None, 4, ""),
        (None, "3", 1, "no nodes of 3 each"), (None, "8", 8, "all 8 processes are on one node"),
    ],
)  # fmt: skip
def test_processes_of_a_node_are_one_worker(asked, torchrun, found, said, monkeypatch, caplog):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if torchrun:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", torchrun)
    assert ranks_per_node(SyncConfig(kind="ds_sync", ranks_per_node=asked), 8) == found
    assert said in caplog.text and bool(said) == bool(caplog.text)
    assert ranks_per_node(SyncConfig(kind="local_sgd"), 8) == 1


def test_settings_by_name_and_settings_that_would_not_act():
    assert SyncConfig.model_validate("ds_sync") == SyncConfig(kind="ds_sync")
    assert SyncConfig.model_validate(SyncConfig(kind="local_sgd", period=3).model_dump()).period == 3
    for wrong, text in (
        ({"kind": "ds_sync", "period": 2}, "period is of local_sgd"),
        ({"layout": "hypercube"}, "layout is of ds_sync"),
        ({"kind": "local_sgd", "group_size": 2}, "group_size is of ds_sync"),
        ({"negatives": "world"}, "always those of all processes with allreduce"),
        ({"kind": "ds_sync", "layout": "hypercube", "group_size": 4}, "the groups of a hypercube are pairs"),
    ):
        with pytest.raises(ValueError, match=text):
            SyncConfig.model_validate(wrong)


@pytest.mark.parametrize("make", [lambda: RowsColumns(6, 4), lambda: RowsColumns(4, 1), lambda: Hypercube(6)])
def test_layouts_that_do_not_exist(make):
    with pytest.raises(ValueError, match=r"do not divide|no power of two"):
        make()
