"""NT-Xent over two gloo processes: against lightly's gathered loss, and against one process that holds everything."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from pretrain.objectives.collect import all_gather
from pretrain.objectives.config import NegativesConfig
from pretrain.objectives.negatives import FalseNegatives, build_rule
from pretrain.objectives.nt_xent import nt_xent
from pretrain.pairs.pairing import Pairs
from specfm.batch import Batch
from tests.pretrain.samples import part, sensor_of

WORLD, COUNT, WIDTH = 2, 24, 8
RULE = NegativesConfig(cosine=0.995, max_share=0.3)


def raw_batch() -> Batch:
    """Two sensors; spectra of few materials, so that some pairs are alike and some anchors reach the cap."""
    generator = torch.Generator().manual_seed(5)
    parts = []
    for first, (bands, sensor) in enumerate([(20, sensor_of(400, 1000, 20)), (31, sensor_of(400, 2400, 31))]):
        material = torch.rand(4, bands, generator=generator) + 0.1
        kind = torch.randint(0, 4, (COUNT // 2,), generator=generator)
        x = material[kind][:, None, None] + 0.05 * torch.rand(COUNT // 2, 3, 3, bands, generator=generator)
        parts.append(part(x, sensor, first_id=100 * first, instance_id_B=100 * first + torch.arange(COUNT // 2) // 2))
    return Batch(tuple(parts))


def share_of(batch: Batch, rank: int) -> Batch:
    """A rank's equal share of every part, as the loader deals them."""
    return Batch(tuple(p.select(torch.arange(len(p)).chunk(WORLD)[rank]) for p in batch))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x1, x2 = torch.randn(2, COUNT, 6, generator=generator)
    return x1, x1 + 0.3 * x2, torch.randn(6, WIDTH, generator=generator)


def order_of(rank: int) -> Tensor:
    """Places in the whole batch of the samples that a rank holds, in its order."""
    half = COUNT // 2
    return torch.cat([p * half + torch.arange(half).chunk(WORLD)[rank] for p in range(2)])


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    x1, x2, weight = inputs()
    mine = order_of(rank)
    results: dict[str, np.ndarray] = {}

    def run(name: str, loss_of: object) -> None:
        z1, z2 = ((x[mine] @ weight).requires_grad_() for x in (x1, x2))
        loss = loss_of(z1, z2)  # type: ignore[operator]
        results[f"{name}.loss"] = loss.detach().numpy()
        results[f"{name}.grad"] = torch.stack(torch.autograd.grad(loss, (z1, z2))).numpy()

    batch = share_of(raw_batch(), rank)
    rule = build_rule(Pairs.of(batch), RULE)
    assert isinstance(rule, FalseNegatives)
    results["stats"] = np.array(list(rule.stats.values()))
    results["weights"] = rule.pair(slice(0, COUNT), slice(0, COUNT))[0].numpy()
    results["gathered"] = all_gather(torch.tensor([rank == 1, True])).numpy()
    for tile in (8, 1024):
        run(f"plain{tile}", lambda a, b, tile=tile: nt_xent(a, b, 0.2, tile=tile)[0])
        run(f"rule{tile}", lambda a, b, tile=tile: nt_xent(a, b, 0.2, rule, tile=tile)[0])
    run("local", lambda a, b: nt_xent(a, b, 0.2, gather=False)[0])
    try:
        from lightly.loss import NTXentLoss
    except ImportError:
        pass
    else:
        run("lightly", NTXentLoss(0.2, gather_distributed=True))
    np.savez(Path(folder) / f"{rank}.npz", **results)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """What each of the two processes computed; they are started once for the whole file."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(folder)), nprocs=WORLD)
    return [dict(np.load(folder / f"{rank}.npz", allow_pickle=False)) for rank in range(WORLD)]


def alone(rule: FalseNegatives | None) -> tuple[float, np.ndarray]:
    """Loss and gradient of one process that holds the whole batch."""
    x1, x2, weight = inputs()
    z1, z2 = ((x @ weight).requires_grad_() for x in (x1, x2))
    loss = nt_xent(z1, z2, 0.2, rule)[0]
    return loss.item(), torch.stack(torch.autograd.grad(loss, (z1, z2))).numpy()


@pytest.mark.parametrize("tile", [8, 1024])
def test_same_as_lightly_gathered(ranks: list[dict[str, np.ndarray]], tile: int) -> None:
    if "lightly.loss" not in ranks[0]:
        pytest.skip("lightly is not installed")
    for found in ranks:
        np.testing.assert_allclose(found[f"plain{tile}.loss"], found["lightly.loss"], rtol=1e-6)
        np.testing.assert_allclose(found[f"plain{tile}.grad"], found["lightly.grad"], atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("tile", [8, 1024])
@pytest.mark.parametrize("name", ["plain", "rule"])
def test_two_processes_equal_one(ranks: list[dict[str, np.ndarray]], name: str, tile: int) -> None:
    loss, grad = alone(build_rule(Pairs.of(raw_batch()), RULE) if name == "rule" else None)
    key = f"{name}{tile}"
    np.testing.assert_allclose(np.mean([found[f"{key}.loss"] for found in ranks]), loss, rtol=1e-6)
    for rank, found in enumerate(ranks):
        # each rank's backward gives the gradient of the sum of losses; DDP divides by the world size
        np.testing.assert_allclose(found[f"{key}.grad"] / WORLD, grad[:, order_of(rank)], atol=1e-7, rtol=1e-4)


def test_negatives_come_from_the_other_rank_only_when_gathered(ranks: list[dict[str, np.ndarray]]) -> None:
    for found in ranks:
        assert found["local.loss"] < found["plain8.loss"] - 0.2


def test_the_rule_is_the_same_on_every_rank_and_alone(ranks: list[dict[str, np.ndarray]]) -> None:
    rule = build_rule(Pairs.of(raw_batch()), RULE)
    assert rule is not None
    order = torch.cat([order_of(rank) for rank in range(WORLD)])
    alone_weights = rule.pair(slice(0, COUNT), slice(0, COUNT))[0][order][:, order].numpy()
    assert 0.05 < (alone_weights == 0).mean() <= RULE.max_share
    for found in ranks:
        np.testing.assert_array_equal(found["weights"], alone_weights)
        np.testing.assert_allclose(found["stats"], list(rule.stats.values()), rtol=1e-12)


def test_masks_travel(ranks: list[dict[str, np.ndarray]]) -> None:
    for found in ranks:
        assert found["gathered"].tolist() == [False, True, True, True]
