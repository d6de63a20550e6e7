"""NT-Xent against lightly's and against a plain dense form, in value, gradient and memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.objectives.nt_xent import nt_xent
from specfm.errors import UsageError


def views(count: int, width: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z1 = torch.randn(count, width, generator=generator, dtype=dtype)
    z2 = z1 + 0.7 * torch.randn(count, width, generator=generator, dtype=dtype)
    return (3 * z1).requires_grad_(), z2.requires_grad_()


def dense(z1: Tensor, z2: Tensor, temperature: float, weight: Tensor | None = None) -> Tensor:
    """The textbook form: one matrix of logits, log weights added, positives kept, self left out."""
    count = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = z @ z.T / temperature
    if weight is not None:
        logits = logits + weight.to(logits.dtype).log().repeat(2, 2)
    logits = logits.masked_fill(torch.eye(2 * count, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * count).roll(count))


class FixedRule:
    """Weights given as a matrix: row = anchor."""

    def __init__(self, weight: Tensor):
        self.weight, self.stats = weight, {"negatives/excluded": float((weight == 0).float().mean())}

    def pair(self, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
        return self.weight[rows, cols], self.weight[cols, rows].T


def gradients(loss: Tensor, *inputs: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, inputs)])


@pytest.mark.parametrize("count", [1, 2, 7, 130])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 0.5])
def test_same_loss_and_gradient_as_lightly(count: int, temperature: float) -> None:
    lightly = pytest.importorskip("lightly.loss")
    z1, z2 = views(count)
    ours = nt_xent(z1, z2, temperature, tile=64)[0]
    theirs = lightly.NTXentLoss(temperature)(z1, z2)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    mine, other = gradients(ours, z1, z2), gradients(theirs, z1, z2)
    assert (mine - other).norm() <= 2e-6 * other.norm() + 1e-6  # at T = .05 the gradients of few samples nearly vanish


@pytest.mark.parametrize("tile", [2, 10, 64, 1024])
def test_any_tile_gives_the_dense_loss_with_weights(tile: int) -> None:
    z1, z2 = views(45, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(45, 45, generator=generator, dtype=torch.float64)  # not symmetric
    weight[torch.rand(45, 45, generator=generator) < 0.3] = 0.0
    weight.fill_diagonal_(1.0)
    ours, logged = nt_xent(z1, z2, 0.2, FixedRule(weight), tile=tile)
    wanted = dense(z1, z2, 0.2, weight)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(ours, z1, z2), gradients(wanted, z1, z2))
    assert logged["negatives/excluded"] > 0.2


def test_gradient_against_finite_differences() -> None:
    z1, z2 = views(5, width=3, dtype=torch.float64)
    weight = torch.rand(5, 5, dtype=torch.float64).fill_diagonal_(1.0)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3, FixedRule(weight), tile=4)[0], (z1, z2))


def test_an_excluded_negative_has_no_influence_and_the_positive_stays() -> None:
    z1, z2 = views(6)
    alone = torch.eye(6)
    loss = nt_xent(z1, z2, 0.2, FixedRule(alone))[0]
    torch.testing.assert_close(loss, torch.zeros(()), atol=1e-5, rtol=0)
    weight = torch.ones(6, 6)
    weight[:, 3] = weight[3, :] = 0.0
    weight[3, 3] = 1.0
    grad1, _ = torch.autograd.grad(nt_xent(z1, z2, 0.2, FixedRule(weight))[0], (z1, z2))
    assert grad1[3].abs().max() < 1e-6 < grad1[2].abs().max()


def test_logits_stay_float32_under_autocast() -> None:
    z1, z2 = views(40)
    before = torch.get_float32_matmul_precision()
    plain = nt_xent(z1, z2, 0.05)[0]
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = nt_xent(z1, z2, 0.05)[0]
        assert torch.get_float32_matmul_precision() == "medium"
        grad = torch.autograd.grad(cast, z1)[0]
    finally:
        torch.set_float32_matmul_precision(before)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=1e-7, atol=0)
    torch.testing.assert_close(grad, torch.autograd.grad(plain, z1)[0])
    half = nt_xent(z1.bfloat16(), z2.bfloat16(), 0.05)[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.02, atol=0)


def test_finite_at_the_lowest_temperature_with_opposite_and_zero_features() -> None:
    z1 = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = nt_xent(z1, -z1, 0.025)[0]
    assert loss.isfinite() and torch.autograd.grad(loss, z1)[0].isfinite().all()


def test_memory_is_a_tile_not_the_matrix() -> None:
    """No tensor that is saved, or made on the way, holds more than a tile or the features."""
    count, width, tile = 256, 8, 32
    z1, z2 = views(count, width)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for value in out if isinstance(out, tuple | list) else [out]:
                if isinstance(value, Tensor):
                    largest = max(largest, value.numel())
            return out

    with Watch():
        loss = nt_xent(z1, z2, tile=tile)[0]
        loss.backward()
    assert largest <= max(2 * count * width, tile * tile) < (2 * count) ** 2 / 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"temperature": 0.01}, "temperature 0.01 is too low"), ({"tile": 1}, "tile 1 is too small")],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    z1, z2 = views(4)
    with pytest.raises(UsageError, match=message):
        nt_xent(z1, z2, **arguments)  # type: ignore[arg-type]


def test_views_of_different_shapes_are_refused() -> None:
    z1, z2 = views(4)
    with pytest.raises(UsageError, match="two views"):
        nt_xent(z1, z2[:3])
