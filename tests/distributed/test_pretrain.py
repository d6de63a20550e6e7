"""The number of processes changes nothing: losses of 1 and 2 ranks, and of a run that changes to 1 to 4 (fault 20)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.pretrain.runs import launch, make_shard, make_shards, metrics, run, settings


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in metrics(out)]


def assert_close(out: Path, reference: Path, relative: float) -> None:
    pairs = zip(losses(out), losses(reference)[: len(losses(out))], strict=True)
    worst = max(abs(a - b) / abs(b) for a, b in pairs)
    assert worst < relative, f"losses differ by {worst:.2e}"


STEPS = ("steps=50", "checkpoint.every=20", "objective.band_prediction.weight=0.5")


@pytest.fixture(scope="module")
def single(tmp_path_factory, shards) -> Path:
    """50 steps on one rank, with the false-negative rule and the band-prediction term."""
    out = tmp_path_factory.mktemp("single") / "run"
    codes, text = run(out, shards, *STEPS)
    assert codes == [0], text
    return out


def test_two_ranks_give_the_losses_of_one(tmp_path, shards, single):
    out = tmp_path / "run"
    codes, text = run(out, shards, *STEPS, world=2)
    assert codes == [0, 0], text
    assert_close(out, single, 1e-5)
    assert metrics(out)[-1]["negatives/excluded"] == pytest.approx(metrics(single)[-1]["negatives/excluded"], abs=1e-6)
    assert metrics(out)[-1]["embedding/rank"] == pytest.approx(metrics(single)[-1]["embedding/rank"], rel=1e-3)


def test_micro_batches_on_two_ranks_give_the_losses_of_one(tmp_path, shards, single):
    out = tmp_path / "run"
    codes, _ = run(out, shards, *STEPS, "optim.micro_batch=4", faults="data.read:kill@step=11", world=2)
    assert codes == [-9, -9] and len(losses(out)) == 10
    assert_close(out, single, 1e-5)


@pytest.mark.slow
def test_a_run_may_go_on_with_another_number_of_ranks(tmp_path, shards, single):
    out = tmp_path / "run"
    codes, _ = run(out, shards, *STEPS, "checkpoint.beside=false", faults="data.read:kill@step=25", world=2)
    assert codes[0] == -9
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *STEPS)])
    assert job.wait() == [0], job.text
    assert "step-00000020" in job.text
    assert_close(out, single, 1e-5)


ANY = ("data.global_batch=24", "data.divisor=12", "steps=12", "checkpoint.every=3")
SPOILT = "nan@step=9"  # a bad step tells its samples


def samples(out: Path) -> list[int]:
    """Of the bad step, over all ranks, which hold different ones."""
    found = [i for path in (out / "bad_steps").glob("*.json") for i in json.loads(path.read_text())["sample_id"]]
    assert len(set(found)) == len(found) == 24
    return sorted(found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    codes, text = run(out, shards, *ANY, faults=SPOILT)
    assert codes == [0], text
    return out


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, shards) -> Path:
    """Two ranks, killed in step 7."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    codes, text = run(out, shards, *ANY, "checkpoint.beside=false", faults="data.read:kill@step=7", world=2)
    assert codes == [-9, -9], text
    return out


@pytest.mark.parametrize(
    "world", [1, 3, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_run_of_two_ranks_goes_on_with_one_to_four(tmp_path, shards, whole, interrupted, world):
    """Fault 20: the same samples in a step, and losses within 1e-6."""
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *ANY)], SPOILT, world)
    assert job.wait() == [0] * world, job.text
    assert "step-00000006" in job.text and samples(out) == samples(whole)
    found, wanted = ([row["loss"] for row in metrics(each)] for each in (out, whole))
    assert found[8] is wanted[8] is None and len(found) == 12
    np.testing.assert_allclose(found[:8] + found[9:], wanted[:8] + wanted[9:], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_aligned_tokens_are_the_same_on_any_number_of_ranks(tmp_path):
    """Every rank draws the spectra and fits the maps itself; killed on two ranks, the run goes on with one."""
    shards = [str(make_shard(tmp_path / f"{bands}.h5", f"d{bands}", bands, 96, bands)) for bands in (60, 24)]
    steps = ("steps=16", "checkpoint.every=8", "model.options={aligned: true, rank: 1}", "whiten.batches=2",
             "views.band_draw=part", "views.merge_probability=0.5")  # fmt: skip
    codes, text = run(tmp_path / "one", shards, *steps)
    assert codes == [0], text
    codes, text = run(tmp_path / "two", shards, *steps, faults="data.read:kill@step=11", world=2)
    assert codes[0] == -9, text
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(tmp_path / "two", shards, *steps)])
    assert job.wait() == [0], job.text
    assert len(losses(tmp_path / "two")) == 16
    assert_close(tmp_path / "two", tmp_path / "one", 1e-4)  # a whitened stem amplifies rounding


def test_an_error_on_rank_0_is_told_to_all(tmp_path, shards):
    """Every rank ends with the same exit code instead of waiting for a peer that has gone."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "something").write_text("x")
    codes, text = run(out, shards, world=2)
    assert codes == [2, 2] and text.count("error:") == 1


def test_parts_that_do_not_split_are_refused(tmp_path, shards):
    codes, text = run(tmp_path / "run", shards, "data.divisor=1", "data.global_batch=13", world=2)
    assert codes == [2, 2] and "does not split over 2 ranks" in text


@pytest.mark.slow
def test_a_network_with_running_statistics_trains_on_two_ranks_and_goes_on(tmp_path):
    """Those statistics are of the samples of each rank; they are no difference between replicas."""
    shards = [str(make_shard(tmp_path / "a.h5", "alpha", 60, 48, 1, low=400, high=900))]
    out, network = tmp_path / "run", ("steps=4", "checkpoint.every=2", "model={backbone: timm:resnet10t}")
    codes, text = run(out, shards, *network, "checkpoint.beside=false", faults="data.read:kill@step=3", world=2)
    assert codes == [-9, -9] and len(losses(out)) == 2, text
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *network)], world=2)
    assert job.wait() == [0, 0], job.text
    assert len(losses(out)) == 4
