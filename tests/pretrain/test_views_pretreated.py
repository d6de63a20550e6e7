"""Pretreatment as a view: some samples as a laboratory would see them, the others as measured, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.views.config import ViewConfig
from pretrain.views.view import make_view
from specfm.bands import BandGrid
from specfm.batch import Batch
from specfm.config import build_config
from specfm.errors import UsageError
from specfm.pretreatment import pretreat_spectra
from tests.pretrain.samples import part, random_batch, sensor_of

PLAIN = {"keep_low": 1.0, "gain": 0.0, "tilt": 0.0, "noise": 0.0, "attribute_dropout": 0.0, "crop": 5}


def told(batch: Batch) -> Batch:
    """The same, of a known quantity."""
    known = [each.bands.replace(quantity_G=torch.zeros_like(each.bands.quantity_G)) for each in batch]
    return Batch(tuple(each.replace(bands=bands) for each, bands in zip(batch, known, strict=True)))


def view(batch: Batch, number: int = 0, strength: float = 1.0, **changes: object) -> Batch:
    return make_view(batch, ViewConfig(**{**PLAIN, **changes}), 3, 7, number, strength)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [("snv",), ("sg1:5",), ("continuum", "snv")])
def test_chosen_samples_are_what_the_package_makes_of_their_spectra(steps: tuple[str, ...]) -> None:
    batch = told(random_batch(8))
    plain, seen = view(batch), view(batch, pretreatment=steps, pretreatment_share=0.5)
    for before, after in zip(plain, seen, strict=True):
        bands, given = after.bands, before.bands.expand(len(after))
        treated_B = bands.quantity_G == -1
        assert 0 < int(treated_B.sum()) < len(after)
        for b in range(len(after)):
            if not treated_B[b]:
                assert torch.equal(before.x_BHWC[b], after.x_BHWC[b])
                assert torch.equal(bands.valid_GC[b], given.valid_GC[b])
                continue
            grid = BandGrid(given.wavelengths_nm_GC[b].numpy(), valid=given.valid_GC[b].numpy())
            spectra, left = pretreat_spectra(before.x_BHWC[b].flatten(0, 1).numpy(), grid, steps)
            np.testing.assert_array_equal(bands.valid_GC[b].numpy(), left.valid)
            found = after.x_BHWC[b].flatten(0, 1).numpy()
            np.testing.assert_allclose(found[:, left.valid], spectra[:, left.valid], rtol=1e-6, atol=1e-9)
            assert not found[:, ~left.valid].any()


def test_draws_hang_on_the_sample_and_the_view_alone() -> None:
    batch = told(random_batch(8))
    words = {"pretreatment": ("snv",), "pretreatment_share": 0.5}
    whole, some = view(batch, **words), view(batch.select(2, 5), **words)
    assert torch.equal(whole.parts[0].x_BHWC[2:5], some.parts[0].x_BHWC)
    other = view(batch, number=1, **words)
    assert not torch.equal(whole.parts[0].bands.quantity_G, other.parts[0].bands.quantity_G)


@pytest.mark.parametrize("words", [{"pretreatment_share": 0.0}, {"strength": 0.0}])
def test_a_share_or_strength_of_nothing_changes_nothing(words: dict[str, float]) -> None:
    batch, strength = random_batch(4), words.pop("strength", 1.0)
    plain, seen = view(batch, strength=strength), view(batch, strength=strength, pretreatment=("snv",), **words)
    assert all(torch.equal(a.x_BHWC, b.x_BHWC) for a, b in zip(plain, seen, strict=True))


def test_flat_spectra_are_masked_and_bands_without_neighbours_stay_as_measured() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 5, 5, 12, generator=generator)
    x[0, 2, 2] = 0.3
    batch = told(Batch((part(x, sensor_of(400, 900, 12)),)))
    (seen,) = view(batch, pretreatment=("snv",), pretreatment_share=1.0)
    assert int((~seen.mask_BHW[0]).sum()) == 1 and seen.mask_BHW[1].all()
    assert seen.x_BHWC.isfinite().all()
    three = told(Batch((part(x[..., :3], sensor_of(400, 900, 3)),)))
    (same,) = view(three, pretreatment=("sg2:40nm",), pretreatment_share=1.0)
    assert torch.equal(same.x_BHWC, view(three).parts[0].x_BHWC) and bool((same.bands.quantity_G != -1).all())


def test_a_step_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="unknown pretreatment 'msc'"):
        build_config({"pretreatment": ["msc"]}, ViewConfig, "the views")
