"""Blocks in parts (``parallel: fsdp2``) give what one process gives: losses, gradients, runs that change strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from specfm.batch import Batch
from specfm.engine.distributed import World
from specfm.errors import UsageError
from tests.distributed.ranks import on_ranks
from tests.distributed.test_objectives import CASES, CPU, assert_same, even, step_of, uneven
from tests.pretrain.runs import debug_config, launch, make_shards, metrics, run, settings
from tests.pretrain.samples import random_batch

Found = dict[str, np.ndarray]
Case = tuple[str, int | None, dict[str, Any]]


def checkpointed(modules: nn.ModuleDict) -> None:
    modules["encoder"].set_grad_checkpointing(True)  # type: ignore[operator]


def samples(ways: dict[str, Any]) -> Batch:
    """Enough for one to four ranks; uneven, of one sensor more than of the other, so that sensors meet on some rank."""
    one, two = random_batch(12 if ways.get("share", even) is even else 7)
    return Batch((one if len(one) == 12 else one.select(torch.arange(5)), two))


def steps(world: World, cases: list[Case]) -> list[Found]:
    return [step_of(name, world, micro, samples(ways), sharded=True, **ways) for name, micro, ways in cases]


def assert_as_one(size: int, cases: list[Case]) -> None:
    """On every rank. What hangs fails: a collective ends after 40 seconds."""
    ranks = on_ranks(size, steps, cases, seconds=300)
    for number, (name, _, ways) in enumerate(cases):
        wanted = step_of(name, World(0, 1, CPU), None, samples(ways))
        for found in ranks:
            assert_same(found[number], wanted)


UNEVEN: dict[str, Any] = {"share": uneven}
WAYS: list[Case] = [
    ("all", 4, {}),
    ("latent", None, {"reshard": False}),
    ("all", 4, {"change": checkpointed}),
    ("all", 4, UNEVEN),
    ("all", None, {"change": checkpointed, "reshard": False, **UNEVEN}),
]


def test_two_ranks_give_the_gradients_of_one() -> None:
    assert_as_one(2, [("nt_xent", 4, {})])


def test_four_ranks_of_which_some_lack_a_sensor_give_the_gradients_of_one() -> None:
    assert_as_one(4, [("nt_xent", 2, UNEVEN)])


@pytest.mark.slow
def test_every_way_gives_the_gradients_of_one() -> None:
    assert_as_one(2, WAYS)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4])
def test_more_ranks_give_the_gradients_of_one(size: int) -> None:
    """Each objective by itself, whole and with cached gradients, whatever sensors a rank has."""
    assert_as_one(size, [(name, micro, ways) for name in CASES for micro in (None, 2) for ways in ({}, UNEVEN)])


STEPS = ("steps=8", "checkpoint.every=4", "monitor.every=4", "monitor.max_samples=32", "ema.decay=0.9")


@pytest.mark.slow
def test_a_run_goes_on_with_the_other_strategy_and_other_ranks(tmp_path: Path) -> None:
    """Two ranks in parts, killed; one rank whole goes on from their checkpoint as if it had been alone all along."""
    shards = make_shards(tmp_path)
    codes, text = run(tmp_path / "one", shards, *STEPS)
    assert codes == [0], text
    out = tmp_path / "two"
    codes, text = run(
        out, shards, *STEPS, "checkpoint.beside=false", "parallel=fsdp2", faults="data.read:kill@step=6", world=2
    )
    assert codes == [-9, -9], text
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *STEPS)])
    assert job.wait() == [0], job.text
    assert "step-00000004" in job.text
    for key in ("loss", "grad_norm", "lr"):
        found, wanted = ([row[key] for row in metrics(each)] for each in (out, tmp_path / "one"))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, err_msg=key)


@pytest.mark.slow
def test_a_run_that_was_whole_goes_on_in_parts(tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    codes, text = run(tmp_path / "one", shards, *STEPS)
    assert codes == [0], text
    out = tmp_path / "two"
    codes, text = run(out, shards, *STEPS, "checkpoint.beside=false", faults="data.read:kill@step=6")
    assert codes == [-9], text
    job = launch(
        tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *STEPS, "parallel=fsdp2")], world=2
    )
    assert job.wait() == [0, 0], job.text
    found, wanted = ([row["loss"] for row in metrics(each)] for each in (out, tmp_path / "one"))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("override", "key"),
    [("sync=ds_sync", "sync"), ("sync=local_sgd", "sync"), ("model.compile=true", "model.compile"),
     ("model={backbone: timm:resnet10t}", "model.backbone")],
)  # fmt: skip
def test_what_needs_whole_parameters_is_refused(tmp_path: Path, override: str, key: str) -> None:
    with pytest.raises(UsageError, match=rf"{key} .*leave it out with parallel.strategy=fsdp2"):
        debug_config(tmp_path / "run", ["shards"], "parallel=fsdp2", override)
