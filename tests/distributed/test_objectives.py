"""Every registered objective: results do not depend on micro-batch or number of ranks, gradients included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.config import PretrainConfig
from pretrain.objectives.base import MicroBatch, Objective, Rows, Surroundings
from pretrain.objectives.config import (
    BandPredictionConfig,
    DecoderConfig,
    LatentConfig,
    LocalConfig,
    MaskedConfig,
    NegativesConfig,
    NtXentConfig,
    PredictorConfig,
    TeacherConfig,
    VicRegConfig,
)
from pretrain.objectives.registry import OBJECTIVES, make_objectives
from pretrain.pairs.pairing import Pairs
from pretrain.step import PretrainStep
from specfm import create_encoder
from specfm.batch import Batch
from specfm.engine.distributed import World
from specfm.engine.parts import whole
from specfm.engine.sharded import Sharded
from specfm.engine.sync.all_reduce import AllReduce, Sync
from specfm.engine.sync.averaging import Averaging
from specfm.engine.sync.layouts import Layout, Periodic, RowsColumns
from tests.distributed.ranks import on_ranks
from tests.pretrain.samples import random_batch

WORLD, COUNT, STEP = 2, 6, 3  # samples of each of two sensors
CPU = torch.device("cpu")
# Settings with which each objective is asked; a new one needs a line here.
SETTINGS: dict[str, Any] = {
    "nt_xent": NtXentConfig(negatives=NegativesConfig(cosine=0.9, max_share=0.3)),
    "local": LocalConfig(weight=0.5),
    "vicreg": VicRegConfig(),
    "masked": MaskedConfig(
        mask="both",
        bands=9,
        window_start=0.6,
        window_steps=10,
        decoder=DecoderConfig(width=16, depth=1, heads=2, rank=3),
    ),
    "latent": LatentConfig(target="other", predictor=PredictorConfig(width=24, depth=1, heads=2)),
    "band_prediction": BandPredictionConfig(weight=0.7),
    "teacher": TeacherConfig(),
}


class Uneven(Objective):
    """Both parts, and a separate mean over items of which samples hold 0, 1 or 2: the hardest case of the interface."""

    weight = 0.3

    def __init__(self, around: Surroundings) -> None:
        self.head = nn.Linear(around.width, 4)
        self.heads = {"uneven": self.head}

    def rows(self, part: MicroBatch) -> Rows:
        return {"y_B4": self.head(part.features.pooled_BD[part.rows_of("second")])}

    def couple(self, rows: Rows, prepared: Pairs) -> tuple[torch.Tensor, dict[str, float]]:
        return rows["y_B4"].square().sum(1).mean(), {"uneven/first": 1.0}

    def items(self, pairs: Pairs) -> torch.Tensor:
        return pairs.first.cat("sample_id_B") % 3

    def separate(self, part: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        items_B = self.items(part.pairs)
        each_B = self.head(part.features.pooled_BD[part.rows_of("first")]).sum(1).cosh()
        mean = (each_B * items_B).sum() / items_B.sum().clamp_min(1)
        return mean, {"uneven/cosh": mean.detach()}

    def count(self, pairs: Pairs, step: int) -> int:
        return int(self.items(pairs).sum())


def objectives_of(name: str, around: Surroundings) -> dict[str, Objective]:
    if name == "uneven":
        return {"uneven": Uneven(around)}
    chosen = OBJECTIVES if name == "all" else [name]
    return make_objectives({each: SETTINGS[each] for each in chosen}, around)


def even(raw: Batch, world: World) -> Batch:
    """This rank's equal share of every part, as the loader deals them."""
    return Batch(tuple(p.select(torch.arange(len(p)).chunk(world.size)[world.rank]) for p in raw))


def uneven(raw: Batch, world: World) -> Batch:
    """As many samples as every rank has, of other sensors: part after part, so that most ranks lack one."""
    share = len(raw) // world.size
    return raw.select(world.rank * share, (world.rank + 1) * share)


