"""A run may be taken up with other threads, and anywhere in an epoch; a finished one is left alone (faults 21, 22)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pretrain.setup import make_sampler, open_shards
from tests.pretrain.runs import debug_config, launch, make_shard, make_shards, metrics, run, settings, weights

KEYS = ("steps=12", "checkpoint.every=1", "checkpoint.keep=20")
EPOCH = 5  # steps: 60 windows, 12 a step


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One domain, so that its epoch is the run's."""
    return [str(make_shard(tmp_path_factory.mktemp("shards") / "b.h5", "beta", 36, 60, 2))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shards: list[str]) -> Path:
    """Never disturbed; it keeps the checkpoint of every step."""
    out = tmp_path_factory.mktemp("whole") / "run"
    codes, text = run(out, shards, *KEYS)
    assert codes == [0], text
    return out


def stopped_after(step: int, whole: Path, out: Path) -> None:
    """The run as a kill after ``step`` leaves it."""
    shutil.copytree(whole, out)
    shutil.rmtree(out / "model", ignore_errors=True)
    for path in (out / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def resumed(out: Path, shards: list[str], *keys: str) -> str:
    job = launch(out.parent, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *KEYS, *keys)])
    assert job.wait() == [0], job.text
    return job.text


def assert_same_run(out: Path, whole: Path) -> None:
    assert weights(out) == weights(whole)
    last = Path("checkpoints") / "step-00000012" / "training.safetensors"
    assert (out / last).read_bytes() == (whole / last).read_bytes()
    rows, wanted = ([(r["step"], r["loss"], r["grad_norm"]) for r in metrics(each)] for each in (out, whole))
    assert rows == wanted


def files(out: Path) -> dict[str, tuple[int, bytes]]:
    """What is there, and when it was written."""
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "step", [EPOCH - 1, EPOCH, EPOCH + 1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2 * EPOCH, 11))]
)
def test_taken_up_before_at_and_after_the_end_of_an_epoch(
    tmp_path: Path, shards: list[str], whole: Path, step: int
) -> None:
    config = debug_config(tmp_path, shards, *KEYS)
    assert make_sampler(config, open_shards(config)).steps_per_epoch == EPOCH
    stopped_after(step, whole, tmp_path / "run")
    assert f"step-{step:08d}" in resumed(tmp_path / "run", shards)
    assert_same_run(tmp_path / "run", whole)


def test_a_finished_run_is_left_as_it_is(shards: list[str], whole: Path) -> None:
    """Nothing is computed, and nothing written anew."""
    before = files(whole)
    assert "step-00000012" in resumed(whole, shards)
    after = files(whole)
    assert [name for name in after.keys() | before.keys() if after.get(name) != before.get(name)] == []


@pytest.mark.parametrize("domains", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_taken_up_with_other_reading_threads(tmp_path: Path, shards: list[str], whole: Path, domains: int) -> None:
    """Read by nobody else before the kill, by four threads and far ahead after it, and the other way round."""
    if domains == 2:
        shards, whole = make_shards(tmp_path), tmp_path / "whole"
        assert run(whole, shards, *KEYS)[0] == [0]
    for place, (first, then) in enumerate([((0, 0), (4, 3)), ((4, 3), (0, 0))]):
        out = tmp_path / f"run-{place}"
        before, after = ((f"data.threads={t}", f"data.prefetch={p}") for t, p in (first, then))
        codes, text = run(out, shards, *KEYS, *before, faults="data.read:kill@step=6")
        assert codes == [-9], text
        assert "step-00000005" in resumed(out, shards, *after)
        assert_same_run(out, whole)
