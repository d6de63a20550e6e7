"""A baked encoder answers as the one it was made of, and holds nothing that bands alone decide."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from specfm.deploy.bake import bake
from specfm.errors import SpecfmError
from specfm.library import Library
from specfm.models.embeddings import FixedEmbedding
from specfm.models.normaliser import KNOTS_NM
from specfm.models.stem import Acquisition, Stems
from tests.deploy.make import BACKBONES, BANDS, KINDS, PATCH, SENSOR, encoder, off, tiles


def both(made, sensor=SENSOR, level_B=None):
    x_BHWC, mask_BHW = tiles()
    with torch.no_grad():
        wanted = made(x_BHWC, sensor, mask_BHW, level_B=level_B)
        baked, known = bake(made, sensor)
        baked(x_BHWC, known.tensors(), mask_BHW, level_B=level_B)
        known.recording = False
        return baked(x_BHWC, known.tensors(), mask_BHW, level_B=level_B), wanted, baked, known


@pytest.mark.parametrize("kind", [*KINDS, *BACKBONES])
def test_answers_as_before(kind: str) -> None:
    made = encoder(kind)
    before = copy.deepcopy(made.state_dict())
    found, wanted, _, _ = both(made, level_B=torch.tensor([0.5, 0.6, 0.7]))
    assert off(found.tokens_BND, wanted.tokens_BND) < 1e-5 and off(found.pooled_BD, wanted.pooled_BD) < 1e-5
    assert torch.equal(found.token_mask_BN, wanted.token_mask_BN)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


@pytest.mark.parametrize("kind", ["hyper-metadata", "basis", "dofa", "fixed"])
def test_embedding_and_stem_become_one_matrix(kind: str) -> None:
    _, _, baked, known = both(encoder(kind))
    assert isinstance(baked.embedding, FixedEmbedding) and isinstance(baked.stem, torch.nn.Identity)
    assert baked.embedding.linear.weight.shape == (24, BANDS * PATCH**2)
    assert set(known._parts) == {"quadrature"}


def test_what_bands_decide_is_not_computed_again() -> None:
    made = encoder("hyper-light")
    _, _, baked, known = both(made)
    assert set(known._parts) == {"quadrature", "factors"}
    baked.embedding.meta = None  # nobody asks it
    x_BHWC, mask_BHW = tiles()
    assert torch.isfinite(baked(x_BHWC, known.tensors(), mask_BHW).pooled_BD).all()


def test_pixel_tokens_keep_their_own_stem() -> None:
    made = encoder("pixel-tokens")
    found, wanted, baked, _ = both(made)
    assert isinstance(baked.embedding, FixedEmbedding) and not isinstance(baked.stem, torch.nn.Identity)
    assert off(found.pixel_BQD, wanted.pixel_BQD) < 1e-5


def test_statistics_by_wavelength() -> None:
    made = encoder("hyper-light", normalise="band")
    with torch.no_grad():
        made.normaliser.mean_L.copy_(torch.linspace(0.2, 0.8, KNOTS_NM[2]))
        made.normaliser.fitted.fill_(True)
    found, wanted, _, known = both(made)
    assert off(found.tokens_BND, wanted.tokens_BND) < 1e-5 and "normaliser" in known._parts


@pytest.mark.parametrize("kind", ["hyper-light", "hyper-metadata"])
def test_stem_of_the_acquisition(kind: str) -> None:
    made = encoder(kind)
    torch.manual_seed(2)
    names = (Acquisition("a", "one"), Acquisition("b", "two"))
    made.stems = Stems(names, torch.randn(1, 2, 24, 24), torch.randn(1, 2, 24))
    two, one = (both(made, SENSOR.replace(name=name)) for name in ("two", "one"))
    for found, wanted, baked, _ in (two, one):
        assert off(found.tokens_BND, wanted.tokens_BND) < 1e-5
        assert not getattr(baked.stem, "acquisitions", ())
    assert off(two[0].tokens_BND, one[0].tokens_BND) > 0.1


@pytest.mark.parametrize("kind", ["hyper-light", "hyper-metadata"])
def test_map_between_sensors(kind: str) -> None:
    made = encoder(kind)
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.normal(size=(80, 140)), 1).astype(np.float32) * 0.02 + 0.5
    made.library = Library(440.0, steps, np.zeros(80, np.int64))
    made.align()
    plain = made(*tiles()[:1], SENSOR).tokens_BND.detach()
    found, wanted, baked, _ = both(made)
    assert baked.alignment is None and made.alignment is not None
    assert off(found.tokens_BND, wanted.tokens_BND) < 1e-5
    assert off(plain, wanted.tokens_BND) > 1e-3


def test_a_use_it_was_not_baked_for_is_refused() -> None:
    baked, known = bake(encoder("hyper-light"), SENSOR)
    known.recording = False
    with pytest.raises(SpecfmError, match="not baked for what it does now"):
        baked(tiles()[0], known.tensors())
