"""The sampler is a pure function of (seed, step, global batch)."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pretrain.rng import mix64, permute
from pretrain.sampler import CYCLE, MixtureSampler
from specfm.errors import UsageError


def draw(sampler: MixtureSampler, steps: range) -> list[list[tuple[int, list[int]]]]:
    return [[(shard, ids.tolist()) for shard, ids in sampler.batch(step)] for step in steps]


def test_any_step_in_any_order_and_another_process() -> None:
    make = "MixtureSampler([300, 50, 80], ['a', 'b', 'a'], 24, seed=7, divisor=2)"
    forward = draw(eval(make), range(30))
    assert draw(eval(make), range(29, 30)) == forward[29:]
    code = f"from pretrain.sampler import MixtureSampler; s = {make}; print(s.batch(29)[0][1].tolist())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(forward[29][0][1])


def test_far_steps_cost_no_replay() -> None:
    sampler = MixtureSampler([10**7, 10**6], ["a", "b"], 64, seed=0)
    parts = sampler.batch(10**12)
    assert sum(len(ids) for _, ids in parts) == 64
    assert all(ids.min() >= 0 and ids.max() < size for (_, ids), size in zip(parts, (10**7, 10**6), strict=True))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
def test_any_world_sees_the_same_samples_in_the_same_order(world: int) -> None:
    sampler = MixtureSampler([500, 90, 70], ["a", "b", "c"], 48, seed=1, divisor=12)
    for step in (0, 5, CYCLE - 1, CYCLE, 3 * CYCLE + 1):
        whole = sampler.batch(step)
        shares = [sampler.batch(step, rank, world) for rank in range(world)]
        for part, (shard, ids) in enumerate(whole):
            assert all(share[part][0] == shard for share in shares)
            np.testing.assert_array_equal(np.concatenate([share[part][1] for share in shares]), ids)
            assert len({len(share[part][1]) for share in shares}) == 1


def test_a_world_that_does_not_divide_is_refused() -> None:
    sampler = MixtureSampler([500, 90], ["a", "b"], 48, seed=1, divisor=4)
    with pytest.raises(UsageError, match="does not split over 5 ranks"):
        sampler.batch(0, 0, 5)
    with pytest.raises(UsageError, match="not a multiple of 5"):
        MixtureSampler([500, 90], ["a", "b"], 48, seed=1, divisor=5)


def test_every_pass_sees_each_sample_at_most_once_and_nearly_all() -> None:
    sampler = MixtureSampler([103], ["a"], 10, seed=3)
    first, second = (
        [i for step in steps for _, ids in sampler.batch(step) for i in ids] for steps in (range(10), range(10, 20))
    )
    assert len(set(first)) == len(first) == 100
    assert len(set(second)) == 100
    assert first != second and set(first) != set(second)  # other samples are dropped in the next pass


def test_no_sample_twice_in_a_batch() -> None:
    sampler = MixtureSampler([37, 300, 41], ["a", "b", "c"], 48, seed=3, divisor=4)
    for step in range(200):
        for _, ids in sampler.batch(step):
            assert len(set(ids.tolist())) == len(ids)


def test_shares_follow_the_square_root_of_size_or_the_weights() -> None:
    sampler = MixtureSampler([10000, 2500, 2500], ["a", "b", "c"], 64, seed=0)
    assert sampler.counts == [32, 16, 16]
    weighted = MixtureSampler([10000, 2500, 2500], ["a", "b", "c"], 64, seed=0, domain_weights={"a": 1, "b": 1, "c": 2})
    assert weighted.counts == [16, 16, 32]
    dropped = MixtureSampler([100, 100], ["a", "b"], 8, seed=0, domain_weights={"a": 0})
    assert [shard for shard, _ in dropped.batch(0)] == [1]


def test_more_domains_than_slots_are_taken_in_turn_by_weight() -> None:
    names = [f"d{i}" for i in range(9)]
    sizes = [100 * (i + 1) ** 2 for i in range(9)]
    sampler = MixtureSampler(sizes, names, 32, seed=0, domains_per_batch=4, divisor=2)
    seen = np.zeros(9)
    for step in range(CYCLE):
        shards = [shard for shard, _ in sampler.batch(step)]
        assert len(set(shards)) == 4
        seen[shards] += 1
    expected = 4 * np.sqrt(sizes) / np.sqrt(sizes).sum() * CYCLE
    np.testing.assert_allclose(seen, expected, rtol=0.12)
    pairs = {tuple(sorted(shard for shard, _ in sampler.batch(step))) for step in range(500)}
    assert len(pairs) > 60  # domains meet in many combinations


def test_positions_go_on_over_the_end_of_a_cycle() -> None:
    sampler = MixtureSampler([6000, 90000, 100000], ["a", "a", "b"], 4, seed=0, domains_per_batch=1)
    used = np.zeros(3, np.int64)
    for step in range(CYCLE + 50):
        ((shard, ids),) = sampler.batch(step)
        position = used[shard] + np.arange(len(ids))
        size = [6000, 90000, 100000][shard]
        epoch, index = np.divmod(position, size // 4 * 4)
        expected = permute(index, size, mix64(0, 2, shard, epoch.astype(np.uint64)))
        np.testing.assert_array_equal(ids, expected)
        used[shard] += len(ids)


def test_shards_of_a_domain_are_drawn_by_size() -> None:
    sampler = MixtureSampler([300, 100], ["a", "a"], 10, seed=0)
    share = np.mean([sampler.batch(step)[0][0] == 0 for step in range(CYCLE)])
    assert share == pytest.approx(0.75, abs=0.002)


def test_filters_by_domain_and_by_id() -> None:
    left_out = MixtureSampler([100, 100, 50], ["a", "b", "c"], 12, seed=0, exclude=["b"])
    assert {shard for shard, _ in left_out.batch(0)} == {0, 2}
    keep = [np.arange(0, 100, 2), None, np.array([], np.int64)]
    sampler = MixtureSampler([100, 100, 50], ["a", "b", "c"], 12, seed=0, keep=keep)
    for step in range(20):
        for shard, ids in sampler.batch(step):
            assert shard in (0, 1)
            assert shard == 1 or (ids % 2 == 0).all()
    with pytest.raises(UsageError, match="id filter of shard 0"):
        MixtureSampler([10], ["a"], 4, seed=0, keep=[np.array([10])])


def test_seeds_and_batches_differ_and_show_in_the_state() -> None:
    one, two = (MixtureSampler([1000], ["a"], 8, seed=seed) for seed in (0, 1))
    assert one.batch(0)[0][1].tolist() != two.batch(0)[0][1].tolist()
    assert one.digest != two.digest
    assert one.digest == MixtureSampler([1000], ["a"], 8, seed=0).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain_weights": {"z": 1}}, "weights name no known domain: z"),
        ({"domain_weights": {"a": -1}}, "weight of domain a is -1"),
        ({"domain_weights": {"a": 0, "b": 0}}, "every domain has weight 0"),
        ({"exclude": ["z"]}, "no domain z"),
        ({"domains_per_batch": 0}, "domains_per_batch is 0"),
        ({"domains_per_batch": 9, "divisor": 8}, "2 domains a batch .* with at least 8 samples, .* make it 16 or more"),
        ({"sizes": [0, 0]}, "no sample is left"),
    ],
)
def test_what_cannot_be_sampled_is_refused(change: dict, message: str) -> None:
    arguments = {"sizes": [50, 60], "domains": ["a", "b"], "global_batch": 8, "seed": 0, **change}
    with pytest.raises(UsageError, match=message):
        MixtureSampler(**arguments)


def test_more_domains_a_batch_than_there_are_means_all_of_them() -> None:
    few, all_of_them = (MixtureSampler([50, 60], ["a", "b"], 8, seed=0, domains_per_batch=n) for n in (9, 2))
    assert [ids.tolist() for _, ids in few.batch(0)] == [ids.tolist() for _, ids in all_of_them.batch(0)]
