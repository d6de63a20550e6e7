"""Masked modelling: nothing hidden reaches a prediction, targets are what they say, the loss is its formula.

Shapes: B samples, N tokens, T tokens read, S bands read, C bands, P pixels of a patch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.objectives.base import MicroBatch, Surroundings
from pretrain.objectives.config import DecoderConfig, MaskedConfig
from pretrain.objectives.masked import Hidden, Masked, spectral_losses
from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import Pairs
from pretrain.views.config import ViewConfig
from pretrain.whiten import whiten_stem
from specfm import UsageError, create_encoder
from specfm.batch import Batch, BatchPart
from specfm.models.encoder import Encoder
from specfm.models.patches import cut_patches
from specfm.models.quadrature import quadrature_weights
from specfm.shards import ShardSet
from tests.pretrain.runs import make_shard
from tests.pretrain.samples import part, random_batch, sensor_of

SIDE, STEP = 3, 5
DECODER = DecoderConfig(width=16, depth=1, heads=2, rank=3, code_width=16)
VIEWS = ViewConfig(dihedral=False)


def encoder_of(**options: Any) -> Encoder:
    torch.manual_seed(0)
    return create_encoder("nano", patch_size=SIDE, **{"dim": 24, "depth": 1, "heads": 2, "rank": 2, **options})


def objective_of(encoder: Encoder, views: ViewConfig = VIEWS, **settings: Any) -> Masked:
    torch.manual_seed(1)
    around = Surroundings(encoder.num_features, SIDE, views, 0, PairsConfig(), encoder)
    return Masked(MaskedConfig.model_validate({"decoder": DECODER, **settings}), around)


def loss_of(objective: Masked, encoder: Encoder, batch: Batch, step: int = STEP) -> Tensor:
    return objective.separate(MicroBatch(Pairs.of(batch), encoder, objective.around, step, 1.0))[0]


def hidden_values(objective: Masked, one: BatchPart, hidden: Hidden) -> Tensor:
    """hidden_BNC: which (token, band) of the windows the encoder must not see."""
    shown_BC = hidden.shown.expand(len(one)).valid_GC
    visible_BN = torch.ones(len(one), 9, dtype=torch.bool)
    if hidden.keep_BK is not None:
        visible_BN = torch.zeros_like(visible_BN).scatter(1, hidden.keep_BK, True)
    return ~(visible_BN[..., None] & shown_BC[:, None])


def spoiled(one: BatchPart, hidden_BNC: Tensor) -> BatchPart:
    """Other numbers in hidden values of a 9 x 9 window."""
    rows = torch.arange(9) // SIDE * 3
    where_BHWC = hidden_BNC[:, rows[:, None] + torch.arange(9) // SIDE]
    other = one.x_BHWC.flip(0).float() * 3 + 50
    return one.replace(x_BHWC=torch.where(where_BHWC, other, one.x_BHWC.float()).to(one.x_BHWC.dtype))


@pytest.mark.parametrize("mask", ["patches", "ranges", "both"])
@pytest.mark.parametrize("level", ["patch", "sample"])
def test_predictions_do_not_change_when_what_is_hidden_changes(mask: str, level: str) -> None:
    """Not through content, level, or the decoder; while the targets, and with them the loss, do."""
    encoder = encoder_of(level=level)
    for part_ in (encoder.embedding.shift.mlp[-1], encoder.embedding.context):  # content starts at 0
        torch.nn.init.normal_(part_.weight)
    objective = objective_of(encoder, mask=mask, window_start=0.8, window_steps=100)
    batch = random_batch()
    hidden = [objective.hide(one, STEP, 1.0) for one in batch]
    changed = Batch(
        tuple(spoiled(one, hidden_values(objective, one, each)) for one, each in zip(batch, hidden, strict=True))
    )
    before, _ = objective.predict(encoder, hidden)
    after, _ = objective.predict(encoder, [objective.hide(one, STEP, 1.0) for one in changed])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert loss_of(objective, encoder, batch) != loss_of(objective, encoder, changed)
    seen = Batch(tuple(one.replace(x_BHWC=one.x_BHWC.flip(0)) for one in batch))  # and what is shown does count
    other, _ = objective.predict(encoder, [objective.hide(one, STEP, 1.0) for one in seen])
    assert not any(torch.allclose(a, b) for a, b in zip(before, other, strict=True))


def test_masked_first_equals_embed_then_mask_where_the_embedding_looks_at_each_patch_alone() -> None:
    encoder = encoder_of(level="none", content=False)
    objective = objective_of(encoder)
    one = random_batch().parts[0]
    hidden = objective.hide(one, STEP, 1.0)
    assert hidden.keep_BK is not None and hidden.keep_BK.shape[1] == 2
    first = encoder([encoder.prepare(hidden.x_BHWC, hidden.shown, hidden.mask_BHW, hidden.keep_BK)])
    then = encoder([encoder.prepare(hidden.x_BHWC, hidden.shown, hidden.mask_BHW)], then_keep=[hidden.keep_BK])
    torch.testing.assert_close(first.tokens_BND, then.tokens_BND, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", ["patches", "ranges", "both"])
def test_all_that_is_hidden_is_read_and_nothing_else(mask: str) -> None:
    objective = objective_of(encoder_of(), mask=mask)
    for one in random_batch():
        hidden = objective.hide(one, STEP, 1.0)
        asked_BNC = torch.zeros(len(one), 9, one.bands.channels, dtype=torch.bool)
        asked_BNC.scatter_(1, hidden.read_BT[..., None].expand(-1, -1, one.bands.channels), hidden.weight_BTS > 0)
        assert torch.equal(asked_BNC, hidden_values(objective, one, hidden))
        total_BT = hidden.weight_BTS.sum(-1)
        assert torch.allclose(total_BT[total_BT > 0], torch.ones(()))


def test_a_part_of_the_bands_is_drawn_among_those_that_may_be_read() -> None:
    objective = objective_of(encoder_of(), mask="ranges", bands=4)
    one = random_batch().parts[0]
    hidden = objective.hide(one, STEP, 1.0)
    out_BC = ~hidden.shown.expand(len(one)).valid_GC
    assert hidden.bands_BS.shape == (6, 4) and out_BC.gather(1, hidden.bands_BS).all()
    assert not torch.equal(hidden.bands_BS, objective.hide(one, STEP + 1, 1.0).bands_BS)
    pred, _ = objective.predict(encoder_of(), [hidden])
    assert pred[0].shape == (6, 4, 9, SIDE**2)


def test_the_same_range_is_hidden_from_a_whole_part_where_bands_are_drawn_by_part() -> None:
    objective = objective_of(encoder_of(), VIEWS.model_copy(update={"band_draw": "part"}), mask="both")
    hidden = objective.hide(random_batch().parts[0], STEP, 1.0)
    assert len(hidden.shown) == 1 and not hidden.shown.valid_GC.all()


def test_the_window_widens() -> None:
    objective = objective_of(encoder_of(), window_start=0.3, window_steps=10)
    one = random_batch().parts[0]
    shares = [objective.hide(one, step, 1.0).shown.valid_GC.double().mean() for step in (0, 5, 10, 11)]
    assert shares[0] == pytest.approx(0.3, abs=0.04) and shares[1] == pytest.approx(0.65, abs=0.04)
    assert shares[2] == shares[3] == 1


def holes(one: BatchPart) -> BatchPart:
    """Its first sample without a valid pixel, of the others every fourth pixel gone."""
    mask = torch.ones(one.x_BHWC.shape[:3], dtype=torch.bool)
    mask[0] = False
    mask[1:, ::2, ::2] = False
    return one.replace(mask_BHW=mask)


@pytest.mark.parametrize("target", ["plain", "pixel", "patch"])
def test_targets(target: str) -> None:
    encoder = encoder_of(level="sample")
    objective = objective_of(encoder, target=target)
    one = holes(random_batch().parts[0])
    hidden = objective.hide(one, STEP, 1.0)
    _, (patches,) = objective.predict(encoder, [hidden])
    value_BSTP, pixel_BTP = objective.target(one, hidden, patches)
    weights_C = quadrature_weights(one.bands)[0].float()
    x_BNPC = cut_patches(one.x_BHWC.float() * 1e-4, SIDE)
    good_BNP = cut_patches(one.mask_BHW[..., None], SIDE)[..., 0]
    assert not pixel_BTP[0].any()
    for b, t in ((1, 0), (3, 4), (5, 6)):
        n = int(hidden.read_BT[b, t])
        good_P, x_PC = good_BNP[b, n], x_BNPC[b, n]
        assert torch.equal(pixel_BTP[b, t], good_P) and 0 < good_P.sum() < 9
        found_PC = value_BSTP[b, :, t].T[good_P]
        if target == "plain":
            seen = [x_BNPC[b, k][good_BNP[b, k]] for k in hidden.keep_BK[b]]
            wanted_PC = x_PC[good_P] / (torch.cat(seen) @ weights_C).mean()
        else:
            axis = 1 if target == "pixel" else (0, 1)
            w = weights_C.expand(int(good_P.sum()), -1)
            w = w / w.sum(axis, keepdim=True)
            centred = x_PC[good_P] - (w * x_PC[good_P]).sum(axis, keepdim=True)
            wanted_PC = centred / (w * centred.square()).sum(axis, keepdim=True).sqrt()
        torch.testing.assert_close(found_PC, wanted_PC, rtol=1e-4, atol=1e-4)


def scattered(folder: Path) -> ShardSet:
    """A shard of one material with noise in which one band is four times as noisy, its windows side by side."""
    rng = np.random.default_rng(0)
    from specfm.shards import ShardWriter

    sensor = sensor_of(420, 2400, 12, scale=1e-4)
    noise = np.where(np.arange(12) == 7, 80.0, 20.0)
    material = 2000 + 300 * np.sin(np.arange(12)) * rng.standard_normal((400, 1))
    x = material[:, None, None] + rng.standard_normal((400, 9, 9, 12)) * noise
    origin = np.stack(np.divmod(np.arange(400), 20), 1) * 3
    with ShardWriter(folder / "s.h5", (9, 9), sensor, "int16", "s", count=400, scene_names=("s",)) as shard:
        shard.add(x.astype(np.int16), origin=origin, scene_id=np.zeros(400, np.int64))
    return ShardSet([str(folder / "s.h5")])


def test_whitened_targets_are_in_units_of_the_acquisition(tmp_path: Path) -> None:
    """Away from the material's own direction the noisy band no longer stands out."""
    shards, encoder = scattered(tmp_path), encoder_of()
    objective = objective_of(encoder, target="whitened")
    objective.start(encoder, shards)
    reader = shards.readers[0]
    one = part(torch.from_numpy(reader.read(np.arange(300))[0]), reader.sensor)
    hidden = objective.hide(one, STEP, 1.0)
    _, (patches,) = objective.predict(encoder, [hidden])
    value_BSTP, _ = objective.target(one, hidden, patches)
    value_SM = value_BSTP.transpose(0, 1).flatten(1)
    plain = objective_of(encoder, target="plain").target(one, hidden, patches)[0].transpose(0, 1).flatten(1)
    assert float(value_SM.mean(1).abs().max()) < 0.2  # about the mean spectrum
    noise_S, plain_S = ((v - v.roll(9, 1)).std(1) for v in (value_SM, plain))
    assert plain_S.max() / plain_S.min() > 2.5 and noise_S.max() / noise_S.min() < 2.0
    assert torch.isfinite(loss_of(objective, encoder, Batch((one,))))


