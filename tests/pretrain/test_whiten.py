"""The stem's start: what changes between views of a sample, and between domains, is divided out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pretrain import setup
from pretrain.config import WhitenConfig
from pretrain.views.config import ViewConfig
from pretrain.views.view import make_view
from pretrain.whiten import whiten_stem
from specfm import Encoder, create_encoder
from specfm.batch import Batch
from tests.pretrain.runs import debug_config, make_shards
from tests.pretrain.samples import random_batch

VIEWS = ViewConfig(crop=9, dihedral=False)


def tokens(encoder: Encoder, batch: Batch, view: int) -> list[Tensor]:
    """Stem tokens of each part, in the views that :func:`whiten_stem` draws for its first batch."""
    parts = make_view(batch, VIEWS, 0, -1, view)
    return [encoder.stem(encoder.generated(encoder.prepare(p.x_BHWC, p.bands, p.mask_BHW))) for p in parts]


def noise_shares(encoder: Encoder, batch: Batch) -> Tensor:
    """Falling eigenvalues of the covariance of what changes between two views, as shares of their sum."""
    pairs = zip(tokens(encoder, batch, 0), tokens(encoder, batch, 1), strict=True)
    change_MD = torch.cat([(one - two).flatten(0, 1) for one, two in pairs]).double()
    values = torch.linalg.eigvalsh(change_MD.T @ change_MD).flip(0)
    return values / values.sum()


def test_keys_that_the_one_stem_of_a_run_is_made_without_are_named() -> None:
    given = {"shift": 2, "power": 0.5, "components": 8, "brightness": not WhitenConfig().brightness}
    assert WhitenConfig(batches=2, **given).only_later == list(given)
    assert WhitenConfig(batches=2).only_later == WhitenConfig(per="sensor", **given).only_later == []


@torch.no_grad()
def test_the_noise_between_views_becomes_white_and_samples_spread_by_one() -> None:
    torch.manual_seed(0)
    encoder, batch = create_encoder(patch_size=3), random_batch(64, side=12)
    before = noise_shares(encoder, batch)
    whiten_stem(encoder, [batch], VIEWS, 0, 1e-4)
    after = noise_shares(encoder, batch)
    assert float(after[:3].sum()) < 0.3 * float(before[:3].sum())
    pooled = [part.mean(1) for part in tokens(encoder, batch, 0)]
    assert float(torch.cat(pooled).mean(0).abs().max()) < 1e-2
    spread = torch.cat([part - part.mean(0) for part in pooled]).square().mean().sqrt()
    assert abs(float(spread) - 1) < 1e-2


@torch.no_grad()
def test_domains_no_longer_lie_far_apart() -> None:
    torch.manual_seed(0)
    encoder = create_encoder(patch_size=3)
    one, two = random_batch(64, side=12)
    batch = Batch((one, two.replace(domain_B=two.domain_B + 1)))

    def between_over_within() -> float:
        parts = [part.mean(1) for part in tokens(encoder, batch, 0)]
        middles = torch.stack([part.mean(0) for part in parts])
        within = torch.cat([part - part.mean(0) for part in parts]).square().sum(1).mean()
        return float((middles - middles.mean(0)).square().sum(1).mean() / within)

    before = between_over_within()
    whiten_stem(encoder, [batch], VIEWS, 0, 1e-5)
    assert between_over_within() < min(1.0, 0.1 * before)


@torch.no_grad()
def test_no_batch_leaves_the_stem_as_it_is() -> None:
    encoder = create_encoder(patch_size=3)
    whiten_stem(encoder, [], VIEWS, 0, 1e-4)
    assert torch.equal(encoder.stem.weight, torch.eye(encoder.num_features))


@pytest.mark.parametrize(("crop", "warned"), [(99, True), (3, False)])
def test_views_that_cannot_shift_are_pointed_out(
    crop: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = debug_config(tmp_path / "run", make_shards(tmp_path), "whiten.batches=1", f"views.crop={crop}")
    shards = setup.open_shards(config)
    setup.whiten(config, shards, setup.make_sampler(config, shards), setup.make_modules(config)[0])
    assert ("views are as wide as the windows" in caplog.text) == warned
