"""Layers and poolings of specfm's encoder are what its intermediate outputs say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from downstream.features.extract import extract
from downstream.features.pooling import pooling_parts, similar
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


def test_similar_is_the_mean_weighted_by_likeness_to_the_middle() -> None:
    rng = np.random.default_rng(0)
    tokens_BND, mask_BN = rng.normal(size=(6, 9, 5)), rng.random((6, 9)) < 0.7
    mask_BN[:, 4] = True
    mask_BN[5] = np.arange(9) == 4  # alone
    tokens_BND[~mask_BN] = np.nan
    want_BD = np.zeros((6, 5))
    for b in range(6):
        apart = {n: float(((tokens_BND[b, n] - tokens_BND[b, 4]) ** 2).sum()) for n in np.flatnonzero(mask_BN[b])}
        others = sorted(value for n, value in apart.items() if n != 4)
        usual = others[(len(others) - 1) // 2] if others else 1.0
        weight = {n: np.exp(-2 * value / usual) for n, value in apart.items()}
        want_BD[b] = sum(w * tokens_BND[b, n] for n, w in weight.items()) / sum(weight.values())
    found_BD = similar(torch.from_numpy(tokens_BND), torch.from_numpy(mask_BN), 4)
    np.testing.assert_allclose(found_BD, want_BD, atol=1e-9)
    np.testing.assert_allclose(
        similar(torch.from_numpy(tokens_BND) * 7, torch.from_numpy(mask_BN), 4), 7 * want_BD, atol=1e-9
    )
    np.testing.assert_array_equal(want_BD[5], tokens_BND[5, 4])
    same_BND = torch.ones(2, 9, 5)
    assert torch.equal(similar(same_BND, torch.ones(2, 9, dtype=torch.bool), 4), same_BND[:, 0])


def test_similar_averages_noise_within_a_field_and_stops_at_its_edge(encoder: torch.nn.Module) -> None:
    """Two flat halves with noise: nearer to its half's mean than the token is, and than the mean of the window."""
    rng = np.random.default_rng(0)
    half_N1 = (np.arange(9) % 3 == 2)[:, None] * 4.0  # the last column is another ground
    tokens_BND = torch.from_numpy(half_N1 + rng.normal(size=(400, 9, 20)))
    off = {
        "token": tokens_BND[:, 4], "mean": tokens_BND.mean(1),
        "similar": similar(tokens_BND, torch.ones(400, 9, dtype=torch.bool), 4),
    }  # fmt: skip
    error = {name: float(value.square().mean()) for name, value in off.items()}
    assert error["similar"] < 0.6 * error["token"] and error["similar"] < 0.6 * error["mean"]
    assert np.isfinite(take(encoder, pooling="similar+mean")).all()
    np.testing.assert_array_equal(
        extract(encoder, [FIELD], 3, pooling="similar").X_ND, extract(encoder, [FIELD], 3, pooling="centre").X_ND
    )


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
