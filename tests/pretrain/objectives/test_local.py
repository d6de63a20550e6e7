"""NT-Xent between places: partners against a slow search through every flip and turn, loss against a plain form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.config import PretrainConfig
from pretrain.objectives.base import MicroBatch, Surroundings
from pretrain.objectives.config import LocalConfig
from pretrain.objectives.local import Local, local_nt_xent, same_places, token_places
from pretrain.objectives.registry import make_objectives
from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import Pairs
from pretrain.step import PretrainStep
from pretrain.views.config import ViewConfig
from pretrain.views.view import plan_crop
from specfm import create_encoder
from specfm.batch import Batch
from specfm.engine.distributed import World
from specfm.errors import UsageError
from tests.pretrain.samples import part, random_batch, sensor_of

CPU = torch.device("cpu")


def micro_batch(batch: Batch, views: ViewConfig, patch: int, step: int = 0) -> MicroBatch:
    encoder = create_encoder("nano", patch_size=patch, dim=24, depth=1, heads=2)
    return MicroBatch(Pairs.of(batch), encoder, Surroundings(24, patch, views, 0, PairsConfig(), encoder), step, 1.0)


def numbered(count: int, side: tuple[int, int]) -> Batch:
    """Windows in which every pixel of a scene has a value of its own."""
    rows, cols = torch.meshgrid(torch.arange(side[0]), torch.arange(side[1]), indexing="ij")
    origin_B2 = torch.stack([torch.arange(count) * 40, torch.arange(count) * 7], 1)
    x_BHWC = (rows[None] + origin_B2[:, :1, None]) * 1000.0 + cols[None] + origin_B2[:, 1:, None]
    return Batch((part(x_BHWC[..., None].expand(-1, -1, -1, 3).clone(), sensor_of(500, 700, 3), origin_B2=origin_B2),))


@pytest.mark.parametrize(
    ("side", "crop", "patch"), [((12, 12), 9, 3), ((13, 13), 8, 3), ((16, 16), 12, 4), ((10, 14), None, 2)]
)
def test_partners_are_those_a_slow_search_through_pixels_finds(
    side: tuple[int, int], crop: int | None, patch: int
) -> None:
    """40 samples: all eight flips and turns of either crop come up."""
    views = ViewConfig(crop=crop, min_overlap=0.3)
    batch = numbered(40, side)
    asked = micro_batch(batch, views, patch)
    seen = [plan_crop(batch.parts[0], views, 0, 0, view, 1.0).crop(batch.parts[0].x_BHWC[..., 0]) for view in (0, 1)]
    if side[0] == side[1]:
        drawn = torch.cat(seen).long()  # steps along the crop's own axes tell how it was turned and flipped
        turns = torch.stack([drawn[:, 0, 1] - drawn[:, 0, 0], drawn[:, 1, 0] - drawn[:, 0, 0]], 1)
        assert len(turns.unique(dim=0)) == 8

    high, wide = -(-seen[0].shape[1] // patch), -(-seen[0].shape[2] // patch)
    tokens = high * wide

    def centres(x_hw: Tensor) -> list[tuple[float, float]]:
        cut = [x_hw[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch] for r in range(high) for c in range(wide)]
        return [(float((v // 1000).mean()), float((v % 1000).mean())) for v in cut]

    places = torch.cat([token_places(asked, name, tokens) for name in ("first", "second")], 1)
    exists = torch.rand(40, 2 * tokens, generator=torch.Generator().manual_seed(1)) > 0.1
    partner, found = same_places(places, exists, patch)
    pairs = 0
    for b in range(40):
        wanted = [centres(x[b]) for x in seen]
        torch.testing.assert_close(places[b], torch.tensor(wanted[0] + wanted[1]))
        for t, (row, col) in enumerate(wanted[0] + wanted[1]):
            other = range(tokens, 2 * tokens) if t < tokens else range(tokens)
            best, least = None, float("inf")
            for s in other:
                r, c = (wanted[0] + wanted[1])[s]
                away = (row - r) ** 2 + (col - c) ** 2
                near = max(abs(row - r), abs(col - c)) <= patch / 2
                if exists[b, t] and exists[b, s] and near and away < least - 1e-9:
                    best, least = s, away
            assert bool(found[b, t]) == (best is not None)
            if best is not None:
                chosen = (wanted[0] + wanted[1])[int(partner[b, t])]
                assert (row - chosen[0]) ** 2 + (col - chosen[1]) ** 2 == pytest.approx(least)  # of equals, any
                pairs += 1
    assert pairs > 40 * tokens / 2


def test_views_in_place_pair_every_token_with_itself() -> None:
    views = ViewConfig(crop=9, dihedral=False, min_overlap=1.0)
    places = torch.cat(
        [token_places(micro_batch(numbered(4, (12, 12)), views, 3), v, 9) for v in ("first", "second")], 1
    )
    partner, found = same_places(places, torch.ones(4, 18, dtype=torch.bool), 3)
    assert found.all() and (partner == torch.arange(18).roll(9)).all()


def plain(z: Tensor, centre: Tensor, exists: Tensor, patch: int, temperature: float) -> Tensor:
    """One sample, one anchor and one negative at a time."""
    partner, found = same_places(centre[None], exists[None], patch)
    losses = []
    for t in range(len(z)):
        if not found[0, t]:
            continue
        positive = F.cosine_similarity(z[t], z[partner[0, t]], dim=0) / temperature
        logits = [positive]
        for s in range(len(z)):
            if exists[s] and s != partner[0, t] and (centre[t] - centre[s]).abs().max() >= patch:
                logits.append(F.cosine_similarity(z[t], z[s], dim=0) / temperature)
        losses.append(torch.stack(logits).logsumexp(0) - positive)
    return torch.stack(losses).mean() if losses else z.sum() * 0


def test_value_and_gradient_against_the_plain_form() -> None:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(5, 18, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    grid = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"), -1).flatten(0, 1) * 3.0
    shift = torch.tensor([[0.0, 0.0], [1.0, -1.0], [3.0, 1.0], [6.0, 5.0], [30.0, 0.0]])
    centre = torch.cat([grid.expand(5, -1, -1), grid.flip(0) + shift[:, None]], 1)
    exists = torch.rand(5, 18, generator=generator) > 0.2
    loss, figures = local_nt_xent(z, centre, exists, 3, 0.2)
    wanted = torch.stack([plain(z[b], centre[b], exists[b], 3, 0.2) for b in range(5)])
    torch.testing.assert_close(loss, wanted)
    assert loss[4] == 0 and figures["paired"][4] == 0 and (loss[:3] > 0.5).all()
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)
    ours, other = (torch.autograd.grad((v * weight).sum(), z)[0] for v in (loss, wanted))
    torch.testing.assert_close(ours, other)


def test_the_loss_is_small_where_places_are_told_apart_and_what_is_masked_has_no_influence() -> None:
    centre = torch.tensor([[0.0, 0.0], [0.0, 3.0], [3.0, 0.0], [3.0, 3.0]]).repeat(2, 1)[None]
    z = (torch.eye(4) + 0.0).repeat(2, 1)[None].requires_grad_()
    exists = torch.ones(1, 8, dtype=torch.bool)
    assert local_nt_xent(z, centre, exists, 3, 0.05)[0].item() < 1e-6
    swapped = z[:, [0, 1, 2, 3, 1, 0, 3, 2]]
    assert local_nt_xent(swapped, centre, exists, 3, 0.05)[0].item() > 10
    exists[0, 2] = False
    grad = torch.autograd.grad(local_nt_xent(swapped, centre, exists, 3, 0.2)[0].sum(), swapped)[0]
    assert grad[0, 2].abs().max() == 0 < grad[0, 3].abs().max()


def step_with(weights: dict[str, float]) -> dict[str, Tensor]:
    config = PretrainConfig.model_validate(
        {
            "out": "-",
            "data": {"shards": "-"},
            "views": {"crop": 6},
            "objective": {name: {"weight": weight} for name, weight in weights.items()},
        }
    )
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=2, dim=24, depth=1, heads=2)
    torch.manual_seed(1)
    around = Surroundings(24, 2, config.views, 0, config.pairs, encoder)
    objectives = make_objectives(config.objective.chosen(), around)
    result = PretrainStep(encoder, objectives, config, World(0, 1, CPU))(0, Pairs.of(random_batch(4)))
    gradients = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
    return {"loss": result.loss, "gradients": gradients, **{k: torch.tensor(v) for k, v in result.scalars.items()}}


def test_the_weights_of_the_combined_loss_act() -> None:
    both, more = step_with({"nt_xent": 1.0, "local": 1.0}), step_with({"nt_xent": 1.0, "local": 3.0})
    for one in (both, more):
        assert one["nt_xent"] > 0 and one["local"] > 0
    torch.testing.assert_close(both["loss"], both["nt_xent"] + both["local"])
    torch.testing.assert_close(more["loss"], more["nt_xent"] + 3 * more["local"])
    alone = step_with({"nt_xent": 1.0, "local": 0.0})
    torch.testing.assert_close(alone["loss"], both["nt_xent"])
    # gradients are linear in the weights
    torch.testing.assert_close(
        more["gradients"], alone["gradients"] + 3 * (both["gradients"] - alone["gradients"]), rtol=1e-3, atol=1e-5
    )
    assert (both["gradients"] - alone["gradients"]).norm() > 0.01 * alone["gradients"].norm()


@pytest.mark.parametrize("pairs", [PairsConfig(kind="nearest_elsewhere"), PairsConfig(kind="same_object")])
def test_pairs_of_other_places_are_refused(pairs: PairsConfig) -> None:
    encoder = create_encoder("nano", patch_size=3, dim=24, depth=1, heads=2)
    with pytest.raises(UsageError, match=f"kind={pairs.kind} does not give it.*set pairs.kind=views"):
        Local(LocalConfig(), Surroundings(24, 3, ViewConfig(), 0, pairs, encoder))
    same = PairsConfig(kind="same_object", same_place=True)
    Local(LocalConfig(), Surroundings(24, 3, ViewConfig(), 0, same, encoder))
