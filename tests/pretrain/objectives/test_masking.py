"""What masked modelling hides, and that it follows from the sample alone.

Shapes: B samples, N tokens, C bands.
"""

from __future__ import annotations

import pytest
import torch

from pretrain.objectives.masking import band_places, hidden_ranges, inside_window, split_patches
from pretrain.rng import Keys
from specfm.bands import BandGrid
from specfm.batch import BandTensors

KEYS = Keys.of(torch.arange(400), 0, 7, 0)


def bands_of(*grids: BandGrid) -> BandTensors:
    return BandTensors.from_sensors(list(grids))


COMB = BandGrid([*range(400, 1000, 10)], [10.0] * 60)


@pytest.mark.parametrize(("ratio", "visible"), [(0.75, 4), (0.5, 8), (0.01, 15), (0.99, 1)])
def test_patches_are_split_by_the_ratio(ratio: float, visible: int) -> None:
    keep, masked = split_patches(KEYS, torch.ones(400, 16, dtype=torch.bool), ratio)
    assert keep.shape == (400, visible) and masked.shape == (400, 16 - visible)
    assert torch.equal(torch.cat([keep, masked], 1).sort(1).values, torch.arange(16).expand(400, -1))
    counts = torch.bincount(keep.flatten(), minlength=16) / 400
    assert (counts - visible / 16).abs().max() < 0.09  # every place alike


def test_a_sample_with_a_valid_pixel_keeps_a_token_that_has_one() -> None:
    exists = torch.zeros(400, 16, dtype=torch.bool)
    exists[torch.arange(399), torch.arange(399) % 16] = True
    keep, _ = split_patches(KEYS, exists, 0.75)
    assert exists.gather(1, keep).any(1)[:-1].all()


def test_choices_do_not_depend_on_the_batch() -> None:
    exists, bands = torch.ones(400, 9, dtype=torch.bool), bands_of(*[COMB] * 400)
    some = Keys(KEYS.key_B[30:40])
    few = bands.select(torch.arange(30, 40))
    assert torch.equal(split_patches(some, exists[30:40], 0.75)[0], split_patches(KEYS, exists, 0.75)[0][30:40])
    assert torch.equal(hidden_ranges(some, few, 0.3, 2), hidden_ranges(KEYS, bands, 0.3, 2)[30:40])
    assert torch.equal(inside_window(some, few, 0.5), inside_window(KEYS, bands, 0.5)[30:40])


def test_places_are_shares_of_the_covered_axis_in_any_order() -> None:
    shuffled = BandGrid([700, 500, 600, 2000], [10.0, 10, 10, 10], valid=[True, True, True, False])
    assert band_places(bands_of(shuffled))[0, :3].tolist() == pytest.approx([5 / 6, 1 / 6, 1 / 2])


@pytest.mark.parametrize("ranges", [1, 3])
def test_ranges_are_contiguous_and_hide_the_share(ranges: int) -> None:
    bands = bands_of(*[COMB] * 400)
    hidden = hidden_ranges(KEYS, bands, 0.3, ranges)
    assert hidden.double().mean() == pytest.approx(0.3, abs=0.01)
    starts = (hidden.int().diff(dim=1, prepend=torch.zeros(400, 1)) == 1).sum(1)
    assert starts.max() <= ranges and starts.float().mean() > 0.9 * ranges
    assert hidden.any(0).all() and not hidden.all(0).any()  # each band now and then
    assert not torch.equal(hidden[0], hidden[1])


def test_of_few_bands_one_is_hidden_and_one_is_not() -> None:
    two = BandGrid([500, 900], [10.0, 10.0])
    for share in (0.05, 0.5, 0.95):
        assert (hidden_ranges(KEYS, bands_of(*[two] * 400), share, 3).sum(1) == 1).all()
    assert not hidden_ranges(Keys(KEYS.key_B[:1]), bands_of(BandGrid([500], [10.0])), 0.5, 1).any()


def test_unusable_bands_are_neither_hidden_nor_inside() -> None:
    grid = BandGrid([*range(400, 1000, 10)], [10.0] * 60, valid=[i % 3 > 0 for i in range(60)])
    bands = bands_of(*[grid] * 400)
    assert not (hidden_ranges(KEYS, bands, 0.4, 2) & ~bands.valid_GC).any()
    assert not (inside_window(KEYS, bands, 0.4) & ~bands.valid_GC).any()


def test_windows_are_contiguous_and_of_the_share_and_whole_at_1() -> None:
    bands = bands_of(*[COMB] * 400)
    inside = inside_window(KEYS, bands, 0.5)
    assert ((inside.int().diff(dim=1, prepend=torch.zeros(400, 1)) == 1).sum(1) == 1).all()
    assert inside.double().mean() == pytest.approx(0.5, abs=0.01)
    assert (inside_window(KEYS, bands, 1e-6).sum(1) == 3).all()
    assert inside_window(KEYS, bands, 1.0).all()