def step_of(
    name: str, world: World, micro: int | None, raw: Batch | None = None, layout: Layout | None = None,
    sharded: bool = False, change: Callable[[nn.ModuleDict], Any] = lambda modules: None,
    share: Callable[[Batch, World], Batch] = even, **settings: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """One step on this rank's ``share``; by :class:`Averaging` where there is a ``layout``, by :class:`Sharded` where
    asked for. ``change`` is made to the modules first."""
    config = PretrainConfig.model_validate(
        {"out": "-", "data": {"shards": "-"}, "views": {"crop": 6}, "optim": {"micro_batch": micro}}
    )
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=3, dim=24, depth=1, heads=2)
    around = Surroundings(24, 3, config.views, config.seed, config.pairs, encoder)
    objectives = objectives_of(name, around)
    heads = {key: head for each in objectives.values() for key, head in each.heads.items()}
    modules = nn.ModuleDict({"encoder": encoder, **heads})
    mine = share(raw or random_batch(COUNT), world)
    change(modules)
    sync: Sync = AllReduce(world) if layout is None else Averaging(world, modules, layout, **settings)
    if sharded:
        sync = Sharded(world, modules, torch.optim.SGD(modules.parameters()), **settings)
    sync.ready()
    with sync.coupled(STEP):
        result = PretrainStep(encoder, objectives, config, world)(STEP, Pairs.of(mine))
    sync.gradients(modules.parameters())
    if isinstance(sync, Averaging):  # nothing has been summed yet
        loss = {"loss": result.loss.double().numpy()}
        return loss | {f"grad/{key}": p.grad.numpy() for key, p in modules.named_parameters() if p.grad is not None}
    numbers = {"loss": result.loss.double(), **{k: torch.tensor(v).double() for k, v in result.scalars.items()}}
    found = {key: (world.sum(value) / world.size).numpy() for key, value in sorted(numbers.items())}
    return found | {f"grad/{key}": whole(p.grad).numpy() for key, p in modules.named_parameters() if p.grad is not None}


CASES = [*SETTINGS, "all", "uneven"]


def worker(world: World, folder: str) -> None:
    for name in CASES:
        for micro in (None, 4):
            found = step_of(name, world, micro)
            if world.is_main:
                np.savez(Path(folder) / f"{name}-{micro}.npz", **found)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found; they are started once for the whole file."""
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(WORLD, worker, str(folder), seconds=120)
    return folder


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=2e-4, atol=2e-6, err_msg=key)


def test_every_registered_objective_is_asked() -> None:
    assert SETTINGS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("micro", [1, 5, 11])
@pytest.mark.parametrize("name", CASES)
def test_the_micro_batch_changes_nothing(name: str, micro: int) -> None:
    alone = World(0, 1, CPU)
    wanted = step_of(name, alone, None)
    assert max(np.abs(value).max() for key, value in wanted.items() if key.startswith("grad/encoder")) > 1e-3
    assert_same(step_of(name, alone, micro), wanted)


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("name", CASES)
def test_the_number_of_ranks_changes_nothing(ranks: Path, name: str, micro: int | None) -> None:
    assert_same(dict(np.load(ranks / f"{name}-{micro}.npz", allow_pickle=False)), step_of(name, World(0, 1, CPU), None))


MANY = 4  # of each sensor, per step of four ranks


def in_groups(world: World, name: str) -> dict[str, dict[str, np.ndarray]]:
    raw, rows = random_batch(2 * MANY), RowsColumns(4, 2)
    ways: dict[str, tuple[Layout, Any]] = {
        "group": (rows, "group"), "world": (rows, "world"), "own": (Periodic(4, 2), "group"),
    }  # fmt: skip
    return {
        f"{way}-{micro}": step_of(name, world, micro, raw, layout, negatives=negatives)
        for way, (layout, negatives) in ways.items()
        for micro in (None, 3)
    }


@pytest.mark.parametrize("name", ["nt_xent", "uneven", pytest.param("all", marks=pytest.mark.slow)])
def test_samples_meet_in_the_group_or_in_the_whole_world(name: str) -> None:
    """The mean of a group's own updates is that of one process with the samples of the group, for every objective."""
    ranks, raw = on_ranks(4, in_groups, name), random_batch(2 * MANY)
    meeting = {"group": [(0, 2), (1, 3)], "world": [(0, 1, 2, 3)], "own": [(0,), (1,), (2,), (3,)]}  # in step 3
    for way, groups in meeting.items():
        for group in groups:
            theirs = [torch.cat([torch.arange(len(p)).chunk(4)[rank] for rank in group]) for p in raw]
            share = Batch(tuple(p.select(each) for p, each in zip(raw, theirs, strict=True)))
            wanted = step_of(name, World(0, 1, CPU), None, share)
            for micro in (None, 3):
                found = [ranks[rank][f"{way}-{micro}"] for rank in group]
                mean = {key: np.mean([each[key] for each in found], 0) for key in found[0]}
                assert_same(mean, {key: value for key, value in wanted.items() if key in mean})
