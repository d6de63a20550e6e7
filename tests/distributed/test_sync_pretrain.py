"""Pretraining by DS-Sync and local SGD: killed, stopped and taken up, with averages of weights and a teacher."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.pretrain.runs import launch, make_shards, metrics, run, settings, steps_done, wait_for, weights

KEYS = ("data.global_batch=16", "data.divisor=4", "steps=10", "checkpoint.every=4", "checkpoint.retry_s=0.05",
        "ema.decay=0.9")  # fmt: skip
DS = (*KEYS, "sync=ds_sync", "objective.latent={predictor: {width: 24, depth: 1, heads: 2}}")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    codes, text = run(out, shards, *DS, world=4)
    assert codes == [0] * 4, text
    return out


def resumed(out: Path, shards: list[str], *keys: str, world: int = 4) -> str:
    job = launch(out.parent, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *keys)], world=world)
    assert job.wait() == [0] * world, job.text
    return job.text


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["data.read:kill@step=7:rank=2", "ckpt.mid_payload:kill@step=8:rank=1",
                                   "ckpt.before_manifest:kill@step=8"])  # fmt: skip
def test_killed_at_any_moment_a_run_ends_in_the_same_bits(tmp_path, shards, whole, fault):
    out = tmp_path / "run"
    codes, text = run(out, shards, *DS, faults=fault, world=4)
    assert -9 in codes and 0 not in codes, text
    assert "step-00000004" in resumed(out, shards, *DS)
    assert weights(out) == weights(whole)
    assert [row["loss"] for row in metrics(out)] == [row["loss"] for row in metrics(whole)]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-00000008", "step-00000010"]


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on(tmp_path, shards):
    out, keys = tmp_path / "run", (*DS, "steps=400", "checkpoint.every=400")
    job = launch(tmp_path, ["pretrain/debug.yaml", *settings(out, shards, *keys)], world=4)
    wait_for(lambda: steps_done(out) > 3, lambda: all(p.is_alive() for p in job.processes))
    os.kill(job.processes[3].pid, signal.SIGTERM)
    assert job.wait() == [0] * 4, job.text
    assert (out / "REQUEUE").is_file()
    done = steps_done(out)
    assert 3 < done < 400 and (out / "checkpoints" / f"step-{done:08d}" / "ranks" / "00003.safetensors").is_file()
    resumed(out, shards, *keys, f"steps={done + 4}")
    assert steps_done(out) == done + 4


@pytest.mark.slow
def test_on_another_number_of_processes_it_goes_on_and_says_so(tmp_path, shards):
    out = tmp_path / "run"
    codes, _ = run(out, shards, *DS, faults="data.read:kill@step=7", world=4)
    assert codes == [-9] * 4
    text = resumed(out, shards, *DS, world=2)
    assert "2 workers cannot be divided into equal groups" in text and "2 share rank 0's" in text
    assert steps_done(out) == 10


@pytest.mark.slow
@pytest.mark.parametrize("keys", [("sync=local_sgd",), ("sync={kind: ds_sync, layout: hypercube, negatives: world}",),
                                  ("sync={kind: ds_sync, layout: shuffled}", "optim.micro_batch=2")])  # fmt: skip
def test_every_way_trains(tmp_path, shards, keys):
    out = tmp_path / "run"
    codes, text = run(out, shards, *KEYS, *keys, "monitor.every=5", world=4)
    assert codes == [0] * 4, text
    rows = metrics(out)
    assert len(rows) == 10 and "knn" in rows[4] and rows[-1]["embedding/rank"] > 1


@pytest.mark.slow
def test_nodes_of_two_processes_train_and_go_on(tmp_path, shards):
    out, keys = tmp_path / "run", (*KEYS, "data.divisor=8", "sync={kind: ds_sync, ranks_per_node: 2}")
    codes, text = run(out, shards, *keys, faults="data.read:kill@step=7", world=8)
    assert codes == [-9] * 8, text
    text = resumed(out, shards, *keys, world=8)
    assert steps_done(out) == 10 and "goes on otherwise" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("negatives", "spoiled"), [("group", [0, 2]), ("world", [0, 1, 2, 3])])
def test_a_bad_step_is_left_out_by_those_whose_samples_met(tmp_path, shards, negatives, spoiled):
    """Rank 2 meets rank 0 in step 5; the others step on, and all go on with what they have."""
    out = tmp_path / "run"
    way = f"sync={{kind: ds_sync, negatives: {negatives}}}"
    codes, text = run(out, shards, *KEYS, way, faults="nan@step=5:rank=2", world=4)
    assert codes == [0] * 4, text
    assert sorted(p.name for p in (out / "bad_steps").iterdir()) == [f"step-00000005-rank-{r}.json" for r in spoiled]
    assert [row["step"] for row in metrics(out) if row["bad_step"]] == [5]


def test_settings_that_would_not_act_are_refused(tmp_path, shards):
    codes, text = run(tmp_path / "run", shards, "sync={kind: ds_sync, period: 3}")
    assert codes == [2] and "period is of local_sgd" in text
