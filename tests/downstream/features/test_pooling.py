"""Layers and poolings of specfm's encoder are what its intermediate outputs say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from downstream.features.extract import extract
from downstream.features.pooling import pooling_parts
from specfm.errors import UsageError
from specfm.models import create_encoder
from tests.downstream.toy_scenes import ToyEncoder, field

FIELD = field(24, 24)


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_encoder("nano", patch_size=3, dim=24, depth=3, heads=2).eval()


def take(encoder: object, **options: object) -> np.ndarray:
    return extract(encoder, [FIELD], 9, **options).X_ND  # type: ignore[arg-type]


def test_layers_are_put_beside_each_other(encoder: torch.nn.Module) -> None:
    each = [take(encoder, layers=(i,)) for i in range(3)]
    both = take(encoder, layers=(0, -1))
    np.testing.assert_array_equal(both, np.concatenate([each[0], each[2]], 1))
    np.testing.assert_allclose(each[2], take(encoder), atol=1e-6)  # the last block is the encoder's output
    assert not np.allclose(each[0], each[1])


def test_poolings_are_parts_of_one_vector(encoder: torch.nn.Module) -> None:
    mean, centre = take(encoder, pooling="mean"), take(encoder, pooling="centre")
    np.testing.assert_array_equal(take(encoder, pooling="centre+mean"), np.concatenate([centre, mean], 1))
    assert pooling_parts("concat") == ("mean", "centre")
    output = encoder(torch.from_numpy(FIELD.read()[None, :9, :9]), FIELD.sensor)
    samples = np.array([4, 4])
    at = extract(encoder, [FIELD], 9).samples
    row = int(np.flatnonzero((at.rc_N2 == samples).all(1))[0])
    np.testing.assert_allclose(mean[row], output.pooled_BD[0].detach(), atol=1e-5)
    np.testing.assert_allclose(centre[row], output.tokens_BND[0, 4].detach(), atol=1e-5)


def test_a_class_token_is_taken_where_there_is_one(encoder: torch.nn.Module) -> None:
    class WithClass(ToyEncoder):
        def __call__(self, *args: object) -> object:
            found = super().__call__(*args)  # type: ignore[arg-type]
            found.class_BD = -found.pooled_BD  # type: ignore[attr-defined]
            return found

    np.testing.assert_array_equal(take(WithClass(), pooling="class"), -take(ToyEncoder(), pooling="mean"))
    with pytest.raises(UsageError, match="no class token.*--pooling mean"):
        take(encoder, pooling="mean+class")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (3,)}, "--layers 3: the encoder has blocks 0 to 2"),
        ({"layers": (-4,)}, "--layers -4"),
        ({"layers": (2, -1)}, "twice"),
        ({"pooling": "mean+mean"}, "twice"),
        ({"pooling": "mean+concat"}, "unknown pooling 'concat'"),
    ],
)
def test_refusals(encoder: torch.nn.Module, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        take(encoder, **options)


def test_an_encoder_without_blocks_has_no_layers() -> None:
    with pytest.raises(UsageError, match="no intermediate layers"):
        take(ToyEncoder(), layers=(0,))