def test_the_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    pred, value = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    weight = torch.rand(2, 3, 5) * (torch.rand(2, 3, 5) < 0.7)
    weight[0, 1] = 0
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-9)
    pixel = torch.rand(2, 3, 4) < 0.8
    angle, charbonnier = spectral_losses(pred, value, weight, pixel, 1e-3)
    for b in range(2):
        angles, others = [], []
        for t in range(3):
            for p in range(4):
                if pixel[b, t, p] and weight[b, t].sum() > 0:
                    w, y, x = weight[b, t], pred[b, :, t, p], value[b, :, t, p]
                    angles.append(1 - (w * x * y).sum() / ((w * x * x).sum() * (w * y * y).sum()).sqrt())
                    others.append((w * (((x - y) ** 2 + 1e-6).sqrt() - 1e-3)).sum())
        assert float(angle[b]) == pytest.approx(float(torch.stack(angles).mean()), rel=1e-4)
        assert float(charbonnier[b]) == pytest.approx(float(torch.stack(others).mean()), rel=1e-4)
    dirty = torch.where(pixel[:, None], value, torch.nan)
    dirty = torch.where((weight > 0).transpose(1, 2)[..., None], dirty, torch.inf)
    again = spectral_losses(pred, dirty, weight, pixel, 1e-3)
    assert torch.equal(again[0], angle) and torch.equal(again[1], charbonnier)


