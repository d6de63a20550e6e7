"""Masked prediction in a teacher's features: what either side sees, the loss against a plain form, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.objectives.base import MicroBatch, Surroundings
from pretrain.objectives.config import LatentConfig, PredictorConfig
from pretrain.objectives.latent import Latent
from pretrain.objectives.masking import split_patches
from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import Pairs
from pretrain.rng import Keys
from pretrain.views.config import ViewConfig
from pretrain.views.view import crop_part, plan_crop
from specfm import UsageError, create_encoder
from specfm.batch import Batch
from specfm.models.encoder import Encoder
from tests.pretrain.samples import random_batch

STEP, SIDE = 4, 3
PREDICTOR = PredictorConfig(width=24, depth=1, heads=2)


def made(views: ViewConfig | None = None, pairs: PairsConfig | None = None, **settings: Any) -> tuple[Latent, Encoder]:
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=SIDE, dim=24, depth=3, heads=2)
    around = Surroundings(24, SIDE, views or ViewConfig(crop=9), 0, pairs or PairsConfig(), encoder)
    objective = Latent(LatentConfig.model_validate({"predictor": PREDICTOR, **settings}), around)
    with torch.no_grad():  # a teacher that is not the student
        for parameter in objective.teacher.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return objective, encoder


def asked(objective: Latent, encoder: Encoder, batch: Batch) -> MicroBatch:
    return MicroBatch(Pairs.of(batch), encoder, objective.around, STEP, 1.0)


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_loss_is_its_formula_one_sample_at_a_time(blocks: int) -> None:
    batch = random_batch(3, side=10)
    objective, encoder = made(target="view", blocks=blocks, beta=0.5)
    part = asked(objective, encoder, batch)
    loss, figures = objective.separate(part)
    losses, variances = [], []
    for view, name in enumerate(("first", "second")):
        for one in part.views[name]:
            keep_BK, hidden_BM = split_patches(
                Keys.of(one.sample_id_B, 0, STEP, view), torch.ones(len(one), 9, dtype=torch.bool), 0.6
            )
            assert hidden_BM.shape[1] == 5
            for b in range(len(one)):
                alone = Batch((one.select(torch.tensor([b])),))
                with torch.no_grad():
                    layers = objective.teacher.get_intermediate_layers(alone, n=blocks, norm=False)
                    target_ND = sum(F.layer_norm(each.tokens_BND[0], (24,)) for each in layers) / blocks
                single = alone.parts[0]
                seen = encoder(single.x_BHWC, single.bands, single.mask_BHW, keep_BK=keep_BK[b : b + 1])
                z_ND = objective.predictor.mask_token[0].expand(9, -1).clone()
                z_ND[keep_BK[b]] = objective.predictor.embed(seen.tokens_BND[0])
                rows = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"), -1).view(1, 9, 2)
                z_1ND = (z_ND + encoder.positions(rows, (3, 3), single.bands.gsd_m_G, 24)[0])[None]
                for block in objective.predictor.blocks:
                    z_1ND = block(z_1ND)
                predicted_ND = objective.predictor.readout(objective.predictor.norm(z_1ND))[0]
                apart = (predicted_ND - target_ND)[hidden_BM[b]].abs()
                losses.append(torch.where(apart < 0.5, apart**2, apart - 0.25).mean())  # beta .5: x^2, then |x| - .25
                variances.append(target_ND.var(0, unbiased=False).mean())
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    torch.testing.assert_close(figures["latent/target_variance"], torch.stack(variances).mean())


def test_gradients_reach_student_and_predictor_and_not_the_teacher() -> None:
    objective, encoder = made()
    objective.separate(asked(objective, encoder, random_batch(3, side=10)))[0].backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert encoder.blocks[0].mlp.fc1.weight.grad.abs().max() > 0
    assert objective.predictor.mask_token.grad.abs().max() > 0


def test_what_is_hidden_does_not_reach_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    views = ViewConfig(crop=None, dihedral=False, noise=0.0)
    objective, encoder = made(views=views)
    batch = random_batch(3)
    fixed = objective.targets(asked(objective, encoder, batch), 0)
    monkeypatch.setattr(objective, "targets", lambda part, view: fixed)
    before = objective._of_view(asked(objective, encoder, batch), 0, "first")[0]

    def spoil(shown: bool) -> Batch:
        parts = []
        for one in batch:
            keep_BK, _ = split_patches(
                Keys.of(one.sample_id_B, 0, STEP, 0), torch.ones(len(one), 9, dtype=torch.bool), 0.6
            )
            visible_BN = torch.zeros(len(one), 9, dtype=torch.bool).scatter(1, keep_BK, True)
            cell = torch.arange(9) // SIDE
            visible_BHW = visible_BN.view(-1, 3, 3)[:, cell][:, :, cell]
            change_BHW1 = (visible_BHW if shown else ~visible_BHW)[..., None]
            x_BHWC = one.x_BHWC.float()
            moved = torch.where(change_BHW1, (x_BHWC / 2 + 700).round(), x_BHWC)
            parts.append(one.replace(x_BHWC=moved.to(one.x_BHWC.dtype)))
        return Batch(tuple(parts))

    for shown in (False, True):
        after = objective._of_view(asked(objective, encoder, spoil(shown)), 0, "first")[0]
        assert torch.equal(after, before) != shown


def teacher_on(objective: Latent, x_BHWC: Tensor, bands: Any, mask_BHW: Tensor) -> Tensor:
    with torch.no_grad():
        found = objective.teacher.get_intermediate_layers(x_BHWC, bands, mask_BHW, n=1, norm=False)[0]
    return F.layer_norm(found.tokens_BND, (24,))


def test_the_full_target_is_the_crop_with_all_bands_as_they_are() -> None:
    views = ViewConfig(preset="strong", crop=9)
    objective, encoder = made(views=views, target="full")
    batch = random_batch(3, side=12)
    found, there = objective.targets(asked(objective, encoder, batch), 1)
    wanted = []
    for one in batch:
        x_BhwC, mask_Bhw = crop_part(one, plan_crop(one, views, 0, STEP, 1, 1.0))
        wanted.append(teacher_on(objective, x_BhwC, one.bands, mask_Bhw))
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-4, atol=1e-4)
    assert there.all()
    seen = made(views=views, target="view")[0].targets(asked(objective, encoder, batch), 1)[0]
    assert (seen - found).abs().mean() > 0.01


def test_the_other_views_targets_are_taken_where_both_show_the_place() -> None:
    """Crops in place: the other view's token of the same index, however either view was changed."""
    views = ViewConfig(crop=9, dihedral=False, min_overlap=1.0, keep_low=0.5)
    objective, encoder = made(views=views, target="other")
    part = asked(objective, encoder, random_batch(3, side=12))
    exists = torch.ones(6, 9, dtype=torch.bool)
    target, there = objective.targets(part, 0)
    second = torch.cat([teacher_on(objective, p.x_BHWC, p.bands, p.mask_BHW) for p in part.views["second"]])
    torch.testing.assert_close(target, second)
    moved, found = objective._at_places(part, "first", exists, target, there)
    assert found.all() and torch.equal(moved, target)

    views = ViewConfig(crop=9, min_overlap=0.3, keep_low=0.5)
    objective, encoder = made(views=views, target="other")
    part = asked(objective, encoder, random_batch(20, side=13))
    target, there = objective.targets(part, 0)
    moved, found = objective._at_places(part, "first", torch.ones(40, 9, dtype=torch.bool), target, there)
    assert 0.3 < found.float().mean() < 1
    loss, _ = objective.separate(part)
    assert loss.isfinite()


