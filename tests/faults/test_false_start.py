"""A new run that never gets to its first step leaves nothing behind, in one process or two; resumed runs are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from specfm.shards import ShardReader
from tests.pretrain.runs import launch, make_shard, make_shards, metrics, run, settings

MISFIT = ("model.embedding=fixed", "model.options={channels: 13}")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


def damaged(folder: Path) -> str:
    """A shard whose bytes are all there and half of them wrong."""
    path = make_shard(folder / "damaged.h5", "alpha", 24, 96, 1)
    start, size = int(ShardReader(path).patches.offsets_N[0]), 9 * 9 * 24 * 2 * 40  # type: ignore[index]
    with path.open("r+b") as file:
        file.seek(start)
        wrong = bytes(255 - byte for byte in file.read(size))
        file.seek(start)
        file.write(wrong)
    return str(path)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("override", ["whiten.batches=0", "whiten.batches=1"])
def test_damaged_shards_leave_no_folder(tmp_path: Path, world: int, override: str) -> None:
    codes, text = run(tmp_path / "run", [damaged(tmp_path)], override, world=world)
    assert set(codes) == {1} and "fail their CRC" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("world", [1, 2])
def test_a_model_that_cannot_take_the_data_leaves_no_folder(tmp_path: Path, shards: list[str], world: int) -> None:
    """wandb's files go too, and the name then serves a run that can begin."""
    codes, text = run(tmp_path / "run", shards, *MISFIT, "wandb.mode=offline", world=world)
    assert 0 not in codes and "13" in text
    assert not (tmp_path / "run").exists()
    codes, text = run(tmp_path / "run", shards, "steps=1")
    assert codes == [0], text


def test_one_rank_that_fails_at_the_first_step_leaves_no_folder(tmp_path: Path, shards: list[str]) -> None:
    codes, _ = run(tmp_path / "run", shards, faults="step.forward:raise@step=1:rank=1", world=2)
    assert 0 not in codes and not (tmp_path / "run").exists()


def test_what_was_begun_is_kept(tmp_path: Path, shards: list[str]) -> None:
    out = tmp_path / "run"
    codes, _ = run(out, shards, faults="step.forward:raise@step=2")
    assert codes == [1] and len(metrics(out)) == 1
    before = sorted(path.name for path in out.iterdir())
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, [damaged(tmp_path)])])
    assert job.wait() == [1] and sorted(path.name for path in out.iterdir()) == before
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *MISFIT)])
    assert job.wait() != [0] and (out / "config.yaml").is_file() and not (out / "run.lock").exists()