@pytest.mark.parametrize("mask", ["patches", "ranges", "both"])
def test_gradients_are_finite_and_reach_every_parameter_of_the_decoder(mask: str) -> None:
    encoder = encoder_of()
    objective = objective_of(encoder, mask=mask)
    batch = Batch(tuple(holes(one) for one in random_batch()))
    loss_of(objective, encoder, batch).backward()
    for name, parameter in objective.decoder.named_parameters():
        unused = (name.startswith("meta.") and ("known" in name or "gsd" in name)) or name == "mask_token"
        if not unused or (name == "mask_token" and mask != "ranges"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert objective.decoder.readout.semantic[-1].weight.grad.abs().max() > 0
    assert encoder.blocks[0].attn.qkv.weight.grad.abs().max() > 0


def test_the_loss_falls_far_below_what_the_mean_spectrum_has() -> None:
    """Behind a whitened stem that is held, as in masked.yaml; without it the mean spectrum is a long plateau."""
    generator = torch.Generator().manual_seed(3)
    spectra = 2000 + 800 * torch.sin(torch.linspace(0, 6, 30) + 6 * torch.rand(24, 1, 1, 1, generator=generator))
    x_BHWC = spectra + 40 * torch.randn(24, 9, 9, 30, generator=generator)
    batch = Batch((part(x_BHWC.to(torch.int16), sensor_of(400, 2400, 30)),))
    encoder = encoder_of(dim=48, heads=3)
    whiten_stem(encoder, [batch], ViewConfig(crop=6, keep_low=1.0, gain=0.0, attribute_dropout=0.0), 0, 1e-5)
    objective = objective_of(encoder)
    held = [*encoder.embedding.parameters(), *encoder.stem.parameters()]
    for parameter in held:
        parameter.requires_grad_(False)
    trained = [p for p in [*encoder.parameters(), *objective.decoder.parameters()] if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, 3e-3)
    losses = []
    for step in range(50):
        optimiser.zero_grad()
        loss = loss_of(objective, encoder, batch, step)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.5 and np.mean(losses[-5:]) < 0.25


def test_refusals(tmp_path: Path) -> None:
    shards = ShardSet([str(make_shard(tmp_path / "a.h5", "alpha", 24, 12, 1))])
    encoder = encoder_of()
    with pytest.raises(UsageError, match=r"published reproduces SpecAware; set model.embedding=specaware"):
        objective_of(encoder, published=True).start(encoder, shards)
    with pytest.raises(UsageError, match="width 20 is not a multiple of its 3 heads"):
        objective_of(encoder, decoder={"width": 20, "heads": 3})
    control = create_encoder("nano", "specaware", SIDE, dim=24, depth=1, heads=2, image_size=9, rank=2)
    with pytest.raises(UsageError, match=r"reads all patches of a window.*published=true.*mask=ranges"):
        objective_of(control).start(control, shards)
    objective_of(control, mask="ranges").start(control, shards)
    with pytest.raises(UsageError, match=r"a.h5: fewer than 100 of its .*another objective.masked.target"):
        objective_of(encoder, target="whitened").start(encoder, shards)