def test_masked_pixels_and_empty_windows_are_no_target() -> None:
    objective, encoder = made(views=ViewConfig(crop=None, dihedral=False), target="view")
    batch = random_batch(3)
    masks = [torch.ones(3, 9, 9, dtype=torch.bool) for _ in batch]
    masks[0][0] = False  # nothing valid at all
    masks[1][:, :, :3] = False
    parts = []
    for one, mask in zip(batch, masks, strict=True):
        x_BHWC = one.x_BHWC.float().masked_fill(~mask[..., None], torch.nan)
        parts.append(one.replace(x_BHWC=x_BHWC, mask_BHW=mask))
    holed = Batch(tuple(parts))
    loss, figures = objective.separate(asked(objective, encoder, holed))
    loss.backward()
    assert loss.isfinite() and figures["latent/target_variance"].isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def test_a_collapsed_teacher_shows_in_the_variance_of_its_targets() -> None:
    objective, encoder = made(target="view")
    part = asked(objective, encoder, random_batch(3, side=10))
    healthy = objective.separate(part)[1]["latent/target_variance"]
    with torch.no_grad():
        for block in objective.teacher.blocks:
            block.mlp.fc2.bias += 1e4 * torch.linspace(-1, 1, 24)
    collapsed = objective.separate(part)[1]["latent/target_variance"]
    assert collapsed < 1e-3 * healthy


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="blocks 4 is more than the encoder's 3 blocks"):
        made(blocks=4)
    with pytest.raises(UsageError, match="objective.latent.target=other compares places"):
        made(pairs=PairsConfig(kind="nearest_elsewhere"), target="other")
    with pytest.raises(ValueError, match="not a multiple of its 5 heads"):
        PredictorConfig(width=24, heads=5)
