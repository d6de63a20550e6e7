"""Which negatives are called false, by each reason, under the cap, whatever the tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.objectives import negatives
from pretrain.objectives.config import NegativesConfig
from pretrain.objectives.descriptors import BINS, describe
from pretrain.objectives.negatives import FalseNegatives, build_rule
from pretrain.objectives.nt_xent import nt_xent
from pretrain.pairs.pairing import Nearness, Pairs
from specfm.bands import BandGrid
from specfm.batch import Batch
from specfm.sensors import Sensor
from tests.pretrain.samples import part, sensor_of

OFF = {"same_instance": False, "overlap": False, "spectral": False, "max_share": 1.0}


def excluded(batch: Batch, **settings: object) -> np.ndarray:
    """Matrix: anchor in the row, True where the column is no negative of it."""
    rule = FalseNegatives(Pairs.of(batch), NegativesConfig(**{**OFF, **settings}))  # type: ignore[arg-type]
    return (rule.pair(slice(0, len(batch)), slice(0, len(batch)))[0] == 0).numpy()


def noisy(count: int, side: int = 4, bands: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, side, side, bands, generator=torch.Generator().manual_seed(seed)) + 0.1


def test_same_instance_but_never_the_unknown_one_or_itself() -> None:
    batch = Batch((part(noisy(6), sensor_of(400, 900, 12), instance_id_B=torch.tensor([5, 5, -1, -1, 8, 5])),))
    found = excluded(batch, same_instance=True)
    assert {tuple(i) for i in np.argwhere(found)} == {(0, 1), (0, 5), (1, 0), (1, 5), (5, 0), (5, 1)}


def test_windows_that_share_a_pixel_of_one_scene() -> None:
    scene = torch.tensor([0, 0, 0, 0, 1])
    origin = torch.tensor([[0, 0], [3, 3], [4, 0], [0, 9], [0, 0]])  # windows of 4 x 4
    batch = Batch((part(noisy(5), sensor_of(400, 900, 12), scene_id_B=scene, origin_B2=origin),))
    found = excluded(batch, overlap=True)
    assert {tuple(i) for i in np.argwhere(found)} == {(0, 1), (1, 0), (1, 2), (2, 1)}


def test_windows_of_two_sizes_overlap_by_their_own_sizes() -> None:
    zero, far = torch.zeros(1, dtype=torch.int64), torch.tensor([[0, 6]])
    wide = part(noisy(1, side=8), sensor_of(400, 900, 12), scene_id_B=zero)
    small = part(noisy(1, side=2), sensor_of(400, 900, 12), first_id=9, scene_id_B=zero, origin_B2=far)
    assert excluded(Batch((wide, small)), overlap=True).tolist() == [[False, True], [True, False]]
    assert not excluded(Batch((small, small.replace(origin_B2=far + 2))), overlap=True).any()


def spectrum(kind: int, wavelengths: np.ndarray) -> np.ndarray:
    """Three smooth materials."""
    edge = 1 / (1 + np.exp(-(wavelengths - 700) / 30))
    return [0.1 + 0.4 * edge, 0.1 + wavelengths / 5000, 0.6 - wavelengths / 6000][kind]


def of_material(kinds: list[int], sensor: Sensor, first_id: int = 0, level: float = 1.0):  # type: ignore[no-untyped-def]
    stored = (
        np.stack([spectrum(k, sensor.bands.wavelengths_nm) for k in kinds]) * level - sensor.offset
    ) / sensor.scale
    x = torch.from_numpy(stored).float()[:, None, None].expand(-1, 3, 3, -1).contiguous()
    return part(x, sensor, first_id=first_id)


def test_spectra_are_compared_across_sensors_scales_and_levels() -> None:
    fine = of_material([0, 1, 2, 0], sensor_of(400, 1000, 120, scale=1e-4, offset=-0.02))
    coarse = of_material([0, 1, 2], sensor_of(450, 2400, 70, fwhm=30.0), first_id=50, level=7.0)
    batch = Batch((fine, coarse))
    kinds = np.array([0, 1, 2, 0, 0, 1, 2])
    wanted = (kinds[:, None] == kinds) & ~np.eye(7, dtype=bool)
    assert np.array_equal(excluded(batch, spectral=True, cosine=0.995), wanted)
    # values of one sensor beyond the other's range do not matter
    beyond = coarse.x_BHWC.clone()
    beyond[..., coarse.bands.wavelengths_nm_GC[0] > 1050] *= 50
    assert np.array_equal(
        excluded(Batch((fine, coarse.replace(x_BHWC=beyond))), spectral=True, cosine=0.995)[:4], wanted[:4]
    )


def test_without_enough_common_range_spectra_say_nothing() -> None:
    visible, infrared = sensor_of(400, 1000, 60), sensor_of(950, 1700, 60)
    batch = Batch((of_material([0, 0], visible), of_material([0, 0], infrared, first_id=9)))
    found = excluded(batch, spectral=True, cosine=0.9)
    assert found[0, 1] and found[2, 3] and not found[:2, 2:].any() and not found[2:, :2].any()
    assert excluded(batch, spectral=True, cosine=0.0, min_common_bins=1, min_common_share=0.01)[:2, 2:].all()


def test_descriptors_cover_what_the_sensor_covers_and_ignore_what_is_invalid() -> None:
    sensor = sensor_of(400, 1000, 61)
    base = of_material([0, 1], sensor)
    edges = 350.0 * 1.04 ** np.arange(BINS + 1)
    values, covered = describe(Batch((base,)))
    inside = (edges[:-1] > 395) & (edges[1:] < 1005)
    assert covered[0].numpy()[inside].all() and not covered[0].numpy()[(edges[1:] < 390) | (edges[:-1] > 1010)].any()
    centre = np.sqrt(edges[:-1] * edges[1:])
    wanted = spectrum(0, centre) * covered[0].numpy()
    np.testing.assert_allclose(values[0], wanted / np.linalg.norm(wanted), atol=0.01)
    dirty = base.x_BHWC.clone()
    dirty[:, 0, 0] = torch.nan
    dirty[:, 1, 1] = 1e6
    dirty[..., 7] = torch.inf
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[:, 1, 1] = False
    grid = BandGrid(sensor.bands.wavelengths_nm, sensor.bands.fwhm_nm, np.arange(61) != 7)
    again, left = describe(Batch((part(dirty, sensor.replace(bands=grid), mask_BHW=mask),)))
    assert (covered & ~left).sum() == 1 * 2  # the bin that the bad band half filled
    np.testing.assert_allclose(again, torch.where(left, values, 0.0), atol=0.005)
    nothing = part(dirty, sensor.replace(bands=grid), mask_BHW=torch.zeros_like(mask))
    assert (describe(Batch((nothing,)))[0] == 0).all()
    assert not excluded(Batch((nothing,)), spectral=True, cosine=-1.0).any()


@pytest.mark.parametrize("max_share", [0.0, 0.1, 0.5, 0.8])
def test_the_cap_keeps_the_most_certain_and_most_similar(max_share: float) -> None:
    wavelengths = np.linspace(400, 1000, 60)
    shape = np.stack([spectrum(0, wavelengths) + 0.004 * k * (wavelengths - 700) / 300 for k in range(21)])
    x = torch.from_numpy(shape).float()[:, None, None].expand(-1, 2, 2, -1).contiguous()
    instance = torch.arange(21)
    instance[20] = 0  # the least similar to sample 0, but known to be the same
    batch = Batch((part(x, sensor_of(400, 1000, 60), instance_id_B=instance),))
    found = excluded(batch, spectral=True, same_instance=True, cosine=0.9, max_share=max_share)
    allowed = int(max_share * 20)
    assert (found.sum(1) == allowed).all()  # everything qualifies, so every anchor is at its cap
    if allowed:
        assert set(np.flatnonzero(found[0])) == {20, *range(1, allowed)}
    rule = FalseNegatives(Pairs.of(batch), NegativesConfig(cosine=0.9, max_share=max_share, overlap=False))
    assert rule.stats["negatives/excluded"] == pytest.approx(allowed / 20)
    assert rule.stats["negatives/spectral"] == pytest.approx(1.0)
    assert rule.stats["negatives/same_instance"] == pytest.approx(2 / (21 * 20))
    assert rule.stats["negatives/capped"] == (1.0 if allowed else 0.0)


def test_the_cap_holds_for_identical_samples() -> None:
    batch = Batch((of_material([0] * 20, sensor_of(400, 1000, 60)),))
    assert (excluded(batch, spectral=True, max_share=0.5).sum(1) == 9).all()
    same = batch.parts[0].replace(instance_id_B=torch.zeros(20, dtype=torch.int64))
    assert (excluded(Batch((same,)), same_instance=True, max_share=0.5).sum(1) == 9).all()


@pytest.mark.parametrize("kept", [0, 60 * 60])
def test_any_tile_gives_the_same_weights_and_loss(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    sensors = sensor_of(400, 1000, 40), sensor_of(420, 2300, 50)
    kinds = [int(k) for k in torch.randint(0, 3, (60,), generator=generator)]
    parts = [of_material(kinds[:30], sensors[0]), of_material(kinds[30:], sensors[1], first_id=100)]
    parts = [p.replace(x_BHWC=p.x_BHWC * (1 + 0.02 * torch.rand(p.x_BHWC.shape, generator=generator))) for p in parts]
    batch, config = Batch(tuple(parts)), NegativesConfig(cosine=0.99, max_share=0.25)
    rule = build_rule(Pairs.of(batch), config)
    assert rule is not None
    by_row, by_col = rule.pair(slice(0, 60), slice(0, 60))
    assert torch.equal(by_row, by_col.T) and not torch.equal(by_row, by_row.T)
    part_row, part_col = rule.pair(slice(5, 17), slice(30, 60))
    assert torch.equal(part_row, by_row[5:17, 30:]) and torch.equal(part_col, by_col[5:17, 30:])
    monkeypatch.setattr(negatives, "_TILE", 7)
    monkeypatch.setattr(negatives, "_KEPT", kept)
    small = build_rule(Pairs.of(batch), config)
    assert small is not None and small.stats == pytest.approx(rule.stats)
    assert (small._kept is None) == (kept == 0)
    z1, z2 = torch.randn(2, 60, 8, generator=generator)
    torch.testing.assert_close(nt_xent(z1, z2, 0.1, small, tile=14)[0], nt_xent(z1, z2, 0.1, rule, tile=1024)[0])
    assert nt_xent(z1, z2, 0.1, rule)[0] < nt_xent(z1, z2, 0.1)[0]


def test_down_weighting_lies_between_excluding_and_nothing() -> None:
    batch = Batch((of_material([0, 0, 1, 1, 2, 2], sensor_of(400, 1000, 60)),))
    z1, z2 = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    rules = [NegativesConfig(mode="exclude"), NegativesConfig(mode="downweight", weight=0.3), None]
    low, middle, high = (
        float(nt_xent(z1, z2, 0.5, None if r is None else build_rule(Pairs.of(batch), r))[0]) for r in rules
    )
    assert low < middle < high
    rule = build_rule(Pairs.of(batch), NegativesConfig(mode="downweight", weight=0.3))
    assert rule is not None
    values = rule.pair(slice(0, 6), slice(0, 6))[0].unique().tolist()
    assert values == pytest.approx([0.3, 1.0])


def test_a_rule_that_could_touch_nothing_is_not_built() -> None:
    batch = Batch((of_material([0, 0], sensor_of(400, 1000, 60)),))
    assert build_rule(Pairs.of(batch), NegativesConfig(max_share=0.0)) is None
    assert build_rule(Pairs.of(batch), NegativesConfig(same_instance=False, overlap=False, spectral=False)) is None


def near_pairs(space: tuple[int, ...] = (0, 0, 0, 0, 0)) -> Pairs:
    """Five samples on a line; the partner of each lies a little beside it, that of the last beside the first."""
    batch = Batch((part(noisy(5), sensor_of(400, 900, 12), domain_B=torch.tensor([0, 0, 0, 1, 0])),))
    first = torch.tensor([[0.0], [1.0], [5.0], [5.5], [20.0]])
    second = torch.tensor([[0.1], [1.1], [5.1], [5.6], [0.2]])
    radius = torch.tensor([2.0, 0.5, 0.1, 0.1, 0.1])
    return Pairs(batch, Batch(batch.parts), Nearness(first, second, radius, torch.tensor(space)))


def test_what_is_as_near_as_a_partner_is_no_negative_on_either_side() -> None:
    every = slice(0, 5)
    rule = FalseNegatives(near_pairs(), NegativesConfig(**{**OFF, "near": True}))  # type: ignore[arg-type]
    found = (rule.pair(every, every)[0] == 0).numpy()
    assert {tuple(i) for i in np.argwhere(found)} == {(0, 1), (1, 0), (0, 4), (4, 0)}
    assert rule.stats["negatives/near"] == pytest.approx(4 / 20)
    assert build_rule(near_pairs(), NegativesConfig(**{**OFF, "near": False})) is None  # type: ignore[arg-type]


def test_distances_count_where_they_are_of_one_measure() -> None:
    every, config = slice(0, 5), NegativesConfig(**{**OFF, "near": True})  # type: ignore[arg-type]
    found = (FalseNegatives(near_pairs((0, 1, 0, 0, 0)), config).pair(every, every)[0] == 0).numpy()
    assert {tuple(i) for i in np.argwhere(found)} == {(0, 4), (4, 0)}
    pairs = near_pairs()
    assert pairs.nearness is not None
    pairs.nearness.first_BE[4] = pairs.nearness.second_BE[4] = torch.nan
    found = (FalseNegatives(pairs, config).pair(every, every)[0] == 0).numpy()
    assert {tuple(i) for i in np.argwhere(found)} == {(0, 1), (1, 0)}


def test_samples_of_other_domains_weigh_nothing_and_the_cap_counts_ones_own() -> None:
    every = slice(0, 5)
    settings = {**OFF, "near": True, "within": "domain", "max_share": 0.4}
    rule = FalseNegatives(near_pairs(), NegativesConfig(**settings))  # type: ignore[arg-type]
    by_row, by_col = rule.pair(every, every)
    own = torch.tensor([0, 0, 0, 1, 0])
    assert ((by_row == 0) | (own[:, None] == own)).all()
    assert torch.equal(by_row[3], torch.tensor([0.0, 0, 0, 1, 0]))  # its own positive stays
    assert (by_row[0] == 0).sum() == 2  # one of three of its domain is allowed to go (the nearer), and the other domain
    assert by_row[0, 4] == 0 and by_row[0, 1] == 1
    assert torch.equal(by_col, by_row.T)
